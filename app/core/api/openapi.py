"""The OpenAPI document, completed: every status, header and error body of every operation."""

import http
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.utils import generate_unique_id
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from app.core.error_responses import PROBLEM_JSON
from app.core.errors import APIError, Forbidden, HeadTooLarge, InternalError, InvalidInput, Unauthenticated

TraceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$", examples=["4bf92f3577b34da6a3ce929d0e0e4736"])]


class InputError(BaseModel):
    """One thing that is wrong with the input."""

    loc: Annotated[list[str | int], Field(examples=[["body", "price"]])]
    msg: Annotated[str, Field(examples=["Input should be greater than 0"])]
    type: Annotated[str, Field(examples=["greater_than"])]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: Annotated[str, Field(examples=["NOT_FOUND"])]
    message: Annotated[str, Field(examples=["Not found"])]
    errors: list[InputError] = Field(default_factory=list, description="With invalid input only")


class Error(BaseModel):
    """The body of every error."""

    detail: ErrorDetail
    trace_id: TraceId


class Problem(BaseModel):
    """The body of every error for a client that accepts `application/problem+json` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    trace_id: TraceId
    errors: list[InputError] = Field(default_factory=list, description="With invalid input only")


_Service = TypeVar("_Service", bound=Callable[..., Any])

_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_REF = "#/components/schemas/{model}"
_TRACE_HEADER = {"X-Trace-ID": {"$ref": "#/components/headers/X-Trace-ID"}}


def header(description: str, example: str) -> dict[str, Any]:
    """Describe a header field of an answer."""
    return {"description": description, "schema": {"type": "string"}, "example": example}


def header_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON Schema's
    """Describe a header field of a request that is not a parameter of the handler, for `openapi_extra=` of a route."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def documented(*parameters: dict[str, Any], methods: Collection[str] | None = None) -> Callable[[_Service], _Service]:
    """Have a dependency that reads parameters itself bring their descriptions to every `APIRoute` that takes it.

    Parameters
    ----------
    *parameters
        Their descriptions.
    methods
        Of the routes that use them; by default all.
    """

    def mark(service: _Service) -> _Service:
        known = getattr(service, "openapi_parameters", ())
        service.openapi_parameters = (*((methods, parameter) for parameter in parameters), *known)  # type: ignore[attr-defined]
        return service

    return mark


def with_described_parameters(
    dependant: Dependant, methods: Collection[str] | None, extra: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Add to `openapi_extra` the parameters that dependencies marked with `documented` read themselves."""
    parameters = [
        parameter
        for part in dependant.dependencies
        for of, parameter in getattr(part.call, "openapi_parameters", ())
        if of is None or set(of) & set(methods or ())
    ]
    if not parameters:
        return extra
    extra = extra or {}
    return {**extra, "parameters": [*extra.get("parameters", ()), *parameters]}


def link(operation: str, description: str, **parameters: str) -> dict[str, Any]:
    """Describe how an answer leads to another operation: runtime expressions for its parameters, by name."""
    return {"operationId": operation, "description": description, "parameters": parameters}


def errors(*kinds: type[APIError]) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an operation, for `responses=` of a route or of `include_router`."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        example = {"detail": {"code": kind.code, "message": kind.default_message}, "trace_id": "4bf92f3577b34da6"}
        known = by_status.setdefault(
            kind.status,
            {
                "description": http.HTTPStatus(kind.status).phrase,
                "content": {
                    "application/json": {"schema": {"$ref": _REF.format(model="Error")}, "examples": {}},
                    PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="Problem")}},
                },
            },
        )
        known["content"]["application/json"]["examples"][kind.code] = {"value": example}
        for name, value in kind.default_headers.items():
            known.setdefault("headers", {})[name] = header("See RFC 9110", value)
    return by_status


def also_accepts(media_type: str, schema: str) -> dict[str, Any]:
    """Describe a second media type of a request body, for `openapi_extra=` of a route."""
    return {"requestBody": {"content": {media_type: {"schema": {"$ref": _REF.format(model=schema)}}}}}


class OperationIds:
    """Name operations by their handlers, as client generators name methods; a second one of a name by its path, too.

    For `FastAPI(generate_unique_id_function=)`.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, frozenset[str]]] = {}

    def __call__(self, route: APIRoute) -> str:
        """Return the id of a route, the same each time that FastAPI asks."""
        operation = (route.path_format, frozenset(route.methods or ()))
        if self._first.setdefault(route.name, operation) == operation:
            return route.name
        return generate_unique_id(route)


def truthful(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Wrap `app.openapi`: add what FastAPI does not know, and correct what it assumes."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            _, definitions = models_json_schema(
                [(Error, "serialization"), (Problem, "serialization")], ref_template=_REF
            )
            schemas.update(definitions["$defs"])
            for guess in ("HTTPValidationError", "ValidationError"):
                schemas.pop(guess, None)
            components["headers"] = {"X-Trace-ID": header("The trace id of the exchange", "4bf92f3577b34da6")}
            authenticated = app.state.settings.auth_issuer is not None
            if not authenticated:
                components.pop("securitySchemes", None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    if not authenticated:
                        operation.pop("security", None)
                    _correct(operation)
            app.openapi_schema = _with_whole_bounds(document)
        return app.openapi_schema or {}

    return openapi


def _with_whole_bounds(part: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Write bounds as FastAPI was given them: it makes `9.223372036854776e+18` of 2**63, which is more than that."""
    if isinstance(part, list):
        return [_with_whole_bounds(member) for member in part]
    if not isinstance(part, dict):
        return part
    return {
        name: int(value)
        if name in _BOUNDS and isinstance(value, float) and value.is_integer()
        else _with_whole_bounds(value)
        for name, value in part.items()
    }


def _correct(operation: dict[str, Any]) -> None:
    refusals = (Unauthenticated, Forbidden) if "security" in operation else ()
    for status, response in errors(InternalError, InvalidInput, HeadTooLarge, *refusals).items():
        key = str(status)
        known = operation["responses"].get(key)
        takes_input = operation.get("parameters") or operation.get("requestBody")
        if known is None and status == InvalidInput.status and not takes_input:
            continue
        if known is None or "HTTPValidationError" in str(known):
            operation["responses"][key] = response
    for response in operation["responses"].values():
        response["headers"] = {**_TRACE_HEADER, **response.get("headers", {})}
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Say of an optional parameter what it is when it is sent: a header or a query knows no null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{k: v for k, v in schema.items() if k not in {"anyOf", "default"}}, **kinds[0]}
