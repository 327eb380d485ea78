"""Close connections on which a server hangs.

The server enforces statement timeouts; one that is stopped, or behind a network that drops everything, does not. TCP's
timeouts notice a peer that has vanished, not one that is stopped: its kernel continues to acknowledge.
"""

import contextlib
import logging
import os
import socket
import time

import psycopg2
from psycopg2.extensions import connection as PsycopgConnection  # noqa: N812 - it is a class
from sqlalchemy import Engine, event

_log = logging.getLogger(__name__)


def cut(connection: PsycopgConnection) -> None:
    """Shut down the socket, which ends the wait for a server that does not answer."""
    with contextlib.suppress(psycopg2.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as copy:
        # psycopg2 sets `closed` before it closes the descriptor: while it is not set, the copy is of the right one.
        if not connection.closed:
            copy.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """Closes connections that have been in use for too long.

    Parameters
    ----------
    max_seconds
        Seconds for which a unit of work may hold a connection.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._since: dict[PsycopgConnection, float] = {}

    def listen(self, engine: Engine) -> None:
        """Observe every connection of `engine` that is taken, returned or closed."""
        event.listen(engine, "checkout", self.begin)
        event.listen(engine, "checkin", self.end)
        event.listen(engine, "close", self.end)

    def begin(self, connection: PsycopgConnection, *_: object) -> None:
        """Note that a connection is in use."""
        self._since[connection] = time.monotonic()

    def end(self, connection: PsycopgConnection | None, *_: object) -> None:
        """Note that a connection is no longer in use."""
        if connection is not None:
            self._since.pop(connection, None)

    def close_overdue(self) -> list[PsycopgConnection]:
        """Close and return the connections in use for too long; their units get a connection error."""
        before = time.monotonic() - self._max_seconds
        late = [connection for connection, since in self._since.items() if since <= before]
        for connection in late:
            del self._since[connection]
            _log.warning("the database has not answered for %.1f s: the connection is cut", self._max_seconds)
            cut(connection)
        return late
