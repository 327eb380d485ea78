"""Opens connections; while the server is away a few threads try, and the others fail at once.

Without this each request would wait for its own connection to a dead host, and a server that comes back would meet
all of them together.
"""

import contextlib
import threading
import time
from typing import Any

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from psycopg2.extensions import parse_dsn

from app.core.database.driver import ConnectTimeout, connect

_PAUSE = 0.02
"""Seconds between two tries while the server is away: PostgreSQL forks a process even to say that it is starting."""
_PATIENCE = 0.1
"""Seconds that a try gets before others stop waiting for it: a server that is back answers within them."""
_STUCK = 0.5
"""Seconds after which a try that has no answer gets company, which begins with another host."""


class Connector:
    """Makes a new connection, in a thread.

    libpq tries the hosts of a URL in their order, and one that swallows everything would take the time of all. So the
    order turns where that happens, and with each try while nobody answers, and stays where one has succeeded.

    Parameters
    ----------
    arguments
        Those of `connect`.
    most
        How many threads may try at the same time while the server is away.
    """

    def __init__(self, arguments: dict[str, Any], most: int) -> None:
        self._arguments = arguments
        self._orders = _orders(arguments["dsn"])
        self._order = 0
        self._most = most
        self._changed = threading.Condition()
        self._away = False
        self._failures = 0
        self._trying = 0
        self._tried_at = 0.0

    def __call__(self) -> PsycopgConnection:
        """Connect, or raise `psycopg2.OperationalError`."""
        if not self._away:
            return self._connect(self._order)
        with self._changed:
            self._wait_for_turn()
            self._trying += 1
            self._tried_at = time.monotonic()
            if self._away:
                self._order += 1
            order = self._order
        try:
            return self._connect(order)
        finally:
            with self._changed:
                self._trying -= 1
                self._changed.notify_all()

    def _wait_for_turn(self) -> None:
        failures = self._failures
        while self._away:
            since = time.monotonic() - self._tried_at
            if self._trying < self._most and since >= (_STUCK if self._trying else _PAUSE):
                return
            if self._failures != failures or (self._trying and since > _PATIENCE):
                raise psycopg2.OperationalError("the server was away a moment ago")
            self._changed.wait(_PAUSE)

    def _connect(self, order: int) -> PsycopgConnection:
        try:
            connection, order = self._try_each(order)
        except psycopg2.OperationalError:
            self._failures += 1
            self._away = True
            raise
        self._away, self._order = False, order
        return connection

    def _try_each(self, order: int) -> tuple[PsycopgConnection, int]:
        """Connect, where a host does not answer at all beginning with the next one; return what led to success."""
        for turn in range(order, order + len(self._orders) - 1):
            with contextlib.suppress(ConnectTimeout):
                return connect({**self._arguments, **self._orders[turn % len(self._orders)]}), turn
        last = order + len(self._orders) - 1
        return connect({**self._arguments, **self._orders[last % len(self._orders)]}), last


def _orders(url: str) -> list[dict[str, str]]:
    """List the orders in which the hosts of a URL can be tried, as parameters that replace its own."""
    given = {name: value.split(",") for name, value in parse_dsn(url).items() if name in {"host", "hostaddr", "port"}}
    number = max(map(len, given.values()), default=1)
    if number == 1:
        return [{}]
    return [
        {name: ",".join(values[turn:] + values[:turn]) for name, values in given.items() if len(values) == number}
        for turn in range(number)
    ]
