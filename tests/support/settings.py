"""The variables that the service and its features read."""

from importlib import import_module
from pkgutil import iter_modules

from pydantic.fields import FieldInfo

import app
from app.core.config import EnvironmentSettings


def kinds() -> list[type[EnvironmentSettings]]:
    """List the classes of settings: the service's, those of features, and what a test has imported."""
    for feature in iter_modules(app.__path__, "app."):
        if feature.ispkg and any(m.name == "settings" for m in iter_modules(import_module(feature.name).__path__)):
            import_module(f"{feature.name}.settings")
    return EnvironmentSettings.__subclasses__()


def all_fields() -> dict[str, FieldInfo]:
    """List the fields of the service's settings and of those that features bring, by their names."""
    ours = [kind for kind in kinds() if kind.__module__.startswith("app.")]
    return {name: field for kind in ours for name, field in kind.model_fields.items()}
