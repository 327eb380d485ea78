"""The queue of connections on which requests were rejected."""

from collections.abc import Iterator

import pytest

from app.core.lifecycle import lifecycle
from app.server.protocol.throttle import resume_throttled, throttle


class Paused:
    """A connection in the queue, whose client may have left."""

    def __init__(self, *, left: bool) -> None:
        self.left = left
        self.early_retry = self.resumed = False

    def close_if_left(self) -> bool:
        """Return whether the client has left."""
        return self.left

    def resume_reading(self) -> None:
        """Note it."""
        self.resumed = True


@pytest.fixture(autouse=True)
def _empty_queue() -> Iterator[None]:
    yield
    while lifecycle.retry_after > 1:
        resume_throttled()


def test_clients_that_have_left_delay_nobody() -> None:
    waiting = Paused(left=False)
    for _ in range(400):
        throttle(Paused(left=True))
    throttle(waiting)
    resume_throttled()

    assert waiting.resumed
    assert lifecycle.retry_after == 1


def test_clients_that_wait_are_resumed_a_few_at_a_time() -> None:
    waiting = [Paused(left=False) for _ in range(1_200)]
    for connection in waiting:
        throttle(connection)
    resume_throttled()

    assert 0 < sum(connection.resumed for connection in waiting) < 100
    assert lifecycle.retry_after == 3
