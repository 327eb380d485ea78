"""Write log lines to stdout from a thread of their own, so that no request waits for the reader of the log.

Lines wait in a queue of at most `_MAX_BYTES`. While stdout is closed or not read, further lines are dropped and
counted. The thread starts with the first line of a process; a forked worker has its own.
"""

import os
import select
import sys
import threading
from queue import Empty, SimpleQueue
from typing import TextIO

_MAX_BYTES = 2 * 1024 * 1024
# Workers share one pipe, which keeps a write whole only up to this size (POSIX, "write").
_MAX_WRITE = select.PIPE_BUF
# Seconds for which the first line waits for others: waking the thread costs 30 us, writing a line 5.
_PAUSE = 0.1
_FLUSH_SECONDS = 1.0


class LogWriter:
    """A queue of lines, and the thread that writes them.

    Attributes
    ----------
    dropped
        Number of lines of this process that were not written.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._reset()

    def _reset(self) -> None:
        """Start empty in a forked process, since its parent writes the lines that are queued now."""
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._flush_requested = threading.Event()
        # Characters. Only callers, under their handler's lock, change the first, and only the thread the second.
        self._queued = self._taken = 0

    def put(self, line: str) -> None:
        """Queue a line, or drop it if the queue is full. Never waits."""
        if self._queued - self._taken > _MAX_BYTES:
            self.dropped += 1
            return
        self._queued += len(line)
        self._queue.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait until what is queued is written, at most `seconds`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            written = threading.Event()
            self._queue.put(written)
            self._flush_requested.set()
            written.wait(seconds)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if isinstance(first, str):
                self._flush_requested.wait(_PAUSE)
            self._flush_requested.clear()
            self._write_all(first)

    def _write_all(self, entry: str | threading.Event) -> None:
        """Write `entry` and the queue, in writes of as many whole lines as the pipe keeps together."""
        lines: list[str] = []
        size = 0
        try:
            while True:
                if isinstance(entry, threading.Event):
                    self._write(lines)
                    lines, size = [], 0
                    entry.set()
                else:
                    if size + len(entry) > _MAX_WRITE:
                        self._write(lines)
                        lines, size = [], 0
                    lines.append(entry)
                    size += len(entry)
                entry = self._queue.get_nowait()
        except Empty:
            self._write(lines)

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "".join(lines)
        try:
            _write_to(sys.__stdout__, text.encode("utf-8", "backslashreplace"))
        except (OSError, ValueError):  # closed, or its reader has exited
            self.dropped += len(lines)
        self._taken += len(text)


def _write_to(stream: TextIO | None, data: bytes) -> None:
    if stream is None:  # closed when the process started: its descriptor may belong to another file now
        raise ValueError("no stdout")
    descriptor = stream.fileno()
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


log_writer = LogWriter()
os.register_at_fork(after_in_child=log_writer._reset)  # noqa: SLF001 - its own module
