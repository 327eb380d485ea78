"""The OpenAPI document: adds what FastAPI does not know, and corrects what it assumes wrongly."""

import copy
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.utils import deep_dict_update, generate_unique_id
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from app.core.api.authentication import AuthenticationUnavailable
from app.core.api.input.json_body import JSON
from app.core.api.openapi.operations import REF, errors, header
from app.core.errors import Forbidden, HeadTooLarge, InternalError, InvalidInput, TargetTooLong, Unauthenticated

TraceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$", examples=["4bf92f3577b34da6a3ce929d0e0e4736"])]


class InputError(BaseModel):
    """One error in the input."""

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


_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_TRACE_HEADER = {"X-Trace-ID": {"$ref": "#/components/headers/X-Trace-ID"}}


class OperationIds:
    """Names operations after their handlers, as client generators name methods, and adds the path to a name in use.

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
            # A copy: the routes, whose descriptions it is made of, may belong to several applications.
            document = copy.deepcopy(original())
            authenticated = app.state.settings.auth_issuer is not None
            _complete_components(document, authenticated=authenticated)
            document.setdefault("servers", [{"url": "/"}])
            document["security"] = []  # unless an operation says otherwise
            for path, operations in document["paths"].items():
                public = path in getattr(app.state, "public", ())
                for operation in operations.values():
                    _correct(operation, authenticated=authenticated and not public)
                _add_links(document, path, operations)
            app.openapi_schema = _with_whole_bounds(document)
        return app.openapi_schema or {}

    return openapi


def _complete_components(document: dict[str, Any], *, authenticated: bool) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, definitions = models_json_schema([(Error, "serialization"), (Problem, "serialization")], ref_template=REF)
    schemas.update(definitions["$defs"])
    for guess in ("HTTPValidationError", "ValidationError"):
        schemas.pop(guess, None)
    components["headers"] = {"X-Trace-ID": header("The trace id of the exchange", example="4bf92f3577b34da6")}
    if not authenticated:
        components.pop("securitySchemes", None)


def _add_links(document: dict[str, Any], path: str, operations: dict[str, Any]) -> None:
    """Link the response of a creation to the operations on the new resource, those below `path/{id}`."""
    created = operations.get("post", {}).get("responses", {}).get("201", {"headers": {}})
    schema = created.get("content", {}).get(JSON, {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    properties = document["components"]["schemas"].get(name, schema).get("properties", {})
    if "Location" not in created["headers"] or "id" not in properties:
        return
    for target, there in document["paths"].items():
        if found := re.fullmatch(re.escape(path) + r"/\{(\w+)\}(/[^{]*)?", target):
            links = {operation["operationId"]: _link(operation, found[1]) for operation in there.values()}
            created["links"] = links | created.get("links", {})


def _link(operation: dict[str, Any], parameter: str) -> dict[str, Any]:
    parameters = {parameter: "$response.body#/id"}
    if any(known["name"] == "If-Match" for known in operation.get("parameters", ())):
        parameters["If-Match"] = "$response.header.ETag"
    return {"operationId": operation["operationId"], "description": operation["summary"], "parameters": parameters}


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


def _correct(operation: dict[str, Any], *, authenticated: bool) -> None:
    """Add the errors that every operation can have, and complete the others."""
    if not authenticated:
        operation.pop("security", None)
    responses = operation["responses"]
    kinds = [InternalError, TargetTooLong, HeadTooLarge]
    if operation.get("parameters") or operation.get("requestBody"):
        kinds.append(InvalidInput)
    if "security" in operation:
        kinds += [Unauthenticated, Forbidden, AuthenticationUnavailable]
    for status, response in errors(*kinds).items():
        known = responses.get(status, {})
        if "HTTPValidationError" not in str(known):  # FastAPI's guess
            deep_dict_update(response, known)
        responses[status] = response
    for response in responses.values():
        response["headers"] = {**_TRACE_HEADER, **response.get("headers", {})}
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    bodies = operation.get("requestBody", {}).get("content", {})
    for media_type, body in bodies.items():
        bodies[media_type] = body or bodies[JSON]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Describe an optional parameter as it is sent: a header or a query has no null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{k: v for k, v in schema.items() if k not in {"anyOf", "default"}}, **kinds[0]}
