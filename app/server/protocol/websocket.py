"""WebSockets (RFC 6455) on one connection: uvicorn's protocol with limits, timeouts and an orderly end."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from starlette.types import Message, Scope
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from app.core.errors import InvalidInput, ShuttingDown
from app.core.lifecycle import lifecycle
from app.server.protocol import timeouts
from app.server.protocol.head import is_canonical
from app.server.protocol.responses import count_rejected, render_error

# Frames of one message; without a limit empty ones would never reach the message's size limit.
MAX_FRAMES = 1024
# Close codes of RFC 6455, section 7.4.1, and of IANA's registry.
_GOING_AWAY, _TOO_BIG, _SERVICE_RESTART = 1001, 1009, 1012

# Not uvicorn's own logger: at INFO it logs every handshake with its query string, at DEBUG what is in the frames.
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.WARNING)


class ServiceWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket, from its handshake on. Times are those of the event loop's clock, in seconds."""

    _write_paused_since: float | None = None
    _closing_since: float | None = None
    _ended = False  # by `end_stream`
    _task: asyncio.Task[Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = _logger
        self.close_timeout = timeouts.CLOSE_SECONDS
        # `Connection: close`, which a server that shuts down adds, has no meaning for what is no HTTP any more.
        self.default_headers = [field for field in self.default_headers if field[0] != b"connection"]

    def data_received(self, data: bytes) -> None:
        """Parse input; a head that is not a valid handshake is rejected."""
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            self._reject(431, "INVALID_INPUT", "A header field of a WebSocket handshake is too large")

    def handle_connect(self, event: Request) -> None:
        """Start the app, if the handshake is valid."""
        response = self.conn.accept(event)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
            if not is_canonical(self.scope["raw_path"]):
                self.scope["path"] = self.scope["raw_path"].decode("ascii")  # which no route has
        else:
            self.handshake_initiated = True
            status = response.status_code
            self._reject(status, InvalidInput.code, "Invalid WebSocket handshake", event)

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
        if self._task is not None and not self._task.done():
            self.loop.call_later(timeouts.DISCONNECT_SECONDS, self._task.cancel)

    def handle_cont(self, event: Frame) -> None:
        """Take a further frame of a message."""
        if len(self.frames) >= MAX_FRAMES:
            self.conn.fail(_TOO_BIG, "too many frames")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def pause_writing(self) -> None:
        """Read no more while the client does not read: it could send pings for ever, and each is answered."""
        self._write_paused_since = self.loop.time()
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again, unless the app has messages to take first."""
        self._write_paused_since = None
        super().resume_writing()
        if not self.read_paused or self.queue.empty():
            self._resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message, and read again once there is none left."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty() and self.writable.is_set():
            self._resume_reading()
        return message

    def _resume_reading(self) -> None:
        self.read_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; raise as if the client had gone if the server has closed the WebSocket."""
        await self.writable.wait()
        if self._ended:
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # with this response; uvicorn would log that it is missing

    def check_timeouts(self, now: float) -> None:
        """Abort a connection whose client does not read; those that do not answer pings are uvicorn's to close."""
        if self.transport.is_closing() and self._closing_since is None:
            self._closing_since = now
        since = self._write_paused_since or self._closing_since
        if since is not None and now - since > timeouts.WRITE_SECONDS:
            self.transport.abort()

    def close_if_idle(self, since: float) -> None:
        """Keep the connection: `end_stream` closes it in time."""

    def disable_keep_alive(self) -> None:
        """Keep the connection: there are no requests on it."""

    def end_stream(self) -> None:
        """Close the WebSocket as this process exits: the whole service shuts down (1001), or this worker (1012)."""
        if self._ended or self.close_sent or self.transport.is_closing():
            return
        self._ended = True
        self.stop_keepalive()
        if not self.handshake_complete:
            self._reject(ShuttingDown.status, ShuttingDown.code, ShuttingDown.default_message)
            return
        code = _GOING_AWAY if lifecycle.draining else _SERVICE_RESTART
        disconnect: Message = {"type": "websocket.disconnect", "code": code}
        self.queue.put_nowait(disconnect)  # type: ignore[arg-type]
        self.conn.send_close(code)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def terminate(self) -> None:
        """Close the connection at once, as the process exits."""
        self.transport.abort()
