"""Turn a request into the arguments of a handler, by a plan that is made once for each route.

FastAPI's own `solve_dependencies` inspects a handler's parameters again for every request. The plan here does that when
the route is made, and calls FastAPI's fields for the validation itself, so that values, errors and their order are the
same. It covers what most handlers take; for every other handler `plan_of` returns None, and FastAPI serves it.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import BackgroundTasks, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from pydantic_core import PydanticUndefined

from app.core.api.input.parameters import Reader, readers_of


class _Parameter(Response):
    """What a handler gets as its `response`: no body, so no length, and no status until the handler sets it."""

    def __init__(self) -> None:
        self.raw_headers = []
        self.body = b""
        self.status_code = None  # type: ignore[assignment]  # as in FastAPI
        self.background = None


class Given:
    """What a handler and its dependencies get beside their parameters, created when it is first needed."""

    __slots__ = ("background", "body", "request", "response")

    def __init__(self, request: Request, body: Any) -> None:  # noqa: ANN401 - any JSON value
        self.request = request
        self.body = body
        self.background: BackgroundTasks | None = None
        self.response: Response | None = None

    def get_response(self) -> Response:
        """Return the response whose headers and status are those of the answer."""
        if self.response is None:
            self.response = _Parameter()
        return self.response

    def get_background(self) -> BackgroundTasks:
        """Return the tasks that run after the answer."""
        if self.background is None:
            self.background = BackgroundTasks()
        return self.background


@dataclass(slots=True)
class Step:
    """One call of the plan: a dependency, or at last the handler.

    Attributes
    ----------
    needs
        The steps before it whose errors are its own.
    inputs
        Parameters that are the results of earlier steps.
    constants
        Parameters that are the same for every request.
    given
        Parameters that come from `Given`.
    readers
        Read parameters from path, query, headers and cookies.
    """

    call: Callable[..., Awaitable[Any]]
    needs: list[int] = field(default_factory=list)
    inputs: list[tuple[str, int]] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    given: list[tuple[str, Callable[[Given], Any]]] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    body_params: list[Any] = field(default_factory=list)

    def arguments(
        self, given: Given, results: list[Any], failed: dict[int, list[Any]]
    ) -> tuple[dict[str, Any], list[Any]]:
        """Collect the arguments of this call, and the errors in them."""
        values: dict[str, Any] = dict(self.constants)
        errors: list[Any] = []
        if failed:
            for index in self.needs:
                errors += failed.get(index, ())
        for name, index in self.inputs:
            values[name] = results[index]
        for read in self.readers:
            read(given.request, values, errors)
        if self.body_params:
            self._read_body(given.body, values, errors)
        for name, get in self.given:
            values[name] = get(given)
        return values, errors

    def _read_body(self, body: Any, values: dict[str, Any], errors: list[Any]) -> None:  # noqa: ANN401
        (body_field,) = self.body_params
        if body is not PydanticUndefined:
            values[body_field.name], wrong = body_field.validate(body, {}, loc=("body",))
            errors += wrong
        elif body_field.field_info.is_required():
            errors.append({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
        else:
            values[body_field.name] = body_field.get_default()


class Plan:
    """The calls behind a handler, each once, in FastAPI's order; the last one is the handler."""

    def __init__(self, steps: list[Step]) -> None:
        *self._dependencies, self._handler = steps
        self.call = self._handler.call

    async def arguments(self, given: Given) -> tuple[dict[str, Any], list[Any]]:
        """Call the dependencies, and return the handler's arguments and the errors in the input."""
        results: list[Any] = []
        failed: dict[int, list[Any]] = {}
        for index, step in enumerate(self._dependencies):
            values, errors = step.arguments(given, results, failed)
            if errors:
                failed[index] = errors
                results.append(None)
            else:
                results.append(await step.call(**values))
        return self._handler.arguments(given, results, failed)


def plan_of(dependant: Dependant, path_names: Collection[str], body_field: Any) -> Plan | None:  # noqa: ANN401
    """Make the plan of a handler, or return None if it takes anything that a plan does not know.

    Parameters
    ----------
    dependant
        The effective route's, after `include_router`.
    path_names
        The parameters of its path.
    body_field
        Its body; only one that is a single parameter of the handler itself is known.
    """
    if any(not _is_known(part) for part in walk(dependant)):
        return None
    in_dependencies = any(part.body_params for part in walk(dependant) if part is not dependant)
    if in_dependencies or not (body_field is None or [body_field] == dependant.body_params):
        return None
    steps: list[Step] = []
    _add_step(dependant, path_names, steps, {})
    return Plan(steps)


def walk(dependant: Dependant) -> Iterator[Dependant]:
    """List what a handler takes, and what its dependencies take."""
    yield dependant
    for part in dependant.dependencies:
        yield from walk(part)


def _is_known(part: Dependant) -> bool:
    return bool(_is_coroutine(part.call) and part.use_cache and part.concurrency is None)


def _is_coroutine(call: Any) -> bool:  # noqa: ANN401 - any callable
    """Return whether FastAPI would await `call`; a decorator that hides a function of another kind is not known."""
    if inspect.isroutine(call):
        return inspect.iscoroutinefunction(call) and inspect.iscoroutinefunction(inspect.unwrap(call))
    return not inspect.isclass(call) and inspect.iscoroutinefunction(getattr(type(call), "__call__", None))  # noqa: B004


def _add_step(part: Dependant, path_names: Collection[str], steps: list[Step], known: dict[Any, int]) -> int:
    """Add `part` after its dependencies, unless the same call is in the plan already, and return its index."""
    needs = [_add_step(sub, path_names, steps, known) for sub in part.dependencies]
    key = (part.call, part.scope, frozenset(_scopes(part)) if _uses_scopes(part) else None)
    if key in known:
        return known[key]
    assert part.call is not None  # noqa: S101 - `_is_known` has checked it
    steps.append(
        Step(
            call=part.call,
            needs=needs,
            inputs=[(sub.name, index) for sub, index in zip(part.dependencies, needs, strict=True) if sub.name],
            constants=_constants(part),
            given=_given(part),
            readers=readers_of(part, path_names),
            body_params=part.body_params,
        )
    )
    known[key] = len(steps) - 1
    return known[key]


def _scopes(part: Dependant) -> list[str]:
    return list(dict.fromkeys([*(part.parent_oauth_scopes or ()), *(part.own_oauth_scopes or ())]))


def _uses_scopes(part: Dependant) -> bool:
    own = part.own_oauth_scopes or part.security_scopes_param_name or isinstance(part.call, SecurityBase)
    return bool(own) or any(map(_uses_scopes, part.dependencies))


def _constants(part: Dependant) -> dict[str, Any]:
    name = part.security_scopes_param_name
    return {name: SecurityScopes(scopes=_scopes(part))} if name else {}


def _given(part: Dependant) -> list[tuple[str, Callable[[Given], Any]]]:
    wanted: list[tuple[str | None, Callable[[Given], Any]]] = [
        (part.request_param_name, lambda given: given.request),
        (part.http_connection_param_name, lambda given: given.request),
        (part.response_param_name, Given.get_response),
        (part.background_tasks_param_name, Given.get_background),
    ]
    return [(name, get) for name, get in wanted if name]
