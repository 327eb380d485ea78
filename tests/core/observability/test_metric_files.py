"""The files of the metrics grow whatever the process lacks."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from app.core.observability.metric_files import AllocatedDict


@contextlib.contextmanager
def no_file_descriptors() -> Iterator[None]:
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_grows_while_there_are_no_file_descriptors(tmp_path: Path) -> None:
    path = str(tmp_path / "counter_0.db")
    number = 3_000
    with contextlib.closing(AllocatedDict(path)) as file:
        with no_file_descriptors():
            for value in range(number):
                file.write_value(f"key {value}", value, 0.0)  # type: ignore[no-untyped-call]
        kept = {key: value for key, value, _, _ in AllocatedDict.read_all_values_from_file(path)}  # type: ignore[no-untyped-call]
    assert kept == {f"key {value}": value for value in range(number)}
