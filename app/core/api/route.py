"""Routes that FastAPI declares, checks and documents, with a shorter way from the request to the handler.

For every request FastAPI opens two exit stacks and asks for query, header, cookie and body parameters and for nested
dependencies, whether a handler has any or not: half of the CPU time that a read by id took in the application
(docs/performance.md). `JSONRoute` looks once at what a handler takes, and calls it with no more than that. Validation
is FastAPI's own, so what is accepted, refused and documented is the same.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi._compat import ModelField, field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_body_to_args, request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.core.api.json_body import parse_json, require_media_type
from app.core.errors import InvalidInput

_Service = Callable[[Request], Awaitable[Any]]


class JSONRoute(APIRoute):
    """A route whose body is JSON: `application/json`, for PATCH also `application/merge-patch+json`.

    The short way is taken where the handler is `async`, is annotated with a `Response`, and takes nothing but path
    and query parameters, one body, the request, and dependencies that are `async` and take the request alone. Every
    other handler is FastAPI's to call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(*args, **kwargs)
        self._describe_services()
        if _is_plain(self.dependant):
            self.app = self._serve
            self._services: list[tuple[str | None, _Service]] = [
                (part.name, part.call)  # type: ignore[misc]  # `_is_service` has looked
                for part in self.dependant.dependencies
            ]
            self._query = _flat_query(self.dependant)

    def _describe_services(self) -> None:
        described = [getattr(part.call, "openapi_parameter", None) for part in self.dependant.dependencies]
        if parameters := [parameter for parameter in described if parameter is not None]:
            extra = self.openapi_extra or {}
            self.openapi_extra = {**extra, "parameters": [*extra.get("parameters", ()), *parameters]}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the checks of the body in front of FastAPI's own handler."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def strict_handler(request: Request) -> Response:
            require_media_type(request)
            return await handler(_JSONRequest(request.scope, request.receive))

        return strict_handler

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request on the short way."""
        request = Request(scope, receive, send)
        arguments: dict[str, Any] = {}
        for name, service in self._services:
            served = await service(request)
            if name is not None:
                arguments[name] = served
        arguments.update(await self._parameters(request))
        if self.dependant.request_param_name:
            arguments[self.dependant.request_param_name] = request
        response: Response = await self.endpoint(**arguments)
        await response(scope, receive, send)

    async def _parameters(self, request: Request) -> dict[str, Any]:
        """Take the parameters off the request, or raise for all that are wrong together."""
        dependant = self.dependant
        values: dict[str, Any] = {}
        problems: list[Any] = []
        for field in dependant.path_params:  # a path that has matched has all of them
            value, wrong = field.validate(request.path_params[field.alias], {}, loc=("path", field.alias))
            values[field.name] = value
            problems += wrong
        if self._query is not None:
            values[self._query.name], wrong = self._query.validate(dict(request.query_params), {}, loc=("query",))
            problems += wrong
        elif dependant.query_params:
            given, wrong = request_params_to_args(dependant.query_params, request.query_params)
            values.update(given)
            problems += wrong
        if self.body_field is not None:
            require_media_type(request)
            given, wrong = await request_body_to_args(
                body_fields=dependant.body_params, received_body=await _json_of(request), embed_body_fields=False
            )
            values.update(given)
            problems += wrong
        if problems:
            raise RequestValidationError(problems)
        return values


class _JSONRequest(Request):
    async def json(self) -> Any:  # noqa: ANN401 - any JSON value
        return parse_json(await self.body())


async def _json_of(request: Request) -> Any:  # noqa: ANN401 - any JSON value
    """Read and decode the body; an empty one is missing."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise InvalidInput from None  # nobody will read it
    if not body:
        return PydanticUndefined
    try:
        return parse_json(body)
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([problem]) from error


def _is_plain(dependant: Dependant) -> bool:
    """Tell whether we can call the handler ourselves."""
    returned = inspect.signature(dependant.call).return_annotation if dependant.call else None
    return (
        inspect.iscoroutinefunction(dependant.call)
        and inspect.isclass(returned)
        and issubclass(returned, Response)
        and len(dependant.body_params) <= 1
        and not (dependant.header_params or dependant.cookie_params or _wants_more(dependant))
        and all(map(_is_service, dependant.dependencies))
    )


def _flat_query(dependant: Dependant) -> ModelField | None:
    """Find the one model that takes the whole query as it is: no lists, no other names, nothing extra kept.

    FastAPI looks at each of its fields anew for every request.
    """
    if len(dependant.query_params) != 1:
        return None
    (field,) = dependant.query_params
    model = field.field_info.annotation
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        return None
    plain = all(
        not info.alias and not info.validation_alias and not field_annotation_is_sequence(info.annotation)
        for info in model.model_fields.values()
    )
    return field if plain and model.model_config.get("extra") != "allow" else None


def _is_service(part: Dependant) -> bool:
    """Tell whether a dependency takes the request alone."""
    parameters = (part.path_params, part.query_params, part.header_params, part.cookie_params, part.body_params)
    return (
        inspect.iscoroutinefunction(part.call)
        and part.request_param_name is not None
        and not (any(parameters) or part.dependencies or _wants_more(part))
    )


def _wants_more(dependant: Dependant) -> bool:
    return bool(
        dependant.response_param_name
        or dependant.background_tasks_param_name
        or dependant.http_connection_param_name
        or dependant.security_scopes_param_name
    )
