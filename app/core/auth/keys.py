"""The issuer's keys in this process: read at the start, refreshed in the background, kept during its outages."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from jwt import PyJWK

from app.core.auth.failures import AuthFailure, Reason
from app.core.auth.jwks import KeySet, parse_jwks
from app.core.auth.key_source import Source
from app.core.observability.instruments import AUTH_KEYS_AGE

_log = logging.getLogger(__name__)

REFRESH = 300.0
"""Seconds between two reads of the keys."""
RETRY = 5.0
"""Seconds, on average, after a read that failed."""
EXTRA_READS = 4
"""Reads that tokens with an unknown `kid` may cause at once: each rotation needs one."""
EXTRA_READ_SECONDS = 5.0
"""Seconds after which one more is allowed, so that invented key ids cause few requests to the issuer."""
_FIRST_READ = 3.0
"""Seconds for which the start waits for the first keys."""
_WAIT = 6.0
"""Seconds that a request waits for reads: longer than one may take."""
_MAX_WAITING = 128
"""Requests that wait for a read: half of those that a worker serves at once, which leaves room for others."""
_TICK = 1.0


class Keys:
    """The keys of one issuer. Used on the event loop only.

    Attributes
    ----------
    generation
        Changes with the keys: tokens that were verified by the former ones must be verified again.
    """

    def __init__(self, source: Source, algorithms: Sequence[str]) -> None:
        self.generation = 0
        self._source = source
        self._algorithms = algorithms
        self._keys: KeySet = {}
        self._document: object = None
        self._failure: str | None = None
        self._reading = False
        self._waiting = 0
        self._due = asyncio.Event()
        self._read_done = asyncio.Event()
        self._extra_reads = float(EXTRA_READS)
        self._extra_reads_at = self._read_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def refreshed(self) -> AsyncIterator[None]:
        """Keep the keys up to date while the block runs; an unavailable issuer does not prevent the start."""
        task = asyncio.create_task(self._refresh())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._read_done.wait(), _FIRST_READ)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._source.close()

    async def find(self, kid: str | None, algorithm: str) -> PyJWK:
        """Find a key; for an unknown one, read the issuer's keys, unless they were read just before.

        Raises
        ------
        AuthFailure
            The issuer has no such key, or its keys could not be read yet.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                for _ in range(2):  # the current read may have begun before the key was published
                    if key := self._keys.get((kid, algorithm)):
                        return key
                    if not self._keys:
                        raise AuthFailure(Reason.KEYS_UNAVAILABLE)
                    if not self._read_soon():
                        break
                    await self._wait_for_read()
        if key := self._keys.get((kid, algorithm)):
            return key
        raise AuthFailure(Reason.UNKNOWN_KEY)

    async def _wait_for_read(self) -> None:
        if self._waiting >= _MAX_WAITING:
            raise AuthFailure(Reason.KEYS_UNAVAILABLE)
        self._waiting += 1
        try:
            await self._read_done.wait()
        finally:
            self._waiting -= 1

    def _read_soon(self) -> bool:
        """Return whether the keys are being read, or will be read now, if the token bucket allows it."""
        if self._reading:
            return True
        now = asyncio.get_running_loop().time()
        earned = (now - self._extra_reads_at) / EXTRA_READ_SECONDS
        self._extra_reads, self._extra_reads_at = min(EXTRA_READS, self._extra_reads + earned), now
        if self._extra_reads < 1:
            return False
        self._extra_reads -= 1
        self._start_reading()
        self._due.set()
        return True

    def _start_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._read_done.clear()

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._start_reading()
            self._due.clear()
            seconds = REFRESH if await self._read() else RETRY
            self._reading = False
            self._read_done.set()
            # Not all workers, and not all replicas, at the same moment.
            due = loop.time() + seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            while (left := due - loop.time()) > 0 and not self._due.is_set():
                AUTH_KEYS_AGE.set(loop.time() - self._read_at)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), min(left, _TICK))

    async def _read(self) -> bool:
        """Read the keys; if that fails, keep the present ones."""
        try:
            document = await self._source.read()
            if document != self._document:
                self._keys = parse_jwks(document, self._algorithms)
                self._document = document
                self.generation += 1
                _log.info("the issuer has %d usable keys", len({key.key_id for key in self._keys.values()}))
        except Exception as error:  # noqa: BLE001 - the next read may succeed after any error
            if self._failure != str(error):
                _log.warning("the issuer's keys cannot be read: %s", error)
            self._failure = str(error)
            return False
        if self._failure is not None:
            _log.info("the issuer's keys can be read again")
        self._failure = None
        self._read_at = asyncio.get_running_loop().time()
        return True
