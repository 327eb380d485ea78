"""Input of a connection: parsed in pieces, within limits, and not beyond the request that is being answered."""

import asyncio
import contextvars
from typing import cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl

from app.server.protocol.budgets import bodies, queues, reject_oldest_queues, reject_slowest
from app.server.protocol.closing import ClosingProtocol
from app.server.protocol.head import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    BadRequestError,
    HeadTooLargeError,
    TargetTooLongError,
    check_head,
    use_target_host,
    without_upgrade,
)
from app.server.protocol.parsing import parse_queue

# Bytes that are parsed at a time, and how many of them need not end with a head: they may be short requests, whose
# objects are a hundred times as large.
_PIECE, _SHORT_PIECE = 8192, 256
_END_OF_HEAD = b"\r\n\r\n"
# What a header field takes besides its name and value.
_FIELD_BYTES = 150
# A body has at most so many chunks, and one more for each so many bytes: each costs as much as some hundred bytes.
_CHUNKS, _CHUNK_BYTES = 4000, 32
# Chunks and pieces of one connection that are parsed at once; the rest waits for its turn.
_CHUNKS_AT_ONCE, _PIECES_AT_ONCE = 1000, 32


def _end_of_piece(data: bytes, start: int) -> int:
    """Return how far to parse: to the end of a head if possible, so that few requests are queued."""
    end = data.find(_END_OF_HEAD, start + _SHORT_PIECE - len(_END_OF_HEAD), start + _PIECE)
    return start + _PIECE if end < 0 else end + len(_END_OF_HEAD)


class PipelineFlow(FlowControl):
    """Flow control that does not read while input has to wait, although the app asks for the rest of a body."""

    def __init__(self, transport: asyncio.Transport, connection: "InputProtocol") -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read, unless requests are queued, or one was rejected just before."""
        if not (self._connection.has_queue or self._connection.throttled):
            super().resume_reading()


class InputProtocol(ClosingProtocol):
    """The part of a connection that reads requests. Times are those of the event loop's clock, in seconds.

    Attributes
    ----------
    received_bytes
        Bytes of the head or body that is being received, without the chunk in which it began.
    throttled
        Whether the next request has to wait, since one was rejected.
    turns
        As in `Parsing`.
    """

    received_bytes = 0
    throttled = False
    turns = 0.0

    _received_at = 0.0
    _body_bytes = 0
    _chunks = 0
    _uncounted = 0  # bytes of the body that came since `bodies` was last told
    _upgrade_offered = False

    def data_received(self, data: bytes) -> None:
        """Parse input; if it is not HTTP, answer with an error and close.

        What is only discarded is read in turn: libuv reads 8 MB of a fast connection before it looks at another one.
        """
        self._received_at = self.loop.time()
        self._unparsed += data
        if self._input_ended:
            self.received_bytes += len(data)
        self._parse()
        if self.discarding and not self.has_queue:
            self.flow.pause_reading()
            self.turns += len(data) / (_PIECE * _PIECES_AT_ONCE)
            parse_queue.add(self)

    @property
    def discarding(self) -> bool:
        """Whether input is not used any more: its request was answered early, or no other one will be."""
        return self._input_ended or (self.body_since is not None and not self.responding)

    @property
    def has_queue(self) -> bool:
        """Whether requests wait for the one that is being answered: then no more is read or parsed."""
        return bool(self.pipeline or self._unparsed)

    @property
    def _waits(self) -> bool:
        """Whether nothing is parsed: a request behind a response that is not read would only be kept, with its own.

        The rest of a body is; that of a rejected request is discarded.
        """
        if self._input_ended or self.pipeline or self.transport.is_closing():
            return True
        return (self.throttled or self.flow.write_paused) and self.body_since is None

    def _parse(self) -> None:
        """Parse input in pieces, so that few requests can be queued at once, and not very many chunks."""
        data, self._unparsed = self._unparsed, b""
        start, again, pieces, enough = 0, b"", 0, self._chunks + _CHUNKS_AT_ONCE
        while (again or start < len(data)) and not (self._waits or self._chunks > enough or pieces == _PIECES_AT_ONCE):
            pieces += 1
            piece, again = again or data[start : (start := _end_of_piece(data, start))], b""
            self.received_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError as error:
                self._reject_input(error.__context__)
            except httptools.HttpParserUpgrade as upgrade:
                rest = piece[upgrade.args[0] :]
                if self._should_upgrade() and not (self.responding or self._waits):
                    self._upgrade_to_websocket(rest + data[start:])
                    return
                again = self._restart_without_upgrade() + rest
            else:
                self._count_body()
                self._check_partial()
        self._queue(b"" if self._input_ended else again + data[start:])
        if self.has_queue:
            self.flow.pause_reading()
            if self._chunks > enough or pieces == _PIECES_AT_ONCE:
                self.turns += 1
                parse_queue.add(self)

    def _queue(self, rest: bytes) -> None:
        """Keep what is not parsed yet, and count it and the head that is being received."""
        self._unparsed = rest
        size = len(rest)
        if self.head_since is not None:
            size += self.received_bytes + sum(_FIELD_BYTES + len(name) + len(value) for name, value in self.headers)
        if size == 0:
            queues.release(self)
        else:
            queues.set(self, size)
            reject_oldest_queues()

    def _parse_soon(self) -> None:
        self.loop.call_soon(self.parse_piece, context=contextvars.Context())

    def parse_piece(self) -> None:
        """Parse input that has waited, and read on if none is left."""
        self._parse()
        self.flow.resume_reading()

    def _check_partial(self) -> None:
        """Reject a head, or what is around the data of a body, that is too large before it is complete."""
        limit = MAX_HEAD_BYTES  # of empty lines before a head, too
        if self.head_since is not None and len(self.url) > MAX_TARGET_BYTES:
            self._reject_input(TargetTooLongError())
            return
        if self.body_since is not None:
            if self._chunks > _CHUNKS + self._body_bytes // _CHUNK_BYTES:
                self._reject_input(BadRequestError(400, "The body has too many small chunks"))
                return
            # For extensions and trailers, and eight bytes for the size of each chunk.
            limit = _PIECE + MAX_HEAD_BYTES + self._body_bytes + 8 * self._chunks
        if self.received_bytes > limit or (self.headers is not None and len(self.headers) > MAX_FIELDS):
            self._reject_input(HeadTooLargeError())

    def _should_upgrade(self) -> bool:
        """Return whether a WebSocket is offered; in HTTP/1.0 the offer is ignored (RFC 9110, section 7.8)."""
        return self.parser.get_http_version() != "1.0" and super()._should_upgrade()

    def _upgrade_to_websocket(self, rest: bytes) -> None:
        """Hand the connection over; uvicorn would lose what came with the head."""
        queues.release(self)
        self.handle_websocket_upgrade()
        if rest:
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)

    def _restart_without_upgrade(self) -> bytes:
        """Return a request's head as if it had not offered to upgrade (RFC 9110, section 7.8), to be parsed again.

        httptools takes what follows the head for another protocol, but it is a body: Java's HTTP client, for one,
        offers `h2c` with every POST.
        """
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self._upgrade_offered = False
        return head

    def on_message_begin(self) -> None:
        """Note when the head began."""
        super().on_message_begin()
        self.head_since, self.received_bytes = self._received_at, 0

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        check_head(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self._upgrade_offered = self.parser.should_upgrade()
        if self._upgrade_offered:  # `data_received` continues
            if self._should_upgrade():
                super().on_headers_complete()  # which only notes the method
            return
        use_target_host(self.url, self.headers)
        self.head_since, self.body_since = None, self._received_at
        self.received_bytes = self._body_bytes = self._chunks = 0
        super().on_headers_complete()
        # The request has its own list now; what follows are trailers, which are never header fields (RFC 9110, 6.5.1).
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        super().on_body(body)
        self._body_bytes += len(body)
        self._uncounted += len(body)

    def on_chunk_header(self) -> None:
        """Count a chunk."""
        self._chunks += 1

    def _count_body(self) -> None:
        """Count what came of the body."""
        size, self._uncounted = self._uncounted, 0
        if size and not self.cycle.response_complete:
            bodies.hold(self, size)
            reject_slowest(self)

    def on_message_complete(self) -> None:
        """Note that the body is complete."""
        self.body_since, self.received_bytes = None, 0
        if not self._upgrade_offered:
            super().on_message_complete()

    def _reject_input(self, reason: BaseException | None) -> None:
        """Answer input that is not a request. An earlier request on the connection is answered first."""
        if self.responding and self.body_since is None:
            self._close_after_current()
        elif isinstance(reason, BadRequestError):
            self.reject_body(reason.status, "INVALID_INPUT", reason.message)
        else:
            self.reject_body(400, "INVALID_INPUT", "Malformed HTTP request")
