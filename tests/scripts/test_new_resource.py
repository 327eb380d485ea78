"""`scripts/new-resource` writes a resource that passes its tests, and every check of the project."""

from pathlib import Path

import pytest

from tests.support.copies import copy_repository, run


@pytest.mark.slow
def test_a_new_resource_passes_its_tests(tmp_path: Path) -> None:
    copy_repository(tmp_path)

    run(tmp_path, "scripts/new_resource.py", "delivery_notes")

    assert "passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/delivery_notes")
    folders = ["app/main.py", "app/delivery_notes", "tests/delivery_notes", "alembic"]
    run(tmp_path, "-m", "ruff", "format", "--check", *folders)
    run(tmp_path, "-m", "ruff", "check", *folders)
    run(tmp_path, "-m", "mypy", "app/delivery_notes", "tests/delivery_notes")
