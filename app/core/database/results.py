"""What a transaction returned, stored with its idempotency key, so that a repetition can return it again."""

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import from_json
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import set_committed_value


class Results:
    """Stores the results of a function, by the type that it says it returns.

    Parameters
    ----------
    returned
        A mapped class without relationships, a pydantic model, or what else pydantic can serialise.
    name
        The function, for messages.
    """

    def __init__(self, returned: Any, name: str) -> None:  # noqa: ANN401 - any annotation
        self._name = name
        mapper: Mapper[Any] | None = inspect(returned, raiseerr=False) if isinstance(returned, type) else None
        self._mapper = mapper if mapper is not None and not mapper.relationships else None
        try:
            stored = _columns_of(self._mapper) if self._mapper else returned
            self._adapter: TypeAdapter[Any] = TypeAdapter(stored)
        except PydanticSchemaGenerationError as error:
            raise TypeError(
                f"{name}: the result of a transaction with a key is stored, so return a mapped class without "
                "relationships, a pydantic model (for example `schemas.Order.model_validate(order)`), or what else "
                "pydantic can serialise"
            ) from error
        self._model = stored if isinstance(stored, type) and issubclass(stored, BaseModel) else None

    def to_json(self, result: Any) -> str:  # noqa: ANN401
        """Write a result that can be read back: a replay that cannot would fail after the commit."""
        try:
            value = self._adapter.validate_python(result, from_attributes=True) if self._mapper else result
            stored = self._adapter.dump_json(value)
            self._adapter.validate_json(stored)
        except ValidationError as error:
            raise TypeError(f"{self._name}: what is stored of its result lacks what its type requires") from error
        return stored.decode()

    def from_json(self, stored: str) -> Any:  # noqa: ANN401
        """Read a result; what an earlier version of the service has stored is returned as it was."""
        try:
            value = self._adapter.validate_json(stored)
        except ValidationError:
            value = from_json(stored)
            if self._model and isinstance(value, dict):
                value = self._model.model_construct(**value)
        return _object_of(self._mapper, value) if self._mapper else value


def _columns_of(mapper: Mapper[Any]) -> type[BaseModel]:
    """Make a model of the columns of a mapped class; a column that an earlier version did not store is None."""
    fields: dict[str, Any] = {}
    for attribute in mapper.column_attrs:
        kind = attribute.columns[0].type.python_type
        fields[attribute.key] = (Any if kind is object else kind | None, None)
    config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")
    return create_model(mapper.class_.__name__, __config__=config, **fields)


def _object_of(mapper: Mapper[Any], columns: BaseModel) -> Any:  # noqa: ANN401 - of the mapped class
    """Make an object without a session, as one that was returned when its session had ended."""
    made = mapper.class_manager.new_instance()
    for name, value in columns:
        set_committed_value(made, name, value)
    return made
