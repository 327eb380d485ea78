"""Query strings: UTF-8, and each parameter once unless it is a list."""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi._compat import ModelField, field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from app.core.errors import InvalidInput

_LONGEST_NAME = 64
# 0.5 ms for 500; 8 KiB, which the server accepts, could be 4,000.
_MAX_PARAMETERS = 500


def check_query(request: Request, repeatable: Collection[str]) -> None:
    """Reject ambiguous input: two values, of which FastAPI would take the last, and bytes that are not UTF-8.

    Raises
    ------
    InvalidInput
        If the query string is not UTF-8, or has very many parameters.
    RequestValidationError
        If it has parameters twice that are not in `repeatable`.
    """
    raw: bytes = request.scope["query_string"]
    if not raw:
        return
    if raw.count(b"&") >= _MAX_PARAMETERS:
        problem = {"loc": ["query"], "msg": f"Has more than {_MAX_PARAMETERS} parameters", "type": "too_many_values"}
        raise InvalidInput(errors=[problem])
    try:
        if b"%" in raw or not raw.isascii():
            parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeError:
        problem = {"loc": ["query"], "msg": "Must be percent-encoded UTF-8", "type": "unicode_error"}
        raise InvalidInput(errors=[problem]) from None
    pairs = request.query_params.multi_items()
    if len(pairs) == len(request.query_params):
        return
    problems = [
        {"loc": ["query", name[:_LONGEST_NAME]], "msg": "Must be sent once", "type": "duplicate"}
        for name, count in Counter(name for name, _ in pairs).items()
        if count > 1 and name not in repeatable
    ]
    if problems:
        raise RequestValidationError(problems)  # of which the answer has the first ones


def repeatable_parameters(dependant: Dependant) -> frozenset[str] | None:
    """Return the names of the list parameters of a handler and its dependencies, or None if none takes a query."""
    fields = list(_query_fields(dependant))
    if not fields:
        return None
    return frozenset(name for field in fields for name in _list_names(field))


def _query_fields(dependant: Dependant) -> Iterator[ModelField]:
    yield from dependant.query_params
    for part in dependant.dependencies:
        yield from _query_fields(part)


def _list_names(field: ModelField) -> Iterator[str]:
    model = field.field_info.annotation
    if inspect.isclass(model) and issubclass(model, BaseModel):
        for name, info in model.model_fields.items():
            if field_annotation_is_sequence(info.annotation):
                yield from {name, info.alias or name, str(info.validation_alias or name)}
    elif field_annotation_is_sequence(field.field_info.annotation):
        yield from {field.name, field.alias, str(field.field_info.validation_alias or field.name)}
