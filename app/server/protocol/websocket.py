"""WebSockets (RFC 6455) on one connection: uvicorn's protocol with limits, timeouts and an orderly end."""

import asyncio
import logging
from typing import Any, cast

from starlette.types import Scope
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from app.core.errors import InvalidInput, ShuttingDown
from app.core.lifecycle import lifecycle
from app.server.protocol import timeouts
from app.server.protocol.budgets import bodies, hold_response, reject_slowest, responses
from app.server.protocol.head import keep_needless_encoding
from app.server.protocol.parsing import parse_queue
from app.server.protocol.responses import count_rejected, render_error

# Frames of one message; without a limit empty ones would never reach the message's size limit.
MAX_FRAMES = 1024
# Bytes that are parsed at a time: an empty frame has six, and becomes a message of some hundreds.
_PIECE = 1024
# Messages that are in memory while one is not read.
_AHEAD = 3
# Close codes of RFC 6455, section 7.4.1, and of IANA's registry.
_GOING_AWAY, _TOO_BIG, _SERVICE_RESTART, _TRY_AGAIN_LATER = 1001, 1009, 1012, 1013

# Not uvicorn's own logger: at INFO it logs every handshake with its query string, at DEBUG what is in the frames.
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.WARNING)
# A client's mistake, which closes the WebSocket with 1007, is not an error of the service.
_logger.addFilter(lambda record: not str(record.msg).startswith("Invalid UTF-8"))


class ServiceWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket, from its handshake on. Times are those of the event loop's clock, in seconds.

    Attributes
    ----------
    body_since
        When the message that is being received, or waits for the app, began; None if there is none.
    write_paused_since
        Since when the client does not read.
    unread
        Bytes that the client had not read then.
    turns
        As in `Parsing`.
    """

    body_since: float | None = None
    write_paused_since = 0.0
    unread = 0
    turns = 0.0

    _has_turn = False  # in `parse_queue`
    _queued = 0  # bytes of messages that the app has not taken
    _received = 0  # bytes since an answer to a ping was last missed
    _written = 0  # bytes of the app's last message
    _sent = 0  # bytes of all its messages
    _read = 0  # how many the client had read when an answer to a ping was last missed
    _closing_since: float | None = None
    _task: asyncio.Task[Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._unparsed = bytearray()  # what waits for its turn, for the answer to the handshake, or for the app
        self.logger = self.conn.logger = _logger
        self.close_timeout = timeouts.CLOSE_SECONDS
        # `Connection: close`, which a server that shuts down adds, has no meaning after the handshake.
        self.default_headers = [field for field in self.default_headers if field[0] != b"connection"]

    def data_received(self, data: bytes) -> None:
        """Take input, which is parsed in turn; a head that is not a valid handshake is rejected."""
        if self.handshake_initiated:
            self._received += len(data)
            self._unparsed += data
            self._count()
            self._parse_soon()
            return
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            self._reject(431, "INVALID_INPUT", "A header field of a WebSocket handshake is too large")

    @property
    def _waits(self) -> bool:
        """Whether nothing is parsed: uvicorn would answer frames before it has answered the handshake."""
        return self.read_paused or not self.handshake_complete or not self.writable.is_set()

    def _parse_soon(self) -> None:
        """Schedule the parsing of what is left of the input, or read on if nothing is."""
        if self.transport.is_closing():
            return
        if self._unparsed or self._waits:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        if self._unparsed and not (self._waits or self._has_turn):
            self._has_turn = True
            parse_queue.add(self)

    def parse_piece(self) -> None:
        """Parse a piece of the input, so that few messages can be queued at once."""
        self._has_turn = False
        if not (self._waits or self.transport.is_closing()):
            piece = bytes(self._unparsed[:_PIECE])
            self.turns += len(piece) / _PIECE
            del self._unparsed[:_PIECE]
            super().data_received(piece)
            self._count()
        self._parse_soon()

    def _count(self) -> None:
        """Count what was received, and not yet read by the app."""
        size = len(self._unparsed) + len(self.conn.reader.buffer) + sum(map(len, self.frames)) + self._queued
        if size == 0:
            self._release()
            return
        self.body_since = self.body_since or self.loop.time()
        bodies.set(self, size)
        reject_slowest(self)

    def _release(self) -> None:
        self.body_since, self._queued = None, 0
        bodies.release(self)

    @property
    def rejectable(self) -> bool:
        """Whether a message is being received, or waits for the app."""
        return self.body_since is not None

    def reject_body(self, status: int, code: str, message: str) -> None:
        """Close the WebSocket, or reject its handshake: its messages take memory that others need."""
        if self.transport.is_closing():
            return
        if self.handshake_complete:
            self.conn.fail(_TRY_AGAIN_LATER, message)
            self.handle_parser_exception()
        else:
            self._reject(status, code, message)

    def abort_response(self, reason: str) -> None:
        """Close the WebSocket, whose client does not read."""
        _logger.warning("%s", reason, extra={"client": self.client[0] if self.client else None})
        responses.release(self)
        self.transport.abort()

    def handle_connect(self, event: Request) -> None:
        """Start the app, if the handshake is valid."""
        response = self.conn.accept(event)
        if response.status_code == 101:
            super().handle_connect(event)
            keep_needless_encoding(cast("dict[str, Any]", self.scope))
        else:
            self.handshake_initiated = True
            self._reject(response.status_code, InvalidInput.code, "Invalid WebSocket handshake", event)

    def _reject(self, status: int, code: str, message: str, event: Request | None = None) -> None:
        raw = event.headers.raw_items() if event is not None else ()
        scope: Scope = {
            "type": "http",
            "path": event.path if event is not None else "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in raw],
        }
        count_rejected(status)
        self.handshake_complete = self.close_sent = True
        self.transport.write(render_error(scope, self.default_headers, status, code, message))
        self.transport.close()

    async def run_asgi(self) -> None:
        """Call the app."""
        self._task = asyncio.current_task()
        await super().run_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the app, and cancel it if it does not end in time."""
        super().connection_lost(exc)
        self._unparsed.clear()
        self._release()
        responses.release(self)
        if self._task is not None and not self._task.done():
            self.loop.call_later(timeouts.DISCONNECT_SECONDS, self._task.cancel)

    def handle_cont(self, event: Frame) -> None:
        """Take a further frame of a message."""
        if len(self.frames) >= MAX_FRAMES:
            self.conn.fail(_TOO_BIG, "too many frames")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Queue a message."""
        if not self.close_sent:  # else it is discarded
            self._queued += sum(map(len, self.frames))
        super().send_receive_event_to_app()

    def pause_writing(self) -> None:
        """Read no more while the client does not read: it could send pings forever, and each is answered."""
        self.write_paused_since, self.unread = self.loop.time(), timeouts.count_unread(self.transport)
        super().pause_writing()
        self.transport.pause_reading()
        hold_response(self, max(_AHEAD * self._written, self.transport.get_write_buffer_size()))

    def resume_writing(self) -> None:
        """Read again, unless the app has messages to take first."""
        responses.release(self)
        super().resume_writing()
        self._parse_soon()

    def bytes_per_second(self) -> float:
        """Return how fast the client reads what it has not read."""
        return timeouts.bytes_per_second(self)

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message, and read again once there is none left."""
        if not (self.queue.empty() or parse_queue.has_time()):
            await asyncio.sleep(0)  # an app that always finds a message would let nothing else run
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self._release()
            self.read_paused = False
            self._parse_soon()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; if the WebSocket was closed already, raise as if the client had disconnected."""
        await self.writable.wait()
        if self.close_sent:
            raise ClientDisconnected
        self._written = len(cast("bytes | str", message.get("bytes") or message.get("text") or b""))
        self._sent += self._written
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # by this response; otherwise uvicorn would log an error
        if self._unparsed:  # the handshake is complete, or the client's half of the closing one is awaited
            self._parse_soon()

    def keepalive_timeout(self) -> None:
        """Close the WebSocket, unless the ping's answer comes behind a large frame, or what the app has not taken.

        The ping itself may be behind messages that the client is reading.
        """
        read = self._sent - timeouts.count_unread(self.transport)
        is_steady = (
            self._received >= timeouts.PING_SECONDS * timeouts.BODY_BYTES_PER_SECOND
            or read - self._read >= timeouts.PING_SECONDS * timeouts.WRITE_BYTES_PER_SECOND
        )
        self._received, self._read = 0, read
        if is_steady or self._waits:
            self.pong_timer = self.loop.call_later(timeouts.PING_SECONDS, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    def check_timeouts(self, now: float) -> None:
        """Abort a connection whose client does not read."""
        if self.transport.is_closing() and self._closing_since is None:
            self._closing_since = now
        if not self.writable.is_set():
            if now - self.write_paused_since > timeouts.WRITE_SECONDS:
                timeouts.check_reader(self, now)
        elif self._closing_since is not None and now - self._closing_since > timeouts.WRITE_SECONDS:
            self.transport.abort()

    def close_if_idle(self, since: float) -> None:
        """Keep the connection: `end_stream` closes it in time."""

    def disable_keep_alive(self) -> None:
        """Keep the connection: there are no requests on it."""

    def end_stream(self) -> None:
        """Close the WebSocket as this process exits: the whole service shuts down (1001), or this worker (1012)."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        if not self.handshake_complete:
            self._reject(ShuttingDown.status, ShuttingDown.code, ShuttingDown.default_message)
            return
        code = _GOING_AWAY if lifecycle.draining else _SERVICE_RESTART
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code})
        self.conn.send_close(code)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.read_paused = False
        self._parse_soon()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def terminate(self) -> None:
        """Close the connection at once, as the process exits."""
        self.transport.abort()
