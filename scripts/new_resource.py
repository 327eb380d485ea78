"""Writes a resource: its folder, its migration and its tests. `scripts/new-resource` execs this."""

import argparse
import ast
import builtins
import keyword
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from lib.database_url import ROOT
from lib.resource_files import FILES

_AFTER_THE_ROUTERS = "    app.include_router(health.router)\n"
_AFTER_THE_FEATURES = "    | server\n"
_SINGULARS = (
    *((ending, ending) for ending in ("ss", "us", "is", "series")),  # is none, and refused
    *((f"{ending}ses", f"{ending}se") for ending in ("au", "ou")),  # pauses, houses, unlike statuses
    ("uses", "us"),
    ("iases", "ias"),
    ("sses", "ss"),
    ("caches", "cache"),
    ("movies", "movie"),
    ("ies", "y"),
    ("yses", "ysis"),
    ("xes", "x"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("s", ""),
)


def singular(many: str) -> str:
    """Guess the singular of a name, or return the name."""
    for ending, replacement in _SINGULARS:
        if many.endswith(ending):
            return many.removesuffix(ending) + replacement
    return many


def names_of(many: str, one: str) -> dict[str, str]:
    """Return the name as the files write it."""
    article = "an" if re.match(r"[aeio]|un[^i]|u[^ns]", one) else "a"  # an update, but a unit, a user
    return {
        "many": many,
        "one": one,
        "One": "".join(part.capitalize() for part in one.split("_")),
        "ONE": one.upper(),
        "a": article,
        "A": article.capitalize(),
    }


def check(many: str, one: str) -> None:
    """Exit if such a resource cannot be written."""
    names = names_of(many, one)
    if not all(re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) for name in (many, one)) or one == many:
        refuse(f"{many}: must be a plural in small letters; --singular gives its singular, if that cannot be guessed")
    for name in (many, one):
        if keyword.iskeyword(name) or name in dir(builtins):
            refuse(f"{many}: {name} is a word of Python's; choose another name")
    if taken := {many, one, names["One"]} & _identifiers():
        refuse(f"{many}: the files use the name {min(taken)} for something else; choose another one, or a --singular")
    if (ROOT / "app" / many).exists() or re.search(rf"\b{many}\b", (ROOT / "app" / "main.py").read_text()):
        refuse(f"{many}: app/{many} exists, or app/main.py uses the name")
    for file in (ROOT / "app").rglob("*.py"):
        if re.search(rf'(__tablename__ = |\bTable\(\s*)"{many}"', file.read_text()):
            refuse(f"{many}: {file.relative_to(ROOT)} has a table of this name")


def refuse(problem: str) -> NoReturn:
    """Exit with a line."""
    raise SystemExit(f"new-resource: {problem}")


def _identifiers() -> set[str]:
    """List the names that the files themselves use, whatever the resource is called."""
    found: set[str] = set()
    for pattern, template in FILES.items():
        for node in ast.walk(ast.parse(template.format(**names_of("zzs", "zz")))) if pattern.startswith("app/") else ():
            match node:
                case ast.Name(id=name, ctx=ast.Load()) | ast.arg(arg=name) | ast.alias(name=name):
                    found.add(name)
    return found


def write(many: str, one: str) -> list[str]:
    """Write the files, and the lines in `app/main.py` and `pyproject.toml`; return what is in Python."""
    names = names_of(many, one)
    for pattern, template in FILES.items():
        file = ROOT / pattern.format(**names)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template.format(**names))
    _insert("app/main.py", _AFTER_THE_ROUTERS, f"    app.include_router({many}.router)\n")
    _insert("pyproject.toml", _AFTER_THE_FEATURES, f"    | {many}\n")
    main = ROOT / "app" / "main.py"
    line = f"from app.{many} import router as {many}\n"
    main.write_text(re.sub(r"^from app\.", rf"{line}\g<0>", main.read_text(), count=1, flags=re.MULTILINE))
    return [f"app/{many}", f"tests/{many}", "app/main.py"]


def _insert(name: str, before: str, line: str) -> None:
    """Write a line before another one, and before the blank line and the comment that belong to that."""
    text = (ROOT / name).read_text()
    place = re.search(rf"(?:^\n)?(?:^ *#.*\n)*^{re.escape(before)}", text, re.MULTILINE)
    if place is None or text.count(before) != 1:
        refuse(f"{name} does not have the line {before.strip()!r}, before which {line.strip()!r} is written")
    (ROOT / name).write_text(text[: place.start()] + line + text[place.start() :])


@contextmanager
def undone(many: str) -> Iterator[None]:
    """Remove what was written if something fails."""
    edited = {file: file.read_bytes() for file in (ROOT / "app" / "main.py", ROOT / "pyproject.toml")}
    migrations = ROOT / "alembic" / "versions"
    former = {*migrations.iterdir()}
    try:
        yield
    except BaseException:
        for folder in ("app", "tests"):
            shutil.rmtree(ROOT / folder / many, ignore_errors=True)
        for file, content in edited.items():
            file.write_bytes(content)
        for file in {*migrations.glob("*.py")} - former:
            file.unlink()
        raise


def main() -> int:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(
        prog="scripts/new-resource", description="Writes a resource, which passes its tests."
    )
    parser.add_argument("name", help="its plural, for example shipments")
    parser.add_argument("--singular", help="where the guess is wrong: people has person")
    arguments = parser.parse_args()
    many, one = arguments.name, arguments.singular or singular(arguments.name)
    os.chdir(ROOT)
    check(many, one)
    message = f"create {many}"
    try:
        with undone(many):
            written = write(many, one)
            for words in (["format", "--quiet"], ["check", "--fix", "--quiet"], ["format", "--quiet"]):
                subprocess.run([sys.executable, "-m", "ruff", *words, *written], check=True)
            subprocess.run([sys.executable, str(Path(__file__).with_name("migrate.py")), "new", message], check=True)
    except subprocess.CalledProcessError as error:
        refuse(f"{many}: nothing was written, because this failed: {' '.join(map(str, error.cmd[1:]))}")
    print(
        f"test it: scripts/test -q tests/{many}\n"
        f"make it yours: edit app/{many}, and the body in its tests; if the table changes, delete the "
        f'migration and write it again, as long as it has not been deployed: scripts/migrate new "{message}"'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
