"""stdout is JSON, one object a line, from the first line to the last."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.core.observability.log_writer import log_writer
from app.core.observability.logs import JSONFormatter, LineHandler, log_with_fields
from app.core.observability.trace_id import set_trace_id
from tests.conftest import MakeClient, StartService
from tests.support.service import Service, environment, eventually

Logs = Callable[[], list[dict[str, Any]]]
FIXED = ["timestamp", "level", "logger", "message", "service"]


def test_every_line_of_a_service_has_the_fields_from_start_to_end(start_service: StartService) -> None:
    service = start_service(SERVICE_NAME="lamps", LOG_LEVEL="DEBUG")
    service.wait_for_workers(2)
    service.client.post("/things", json={"name": "Lamp", "price": 1})
    service.raw(b"GARBAGE\r\n\r\n")

    assert service.stop() == 0

    lines = service.lines()
    for line in lines:
        assert list(line)[:5] == FIXED
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
        assert datetime.fromisoformat(line["timestamp"])
        assert line["level"] in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
        assert line["service"] == "lamps"
        assert "color_message" not in line
    loggers = {line["logger"] for line in lines}
    assert {"gunicorn.error", "uvicorn.error", "app.access"} <= loggers
    assert "uvicorn.access" not in loggers
    assert "gunicorn.access" not in loggers
    messages = " ".join(service.messages())
    assert "Listening at" in messages
    assert "Application startup complete" in messages
    assert "Shutting down: Master" in messages


def test_nothing_is_said_twice(start_service: StartService) -> None:
    service = start_service(WEB_CONCURRENCY="1")
    service.client.get("/things", headers={"X-Trace-ID": "once"})
    service.stop()

    messages = service.messages()
    for once in ("Application startup complete.", "Waiting for application startup."):
        assert messages.count(once) == 1
    assert sum("Listening at" in message for message in messages) == 1
    assert len(service.lines_of("once")) == 1


def test_the_access_line_has_its_fields(service: Service) -> None:
    service.client.get("/things?limit=1", headers={"X-Trace-ID": "access-1"})

    [line] = eventually(lambda: service.lines_of("access-1"))
    assert line["logger"] == "app.access"
    assert line["level"] == "INFO"
    assert (line["method"], line["path"], line["status"], line["client"]) == ("GET", "/things", 200, "127.0.0.1")
    assert 0 < line["duration_ms"] < 100_000
    assert line.keys() == {*FIXED, "trace_id", "method", "path", "status", "duration_ms", "client"}


def test_a_trusted_proxy_names_the_client_and_another_does_not(start_service: StartService) -> None:
    for allowed, client in {"127.0.0.1": "203.0.113.7", "10.9.9.9": "127.0.0.1"}.items():
        service = start_service(FORWARDED_ALLOW_IPS=allowed, WEB_CONCURRENCY="1")
        service.client.get("/things", headers={"X-Trace-ID": "proxied", "X-Forwarded-For": "203.0.113.7"})
        [line] = eventually(lambda service=service: service.lines_of("proxied"))  # type: ignore[misc]
        assert line["client"] == client


def test_the_query_and_the_headers_are_not_logged(service: Service) -> None:
    service.client.get("/things?name=geheim", headers={"X-Trace-ID": "quiet", "Authorization": "Bearer geheim"})

    assert "geheim" not in str(eventually(lambda: service.lines_of("quiet")))


def test_probes_and_scrapes_are_debug(make_client: MakeClient, logs: Logs) -> None:
    client = make_client(log_level="DEBUG")
    for path in ("/health/live", "/health/ready", "/metrics", "/things"):
        client.get(path)

    levels = {line["path"]: line["level"] for line in logs() if line["logger"] == "app.access"}
    assert levels == {"/health/live": "DEBUG", "/health/ready": "DEBUG", "/metrics": "DEBUG", "/things": "INFO"}


def test_at_info_probes_are_silent(client: TestClient, logs: Logs) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        client.get(path)

    assert [line for line in logs() if line["logger"] == "app.access"] == []


@pytest.mark.parametrize("level", ["WARNING", "critical"])
def test_the_level_is_the_configured_one(make_client: MakeClient, logs: Logs, level: str) -> None:
    client = make_client(log_level=level, db_slow_statement=0)
    client.get("/things")

    assert logs() == []


def _log_with(client: TestClient, logs: Logs, *args: Any, **kwargs: Any) -> dict[str, Any]:
    assert client
    logging.getLogger("test").error(*args, **kwargs)
    [line] = logs()
    return line


@pytest.mark.parametrize(
    "text",
    ["one\ntwo\r\nthree", '{"level": "INFO"}', "\u2028\u2029\x85", "\x00\x1b[31m", "\ud800", "ü日😀"],
    ids=ascii,
)
def test_a_message_of_any_text_is_one_line(client: TestClient, logs: Logs, text: str) -> None:
    assert _log_with(client, logs, "%s", text)["message"] == text


def test_an_exception_is_one_line_with_its_end(client: TestClient, logs: Logs) -> None:
    def deep(levels: int) -> None:
        if not levels:
            raise ValueError("the\nlast word")
        deep(levels - 1)

    try:
        deep(200)
    except ValueError:
        line = _log_with(client, logs, "failed", exc_info=True)

    assert line["message"] == "failed"
    assert line["exc_info"].endswith("ValueError: the\nlast word")
    assert "in deep" in line["exc_info"]


def test_long_texts_are_cut(client: TestClient, logs: Logs) -> None:
    try:
        raise ValueError("é" * 100_000)
    except ValueError:
        line = _log_with(client, logs, "x" * 100_000, exc_info=True)

    assert len(line["message"]) >= 1000
    assert len(json.dumps(line)) < 20_000


@pytest.mark.parametrize("path", ["x" * 8_000, "x" * 1_980, "%22" * 980])
def test_an_access_line_of_a_long_path_is_written_whole(service: Service, path: str) -> None:
    """Several workers write to one pipe; the system keeps 4096 bytes together."""
    trace_id = f"long-path-{len(path)}".ljust(128, "-")
    service.client.delete(f"/{path}", headers={"X-Trace-ID": trace_id})

    eventually(lambda: service.lines_of(trace_id))
    assert max(len(line) for line in service.log.read_text().splitlines()) < 4096


def test_a_value_that_json_does_not_know_does_not_lose_the_line(client: TestClient, logs: Logs) -> None:
    line = _log_with(
        client, logs, "odd", extra={"path": Path("/x"), "raw": b"\xff", "number": float("nan"), "some": {1}}
    )

    assert line["message"] == "odd"


def test_lines_of_several_workers_do_not_mix(service: Service) -> None:
    long = "/" + "x" * 1400
    for _ in range(100):
        service.client.get(long)

    eventually(lambda: len([line for line in service.lines() if line.get("path") == long]) >= 100)


@pytest.mark.parametrize("module", ["gunicorn", "app.server"])
@pytest.mark.parametrize("variables", [{"PORT": "abc"}, {"LOG_LEVEL": "LOUD"}, {"DATABASE_URL": ""}])
def test_a_start_that_fails_says_so_in_json(tmp_path: Path, module: str, variables: dict[str, str]) -> None:
    good = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "WEB_CONCURRENCY": "1"}

    result = subprocess.run(
        [sys.executable, "-m", module, "-c", "python:app.server.gunicorn_conf", "app.main:app"],
        cwd=tmp_path,
        env=environment(**{**good, **variables}),
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr == b""
    [line] = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(line) == FIXED
    assert line["level"] == "CRITICAL"
    assert next(iter(variables)) in line["message"]


class _Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def keep(self, record: logging.LogRecord) -> bool:
        """Let it pass, as a filter."""
        self.emit(record)
        return True


def _written(
    monkeypatch: pytest.MonkeyPatch, way: Callable[..., None], path: object, extra: dict[str, Any]
) -> list[str]:
    """Log by one of the two ways, with the process's own handler only, and return the lines."""
    lines: list[str] = []
    handler = LineHandler()
    handler.setFormatter(JSONFormatter("lamps"))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(log_writer, "put", lines.append)
    monkeypatch.setattr("time.time", lambda: 1_790_000_000.9876)
    monkeypatch.setattr("time.time_ns", lambda: 1_790_000_000_987_600_000)
    way(logging.getLogger("app.fields"), logging.ERROR, "%s %s", "GET", path, extra=extra)
    return lines


def _by_record(logger: logging.Logger, level: int, *args: object, extra: Any) -> None:
    logger.log(level, *args, extra=extra)


@pytest.mark.parametrize("client", ["127.0.0.1", None, "::1", "ü"])
@pytest.mark.parametrize(
    "path", ["/things/1", "/ü😀", '/"\\', "/\n\r\x00\x7f\u2028", "/\ud800", "/%s%%", "/" + "é" * 9000, ""]
)
def test_a_line_without_a_record_is_the_one_that_a_record_makes(
    monkeypatch: pytest.MonkeyPatch, path: str, client: str | None
) -> None:
    numbers = [0.0, 0.001, 1.234, 123456.789, 1e22, float("nan"), float("inf"), -0.5, 2**70]
    for trace_id in ("a" * 32, None):
        set_trace_id(trace_id)
        for number in numbers:
            extra = {"path": path, "status": 200, "duration_ms": number, "client": client, "flag": True, "raw": b"x"}
            lines = [_written(monkeypatch, way, path, extra) for way in (_by_record, log_with_fields)]
            assert lines[0] == lines[1]
            assert len(lines[0]) == 1


def _add_handler(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "handlers", [seen])


def _add_root_handler(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logger
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, seen])


def _add_filter(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "filters", [seen.keep])


def _add_handler_filter(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logger
    monkeypatch.setattr(logging.root.handlers[0], "filters", [seen.keep])


def _set_factory(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        seen.emit(record)
        return record

    assert logger
    monkeypatch.setattr(logging, "_logRecordFactory", factory)


def _replace_method(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as Sentry's SDK does."""
    assert logger
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: seen.emit(record))


def _stop_propagation(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    _add_handler(logger, seen, monkeypatch)
    monkeypatch.setattr(logger, "propagate", False)


def _replace_parent(logger: logging.Logger, seen: _Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = logging.getLogger("parent")
    monkeypatch.setattr(parent, "handlers", [seen])
    monkeypatch.setattr(logger, "parent", parent)


@pytest.mark.parametrize(
    "change",
    [
        _add_handler,
        _add_root_handler,
        _add_filter,
        _add_handler_filter,
        _set_factory,
        _replace_method,
        _stop_propagation,
        _replace_parent,
    ],
)
def test_who_wants_the_record_of_an_access_line_gets_it(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    client, seen = make_client(log_level="INFO"), _Seen()
    handler = LineHandler()
    handler.setFormatter(JSONFormatter("lamps"))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(log_writer, "put", lambda _: None)
    change(logging.getLogger("app.access"), seen, monkeypatch)

    client.get("/things")

    [record] = [record for record in seen.records if record.name == "app.access"]
    assert record.getMessage() == "GET /things 200"
    assert record.__dict__["status"] == 200
