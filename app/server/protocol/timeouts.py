"""Timeouts of a connection, all in seconds.

There is no timer per connection: once a second the server calls `check_timeouts` for each, which compares a few
timestamps. Neither gunicorn nor uvicorn limits any of this.
"""

import asyncio
import contextlib
import fcntl
import termios
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.server.protocol.closing import ClosingProtocol
    from app.server.protocol.http import ServiceProtocol
    from app.server.protocol.websocket import ServiceWebSocket

# From the first byte of a head to its last; nginx and Apache have 60 and 20.
HEAD_SECONDS = 10.0
# For a body, plus one second for each BODY_BYTES_PER_SECOND received (Apache's mod_reqtimeout: 20 s, 500): 4 minutes
# for 1 MiB.
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 5_000
# For a client to read WRITE_BYTES_PER_SECOND times as many bytes of its response.
WRITE_SECONDS = 30.0
WRITE_BYTES_PER_SECOND = 500
# Bytes that a client is taken to have read in a second before the first one.
_HEAD_START = 64 * 1024
# After an early response input is read and discarded until none has come for so long: closing with unread input resets
# the connection, and the client would not see the response (RFC 9112, section 9.6).
LINGER_SECONDS = 2.0
# Between two pings to a WebSocket, and for the answer to one.
PING_SECONDS = 20.0
# For a client's half of the closing handshake of a WebSocket (RFC 6455, section 7.1.1).
CLOSE_SECONDS = 5.0
# For an app to end after the client of its WebSocket has disconnected; then it is cancelled.
DISCONNECT_SECONDS = 10.0

_TIMED_OUT = 408, "INVALID_INPUT", "The request did not arrive in time"


def check_timeouts(connection: "ServiceProtocol", now: float) -> None:
    """Close the connection if its client is too slow.

    Parameters
    ----------
    connection
        The connection to check.
    now
        The time of the event loop's clock, in seconds.
    """
    if connection.flow.write_paused:
        _note_reading(connection, now)
    if connection.streaming and connection.flow.read_paused:
        connection.close_if_left()  # the end of the input is not seen
    if connection.flow.write_paused and now - connection.write_paused_since > WRITE_SECONDS:
        check_reader(connection, now)
    elif connection.discarding and not connection.responding:
        _check_discarded(connection, now)
    elif connection.head_since is not None:
        if (
            connection.responding or connection.throttled or connection.flow.write_paused
        ):  # it is behind another request
            connection.head_since = now
        elif now - connection.head_since > HEAD_SECONDS:
            connection.close_with_error(*_TIMED_OUT)
    elif connection.body_since is not None:
        _check_body(connection, now, connection.body_since)
    elif connection.idle:
        connection.close_if_idle(now - connection.timeout_keep_alive)


def _note_reading(connection: "ServiceProtocol", now: float) -> None:
    unread = count_unread(connection.transport)
    if unread < connection.last_unread:
        connection.idle_since = now
    connection.last_unread = unread


def check_reader(connection: "ServiceProtocol | ServiceWebSocket", now: float) -> None:
    """Give a client that reads steadily another `WRITE_SECONDS`."""
    unread = count_unread(connection.transport)
    if unread <= connection.unread - WRITE_SECONDS * WRITE_BYTES_PER_SECOND:
        connection.write_paused_since, connection.unread = now, unread
    else:
        connection.abort_response("The client did not read the response in time")


def bytes_per_second(connection: "ClosingProtocol | ServiceWebSocket") -> float:
    """Return how fast a client reads, if it does not read all at once; one that has just begun is not a slow one."""
    read = connection.unread - count_unread(connection.transport)
    return (read + _HEAD_START) / (connection.loop.time() - connection.write_paused_since + 1)


def count_unread(transport: asyncio.Transport) -> int:
    """Count the bytes that a client has not acknowledged, here and in the kernel."""
    queued = array("i", [0])
    with contextlib.suppress(OSError, AttributeError):  # closed
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + queued[0]


def _check_discarded(connection: "ServiceProtocol", now: float) -> None:
    """Have a client that sends all before it reads get its early response (404, 413), if it sends steadily."""
    stopped = not connection.flow.read_paused and now - connection.active_at > LINGER_SECONDS
    most = BODY_SECONDS + connection.received_bytes / BODY_BYTES_PER_SECOND
    if stopped or now - connection.idle_since > most:
        connection.transport.abort()


def _check_body(connection: "ServiceProtocol", now: float, body_since: float) -> None:
    if connection.flow.read_paused or connection.cycle.waiting_for_100_continue:
        connection.body_since, connection.received_bytes = now, 0  # the client cannot send
    elif now - body_since > BODY_SECONDS + connection.received_bytes / BODY_BYTES_PER_SECOND:
        connection.reject_body(*_TIMED_OUT)
