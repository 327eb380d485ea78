"""The memory-mapped files of the metrics, with their space allocated.

The library creates sparse files: if their file system is full, the first write to a new page ends the process (SIGBUS,
mmap(2)). Allocated files cannot fail this way; without space, the values of this worker stay in its own memory, where a
scrape does not see them.
"""

import logging
import mmap
import os
import struct
from threading import Lock
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_SIZE = 64 * 1024
"""Bytes of a new file; it is doubled when it is full."""

_NUMBERS = struct.Struct("dd")
"""A value and its time, as the library writes them."""

_log = logging.getLogger(__name__)


class AllocatedDict(MmapedDict):
    """The library's file of values, which never grows beyond the space that it has."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's
        self._private = not read_mode and not _reserve(filename, _SIZE)
        # Without space: a file without a name, which no scrape reads.
        super().__init__(f"/proc/self/fd/{os.memfd_create('metrics')}" if self._private else filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        """Add a value, in a file that has space for it."""
        needed = self._used + len(key.encode()) + 32  # the length, padding, and two doubles
        if needed > self._capacity:
            self._grow(2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, size: int) -> None:
        """Make the file larger, or continue in memory of this process: the file keeps its values then.

        Neither needs a file descriptor; as the library does it, a lack of them would break the file.
        """
        if not self._private and _reserve(self._f.fileno(), size):
            self._m.resize(size)
        else:
            self._private = True
            larger = mmap.mmap(-1, size)
            larger[: self._capacity] = self._m[: self._capacity]
            self._m = larger
        self._capacity = size


def _reserve(file: str | int, size: int) -> bool:
    """Make a file, given by its name or descriptor, at least `size` bytes large; return whether there is space."""
    try:
        with open(file, "ab", closefd=isinstance(file, str)) as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        _log.error("No space for metrics: %s; what this worker counts is not scraped", os.strerror(error.errno or 0))
        return False
    return True


def use_allocated_files(slot: str) -> None:
    """Have `prometheus_client` keep the values of this process in allocated files, named by a slot."""
    values.MmapedDict = AllocatedDict  # type: ignore[attr-defined]
    library: Any = values.MultiProcessValue(process_identifier=lambda: slot)  # type: ignore[no-untyped-call]
    lock, pack = Lock(), _NUMBERS.pack

    class Value(library):  # type: ignore[misc]
        """A value in a file. The library's own asks for its file's name and place in it with each change."""

        _value: float

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the library's
            super().__init__(*args, **kwargs)
            place: int = self._file._positions[self._key]  # noqa: SLF001
            self._place = slice(place, place + _NUMBERS.size)

        def inc(self, amount: float) -> None:
            with lock:
                self._value = value = self._value + amount
                self._file._m[self._place] = pack(value, 0.0)  # noqa: SLF001

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._value, self._timestamp = value, timestamp or 0.0
                self._file._m[self._place] = pack(value, self._timestamp)  # noqa: SLF001

    values.ValueClass = Value
