"""The router of a feature: FastAPI's, with strict input and a faster path from the request to the handler.

For every request FastAPI inspects the signatures of a handler and of its dependencies anew (docs/adr/0016-*). The
routes here work that out once, in `get_route_handler`, the hook that FastAPI documents for this
(https://fastapi.tiangolo.com/how-to/custom-request-and-route/), and hand over to FastAPI's own handler wherever a
handler takes what the plan does not know, or `app.dependency_overrides` is set.
"""

import http
import inspect
import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import fastapi
from fastapi import Request, Response
from fastapi.datastructures import Default, DefaultPlaceholder
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import EndpointContext, RequestValidationError, ResponseValidationError
from fastapi.routing import _effective_route_context_var
from fastapi.security import SecurityScopes
from pydantic_core import PydanticUndefined
from starlette.requests import ClientDisconnect

from app.core.api import authentication
from app.core.api.input.arguments import Given, Plan, plan_of, walk
from app.core.api.input.json_body import JSON, JSONRequest, decode_json, for_handler, require_media_type
from app.core.api.input.strict_query import check_query, repeatable_parameters
from app.core.api.json_response import JSONResponse, NoContent
from app.core.api.openapi import operations
from app.core.errors import InvalidInput

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_DUMP_OPTIONS = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")


class APIRoute(fastapi.routing.APIRoute):
    """A route with strict input: JSON bodies as `app.core.api.input.json_body` reads them, each query parameter once.

    It serves `async` handlers whose dependencies are all `async` functions on the short way, and leaves every other
    handler (`def`, `yield` dependencies, forms, several bodies, streams) to FastAPI.
    """

    def get_route_handler(self) -> Handler:
        """Make the handler of this route, or of one inclusion of it: prefix and dependencies may differ."""
        context = _effective_route_context_var.get()
        route: Any = context if context is not None and context.original_route is self else self
        fastapis = _strict(super().get_route_handler(), route)
        provider = route.dependency_overrides_provider
        guard, dependant = authentication.without_guards(route.dependant, provider)
        plan = plan_of(dependant, route.param_convertors, route.body_field)
        if plan is None or not (route.body_field is None or _takes_json(route)):
            return _guarded(fastapis, guard, provider)
        handler = _guarded(_short_way(plan, route, fastapis), guard, provider)
        if type(self) is APIRoute:  # a subclass may put something around the handler
            route.short_way = handler  # for `DirectMiddleware`
        return handler


class APIRouter(fastapi.APIRouter):
    """FastAPI's router, whose routes are `APIRoute`s and document what follows from what they take.

    Parameters
    ----------
    scopes
        The resource whose scopes a token must have where authentication is on: with `"orders"`, GET and HEAD need
        `orders:read`, other methods `orders:write`. A route may require more by `Security(caller, scopes=[...])`.
    """

    def __init__(self, *args: Any, scopes: str | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - FastAPI's own
        kwargs.setdefault("route_class", APIRoute)
        self.scopes = scopes
        super().__init__(*args, **kwargs)

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **kwargs: Any) -> None:  # noqa: ANN401
        """Add a route as FastAPI does, with its scope."""
        response_class = kwargs.get("response_class")
        if response_class is None or isinstance(response_class, DefaultPlaceholder):
            without_body = kwargs.get("status_code") == http.HTTPStatus.NO_CONTENT
            kwargs["response_class"] = NoContent if without_body else Default(JSONResponse)
        super().add_api_route(path, endpoint, **self._with_scope(kwargs, kwargs.get("methods")))
        route = self.routes[-1]
        if isinstance(route, fastapi.routing.APIRoute):
            route.openapi_extra = operations.described(route)

    def add_api_websocket_route(self, path: str, endpoint: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Add a WebSocket as FastAPI does, with its scope: its handshake is a GET."""
        super().add_api_websocket_route(path, endpoint, *args, **self._with_scope(kwargs, ["GET"]))

    def include_router(self, router: fastapi.APIRouter, **kwargs: Any) -> None:  # noqa: ANN401
        """Include a router as FastAPI does; if this one has scopes, that one needs scopes, too."""
        if self.scopes is not None and getattr(router, "scopes", None) is None:
            raise TypeError(f"{self.prefix}{router.prefix} would need no scope: APIRouter(scopes=...) of app.core.api")
        super().include_router(router, **kwargs)

    def _with_scope(self, options: dict[str, Any], methods: Iterable[str] | None) -> dict[str, Any]:
        if self.scopes is None:
            return options
        guard = authentication.required(self.scopes, methods)
        return {**options, "dependencies": [guard, *(options.get("dependencies") or ())]}


def _takes_json(route: Any) -> bool:  # noqa: ANN401 - a route, or FastAPI's context of one
    return getattr(route.body_field.field_info, "media_type", None) == JSON


def _takes_request(route: Any) -> bool:  # noqa: ANN401
    """Return whether the handler or a dependency can read a body by itself."""
    return not route.methods <= {"GET", "HEAD"} and any(part.request_param_name for part in walk(route.dependant))


def _strict(handler: Handler, route: Any) -> Handler:  # noqa: ANN401
    """Put the checks of query and body in front of FastAPI's own handler."""
    takes_json = route.body_field is not None and _takes_json(route)
    reads_body = route.body_field is not None or _takes_request(route)
    repeatable = repeatable_parameters(route.dependant)

    async def strict_handler(request: Request) -> Response:
        if repeatable is not None:
            check_query(request, repeatable)
        if takes_json:
            require_media_type(request)
            request = JSONRequest(request.scope, request.receive)
        elif reads_body:
            request = for_handler(request)
        return await handler(request)

    return strict_handler if reads_body or repeatable is not None else handler


def _guarded(handler: Handler, guard: SecurityScopes | None, provider: Any) -> Handler:  # noqa: ANN401
    """Require a token, if there is a guard, before anything is read: a request without one costs no more than that."""
    if guard is None:
        return handler

    async def guarded_handler(request: Request) -> Response:
        if provider is None or not provider.dependency_overrides:
            await authentication.caller(request, guard)
        return await handler(request)

    return guarded_handler


def _short_way(plan: Plan, route: Any, fastapis: Handler) -> Handler:  # noqa: ANN401
    repeatable = repeatable_parameters(route.dependant)
    has_body = route.body_field is not None
    reads_body = not has_body and _takes_request(route)
    provider = route.dependency_overrides_provider
    respond = _responder(route)
    endpoint = _description(route)

    async def handler(request: Request) -> Response:
        if provider is not None and provider.dependency_overrides:
            return await fastapis(request)
        if repeatable is not None:
            check_query(request, repeatable)
        if reads_body:
            request = for_handler(request)
        given = Given(request, await _json_of(request) if has_body else None)
        arguments, errors = await plan.arguments(given)
        if errors:
            raise RequestValidationError(errors, body=given.body, endpoint_ctx=endpoint)
        return respond(await plan.call(**arguments), given)

    return handler


def _responder(route: Any) -> Callable[[Any, Given], Response]:  # noqa: ANN401
    """Make what turns a handler's result into the response that FastAPI would make of it."""
    declared: int | None = route.status_code
    response_class = route.response_class
    as_json = isinstance(response_class, DefaultPlaceholder) and route.response_field is not None
    make = Response if as_json else getattr(response_class, "value", response_class)
    dump = _dump(route, as_json=as_json)

    def respond(result: Any, given: Given) -> Response:  # noqa: ANN401 - what a handler returns
        if isinstance(result, Response):
            if result.background is None:
                result.background = given.background
            return result
        status = declared
        if given.response is not None and given.response.status_code:
            status = given.response.status_code
        options: dict[str, Any] = {} if status is None else {"status_code": status}
        if as_json:
            options["media_type"] = JSON
        response: Response = make(dump(result), background=given.background, **options)
        if response.status_code < 200 or response.status_code in {204, 205, 304}:
            response.body = b""
        if given.response is not None:
            response.raw_headers.extend(given.response.raw_headers)
        return response

    return respond


def _description(route: Any) -> EndpointContext:  # noqa: ANN401
    """Describe the handler, for the log of a validation error."""
    name = getattr(route.endpoint, "__name__", type(route.endpoint).__name__)
    endpoint = EndpointContext(function=name, path=f"{min(route.methods)} {route.path_format}")
    if (code := getattr(inspect.unwrap(route.endpoint), "__code__", None)) is not None:
        endpoint["file"], endpoint["line"] = code.co_filename, code.co_firstlineno
    return endpoint


def _validator(route: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    """Make what turns a handler's result into an instance of the response model."""
    validate, endpoint = route.response_field.validate, _description(route)

    def validated(result: Any) -> Any:  # noqa: ANN401
        value, errors = validate(result, {}, loc=("response",))
        if errors:
            raise ResponseValidationError(errors=errors, body=result, endpoint_ctx=endpoint)
        return value

    return validated


def _dump(route: Any, *, as_json: bool) -> Callable[[Any], Any]:  # noqa: ANN401
    """Validate and serialise by the response model: at once to bytes, or to what the response class takes."""
    field = route.response_field
    if field is None:
        return jsonable_encoder
    validated, options = _validator(route), {name: getattr(route, f"response_model_{name}") for name in _DUMP_OPTIONS}
    if not as_json:
        return lambda result: field.serialize(validated(result), **options)
    adapter = field._type_adapter  # noqa: SLF001 - `field.serialize_json` hands sixteen arguments on to it
    return lambda result: adapter.serializer.to_json(validated(result), **options)


async def _json_of(request: Request) -> Any:  # noqa: ANN401 - any JSON value
    """Read and decode the body; an empty one is missing."""
    require_media_type(request)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise InvalidInput from None  # the client has gone: nobody reads the answer
    if not body:
        return PydanticUndefined
    try:
        return await decode_json(body)
    except json.JSONDecodeError as error:
        problem = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([problem], body=error.doc) from error
