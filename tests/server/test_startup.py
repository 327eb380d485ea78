"""Whatever goes wrong at the start is said in JSON, once, on stdout."""

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]

from app.server import metrics_dir
from tests.server.conftest import Start, launch
from tests.support.service import ROOT, eventually

Fail = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def fail(tmp_path: Path) -> Fail:
    """Start a service that ends by itself, and return its exit code and its messages."""

    def _fail(**variables: Any) -> tuple[int, list[str]]:
        service = launch(tmp_path, **variables)
        code = service.wait()
        service.assert_only_json()
        return code, service.messages()

    return _fail


@pytest.mark.parametrize(
    ("name", "value"), [("WEB_CONCURRENCY", "abc"), ("PORT", "abc"), ("LOG_LEVEL", "LOUD"), ("DATABASE_URL", "")]
)
def test_a_bad_setting_is_one_line_and_exit_1(fail: Fail, name: str, value: str) -> None:
    code, messages = fail(**{name: value})
    assert code == 1
    assert len(messages) == 1
    assert name in messages[0]


def test_the_bare_gunicorn_command_serves_too(start: Start) -> None:
    service = start(command=("gunicorn",), GUNICORN_CMD_ARGS="--no-control-socket")
    assert service.get("/pid")[0] == 200


def test_a_bad_setting_of_gunicorn_is_json(fail: Fail) -> None:
    code, messages = fail(GUNICORN_CMD_ARGS="--nope")
    assert code == 2
    assert "--nope" in messages[-1]


@pytest.mark.parametrize("workers", [3])
def test_a_broken_app_ends_the_service(fail: Fail, workers: int) -> None:
    code, messages = fail(WEB_CONCURRENCY=workers, TEST_BROKEN=1)
    assert code != 0
    assert sum("cannot be loaded" in message for message in messages) in range(1, workers + 1)
    assert not any("broken on purpose" in message for message in messages), "only in the record's exc_info"


def test_a_route_that_nothing_guards_ends_the_service(fail: Fail, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text("{}")
    authentication = {"AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "items", "AUTH_JWKS_FILE": keys}
    code, messages = fail(app="tests.server.stream_app:app", **authentication)
    assert code == Arbiter.WORKER_BOOT_ERROR
    remedy = "use TokenRequired of app.core.api.unguarded_routes, or create_app(public=[...])"
    assert f"authentication is on, but nothing asks for a token at /mounted: {remedy}" in messages


_STOPPED_IN_AN_IMPORT = """
import builtins, os, signal

import_module = builtins.__import__

def stop(name, *rest, **named):
    if name.startswith("pydantic"):
        builtins.__import__ = import_module
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            print("suppressed", repr(error), flush=True)
    return import_module(name, *rest, **named)

builtins.__import__ = stop
"""


def test_sigterm_during_the_imports_is_not_lost_where_exceptions_are_suppressed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_STOPPED_IN_AN_IMPORT)
    service = launch(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    try:
        assert (service.wait(), service.output()) == (0, "")
    finally:
        service.process.kill()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = launch(tmp_path, PORT=taken.getsockname()[1])
        eventually(lambda: any("in use" in message for message in service.messages()))
    service.process.kill()  # gunicorn would try for five seconds
    service.wait()
    service.assert_only_json()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_binds_ipv6(start: Start) -> None:
    service = start(HOST="::")
    assert service.get("/pid")[0] == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_it_speaks_tls_where_gunicorn_is_given_a_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost")
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    arguments = f"--certfile {certificate} --keyfile {key}"
    service = launch(tmp_path, GUNICORN_CMD_ARGS=arguments, TEST_HEAD_SECONDS=1)
    context = ssl.create_default_context(cafile=str(certificate))

    def ask(request: bytes) -> bytes:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", service.port), 60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(request)
            return connection.recv(64)
        return b""

    try:
        eventually(lambda: ask(b"GET /pid HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200"))
        assert ask(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert ask(b"GET /pid HTTP/1.1\r\n").startswith(b"HTTP/1.1 408")
    finally:
        assert service.stop() == 0
    assert [line for line in service.lines() if line["level"] == "ERROR"] == []


def test_it_listens_at_a_unix_socket_where_gunicorn_is_given_one(tmp_path: Path) -> None:
    service = launch(tmp_path, GUNICORN_CMD_ARGS=f"--bind unix:{tmp_path}/s")

    def answers() -> bool:
        with contextlib.suppress(FileNotFoundError, ConnectionError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{tmp_path}/s")
            connection.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
        return False

    try:
        eventually(answers, seen=service.output)
    finally:
        assert service.stop() == 0


def test_the_metrics_folder_goes_with_the_service(start: Start) -> None:
    service = start()
    folder = service.metrics_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    service.stop()
    assert not folder.exists()


def test_folders_of_killed_masters_are_pruned_and_living_ones_kept(start: Start) -> None:
    living, dead = start(), start()
    folder, workers = dead.metrics_dir(), dead.workers()
    dead.process.kill()
    dead.wait()
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    start()
    assert not folder.exists()
    assert living.metrics_dir().exists()


def test_a_given_metrics_folder_is_emptied_and_survives_a_reload(start: Start, tmp_path: Path) -> None:
    stale, foreign = tmp_path / "counter_0.db", tmp_path / "notes.txt"
    stale.touch()
    foreign.touch()
    service = start(**{metrics_dir.VARIABLE: tmp_path})
    assert not stale.exists()
    assert foreign.exists()
    stale.touch()
    service.signal(1)
    assert service.get("/pid")[0] == 200
    assert stale.exists()
    service.stop()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("environment", "level"), [("production", "WARNING"), ("staging", "INFO")])
def test_the_first_line_says_that_authentication_is_off(start: Start, environment: str, level: str) -> None:
    first = start(ENVIRONMENT=environment).lines()[0]

    assert (first["level"], first["message"]) == (level, "authentication is off: AUTH_ISSUER is not set")


def test_the_first_line_says_whose_tokens_are_accepted(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text("{}")

    service = start(AUTH_ISSUER="https://id.example", AUTH_AUDIENCE="things", AUTH_JWKS_FILE=keys)
    first = service.lines()[0]

    assert (first["level"], first["message"]) == (
        "INFO",
        "authentication is on: tokens of https://id.example for things",
    )
