"""Errors as clients see them: a class for each, one body, two media types.

The body is the envelope of docs/api.md, or RFC 9457 (`application/problem+json`) for a client that asks for it. A
feature adds its own errors by subclassing `APIError`; FastAPI's `HTTPException` works, too.
"""

import http
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pydantic_core
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.core.observability.trace_id import get_trace_id

PROBLEM_JSON = "application/problem+json"
_LONGEST_NAME = 64
# Of one answer, which has at most 16 KiB with its headers: problems, parts of a location, characters, bytes.
_MAX_PROBLEMS = 20
_MAX_LOCATION = 10
_MAX_MESSAGE = 500
_MAX_PROBLEM_BYTES = 12_000
_MAX_INSTANCE = 512
_WITHOUT_BODY = frozenset({204, 304})  # RFC 9110, section 8.6


class APIError(HTTPException):
    """An error with a code, a status and a message for the client.

    It is an `HTTPException` because FastAPI turns anything else that is raised while it reads a body into
    a 400 of its own.

    Parameters
    ----------
    message
        One sentence for the client. Nothing internal: no SQL, no driver text, no path.
    headers
        Further header fields of the answer.
    errors
        For invalid input: what is wrong, and where.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    default_message: ClassVar[str] = "Internal server error"
    default_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        message: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.errors = errors
        super().__init__(self.status, self.message, {**self.default_headers, **(headers or {})})


class InternalError(APIError):
    """A defect of this service."""


class InvalidInput(APIError):
    """Anything wrong with path, query, header or body."""

    code, status, default_message = "INVALID_INPUT", 422, "Invalid input"


class Unauthenticated(APIError):
    """The request has no valid token."""

    code, status, default_message = "UNAUTHENTICATED", 401, "A bearer token is required"
    default_headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(APIError):
    """The token does not allow this."""

    code, status, default_message = "FORBIDDEN", 403, "The token lacks a scope"


class NotFound(APIError):
    """No such path."""

    code, status, default_message = "NOT_FOUND", 404, "Not found"


class MethodNotAllowed(APIError):
    """The path is there, the method is not."""

    code, status, default_message = "METHOD_NOT_ALLOWED", 405, "Method not allowed"


class Conflict(APIError):
    """The change conflicts with other rows, such as one that refers to this one (SQLSTATE 23505, 23503)."""

    code, status, default_message = "CONFLICT", 409, "Conflicts with the current state"


class PayloadTooLarge(APIError):
    """The body is larger than `MAX_BODY_BYTES`, or than the `max_body_size` of its route."""

    code, status, default_message = "PAYLOAD_TOO_LARGE", 413, "The request body is too large"


class HeadTooLarge(APIError):
    """The header fields, or the target, are more than the server takes (`app/server/protocol/head.py`)."""

    code, status, default_message = "INVALID_INPUT", 431, "The header fields are too large or too many"


class UnsupportedMediaType(APIError):
    """The body is not JSON, or is encoded."""

    code, status, default_message = (
        "UNSUPPORTED_MEDIA_TYPE",
        415,
        "The body must be application/json",
    )


class DatabaseError(APIError):
    """The database is away, failing over, or did not answer in time."""

    code, status, default_message = "DATABASE_ERROR", 503, "The database is not available"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class Overloaded(APIError):
    """More work than can be done in time (`app/core/middleware/concurrency_limit.py`)."""

    code, status, default_message = "OVERLOADED", 503, "The service is overloaded, retry later"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class ShuttingDown(APIError):
    """The service is shutting down: readiness says so, and a request that outlived `SHUTDOWN_TIMEOUT` gets it."""

    code, status, default_message = "SHUTTING_DOWN", 503, "The service is shutting down"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class DownstreamError(APIError):
    """Another service gave no usable answer, or is known to be down."""

    code, status, default_message = "DOWNSTREAM_ERROR", 502, "Another service did not give a usable answer"


class DownstreamTimeout(APIError):
    """Another service did not answer in time."""

    code, status, default_message = "DOWNSTREAM_TIMEOUT", 504, "Another service did not answer in time"


class NotModified(HTTPException):
    """The client has the current representation (304, RFC 9110, section 15.4.5)."""

    def __init__(self, *, headers: Mapping[str, str]) -> None:
        super().__init__(http.HTTPStatus.NOT_MODIFIED, headers=dict(headers))


_BY_STATUS: dict[int, type[APIError]] = {
    error.status: error
    for error in (
        InternalError,
        InvalidInput,
        Unauthenticated,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Conflict,
        PayloadTooLarge,
        HeadTooLarge,
        UnsupportedMediaType,
    )
}


def wants_problem_json(headers: Headers) -> bool:
    """Return whether `Accept` names `application/problem+json`, and no less than `application/json`.

    Quality values are those of RFC 9110, section 12.4.2.
    """
    quality: dict[str, float] = {}
    for media_range in ",".join(headers.getlist("accept")).split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            quality[name] = float(weight)
        except ValueError:
            quality[name] = 0.0
    return quality.get(PROBLEM_JSON, 0.0) > 0.0 and quality[PROBLEM_JSON] >= quality.get("application/json", 0.0)


def render_error(
    scope: Scope, status: int, code: str, message: str, errors: Sequence[Mapping[str, Any]] | None = None
) -> tuple[str, bytes]:
    """Render the body of an error: the one place that does.

    Parameters
    ----------
    scope
        The ASGI scope of the request, for `Accept` and for the path.
    status, code, message, errors
        As in `APIError`.

    Returns
    -------
    tuple[str, bytes]
        Its media type, and the envelope `{"detail": {...}, "trace_id": ...}` or a problem document (RFC 9457,
        section 3).
    """
    extensions = {} if errors is None else {"errors": errors}
    if not _may_want_problem_json(scope) or not wants_problem_json(Headers(scope=scope)):
        body: dict[str, Any] = {
            "detail": {"code": code, "message": message, **extensions},
            "trace_id": get_trace_id(),
        }
        # Writes UTF-8 at once; a lone surrogate cannot be written, so texts of clients are made clean first.
        return "application/json", pydantic_core.to_json(body)
    problem = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "detail": message,
        "instance": scope.get("path", "")[:_MAX_INSTANCE],
        "code": code,
        "trace_id": get_trace_id(),
        **extensions,
    }
    return PROBLEM_JSON, pydantic_core.to_json(problem)


def _may_want_problem_json(scope: Scope) -> bool:
    """Return whether it is worth parsing `Accept`: overload makes many errors, and few clients ask for this."""
    return any(name == b"accept" and b"problem" in value.lower() for name, value in scope["headers"])


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:  # not one of the registered ones
        return "Error"


def error_response(
    scope: Scope,
    status: int,
    code: str,
    message: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the response of an error; the parameters are those of `render_error` and `APIError`."""
    media_type, content = render_error(scope, status, code, message, errors)
    return Response(content, status, {"Vary": "Accept", **(headers or {})}, media_type)


def code_of(status: int) -> str:
    """Return the code of an error that has no class of its own, such as `TOO_MANY_REQUESTS` for 429."""
    if (known := _BY_STATUS.get(status)) is not None:
        return known.code
    if status == http.HTTPStatus.BAD_REQUEST:
        return InvalidInput.code
    try:
        return http.HTTPStatus(status).name
    except ValueError:
        return InvalidInput.code if status < 500 else InternalError.code


def response_for(scope: Scope, error: HTTPException) -> Response:
    """Render an HTTP error: an `APIError`, or FastAPI's `HTTPException` with its detail as the message."""
    if isinstance(error, NotModified):
        return Response(status_code=error.status_code, headers=error.headers)
    if isinstance(error, APIError):
        return error_response(
            scope,
            error.status,
            error.code,
            error.message,
            errors=error.errors,
            headers=error.headers,
        )
    status, headers = error.status_code, dict(error.headers or {})
    if status in _WITHOUT_BODY:
        return Response(status_code=status, headers=headers)
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" not in map(str.lower, headers):
        headers["Retry-After"] = "1"
    return error_response(scope, status, code_of(status), _message_of(error), headers=headers)


def _message_of(error: HTTPException) -> str:
    """Return the detail as one text; FastAPI allows any JSON value."""
    detail: Any = error.detail
    if not isinstance(detail, str):
        detail = pydantic_core.to_json(detail, fallback=str).decode()
    known = _BY_STATUS.get(error.status_code)
    if known is not None and detail == _phrase(error.status_code):  # what Starlette puts in where nothing was given
        return known.default_message
    return str(detail)[:_MAX_MESSAGE].encode("utf-8", "replace").decode("utf-8")


def _clean(part: int | str) -> int | str:
    """Shorten a member name that the client chose, and make it valid Unicode."""
    if isinstance(part, int):
        return part
    return part[:_LONGEST_NAME].encode("utf-8", "replace").decode("utf-8")


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Answer an `HTTPException`; a 405 gets every method of its path in `Allow`."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if error.status_code == MethodNotAllowed.status:
        allow = request.app.state.routes.allowed_methods(request.scope["path"])
        error = MethodNotAllowed(headers={"Allow": ", ".join(allow)})
    return response_for(request.scope, error)


async def handle_validation_error(request: Request, error: Exception) -> Response:
    """Answer invalid input with what is wrong and where, and never with what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    return response_for(request.scope, InvalidInput(errors=_problems(error.errors())))


def _problems(found: Sequence[Any]) -> list[dict[str, Any]]:
    """List what is wrong, as far as an answer of 16 KiB has room for it, and how much more there is."""
    problems: list[dict[str, Any]] = []
    size = 0
    for problem in found[:_MAX_PROBLEMS]:
        loc = [_clean(part) for part in problem["loc"][:_MAX_LOCATION]]
        shown = {"loc": loc, "msg": problem["msg"][:_MAX_MESSAGE], "type": problem["type"]}
        size += len(pydantic_core.to_json(shown))
        if size > _MAX_PROBLEM_BYTES:
            break
        problems.append(shown)
    if more := len(found) - len(problems):
        problems.append({"loc": [], "msg": f"and {more} more", "type": "too_many_errors"})
    return problems


async def handle_unexpected_error(request: Request, error: Exception) -> Response:  # noqa: ARG001 - FastAPI's signature
    """Answer an exception that nothing else handled; `@app.exception_handler(Exception)` takes this one's place."""
    return response_for(request.scope, InternalError())
