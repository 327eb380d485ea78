"""Opens connections; while the server is unavailable, a few threads try, and the others fail at once.

Otherwise each request would wait for its own connection to a dead host, and a server that starts again would receive
all attempts together.
"""

import threading
import time
from typing import Any

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from psycopg2.extensions import parse_dsn

from app.core.database.engine.dialect import Address, ConnectTimeout, address_of, connect

_PAUSE = 0.02
"""Seconds between two attempts while the server is unavailable: PostgreSQL forks a process for each of them."""
_MAX_WAIT = 0.1
"""Seconds after which others stop waiting for an attempt: a server that is available answers in less."""
_STUCK = 0.5
"""Seconds after which a second attempt starts beside one without an answer, whose result is then checked again."""
_AVOID_SECONDS = 30.0
"""Seconds for which a host that did not answer is tried after the others."""

_Host = dict[str, str]
"""One of the hosts of a URL, as those parameters of libpq that list several."""


class Connector:
    """Makes a new connection, in a thread.

    libpq tries the hosts of a URL in their order, and one that drops all packets would use up the time for all. So each
    has its share of the time, and one that did not answer is tried last for a while.

    Parameters
    ----------
    arguments
        Those of `connect`, `connect_timeout` for all hosts together.
    max_attempts
        How many threads may try at the same time while the server is unavailable.
    """

    def __init__(self, arguments: dict[str, Any], max_attempts: int) -> None:
        self._hosts = _hosts(arguments["dsn"])
        self._hung_at = [float("-inf")] * len(self._hosts)
        self._arguments = {**arguments, "connect_timeout": arguments["connect_timeout"] / len(self._hosts)}
        self._max_attempts = max_attempts
        self._changed = threading.Condition()
        self._unavailable = False
        self._failures = 0
        self._trying = 0
        self._tried_at = 0.0
        self._found: tuple[float, Address] = (float("-inf"), ("", 0))

    def __call__(self) -> PsycopgConnection:
        """Connect, or raise `psycopg2.OperationalError`."""
        if not self._unavailable:
            return self._connect()
        with self._changed:
            self._wait_to_try()
            self._trying += 1
            self._tried_at = time.monotonic()
        try:
            return self._connect()
        finally:
            with self._changed:
                self._trying -= 1
                self._changed.notify_all()

    def avoid(self, address: Address) -> None:
        """Try the host at this address after the others for a while: it hangs."""
        # If several match, it is the one that was tried first.
        for index in self._order():
            if _is_at(self._hosts[index], address):
                self._hung_at[index] = time.monotonic()
                return

    def _order(self) -> list[int]:
        """Sort the hosts, by their numbers in the URL, into the order of trying: those that hung lately come last."""
        avoided_until = time.monotonic() - _AVOID_SECONDS
        return sorted(range(len(self._hosts)), key=lambda index: max(self._hung_at[index], avoided_until))

    def _wait_to_try(self) -> None:
        failures = self._failures
        while self._unavailable:
            since = time.monotonic() - self._tried_at
            if self._trying < self._max_attempts and since >= (_STUCK if self._trying else _PAUSE):
                return
            if self._failures != failures or (self._trying and since > _MAX_WAIT):
                raise psycopg2.OperationalError("the server was unavailable just before")
            self._changed.wait(_PAUSE)

    def _connect(self) -> PsycopgConnection:
        began = time.monotonic()
        try:
            connection = self._try_each()
            if self._is_doubtful(connection, began):
                connection.close()
                connection = self._try_each()
        except psycopg2.OperationalError:
            self._failures += 1
            self._unavailable = True
            raise
        self._unavailable, self._found = False, (time.monotonic(), address_of(connection))
        return connection

    def _is_doubtful(self, connection: PsycopgConnection, began: float) -> bool:
        """Return whether another attempt found the server elsewhere while this one, begun at that time, was stuck.

        A primary that was stopped and resumed after a failover acts as the primary for a while.
        """
        found_at, address = self._found
        return time.monotonic() - began > _STUCK and found_at > began and address != address_of(connection)

    def _try_each(self) -> PsycopgConnection:
        """Connect; if a host does not answer at all, try again with that host last, and so on."""
        for remaining in reversed(range(len(self._hosts))):
            hosts = [self._hosts[index] for index in self._order()]
            listed = {name: ",".join(host[name] for host in hosts) for name in hosts[0]}
            try:
                return connect({**self._arguments, **listed})
            except ConnectTimeout as error:
                self.avoid(error.address)
                if not remaining:
                    raise
        raise AssertionError("unreachable")


def _hosts(url: str) -> list[_Host]:
    """List the hosts of a URL in order; a single one needs no parameters besides the URL."""
    given = {name: value.split(",") for name, value in parse_dsn(url).items() if name in {"host", "hostaddr", "port"}}
    number = max(map(len, given.values()), default=1)
    if number == 1:
        return [{}]
    if len(given.get("port", ())) == 1:  # that of all
        given["port"] *= number
    return [{name: values[index] for name, values in given.items()} for index in range(number)]


def _is_at(host: _Host, address: Address) -> bool:
    names = {host.get("host"), host.get("hostaddr")} - {None, ""}
    return (not names or address[0] in names) and int(host.get("port") or 0) in {0, address[1]}
