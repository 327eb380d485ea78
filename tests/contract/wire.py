"""Requests as bytes: an HTTP client would refuse to send what these tests send."""

import json
import re
import socket
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from tests.support.service import Service

JSON = ("Content-Type", "application/json")
TRACE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


def send(
    service: Service,
    method: str,
    target: str | bytes,
    *headers: tuple[str | bytes, str | bytes],
    body: bytes | None = None,
    chunked: bool = False,
    host: bool = True,
) -> Answer:
    """Send one request as it is; only framing and `Host` are added."""
    lines: list[tuple[str | bytes, str | bytes]] = [("Host", "x")] if host else []
    lines += headers
    if chunked:
        lines.append(("Transfer-Encoding", "chunked"))
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body or b"")) + b"0\r\n\r\n"
    elif body is not None:
        lines.append(("Content-Length", str(len(body))))
    head = [_bytes(method) + b" " + _bytes(target) + b" HTTP/1.1"]
    head += [_bytes(name) + b": " + _bytes(value) for name, value in lines]
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"\r\n".join([*head, b"", body or b""]))
        return _receive(connection.makefile("rb"))


def _receive(stream: BinaryIO) -> Answer:
    """Read one answer, as long as it says that it is."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        assert line, f"closed after {head!r}"
        head += line
    answer = parse(head)
    return replace(answer, body=stream.read(int(answer.headers.get("content-length", "0"))))


def _parts(body: bytes, size: int = 65536) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def parse(raw: bytes) -> Answer:
    """Take an answer apart."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(status_line.split(" ")[1]), headers, body)


def assert_refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check the whole envelope, and return its `detail`."""
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
