"""Errors as clients see them: a class for each, with a code, a status and a message.

A feature adds its own errors by subclassing these; FastAPI's `HTTPException` works, too.
"""

import http
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic.alias_generators import to_snake
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

    Attributes
    ----------
    code
        By default the name of the class: `NUMBER_TAKEN` for `NumberTaken`.
    status
        That of the base class, if the class does not name another.
    default_message
        By default the first line of the class's docstring.
    default_headers
        Header fields of every answer.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    default_message: ClassVar[str] = "Internal server error"
    default_headers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        own = vars(cls)
        cls.code = own.get("code") or to_snake(cls.__name__).upper()
        documented = (cls.__doc__ or "").partition("\n")[0].removesuffix(".")
        cls.default_message = own.get("default_message") or documented or cls.default_message

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

    default_message = "Internal server error"


class InvalidInput(APIError):
    """Anything wrong with path, query, header or body."""

    status, default_message = 422, "Invalid input"


class Unauthenticated(APIError):
    """The request has no valid token."""

    status, default_message = 401, "A bearer token is required"
    default_headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(APIError):
    """The token does not allow this."""

    status, default_message = 403, "The token lacks a scope"


class NotFound(APIError):
    """No such path."""

    status, default_message = 404, "Not found"


class ResourceNotFound(NotFound):
    """There is no resource with this id. A feature's own class says of which kind: `OrderNotFound`.

    Attributes
    ----------
    resource
        What the message calls it, by default the rest of the class's name: `Order`.
    """

    code = "NOT_FOUND"
    resource: ClassVar[str] = "Resource"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        derived = to_snake(cls.__name__.removesuffix("NotFound")).replace("_", " ").capitalize()
        cls.resource = vars(cls).get("resource") or derived
        cls.default_message = f"{cls.resource} 7 not found"

    def __init__(self, resource_id: int) -> None:
        super().__init__(f"{self.resource} {resource_id} not found")


class MethodNotAllowed(APIError):
    """The path exists, but not for this method."""

    status, default_message = 405, "Method not allowed"


class Conflict(APIError):
    """The change conflicts with other rows, such as one that refers to this one (SQLSTATE 23505, 23503)."""

    status, default_message = 409, "Conflicts with the current state"


class PayloadTooLarge(APIError):
    """The body is larger than `MAX_BODY_BYTES`, or than the `max_body_size` of its route."""

    status, default_message = 413, "The request body is too large"


class TargetTooLong(APIError):
    """The target is longer than the server accepts (`app/server/protocol/head.py`)."""

    code, status, default_message = "INVALID_INPUT", 414, "The target is too long"


class HeadTooLarge(APIError):
    """The head is larger than the server accepts (`app/server/protocol/head.py`)."""

    code, status, default_message = "INVALID_INPUT", 431, "The header fields are too large or too many"


class UnsupportedMediaType(APIError):
    """The body is not JSON, or is encoded."""

    status, default_message = 415, "The body must be application/json"


class DatabaseError(APIError):
    """The database is unavailable, failing over, or did not answer in time."""

    status, default_message = 503, "The database is not available"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class Overloaded(APIError):
    """More work than can be done in time (`app/core/middleware/limits/concurrency.py`)."""

    status, default_message = 503, "The service is overloaded, retry later"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class ShuttingDown(APIError):
    """The service is shutting down: readiness says so, and a request that outlived `SHUTDOWN_TIMEOUT` gets it."""

    status, default_message = 503, "The service is shutting down"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class DownstreamError(APIError):
    """Another service gave no usable response, or is known to be down."""

    status, default_message = 502, "Another service did not give a usable answer"


class DownstreamTimeout(APIError):
    """Another service did not answer in time."""

    status, default_message = 504, "Another service did not answer in time"


class NotModified(HTTPException):
    """The client has the current representation (304, RFC 9110, section 15.4.5)."""

    def __init__(self, *, headers: Mapping[str, str]) -> None:
        super().__init__(http.HTTPStatus.NOT_MODIFIED, headers=dict(headers))
