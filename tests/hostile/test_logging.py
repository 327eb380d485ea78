"""Whoever reads stdout stops reading, or goes away: no request notices."""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx2
import pytest

from tests.hostile.ordinary import ordinary_beside
from tests.support.service import Service, eventually

pytestmark = pytest.mark.slow

PIPE_BYTES = 65536


class PipedService(Service):
    """A service whose stdout is a pipe that the test reads, or does not."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.reader, self.writer = os.pipe()
        self.read = bytearray()
        self.reading = threading.Event()
        self.reading.set()
        super().__init__(folder, variables)
        os.close(self.writer)
        threading.Thread(target=self._read_on, daemon=True).start()

    def _read_on(self) -> None:
        while self.reading.wait():
            if select.select([self.reader], [], [], 0.05)[0] and self.reading.is_set():
                data = os.read(self.reader, PIPE_BYTES)
                if not data:
                    return
                self.read += data

    def lines(self) -> list[dict[str, Any]]:
        """Read what has come through the pipe, whole lines."""
        return [json.loads(line) for line in bytes(self.read).rpartition(b"\n")[0].splitlines()]

    def _stdout(self, log: IO[bytes]) -> IO[bytes] | int:  # noqa: ARG002 - instead of it
        return self.writer


@pytest.fixture
def piped(own_database_url: str, tmp_path: Path) -> Iterator[PipedService]:
    service = PipedService(
        tmp_path,
        {
            "DATABASE_URL": own_database_url,
            "HOST": "127.0.0.1",
            "WEB_CONCURRENCY": "2",
            "DRAIN_SECONDS": "0",
            "SHUTDOWN_TIMEOUT": "5",
        },
    )
    try:
        service.wait_until_alive()
        service.wait_for_workers(2)
        yield service
    finally:
        service.reading.set()
        service.stop()
        os.close(service.reader)


def _dropped(service: Service) -> float:
    metrics = service.client.get("/metrics").text
    return sum(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("log_records_dropped_total"))


def _fill_pipe_and_queues(service: Service) -> None:
    long = "/" + "x" * 1400
    deadline = time.monotonic() + 300
    with httpx2.Client(base_url=service.url, trust_env=False, timeout=60) as client:
        while _dropped(service) == 0:
            for _ in range(200):
                assert client.get(long).status_code == 404
            assert time.monotonic() < deadline, "nothing was dropped"


def test_a_full_pipe_holds_up_no_request_and_is_counted(piped: PipedService) -> None:
    with ordinary_beside(piped, growth=48):
        piped.reading.clear()
        _fill_pipe_and_queues(piped)
    # The master has something to say, too, and must not wait for its reader: it would replace no worker.
    piped.process.send_signal(signal.SIGTTIN)
    eventually(lambda: len(piped.workers()) == 3)
    piped.process.send_signal(signal.SIGTTOU)
    eventually(lambda: len(piped.workers()) == 2)
    piped.reading.set()

    def is_written() -> bool:
        piped.client.get("/things", headers={"X-Trace-ID": "read-again"})
        return bool(piped.lines_of("read-again"))

    eventually(is_written)  # the first may be dropped, as the queues are still full


def test_stdout_without_a_reader_costs_nothing(piped: PipedService) -> None:
    with ordinary_beside(piped, growth=16):
        piped.reading.clear()
        time.sleep(0.1)  # the thread of the test leaves `select`
        os.dup2(os.open(os.devnull, os.O_RDONLY), piped.reader)  # closes the pipe's only reading end
        for _ in range(300):
            assert piped.client.get("/things?limit=1").status_code == 200
        eventually(lambda: _dropped(piped) >= 300)

    assert piped._errors.read_text() == ""


def test_the_lines_of_an_orderly_end_are_all_there(piped: PipedService) -> None:
    for number in range(200):
        piped.client.get("/things/999", headers={"X-Trace-ID": f"last-{number}"})
    assert piped.stop() == 0

    eventually(lambda: "Shutting down: Master" in piped.messages())
    said = [line["trace_id"] for line in piped.lines() if line.get("trace_id", "").startswith("last-")]
    assert sorted(said) == sorted(f"last-{number}" for number in range(200))
