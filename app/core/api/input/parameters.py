"""Read path, query, header and cookie parameters as FastAPI does, by readers that are made once for each route."""

import inspect
from collections.abc import Callable, Collection
from operator import attrgetter
from typing import Any

from fastapi import Request
from fastapi._compat import ModelField, field_annotation_is_scalar, field_annotation_is_sequence
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from pydantic import BaseModel
from starlette.convertors import IntegerConvertor, register_url_convertor


class _Integer(IntegerConvertor):
    """Starlette's `{name:int}` in a path, for which Python makes no number of more than 4,300 digits."""

    regex = "[0-9]{1,4000}"


register_url_convertor("int", _Integer())

Reader = Callable[[Request, dict[str, Any], list[Any]], None]
"""Adds to the values and to the errors of a call."""

_Source = Callable[[Request], Any]

# A default of another type would have to be copied for every request.
_IMMUTABLE = (type(None), bool, int, float, str, bytes)


def readers_of(part: Dependant, path_names: Collection[str]) -> list[Reader]:
    """Make what reads the parameters of one dependency, in FastAPI's order."""
    readers = [
        _path_reader(field) if _has_one_name(field) and field.alias in path_names else _by_fastapi(_PATH, [field])
        for field in part.path_params
    ]
    for source, fields in ((_QUERY, part.query_params), (_HEADERS, part.header_params), (_COOKIES, part.cookie_params)):
        if source is _QUERY and len(fields) == 1 and _is_flat_model(fields[0]):
            readers.append(_model_reader(fields[0]))
        elif all(map(_is_simple, fields)):
            readers += [_scalar_reader(source, field) for field in fields]
        else:
            readers.append(_by_fastapi(source, fields))
    return readers


_PATH: _Source = attrgetter("path_params")
_QUERY: _Source = attrgetter("query_params")
_HEADERS: _Source = attrgetter("headers")
_COOKIES: _Source = attrgetter("cookies")


def _by_fastapi(source: _Source, fields: list[ModelField]) -> Reader:
    """Read the fields that need all of FastAPI's rules: models, lists, several names."""

    def read(request: Request, values: dict[str, Any], errors: list[Any]) -> None:
        found, wrong = request_params_to_args(fields, source(request))
        values.update(found)
        errors += wrong

    return read


def _path_reader(field: ModelField) -> Reader:
    name, alias, validate, loc = field.name, field.alias, field.validate, ("path", field.alias)

    def read(request: Request, values: dict[str, Any], errors: list[Any]) -> None:
        values[name], wrong = validate(request.scope["path_params"][alias], {}, loc=loc)
        errors += wrong

    return read


def _scalar_reader(source: _Source, field: ModelField) -> Reader:
    name, alias, validate = field.name, field.alias, field.validate
    loc = (field.field_info.in_.value, alias)  # type: ignore[attr-defined]  # of `fastapi.params.Param`
    missing = _by_fastapi(source, [field]) if field.field_info.is_required() else None
    default = None if missing else field.default

    def read(request: Request, values: dict[str, Any], errors: list[Any]) -> None:
        given = source(request).get(alias)
        if given is not None:
            values[name], wrong = validate(given, {}, loc=loc)
            errors += wrong
        elif missing is not None:
            missing(request, values, errors)
        else:
            values[name] = default

    return read


def _model_reader(field: ModelField) -> Reader:
    name, validate = field.name, field.validate

    def read(request: Request, values: dict[str, Any], errors: list[Any]) -> None:
        values[name], wrong = validate(dict(request.query_params), {}, loc=("query",))
        errors += wrong

    return read


def _has_one_name(field: ModelField) -> bool:
    return field.field_info.validation_alias in {None, field.alias} and not field.config


def _is_simple(field: ModelField) -> bool:
    """Return whether a field is one value under one name, with a default that can be shared."""
    info = field.field_info
    shareable = info.is_required() or (
        info.default_factory is None and not info.validate_default and isinstance(info.default, _IMMUTABLE)
    )
    return _has_one_name(field) and field_annotation_is_scalar(info.annotation) and shareable


def _is_flat_model(field: ModelField) -> bool:
    """Return whether a model takes the whole query as it is: no lists, no other names, nothing extra kept."""
    model = field.field_info.annotation
    if not (inspect.isclass(model) and issubclass(model, BaseModel)):
        return False
    plain = all(
        not info.alias and not info.validation_alias and not field_annotation_is_sequence(info.annotation)
        for info in model.model_fields.values()
    )
    config = model.model_config
    return plain and config.get("extra") != "allow" and not config.get("alias_generator")
