"""Arrows run one way: main knows the features, features know core, and core knows no feature."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.service import ROOT

APP = ROOT / "app"
FILES = sorted(APP.rglob("*.py"))
# What may be imported from which room; every other room is a feature, and knows itself and core.
ALLOWED = {"__init__.py": set[str](), "core": {"core"}, "server": {"core", "server"}}
# The name of the service is a setting like others; the package says what it does not know.
MAY_SAY_ITEM = {"config.py", "__init__.py"}


def rooms_imported(file: Path) -> set[str]:
    """List the rooms that a file imports, wherever in it the import stands."""
    modules = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    rooms = {name.split(".")[1] for name in modules if name.startswith("app.")}
    return {room for room in rooms if (APP / room).is_dir() or (APP / f"{room}.py").is_file()}


def name_of(file: Path) -> str:
    """Name a file as it is named in the documentation."""
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_arrows_run_one_way(file: Path) -> None:
    room = file.relative_to(APP).parts[0]
    if room == "main.py":
        return

    assert rooms_imported(file) <= ALLOWED.get(room, {room, "core"})


def test_nobody_imports_main() -> None:
    assert [name_of(file) for file in FILES if "main" in rooms_imported(file)] == []


def test_only_main_composes() -> None:
    """Nothing else makes an application, includes a router, or adds middleware."""
    composing = {"FastAPI", "include_router", "add_middleware", "Middleware"}
    called = {
        name_of(file): {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call)
        }
        for file in FILES
    }

    assert [file for file, names in called.items() if names & composing] == ["app/main.py"]


@pytest.mark.parametrize("file", sorted((APP / "core").rglob("*.py")), ids=name_of)
def test_core_does_not_speak_of_items(file: Path) -> None:
    words = re.findall(r"(?<!\.)\bitems?\b(?!\()", file.read_text(), re.IGNORECASE)

    assert not words or file.name in MAY_SAY_ITEM


def test_sql_is_in_the_store() -> None:
    """Of a feature, only the store runs statements; its router and schemas have no connection."""
    running = re.compile(r"\.execute\(|\bsession\.scalars?\(")
    features = [room for room in APP.iterdir() if room.is_dir() and room.name not in {"core", "server", "__pycache__"}]
    files = [file for feature in features for file in feature.rglob("*.py") if file.name != "store.py"]

    assert files
    assert [name_of(file) for file in files if running.search(file.read_text())] == []


def test_only_the_settings_read_the_environment() -> None:
    """Except for what libraries and workers are told by it, which is no setting of ours."""
    reads = {name_of(f) for f in FILES if re.search(r"\bos\.(environ|getenv)\b", f.read_text())}

    assert reads - {"app/core/config.py"} <= {
        "app/core/exposition.py",
        "app/core/metrics.py",
        "app/core/telemetry.py",
        "app/server/gunicorn_conf.py",
        "app/server/metrics_dir.py",
    }


def test_every_setting_is_read() -> None:
    from app.core.config import Settings  # noqa: PLC0415 - after conftest has cleared the environment

    sources = "\n".join(f.read_text() for f in [*FILES, *(ROOT / "alembic").glob("*.py")] if f.name != "config.py")

    assert [name for name in Settings.model_fields if not re.search(rf"settings\.{name}\b", sources)] == []
