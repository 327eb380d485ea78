"""Probes on the running service."""

import itertools
import socket
import time

from tests.server.conftest import Start, access_lines
from tests.support.service import Service, eventually

_numbers = itertools.count()


def leave_a_probe(service: Service) -> int:
    """Ask for readiness, leave soon, and return the status in the access line."""
    trace_id = f"left-early-{next(_numbers)}"
    with service.connect() as connection:
        assert connection.get("/health/live").status == 200  # a connection that ends before this is not accepted at all
        connection.send(f"GET /health/ready HTTP/1.1\r\nHost: x\r\nX-Trace-ID: {trace_id}\r\n\r\n".encode())
        time.sleep(0.2)
    lines = eventually(lambda: access_lines(service, trace_id))
    return int(lines[0]["status"])


def test_a_probe_whose_client_leaves_logs_no_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:  # it takes connections, and never says a word
        url = f"postgresql://nobody@127.0.0.1:{database.getsockname()[1]}/none"
        service = start(app="app.main:app", DATABASE_URL=url, LOG_LEVEL="DEBUG")
        # A probe waits for up to a second only if the last answer is older than that.
        eventually(lambda: leave_a_probe(service) == 499)
    assert [
        line for line in service.lines() if line["level"] == "ERROR" and "left-early" in line.get("trace_id", "")
    ] == []
