"""Limits and rules for the head of a request that the parser does not check."""

import re
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

# Bytes of all header fields and the target; nginx and Node allow 32 and 16 KiB.
MAX_HEAD_BYTES = 32 * 1024
# Of which the target; as in nginx and Apache. RFC 9112, section 3, recommends at least 8,000.
MAX_TARGET_BYTES = 8 * 1024
MAX_FIELDS = 100
# RFC 3986's host and port, loosely: no space, comma, slash or control character.
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*")
# The authority of a target in absolute form.
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
# Octets that a path has no reason to encode: unreserved ones (RFC 3986, section 2.3) and the slash.
_NEEDLESS = re.compile(rb"%(?:2[DEF]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE)
_UPGRADE_FIELDS = frozenset({b"upgrade", b"http2-settings"})

Fields = Sequence[tuple[bytes, bytes]]


class BadRequestError(Exception):
    """The head of a request breaks a rule that the parser does not check."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HeadTooLargeError(BadRequestError):
    """The head has too many bytes or fields (RFC 6585, section 5)."""

    def __init__(self) -> None:
        super().__init__(431, "The header fields are too large or too many")


class TargetTooLongError(BadRequestError):
    """The target has too many bytes (RFC 9110, section 15.5.15)."""

    def __init__(self) -> None:
        super().__init__(414, "The target is too long")


def check_head(method: bytes, url: bytes, version: str, headers: Fields) -> None:
    """Raise `BadRequestError` unless the head is within the limits and names one host."""
    if len(url) > MAX_TARGET_BYTES:
        raise TargetTooLongError
    size, hosts, codings = len(url), [], []
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if len(headers) > MAX_FIELDS or size > MAX_HEAD_BYTES:
        raise HeadTooLargeError
    if version not in {"1.0", "1.1"}:
        raise BadRequestError(400 if version < "1.0" else 505, "Only HTTP/1.0 and HTTP/1.1 are supported")
    if codings:
        _check_transfer_codings(codings)
    if method == b"CONNECT":
        raise BadRequestError(400, "CONNECT is not supported")
    _check_hosts(hosts, version)


def _check_hosts(values: Sequence[bytes], version: str) -> None:
    """Raise unless a proxy and this server must agree on the host (RFC 9112, section 3.2)."""
    if len(values) != 1 and (values or version != "1.0"):
        raise BadRequestError(400, "There must be exactly one Host header field")
    if values and not _HOST.fullmatch(values[0]):
        raise BadRequestError(400, "Malformed Host header field")


def _check_transfer_codings(values: Sequence[bytes]) -> None:
    """Raise unless the body is plain or chunked (RFC 9112, sections 6.1 and 6.3)."""
    codings = b",".join(values).lower().replace(b" ", b"").replace(b"\t", b"")
    if codings == b"chunked":
        return
    if codings.endswith(b",chunked") and codings.count(b"chunked") == 1:
        raise BadRequestError(501, "Only the transfer coding chunked is supported")
    raise BadRequestError(400, "Malformed Transfer-Encoding header field")


def use_target_host(url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Replace `Host` by the host of a target in absolute form (RFC 9112, section 3.2.2); raise if that is malformed."""
    if url.startswith(b"/") or (match := _ABSOLUTE.match(url)) is None:
        return
    if not match[1] or not _HOST.fullmatch(match[1]):
        raise BadRequestError(400, "Malformed host in the target")
    headers[:] = [(name, match[1] if name == b"host" else value) for name, value in headers]


def keep_needless_encoding(scope: MutableMapping[str, Any]) -> None:
    """Leave a needlessly encoded path as it is: decoded, it would evade a proxy's rules; so it matches no route."""
    raw_path: bytes = scope["raw_path"]
    if b"%" in raw_path and _NEEDLESS.search(raw_path) is not None:
        scope["path"] = raw_path.decode("ascii")


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the head of a request announces a body (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


def without_upgrade(method: bytes, url: bytes, version: str, headers: Fields) -> bytes:
    """Return the head of a request without its offer to upgrade (RFC 9110, section 7.8)."""
    lines = [method + b" " + url + b" HTTP/" + version.encode()]
    for name, value in headers:
        if name == b"connection":
            options = [option for option in value.split(b",") if option.strip().lower() not in _UPGRADE_FIELDS]
            lines.append(b"connection: " + b",".join(options))
        elif name not in _UPGRADE_FIELDS:
            lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])
