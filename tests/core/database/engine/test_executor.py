"""The executor on a real PostgreSQL: how connections are kept while there is work, and given back."""

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from app.core.database.engine import executor as executor_module
from app.core.database.engine.dialect import LoopDialect
from app.core.database.engine.executor import Executor
from app.core.database.engine.runner import Share
from app.core.errors import DatabaseError, Overloaded
from tests.conftest import SQL, MakeSettings
from tests.support.cluster import connected, run

pytestmark = pytest.mark.anyio

_tenant: ContextVar[str] = ContextVar("tenant", default="none")


@contextlib.asynccontextmanager
async def running(make_settings: MakeSettings, **fields: Any) -> AsyncIterator[Executor]:
    """Run an executor on the test's database."""
    settings = make_settings(**fields)
    executor = Executor(settings, settings.database_url, lambda: None)
    try:
        yield executor
    finally:
        executor.dispose()


def scalar(sql: str) -> Callable[[Connection], Any]:
    """Make a unit of one statement."""
    return lambda connection: connection.execute(text(sql)).scalar()


def counted(executor: Executor, name: str) -> list[object]:
    """Count a pool event from now on."""
    seen: list[object] = []
    event.listen(executor._engine, name, lambda connection, *_: seen.append(connection))
    return seen


async def test_a_connection_stays_while_there_is_work(make_settings: MakeSettings) -> None:
    async with running(make_settings, db_pool_size=2) as executor:
        taken = counted(executor, "checkout")
        results = await asyncio.gather(*(executor.run(scalar(f"SELECT {n}"), repeat_if_lost=False) for n in range(50)))

        assert results == list(range(50))
        assert len(taken) == 2
        assert (executor.busy, executor.idle) == (0, 2)

        await executor.run(scalar("SELECT 1"), begin=executor.transaction, repeat_if_lost=False)
        await asyncio.sleep(0)  # the runner is idle
        assert executor.idle == 2


@pytest.mark.parametrize("iterations", [0, 1, 2])
async def test_a_unit_that_comes_while_connections_go_back_does_not_wait(
    make_settings: MakeSettings, iterations: int
) -> None:
    async with running(make_settings, db_pool_size=1) as executor:
        await executor.run(scalar("SELECT 1"), repeat_if_lost=False)
        await asyncio.sleep(0)  # the runner is idle
        executor._release(time.monotonic())
        for _ in range(iterations):
            await asyncio.sleep(0)

        # Otherwise it would have waited for `DB_POOL_TIMEOUT`, and failed.
        assert await executor.run(scalar("SELECT 2"), repeat_if_lost=False) == 2


async def test_a_connection_without_work_goes_back(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "_IDLE_SECONDS", 0.0)
    async with running(make_settings) as executor:
        given_back = counted(executor, "checkin")
        await executor.run(scalar("SELECT 1"), repeat_if_lost=False)
        assert given_back == []

        executor.check()
        await asyncio.wait(executor._runners.values(), timeout=60)

        assert len(given_back) == 1
        assert executor.idle == 1


async def test_a_session_that_ended_while_it_rested_is_replaced(make_settings: MakeSettings, sql: SQL) -> None:
    async with running(make_settings) as executor:
        pid = await executor.run(scalar("SELECT pg_backend_pid()"), repeat_if_lost=False)
        assert sql("SELECT pg_terminate_backend(%s, 5000)", (pid,)) == [(True,)]

        assert await executor.run(scalar("SELECT pg_backend_pid()"), repeat_if_lost=False) != pid


async def test_no_connection_outlives_the_failure_that_drops_them_all(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes_on_a_standby(connection: Connection) -> None:
        connection.execute(text("SET TRANSACTION READ ONLY; DELETE FROM things"))

    monkeypatch.setattr(executor_module, "_IDLE_SECONDS", 0.0)
    gc.disable()  # which would close them at some time
    try:
        async with running(make_settings, db_pool_size=4) as executor:
            opened, closed = counted(executor, "connect"), counted(executor, "close")
            busy = asyncio.create_task(executor.run(scalar("SELECT pg_sleep(0.2)"), repeat_if_lost=False))
            idle = [executor.run(scalar("SELECT pg_sleep(0.05)"), repeat_if_lost=False) for _ in range(2)]
            await asyncio.gather(*idle)

            with pytest.raises(DatabaseError):
                await executor.run(writes_on_a_standby, repeat_if_lost=False)
            await busy
            async with asyncio.timeout(60):
                while executor._runners:
                    executor.check()
                    await asyncio.sleep(0.01)

            assert len(opened) >= 3
            assert len(closed) == len(opened)
    finally:
        gc.enable()


async def test_execution_options_of_a_unit_end_with_it(make_settings: MakeSettings) -> None:
    def changes_options(connection: Connection) -> None:
        connection.execution_options(compiled_cache={}).execute(text("SELECT 1")).all()

    def options(connection: Connection) -> Any:
        return connection.get_execution_options().get("compiled_cache")

    async with running(make_settings, db_pool_size=1) as executor:
        await executor.run(changes_options, repeat_if_lost=False)

        assert await executor.run(options, repeat_if_lost=False) is None


async def test_each_unit_has_the_context_of_its_caller(make_settings: MakeSettings) -> None:
    def tenant(connection: Connection) -> str:
        connection.execute(text("SELECT pg_sleep(0.01)"))
        return _tenant.get()

    async def ask(executor: Executor, name: str) -> str:
        _tenant.set(name)
        return await executor.run(tenant, repeat_if_lost=False)

    async with running(make_settings, db_pool_size=1) as executor:
        assert await asyncio.gather(*(ask(executor, name) for name in "abc")) == ["a", "b", "c"]


async def test_a_unit_whose_caller_has_gone_before_it_began_is_not_run(make_settings: MakeSettings, sql: SQL) -> None:
    def insert(connection: Connection) -> None:
        connection.execute(text("INSERT INTO things (name, price) VALUES ('gone', 1)"))

    async with running(make_settings, db_pool_size=1) as executor:
        busy = asyncio.create_task(executor.run(scalar("SELECT pg_sleep(0.2)"), repeat_if_lost=False))
        await asyncio.sleep(0)
        queued = asyncio.create_task(executor.run(insert, repeat_if_lost=False))
        await asyncio.sleep(0)
        queued.cancel()
        await busy
        await executor.run(scalar("SELECT 1"), repeat_if_lost=False)

    assert sql("SELECT name FROM things") == []


async def test_a_unit_that_waits_too_long_is_told_so(make_settings: MakeSettings, database_url: str) -> None:
    async with running(make_settings, db_pool_size=1, db_pool_timeout=0.1, db_statement_timeout=0) as executor:
        with connected(database_url) as other:
            run(other, "SELECT pg_advisory_lock(1)")
            busy = asyncio.create_task(
                executor.run(scalar("SELECT 1 FROM pg_advisory_lock_shared(1)"), repeat_if_lost=False)
            )
            await asyncio.sleep(0)
            with pytest.raises(DatabaseError, match="No database connection came free"):
                await executor.run(scalar("SELECT 1"), repeat_if_lost=False)
        await busy


async def test_lists_leave_a_connection_to_other_units(make_settings: MakeSettings, database_url: str) -> None:
    async with running(make_settings, db_pool_size=4, db_statement_timeout=0) as executor:
        with connected(database_url) as other:
            run(other, "SELECT pg_advisory_lock(2)")
            waits = scalar("SELECT 1 FROM pg_advisory_xact_lock_shared(2)")
            lists = [
                asyncio.create_task(executor.run(waits, repeat_if_lost=False, share=Share.LISTS)) for _ in range(8)
            ]
            await asyncio.sleep(0)

            assert await executor.run(scalar("SELECT 2"), repeat_if_lost=False) == 2
            assert executor.busy == 2
        assert await asyncio.gather(*lists) == [1] * 8


async def test_batched_units_that_never_end_leave_their_turn_to_others(make_settings: MakeSettings) -> None:
    async with running(make_settings, db_pool_size=1) as executor:
        ended = asyncio.Event()

        async def ask_again() -> None:
            while not ended.is_set():
                await executor.run(scalar("SELECT 1"), repeat_if_lost=False, share=Share.ALL)

        batched = [asyncio.create_task(ask_again()) for _ in range(4)]
        await asyncio.sleep(0)
        others = (executor.run(scalar("SELECT 2"), repeat_if_lost=False, share=share) for share in (*Share,) * 3)
        assert await asyncio.gather(*others) == [2] * 9
        ended.set()
        await asyncio.gather(*batched)


async def test_batched_units_have_most_of_the_time_beside_expensive_ones(make_settings: MakeSettings) -> None:
    async with running(make_settings, db_pool_size=1, db_pool_timeout=60) as executor:
        ended: list[str] = []

        async def ask(name: str, sql: str, share: Share) -> None:
            await executor.run(scalar(sql), repeat_if_lost=False, share=share)
            ended.append(name)

        async def ask_again() -> None:
            while ended.count("list") < 2:
                await ask("batched", "SELECT 1", Share.ALL)

        lists = [asyncio.create_task(ask("list", "SELECT pg_sleep(0.3)", Share.LISTS)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.gather(*lists, *(ask_again() for _ in range(4)))

    first = ended.index("list")
    assert ended.index("list", first + 1) - first > 10  # a second of batched units, and not every second unit


async def test_a_queue_has_an_end(
    make_settings: MakeSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "_WAITING", 1)
    monkeypatch.setattr(executor_module, "_WAITING_PER_CONNECTION", 1)
    async with running(make_settings, db_pool_size=1, db_statement_timeout=0) as executor:
        with connected(database_url) as other:
            run(other, "SELECT pg_advisory_lock(3)")
            waits = scalar("SELECT 1 FROM pg_advisory_xact_lock_shared(3)")
            waiting = [asyncio.create_task(executor.run(waits, repeat_if_lost=False)) for _ in range(2)]
            await asyncio.sleep(0)

            with pytest.raises(Overloaded):
                await executor.run(waits, repeat_if_lost=False)
        assert await asyncio.gather(*waiting) == [1, 1]


async def test_a_transaction_whose_connection_is_lost_before_it_begins_is_unavailable(
    make_settings: MakeSettings,
) -> None:
    def cut(connection: Any, *_: object) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    async with running(make_settings, db_pool_size=1) as executor:
        begin = executor.transaction
        assert await executor.run(scalar("SELECT 1"), begin=begin, repeat_if_lost=False) == 1
        event.listen(executor._engine, "checkout", cut)
        with pytest.raises(DatabaseError):
            await executor.run(scalar("SELECT 1"), begin=begin, repeat_if_lost=False)
        event.remove(executor._engine, "checkout", cut)
        assert await executor.run(scalar("SELECT 1"), begin=begin, repeat_if_lost=False) == 1


async def test_clients_that_have_left_do_not_fill_the_queue(
    make_settings: MakeSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "_WAITING", 1)
    monkeypatch.setattr(executor_module, "_WAITING_PER_CONNECTION", 1)
    async with running(make_settings, db_pool_size=1, db_statement_timeout=0) as executor:
        with connected(database_url) as other:
            run(other, "SELECT pg_advisory_lock(3)")
            waits = scalar("SELECT 1 FROM pg_advisory_xact_lock_shared(3)")
            running_one = asyncio.create_task(executor.run(waits, repeat_if_lost=False))
            await asyncio.sleep(0)
            for _ in range(5):
                left = asyncio.create_task(executor.run(waits, repeat_if_lost=False))
                await asyncio.sleep(0)
                left.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await left
            stays = asyncio.create_task(executor.run(waits, repeat_if_lost=False))
            await asyncio.sleep(0)
            assert not stays.done()
        assert [await running_one, await stays] == [1, 1]


async def test_observers_are_told_of_statements_but_not_of_those_of_sqlalchemy(make_settings: MakeSettings) -> None:
    """It is `LoopDialect.do_execute` that SQLAlchemy calls for every statement."""
    seen: list[tuple[str, str | None]] = []
    settings = make_settings()
    executor = Executor(
        settings,
        settings.database_url,
        lambda: None,
        [lambda _, statement, __, error: seen.append((statement, getattr(error, "pgcode", None)))],
    )
    assert isinstance(executor._engine.dialect, LoopDialect)
    try:
        await executor.run(scalar("SELECT 1"), repeat_if_lost=False)
        with contextlib.suppress(Exception):
            await executor.run(scalar("SELECT 1/0"), repeat_if_lost=False)
    finally:
        executor.dispose()

    assert seen == [("SELECT 1", None), ("SELECT 1/0", "22012")]
