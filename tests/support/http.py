"""HTTP/1.1 as bytes: a client library would refuse to send what some tests send, and would retry."""

import json
import re
import socket
from typing import Any, BinaryIO, NamedTuple, Self

JSON = ("Content-Type", "application/json")
TRACE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Answer(NamedTuple):
    """A response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


class Connection:
    """One connection to a port of this machine, which sends what it is given and never retries."""

    def __init__(self, port: int, timeout: float = 120.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file: BinaryIO = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def ask(self, path: str) -> None:
        """Send a GET request, and do not wait for its answer."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def head(self) -> Answer:
        """Read the head of a response.

        Raises
        ------
        ConnectionError
            If the server closes before the end of the header section.
        """
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                raise ConnectionError(f"closed after {head!r}")
            head += line
        return parse(head)

    def answer(self) -> Answer:
        """Read one response with its `Content-Length`."""
        status, headers, _ = self.head()
        return Answer(status, headers, self.read(int(headers.get("content-length", "0"))))

    def read(self, size: int) -> bytes:
        """Read so many bytes, or fewer if the server closes."""
        return self._file.read(size)

    def chunk(self) -> bytes:
        """Read the next chunk of a body; the last one is empty.

        Raises
        ------
        ConnectionError
            If the server closes before the last chunk.
        """
        size = self._file.readline()
        if not size:
            raise ConnectionError("closed before the last chunk")
        data = self._file.read(int(size, 16))
        self._file.readline()
        return data

    def stream(self, path: str, trace_id: str = "") -> Answer:
        """Send a GET request, and read the head of its answer."""
        field = f"X-Trace-ID: {trace_id}\r\n" if trace_id else ""
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())
        return self.head()

    def get(self, path: str) -> Answer:
        """Send a GET request, and read its answer."""
        self.ask(path)
        return self.answer()

    def closed(self) -> bool:
        """Wait for the server to close, and return whether it did so without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def rest(self) -> bytes:
        """Read everything until the server closes."""
        return self._file.read()

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self.socket.close()


def send(
    port: int,
    method: str,
    target: str | bytes,
    *headers: tuple[str | bytes, str | bytes],
    body: bytes | None = None,
    chunked: bool = False,
    host: bool = True,
) -> Answer:
    """Send one request as it is, on a connection of its own; only framing and `Host` are added."""
    lines: list[tuple[str | bytes, str | bytes]] = [("Host", "x")] if host else []
    lines += headers
    if chunked:
        lines.append(("Transfer-Encoding", "chunked"))
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body or b"")) + b"0\r\n\r\n"
    elif body is not None:
        lines.append(("Content-Length", str(len(body))))
    head = [_bytes(method) + b" " + _bytes(target) + b" HTTP/1.1"]
    head += [_bytes(name) + b": " + _bytes(value) for name, value in lines]
    with Connection(port) as connection:
        connection.send(b"\r\n".join([*head, b"", body or b""]))
        return connection.answer()


def parse(raw: bytes) -> Answer:
    """Take the bytes of a response apart."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(status_line.split(" ")[1]), headers, body)


def assert_refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check the whole error body, and return its `detail`."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.json.keys() == {"detail", "trace_id"}
    assert answer.json["trace_id"] == answer.headers["x-trace-id"]
    assert TRACE_ID.fullmatch(answer.json["trace_id"])
    detail: dict[str, Any] = answer.json["detail"]
    assert detail["code"] == code
    assert detail["message"]
    assert len(answer.body) < 2000
    return detail


def _parts(body: bytes, size: int = 65536) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text
