"""The variables that the service and its features read."""

from importlib import import_module
from pkgutil import iter_modules

from pydantic.fields import FieldInfo

import app
from app.core.config import EnvironmentSettings


def all_fields() -> dict[str, FieldInfo]:
    """List the fields of the service's settings and of those that features bring, by their names."""
    for feature in iter_modules(app.__path__, "app."):
        if feature.ispkg and any(m.name == "settings" for m in iter_modules(import_module(feature.name).__path__)):
            import_module(f"{feature.name}.settings")
    kinds = [kind for kind in EnvironmentSettings.__subclasses__() if kind.__module__.startswith("app.")]
    return {name: field for kind in kinds for name, field in kind.model_fields.items()}
