"""Errors as clients see them: a class for each, with a code, a status and a message.

A feature adds its own errors by subclassing `APIError`; FastAPI's `HTTPException` works, too.
"""

import http
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from starlette.exceptions import HTTPException


class APIError(HTTPException):
    """An error with a code, a status and a message for the client.

    It is an `HTTPException` because FastAPI replaces any other exception that is raised while it reads a body by a 400.

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


class ResourceNotFound(NotFound):
    """There is no resource with this id. A feature's own class says of which kind.

    Attributes
    ----------
    resource
        What the message calls it: `Order`.
    """

    resource: ClassVar[str] = "Resource"

    def __init_subclass__(cls) -> None:
        cls.default_message = f"{cls.resource} 7 not found"

    def __init__(self, resource_id: int) -> None:
        super().__init__(f"{self.resource} {resource_id} not found")


class MethodNotAllowed(APIError):
    """The path exists, but not for this method."""

    code, status, default_message = "METHOD_NOT_ALLOWED", 405, "Method not allowed"


class Conflict(APIError):
    """The change conflicts with other rows, such as one that refers to this one (SQLSTATE 23505, 23503)."""

    code, status, default_message = "CONFLICT", 409, "Conflicts with the current state"


class PayloadTooLarge(APIError):
    """The body is larger than `MAX_BODY_BYTES`, or than the `max_body_size` of its route."""

    code, status, default_message = "PAYLOAD_TOO_LARGE", 413, "The request body is too large"


class HeadTooLarge(APIError):
    """The header fields, or the target, are larger than the server accepts (`app/server/protocol/head.py`)."""

    code, status, default_message = "INVALID_INPUT", 431, "The header fields are too large or too many"


class UnsupportedMediaType(APIError):
    """The body is not JSON, or is encoded."""

    code, status, default_message = (
        "UNSUPPORTED_MEDIA_TYPE",
        415,
        "The body must be application/json",
    )


class DatabaseError(APIError):
    """The database is unavailable, failing over, or did not answer in time."""

    code, status, default_message = "DATABASE_ERROR", 503, "The database is not available"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class Overloaded(APIError):
    """More work than can be done in time (`app/core/middleware/limits/concurrency.py`)."""

    code, status, default_message = "OVERLOADED", 503, "The service is overloaded, retry later"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class ShuttingDown(APIError):
    """The service is shutting down: readiness says so, and a request that outlived `SHUTDOWN_TIMEOUT` gets it."""

    code, status, default_message = "SHUTTING_DOWN", 503, "The service is shutting down"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class DownstreamError(APIError):
    """Another service gave no usable response, or is known to be down."""

    code, status, default_message = "DOWNSTREAM_ERROR", 502, "Another service did not give a usable answer"


class DownstreamTimeout(APIError):
    """Another service did not answer in time."""

    code, status, default_message = "DOWNSTREAM_TIMEOUT", 504, "Another service did not answer in time"


class NotModified(HTTPException):
    """The client has the current representation (304, RFC 9110, section 15.4.5)."""

    def __init__(self, *, headers: Mapping[str, str]) -> None:
        super().__init__(http.HTTPStatus.NOT_MODIFIED, headers=dict(headers))
