"""An ordinary client beside an attack: nothing it asks may fail, nor wait for the attack."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.http import Connection
from tests.support.service import Service

LIVE_SECONDS = 1.0
"""How long `/health/live` may take, but for two answers, or one in four: the machine may be busy otherwise."""


def memory_of(pid: int) -> int:
    """Read the resident memory of a process, in MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) // 1024


def cpu_of(pid: int) -> float:
    """Read the CPU time of a process, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Ordinary:
    """A client that asks for liveness and for a thing, each on a new connection, and writes down what it gets.

    Attributes
    ----------
    failed
        What was not answered as it should be.
    waited
        Seconds of each answer of `/health/live`.
    memory
        The most that a worker had, in MiB.
    """

    def __init__(self, service: Service) -> None:
        self.failed: list[str] = []
        self.waited: list[float] = []
        self.memory = 0
        self._service = service
        self._workers = service.wait_for_workers(2)
        created = service.client.post("/things", json={"name": "Lamp", "price": 19.99})
        self._item = created.headers["location"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_again, daemon=True)
        self.growth_from = max(map(memory_of, self._workers))

    def _ask_again(self) -> None:
        while not self._stop.wait(0.02):
            started = time.monotonic()
            self._ask("/health/live")
            self.waited.append(time.monotonic() - started)
            self._ask(self._item)
            with contextlib.suppress(FileNotFoundError):
                self.memory = max(self.memory, *map(memory_of, self._workers))

    def _ask(self, path: str) -> None:
        try:
            with Connection(self._service.port, 60) as connection:
                status = connection.get(path).status
        except OSError as error:
            self.failed.append(f"{path}: {error!r}")
        else:
            if status != 200:
                self.failed.append(f"{path}: {status}")

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def check(self, growth: int) -> None:
        """Stop, and fail if anything failed, a worker was replaced, or one grew by more than `growth` MiB."""
        self._stop.set()
        self._thread.join(240)
        assert not self.failed, self.failed[:5]
        assert self.waited
        late = sorted(seconds for seconds in self.waited if seconds > LIVE_SECONDS)
        assert len(late) <= max(2, len(self.waited) // 4), f"/health/live took {late} s, of {len(self.waited)} answers"
        assert self._service.workers() == self._workers, "a worker was replaced"
        assert self.memory - self.growth_from <= growth, f"a worker grew from {self.growth_from} to {self.memory} MiB"


@contextlib.contextmanager
def ordinary_beside(service: Service, *, growth: int = 64) -> Iterator[Ordinary]:
    """Have an ordinary client ask while the block attacks; fail if it notices.

    Parameters
    ----------
    service
        Two workers.
    growth
        How much a worker may grow, in MiB.
    """
    ordinary = Ordinary(service)
    ordinary.start()
    try:
        yield ordinary
    except BaseException:
        ordinary._stop.set()
        raise
    ordinary.check(growth)


def in_parallel(number: int, attack: Callable[[], None], seconds: float = 600.0) -> None:
    """Run `attack` in so many threads, to the end of each."""
    threads = [threading.Thread(target=attack, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"the attack did not end within {seconds} s"
