"""The description of an operation in the OpenAPI document, derived from the parameters of its route."""

import copy
import http
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.utils import deep_dict_update

from app.core.api.input.arguments import walk
from app.core.api.input.json_body import JSON, accepted_by
from app.core.database.database import get_database
from app.core.error_responses import PROBLEM_JSON
from app.core.errors import APIError, DatabaseError, Overloaded, PayloadTooLarge, UnsupportedMediaType

REF = "#/components/schemas/{model}"

Description = dict[str, Any]
"""A part of an Operation Object of OpenAPI."""
Describe = Callable[[str, str], Description]
"""Takes the method of an operation and its status of success."""
_Service = TypeVar("_Service", bound=Callable[..., Any])


def header(description: str, **more: str) -> dict[str, Any]:
    """Describe a header field of an answer, for example with `example=`."""
    return {"description": description, "schema": {"type": "string"}, **more}


def header_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON Schema's
    """Describe a header field of a request that is not a parameter of the handler."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def errors(*kinds: type[APIError]) -> dict[int | str, dict[str, Any]]:
    """Describe errors, for `responses=` of a route, a router or `include_router`."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        if not issubclass(kind, APIError):
            raise TypeError(f"errors({kind.__name__}): it is no subclass of APIError")
        example = {"detail": {"code": kind.code, "message": kind.default_message}, "trace_id": "4bf92f3577b34da6"}
        known = by_status.setdefault(
            str(kind.status),
            {
                "description": http.HTTPStatus(kind.status).phrase,
                "content": {
                    JSON: {"schema": {"$ref": REF.format(model="Error")}, "examples": {}},
                    PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}},
                },
            },
        )
        known["content"][JSON]["examples"][kind.code] = {"value": example}
        for name, value in kind.default_headers.items():
            known.setdefault("headers", {})[name] = header("See RFC 9110", example=value)
    return by_status


def documented(describe: Describe) -> Callable[[_Service], _Service]:
    """Make a dependency add its part of the description to every operation that uses it."""

    def mark(service: _Service) -> _Service:
        service.openapi_description = describe  # type: ignore[attr-defined]
        return service

    return mark


# `app.core.database` cannot declare this itself, since it does not import this package.
documented(lambda _method, _status: {"responses": errors(DatabaseError)})(get_database)


def described(route: APIRoute) -> Description:
    """Describe what a route takes, and what follows from it, for its `openapi_extra`; what is there has precedence."""
    description: Description = {"responses": errors(Overloaded)}
    status = str(route.status_code or http.HTTPStatus.OK.value)
    for method in sorted(route.methods or ()):
        for describe in (_body(route), *_described_dependencies(route.dependant)):
            deep_dict_update(description, copy.deepcopy(describe(method, status)))
    deep_dict_update(description, route.openapi_extra or {})
    return description


def _body(route: APIRoute) -> Describe:
    def describe(method: str, _status: str) -> Description:
        if route.body_field is None:
            return {}
        if getattr(route.body_field.field_info, "media_type", None) != JSON:
            return {"responses": errors(PayloadTooLarge)}
        description: Description = {"responses": errors(PayloadTooLarge, UnsupportedMediaType)}
        for media_type in accepted_by(method):
            if media_type != JSON:  # `document` fills in the schema
                description["requestBody"] = {"content": {media_type: {}}}
        return description

    return describe


def _described_dependencies(dependant: Dependant) -> Iterator[Describe]:
    calls = dict.fromkeys(part.call for part in walk(dependant))
    yield from (call.openapi_description for call in calls if call and hasattr(call, "openapi_description"))
