"""Streams on the running service: sent as they are made, limited on their own, counted at their end, ended in order."""

import contextlib
import json
import signal
from collections.abc import Iterator

import pytest

from tests.server.conftest import Start, access_lines, launch, sample, server_end
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

APP = "tests.server.stream_app:app"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = launch(tmp_path_factory.mktemp("service"), app=APP, WEB_CONCURRENCY=2).wait_until_alive()
    yield running
    assert running.stop() == 0
    running.assert_only_json()


def test_the_head_and_each_event_are_sent_at_once(service: Service) -> None:
    silent = service.connect()
    silent.socket.settimeout(10)  # FastAPI sends a comment after 15 s
    assert silent.stream("/events/none").status == 200
    connection = service.connect()
    status, headers, _ = connection.stream("/events", "as-it-goes")
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert headers["x-trace-id"] == "as-it-goes"
    assert connection.chunk() == b"data: 0\n\n"
    assert access_lines(service, "as-it-goes") == [], "it goes on"
    assert sample(service, "http_streams_open") > 0


def test_a_complete_stream_is_logged_and_counted_once_and_its_connection_goes_on(service: Service) -> None:
    counted = sample(service, 'http_requests_total{method="GET",path="/download",status="200"}')
    connection = service.connect()
    connection.stream("/download?seconds=0.1", "complete")
    assert [connection.chunk(), connection.chunk(), connection.chunk()] == [b"first,", b"last", b""]
    assert connection.get("/pid").status == 200
    eventually(lambda: access_lines(service, "complete"))
    (line,) = access_lines(service, "complete")
    assert line["status"] == 200
    assert line["duration_ms"] >= 100
    assert "cut" not in line
    assert sample(service, 'http_requests_total{method="GET",path="/download",status="200"}') == counted + 1


def test_the_life_of_a_stream_is_not_latency(service: Service) -> None:
    connection = service.connect()
    connection.stream("/events/sync?count=1")
    while connection.chunk():
        pass
    assert sample(service, 'http_stream_duration_seconds_count{method="GET",path="/events/sync"}') >= 1
    assert sample(service, 'http_request_duration_seconds_count{method="GET",path="/events/sync"}') == 0
    assert sample(service, 'http_request_duration_seconds_count{method="GET",path="/pid"}') >= 1


def test_a_stream_whose_client_leaves_is_logged_as_cut_off_by_it(service: Service) -> None:
    connection = service.connect()
    connection.stream("/events", "left")
    connection.chunk()
    connection.close()
    eventually(lambda: access_lines(service, "left"))
    (line,) = access_lines(service, "left")
    assert (line["status"], line["cut"]) == (499, "client")
    assert "events ended" in [line["message"] for line in service.lines_of("left")]


def test_a_stream_whose_client_leaves_ends_although_another_request_waits_behind_it(start: Start) -> None:
    service = start(app=APP)
    connection = service.connect()
    connection.send(b'POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n""')
    connection.head()
    assert connection.chunk() == b"hello"  # and then nothing, without pings
    connection.ask("/pid")
    assert sample(service, "http_streams_open") == 1
    connection.close()
    eventually(lambda: sample(service, "http_streams_open") == 0)


def test_clients_that_leave_a_fast_stream_are_no_errors_of_the_service(service: Service) -> None:
    for number in range(10):  # in every second or so FastAPI's task writes just then
        with service.connect() as connection:
            connection.stream("/events?pause=0&size=100000", f"left-fast-{number}")
            for _ in range(20):
                connection.chunk()
    trace_ids = [f"left-fast-{number}" for number in range(10)]
    eventually(lambda: all(access_lines(service, trace_id) for trace_id in trace_ids))
    lines = [line for trace_id in trace_ids for line in access_lines(service, trace_id)]
    assert {(line["status"], line["cut"]) for line in lines} == {(499, "client")}
    assert {line["level"] for trace_id in trace_ids for line in service.lines_of(trace_id)} == {"INFO"}


def test_a_stream_that_fails_is_cut_off_without_a_last_chunk(service: Service) -> None:
    connection = service.connect()
    connection.stream("/download?seconds=0.1&fails=true", "failed")
    assert connection.chunk() == b"first,"
    with pytest.raises(ConnectionError):
        connection.chunk()
    eventually(lambda: access_lines(service, "failed"))
    (line,) = access_lines(service, "failed")
    assert (line["status"], line["cut"]) == (500, "error")

    def errors() -> list[str]:
        return [line["message"] for line in service.lines_of("failed") if "no second part" in line.get("exc_info", "")]

    assert eventually(errors) == ["Exception in ASGI application\n"]


def test_the_connection_of_a_stream_that_fails_is_closed_although_a_body_is_unfinished(service: Service) -> None:
    connection = service.connect()
    connection.send(b"GET /download?seconds=0.5&fails=true HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")

    def is_held() -> bool:
        """Return whether a process has the server's end, which the kernel may keep for a minute more."""
        return server_end(connection)[9] not in {"", "0"}

    assert connection.head().status == 200
    assert is_held()
    with contextlib.suppress(ConnectionError):
        connection.rest()
    eventually(lambda: not is_held())


def test_a_client_that_leaves_in_the_middle_of_an_upload_is_no_error_of_the_service(service: Service) -> None:
    connection = service.connect()
    connection.send(b"POST /raw HTTP/1.1\r\nHost: x\r\nX-Trace-ID: half\r\nContent-Length: 10\r\n\r\n12345")
    eventually(lambda: sample(service, "http_requests_in_progress") > 1)
    connection.close()

    (line,) = eventually(lambda: access_lines(service, "half"))
    assert (line["status"], line["cut"]) == (499, "client")
    assert [line["message"] for line in service.lines_of("half") if line["level"] == "ERROR"] == []


def test_head_of_an_endless_stream_ends(service: Service) -> None:
    connection = service.connect()
    connection.send(b"HEAD /events HTTP/1.1\r\nHost: x\r\nX-Trace-ID: head-only\r\n\r\n")
    assert connection.head().status == 200
    assert connection.get("/pid").status == 200
    eventually(lambda: "events ended" in [line["message"] for line in service.lines_of("head-only")])
    eventually(lambda: access_lines(service, "head-only"))
    assert [line["status"] for line in access_lines(service, "head-only")] == [200]


def test_a_mounted_application_is_served_and_counted_by_template(service: Service) -> None:
    status, headers, body = service.get("/mounted/things/3")
    assert (status, json.loads(body)) == (200, {"thing_id": 3})
    assert len(headers["x-trace-id"]) == 32
    for path in ("nothing", "nothing/else"):
        assert service.get(f"/mounted/{path}").status == 404
    assert sample(service, 'http_requests_total{method="GET",path="/mounted/things/{thing_id}",status="200"}') == 1
    assert sample(service, 'http_requests_total{method="GET",path="/mounted/{path}",status="404"}') == 2


def test_many_streams_leave_room_for_ordinary_requests(start: Start) -> None:
    service = start(app=APP, WEB_CONCURRENCY=2)
    streams = [service.connect() for _ in range(620)]
    for stream in streams:  # one after the other: until its stream has begun, a request counts as in flight
        stream.ask("/events")
        answer = stream.head()
        assert answer.status == 200, answer
        assert stream.chunk()
    assert sample(service, "http_streams_open") == 620
    assert {service.get("/pid").status for _ in range(100)} == {200}
    for stream in streams:
        stream.close()
    eventually(lambda: sample(service, "http_streams_open") == 0)


def test_streams_beyond_the_limit_are_503_and_ordinary_requests_are_not(start: Start) -> None:
    service = start(app=APP, MAX_STREAMS=2)
    first, second, third = (service.connect() for _ in range(3))
    first.stream("/events")
    second.stream("/events")
    third.ask("/events")
    status, headers, body = third.answer()
    assert (status, json.loads(body)["detail"]["code"]) == (503, "OVERLOADED")
    assert "retry-after" in headers
    assert third.get("/pid").status == 200
    assert sample(service, 'http_requests_shed_total{reason="streams"}') == 1
    first.close()
    eventually(lambda: service.connect().stream("/events").status == 200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_streams_end_in_order_when_the_process_exits(start: Start, number: int) -> None:
    service = start(app=APP, SHUTDOWN_TIMEOUT=60)
    paths = ("/events", "/events/polite", "/events/polling", "/download?seconds=2")
    plain, polite, polling, download = streams = [service.connect() for _ in paths]
    for stream, path in zip(streams, paths, strict=True):
        assert stream.stream(path, f"end-{path[1:].partition('?')[0].replace('/', '-')}").status == 200
    assert [polite.chunk(), plain.chunk()] == [b'data: "hello"\n\n', b"data: 0\n\n"]
    service.signal(number)
    assert [polite.chunk(), polite.chunk()] == [b'data: "goodbye"\n\n', b""]
    assert plain.chunk() == b""
    while polling.chunk():
        pass
    assert [download.chunk(), download.chunk(), download.chunk()] == [b"first,", b"last", b""]
    eventually(lambda: access_lines(service, "end-download"))
    lines = [line for trace_id in ("end-events", "end-download") for line in access_lines(service, trace_id)]
    assert {line["status"] for line in lines} == {200}
    assert not any("cut" in line for line in lines)


def test_a_stream_that_outlives_the_timeout_is_logged_as_cut_off_by_the_shutdown(start: Start) -> None:
    service = start(app=APP, SHUTDOWN_TIMEOUT=1)
    connection = service.connect()
    connection.stream("/download?seconds=60", "too-long")
    assert connection.chunk() == b"first,"
    service.signal()
    with pytest.raises(ConnectionError):
        connection.chunk()
    assert service.wait() == 0
    (line,) = access_lines(service, "too-long")
    assert (line["status"], line["cut"]) == (503, "shutdown")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_background_tasks_are_done_before_the_process_exits(start: Start, number: int) -> None:
    service = start(app=APP, SHUTDOWN_TIMEOUT=60)
    assert service.get("/background?seconds=6").status == 200
    assert "background work done" not in service.messages()
    service.signal(number)
    eventually(lambda: any("Worker exiting" in message for message in service.messages()))
    messages = service.messages()
    exiting = next(index for index, message in enumerate(messages) if "Worker exiting" in message)
    assert "background work done" in messages[:exiting]
