"""Equal work: before the measurement, all services must give equivalent responses."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from bench.contenders import Running

_LAMP = {"name": "Lamp", "price": 19.99, "description": "A lamp"}
_BAD_ITEMS: tuple[Any, ...] = (
    {"name": "Lamp"},
    {"name": "", "price": 1},
    {"name": "two words", "price": 1},
    {"name": "x" * 256, "price": 1},
    {"name": "Lamp", "price": 0},
    {"name": "Lamp", "price": 1.999},
    {"name": "Lamp", "price": 10**10},
    {"name": "Lamp", "price": 1, "colour": "red"},
    {"name": "Lamp", "price": 1, "description": "x" * 10_001},
)


@dataclass(frozen=True)
class Answer:
    """The parts of a response that matter to a client."""

    status: int
    body: Any
    fields: frozenset[str]


def _ask(service: Running, method: str, path: str, body: object = None, **headers: str) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    headers |= service.contender.headers
    request = urllib.request.Request(service.url + path, data, headers, method=method)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            names = frozenset(name.lower() for name in response.headers) & {"etag", "location", "x-trace-id"}
            return Answer(response.status, _meaning(json.loads(response.read())), names)
    except urllib.error.HTTPError as error:
        return Answer(error.code, None, frozenset())


def _meaning(body: Any) -> Any:  # noqa: ANN401 - any JSON
    """Parse times; of a cursor, keep only whether there is one."""
    if isinstance(body, list):
        return [_meaning(element) for element in body]
    if isinstance(body, dict):
        return {name: _member(name, value) for name, value in body.items()}
    return body


def _member(name: str, value: Any) -> Any:  # noqa: ANN401 - any JSON
    if name in {"created_at", "updated_at"}:
        return datetime.fromisoformat(value)
    return value is not None if name == "next_cursor" else _meaning(value)


def _without(answer: Answer, *names: str) -> Answer:
    """Omit members that differ each time."""
    return Answer(answer.status, {k: v for k, v in answer.body.items() if k not in names}, answer.fields)


def _answers(service: Running, rows: int, deep_id: int) -> dict[str, Answer]:
    """Send every kind of request that is measured, and some that must be rejected."""
    deep = service.cursor_after(deep_id)
    new = ("id", "created_at", "updated_at")
    key, other = uuid4().hex, uuid4().hex
    once = _ask(service, "POST", "/items", _LAMP, **{"Idempotency-Key": key})
    found = {
        "get": _ask(service, "GET", f"/items/{rows // 2}"),
        "list": _ask(service, "GET", "/items?limit=20"),
        "list deep": _ask(service, "GET", f"/items?limit=20&cursor={deep}"),
        "patch": _without(_ask(service, "PATCH", f"/items/{rows}", {"price": 7.25}), "updated_at"),
        "create": _without(_ask(service, "POST", "/items", _LAMP), *new),
        "create once": _without(once, *new),
    }
    if service.contender.has_database:
        again = _ask(service, "POST", "/items", _LAMP, **{"Idempotency-Key": key})
        if once != again:
            raise AssertionError(f"{service.contender.name}: a repeated create has another answer")
        _ask(service, "POST", "/items", _LAMP, **{"Idempotency-Key": other})
        found["another body"] = _ask(service, "POST", "/items", {**_LAMP, "price": 1}, **{"Idempotency-Key": other})
        found["nobody"] = _ask(service, "GET", "/items/999999999999")
    for number, item in enumerate(_BAD_ITEMS):
        found[f"bad item {number}"] = _ask(service, "POST", "/items", item)
    found["bad patch"] = _ask(service, "PATCH", f"/items/{rows}", {"price": -1})
    found["bad limit"] = _ask(service, "GET", "/items?limit=101")
    return found


def check(services: list[Running], rows: int, deep_id: int) -> None:
    """Compare all with the first; without a database, compare only the form.

    The deep page is the one after the item `deep_id`.

    Raises
    ------
    AssertionError
        Naming the first difference.
    """
    first, *others = services
    expected = _answers(first, rows, deep_id)
    for service in others:
        for name, answer in _answers(service, rows, deep_id).items():
            ours, theirs = expected[name], answer
            if not service.contender.has_database:
                ours, theirs = _form(ours), _form(theirs)
            if ours != theirs:
                raise AssertionError(
                    f"{name}: {first.contender.name} and {service.contender.name} differ:\n{ours}\n{theirs}"
                )


def _form(answer: Answer) -> Answer:
    body = answer.body
    if isinstance(body, dict):
        body = len(body["items"]) if "items" in body else sorted(body.keys() - {"id", "created_at", "updated_at"})
    return Answer(answer.status, body, answer.fields)
