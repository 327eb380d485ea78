"""The memory that all connections of a worker may hold together."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.server.protocol import budgets

MIB = 1024 * 1024


class Connection:
    """A connection that holds memory, and notes whether it is closed."""

    rejectable = True

    def __init__(self) -> None:
        self.closed = False

    def reject_body(self, status: int, code: str, message: str) -> None:  # noqa: ARG002
        """Note it."""
        self.closed = True

    def reject_queue(self) -> None:
        """Note it."""
        self.closed = True

    def abort_response(self, reason: str) -> None:  # noqa: ARG002
        """Note it."""
        self.closed = True
        budgets.responses.release(self)

    def bytes_per_second(self) -> float:
        """Return that its client does not read."""
        return 0.0


def hold_queue(connection: Connection, size: int) -> None:
    budgets.queues.set(connection, size)
    budgets.reject_oldest_queues()


def hold_body(connection: Connection, size: int) -> None:
    budgets.bodies.hold(connection, size)
    budgets.reject_slowest(connection)


@pytest.fixture
def connections() -> Iterator[list[Connection]]:
    made = [Connection() for _ in range(900)]
    yield made
    every: list[budgets.Budget[Any]] = [budgets.queues, budgets.bodies, budgets.responses]
    for budget in every:
        for connection in budget.holders():
            budget.release(connection)


@pytest.mark.parametrize(
    ("hold", "limit"), [(hold_queue, 16 * MIB), (hold_body, 16 * MIB), (budgets.hold_response, 64 * MIB)]
)
def test_connections_that_hold_little_do_not_protect_those_that_hold_much(
    connections: list[Connection], hold: Callable[[Connection, int], None], limit: int
) -> None:
    large = connections[450:]
    for connection in connections[:450]:
        hold(connection, 1)
    for connection in large:
        hold(connection, 256 * 1024)

    assert limit - 2 * MIB <= sum(not connection.closed for connection in large) * 256 * 1024 <= limit


def test_few_connections_are_closed_at_once(connections: list[Connection]) -> None:
    for connection in connections:
        hold_queue(connection, 16 * 1024)
    closed = sum(connection.closed for connection in connections)
    hold_queue(Connection(), 256 * 1024)

    assert 0 < sum(connection.closed for connection in connections) - closed < 20
