"""Responses for errors: one body, two media types, for every 4xx and 5xx, whatever raised it.

The body is that of ADR 0005, or RFC 9457 (`application/problem+json`) for a client that asks for it.
"""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.core.errors import (
    APIError,
    Conflict,
    Forbidden,
    HeadTooLarge,
    InternalError,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    NotModified,
    Overloaded,
    PayloadTooLarge,
    TargetTooLong,
    Unauthenticated,
    UnsupportedMediaType,
)
from app.core.observability.trace_id import get_trace_id

_log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
# Limits of the parts of a body, so that a response with its headers stays below 16 KiB.
_MAX_PROBLEMS = 20
_MAX_PROBLEM_BYTES = 12_000  # of all problems together
_MAX_LOCATION = 10  # names
_LONGEST_NAME, _MAX_MESSAGE, _MAX_INSTANCE = 64, 500, 512  # characters
_LONGEST_ACCEPT = 1024  # characters that are read of it
_NOT_PARSED = "There was an error parsing the body"  # FastAPI's message
WITHOUT_BODY = frozenset({204, 304})
"""Statuses of responses that have no body (RFC 9110, section 8.6)."""

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
        TargetTooLong,
        HeadTooLarge,
        UnsupportedMediaType,
    )
}


def wants_problem_json(headers: Headers) -> bool:
    """Return whether `Accept` names `application/problem+json`, and no less than `application/json`.

    Quality values are those of RFC 9110, section 12.4.2.
    """
    quality: dict[str, float] = {}
    for media_range in ",".join(headers.getlist("accept"))[:_LONGEST_ACCEPT].split(","):
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
        # UTF-8 cannot encode a lone surrogate, so a client's text is cleaned before.
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
    """Return whether `Accept` must be parsed: overload causes many errors, and few clients ask for this."""
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
    if status in WITHOUT_BODY:
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
    if known is not None and detail == _phrase(error.status_code):  # Starlette's default for a missing detail
        return known.default_message
    return str(detail)[:_MAX_MESSAGE].encode("utf-8", "replace").decode("utf-8")


def _clean(part: int | str) -> int | str:
    """Shorten a member name that the client chose, and make it valid Unicode."""
    if isinstance(part, int):
        return part
    return part[:_LONGEST_NAME].encode("utf-8", "replace").decode("utf-8")


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Answer an `HTTPException`; a 405 gets every method of its path in `Allow`.

    FastAPI answers 400 to whatever fails while it reads a form, and thereby blames the client for a full disk.
    """
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if isinstance(error.__cause__, OSError) and error.detail == _NOT_PARSED:
        _log.error("an uploaded file could not be stored", exc_info=error.__cause__)
        error = Overloaded()
    if error.status_code == MethodNotAllowed.status:
        allow = request.app.state.routes.allowed_methods(request.scope["path"])
        error = MethodNotAllowed(headers={"Allow": ", ".join(allow)})
    return response_for(request.scope, error)


async def handle_validation_error(request: Request, error: Exception) -> Response:
    """Answer invalid input with the problems and their locations, but never with the input."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    return response_for(request.scope, InvalidInput(errors=_problems(error.errors())))


def _problems(found: Sequence[Any]) -> list[dict[str, Any]]:
    """List the problems that fit into a response of 16 KiB, and the number of the others."""
    problems: list[dict[str, Any]] = []
    size = 0
    for problem in found[:_MAX_PROBLEMS]:
        loc = [_clean(part) for part in problem["loc"][:_MAX_LOCATION]]
        shown = {"loc": loc, "msg": _message_for(problem)[:_MAX_MESSAGE], "type": problem["type"]}
        size += len(pydantic_core.to_json(shown))
        if size > _MAX_PROBLEM_BYTES:
            break
        problems.append(shown)
    if more := len(found) - len(problems):
        problems.append({"loc": [], "msg": f"and {more} more", "type": "too_many_errors"})
    return problems


def _message_for(problem: Mapping[str, Any]) -> str:
    """Return pydantic's message, unless it quotes the input: the tag of a discriminated union."""
    if problem["type"] == "union_tag_invalid":
        return f"Input tag should be one of {problem['ctx']['expected_tags']}"
    return str(problem["msg"])


async def handle_unexpected_error(request: Request, error: Exception) -> Response:  # noqa: ARG001 - FastAPI's signature
    """Answer an exception that nothing else handled; `@app.exception_handler(Exception)` replaces this handler."""
    return response_for(request.scope, InternalError())
