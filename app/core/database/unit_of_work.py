"""Units of work: the functions of a store, each decorated with how it runs.

    @transaction
    def place_order(session: Session, order: OrderCreate) -> Order: ...

    order = await place_order(db, order)      # in a handler: runs, commits, then returns
    order = place_order(session, order)       # in another unit of work: a part of it

The first parameter is annotated with `sqlalchemy.Connection` (Core) or `sqlalchemy.orm.Session` (ORM). The function is
plain SQLAlchemy, relationships that load lazily included; it runs under SQLAlchemy's greenlet bridge, on the event
loop. It cannot `await`: calls to other services belong in the handler, between two units, where no connection is held.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, update_wrapper
from inspect import iscoroutinefunction, isfunction, signature
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_origin, get_type_hints, overload

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from app.core.database.database import Database, Keyed, Mode
from app.core.database.idempotency import run_once
from app.core.database.restrictions import UnitSession
from app.core.database.results import Results

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
S = TypeVar("S", Connection, Session)


def new_session(connection: Connection) -> Session:
    """Make a session in the unit of work of a connection; what it has loaded can be used when the unit has ended."""
    return UnitSession(bind=connection, expire_on_commit=False)


def run_on(handle: Connection | Session, work: Callable[..., T], *args: Any, session: bool, **kwargs: Any) -> T:  # noqa: ANN401 - those of `work`
    """Call a store function with a connection or a session, whichever it takes."""
    if not session:
        return work(handle.connection() if isinstance(handle, Session) else handle, *args, **kwargs)
    if isinstance(handle, Session):
        return work(handle, *args, **kwargs)
    with new_session(handle) as own:
        result = work(own, *args, **kwargs)
        own.flush()
        return result


class UnitOfWork(Generic[P, T]):
    """A store function: given a `Database` it is a unit of work, given a connection or a session a part of one."""

    def __init__(self, work: Callable[..., T], mode: Mode, *, repeatable: bool = False) -> None:
        update_wrapper(self, work)
        self._work, self._mode, self._repeatable = work, mode, repeatable
        self._session = _takes_session(work, mode)

    @overload
    def __call__(self, db: Database | Keyed, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    @overload
    def __call__(self, db: Connection | Session, /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def __call__(
        self, db: Database | Keyed | Connection | Session, /, *args: P.args, **kwargs: P.kwargs
    ) -> T | Coroutine[Any, Any, T]:
        """Run it; with a `Database`, the result is to be awaited."""
        if isinstance(db, Database):
            return db.run(self._mode, lambda connection: self(connection, *args, **kwargs), repeatable=self._repeatable)
        if isinstance(db, Keyed):
            if self._mode is not Mode.TRANSACTION:
                raise TypeError(f"{self._work}: only a @transaction can be run once for a key")
            asked = (*args, *sorted(kwargs.items()))
            return run_once(db, lambda connection: self(connection, *args, **kwargs), self._results, asked)
        return run_on(db, self._work, *args, session=self._session, **kwargs)

    @cached_property
    def _results(self) -> Results:
        return Results(get_type_hints(self._work).get("return"), self._work.__qualname__)


class BatchedUnitOfWork(Generic[Q, A]):
    """A store function of many questions: given a `Database` it takes one, and shares a statement with other calls."""

    def __init__(self, work: Callable[..., Sequence[A]], mode: Mode, *, repeatable: bool = False) -> None:
        if not isfunction(work) or "<" in work.__qualname__:
            # A lambda, a closure, a partial or a method could contain data of one request, and use it for others.
            raise TypeError(f"{work}: only a function of a module can be batched")
        if not _takes_many(work):
            raise TypeError(f"{work}: annotate the second parameter with Sequence, for it takes many questions")
        update_wrapper(self, work)
        self._work, self._mode, self._repeatable = work, mode, repeatable
        self._session = _takes_session(work, mode)

    @overload
    def __call__(self, db: Database, question: Q, /) -> Coroutine[Any, Any, A]: ...
    @overload
    def __call__(self, db: Connection | Session, questions: Sequence[Q], /) -> Sequence[A]: ...
    def __call__(self, db: Database | Connection | Session, question: Any, /) -> Sequence[A] | Coroutine[Any, Any, A]:
        """Run it for one question, to be awaited; or, with a connection or a session, for many."""
        if isinstance(db, Database):
            return cast(
                "Coroutine[Any, Any, A]", db.run_batched(self._mode, self, question, repeatable=self._repeatable)
            )
        answers: Sequence[A] = run_on(db, self._work, question, session=self._session)
        return answers


def read(work: Callable[Concatenate[S, P], T]) -> UnitOfWork[P, T]:
    """Declare a read. It cannot write, may run on a replica, and is repeated once where the connection is lost.

    Each of its statements sees what was committed when it began; one view for several is a `transaction`.
    """
    return UnitOfWork(work, Mode.READ)


def batched_read(work: Callable[[S, Sequence[Q]], Sequence[A]]) -> BatchedUnitOfWork[Q, A]:
    """Declare a read of many questions; calls with one question each share a statement (docs/adr/0014-*)."""
    return BatchedUnitOfWork(work, Mode.READ)


@overload
def write(work: Callable[Concatenate[Connection, P], T], /) -> UnitOfWork[P, T]: ...
@overload
def write(*, repeatable: bool) -> Callable[[Callable[Concatenate[Connection, P], T]], UnitOfWork[P, T]]: ...
def write(work: Callable[..., Any] | None = None, /, *, repeatable: bool = False) -> Any:
    """Declare one writing statement, on a `Connection`: it commits by itself, in one round trip.

    Parameters
    ----------
    repeatable
        Whether it does nothing the second time. Otherwise it is not repeated where the connection was lost.
    """
    return _declare(UnitOfWork, work, Mode.WRITE, repeatable)


@overload
def batched_write(work: Callable[[Connection, Sequence[Q]], Sequence[A]], /) -> BatchedUnitOfWork[Q, A]: ...
@overload
def batched_write(
    *, repeatable: bool
) -> Callable[[Callable[[Connection, Sequence[Q]], Sequence[A]]], BatchedUnitOfWork[Q, A]]: ...
def batched_write(work: Callable[..., Any] | None = None, /, *, repeatable: bool = False) -> Any:
    """Declare one writing statement for many questions; calls with one question each share it, and its commit.

    If PostgreSQL rejects one of them, each is sent again separately.
    """
    return _declare(BatchedUnitOfWork, work, Mode.WRITE, repeatable)


@overload
def transaction(work: Callable[Concatenate[S, P], T], /) -> UnitOfWork[P, T]: ...
@overload
def transaction(*, repeatable: bool) -> Callable[[Callable[Concatenate[S, P], T]], UnitOfWork[P, T]]: ...
def transaction(work: Callable[..., Any] | None = None, /, *, repeatable: bool = False) -> Any:
    """Declare any number of statements that are committed together, or not at all.

    Where PostgreSQL rolls it back for another transaction (40001, 40P01), the whole function runs again: it changes
    nothing but the database.
    """
    return _declare(UnitOfWork, work, Mode.TRANSACTION, repeatable)


def _declare(kind: Callable[..., Any], work: Callable[..., Any] | None, mode: Mode, repeatable: bool) -> Any:  # noqa: ANN401, FBT001
    if work is not None:
        return kind(work, mode)
    return lambda work: kind(work, mode, repeatable=repeatable)


def _takes_session(work: Callable[..., Any], mode: Mode) -> bool:
    """Return whether a store function takes a session, and not a connection."""
    if iscoroutinefunction(work):
        raise TypeError(f"{work}: a unit of work is `def`; await between two units, where no connection is held")
    name = next(iter(signature(work).parameters), None)
    annotation = get_type_hints(work).get(name or "")
    session = isinstance(annotation, type) and issubclass(annotation, Session)
    if not session and annotation is not Connection:
        raise TypeError(f"{work}: annotate the first parameter with sqlalchemy.Connection or sqlalchemy.orm.Session")
    if session and mode is Mode.WRITE:
        raise TypeError(f"{work}: a session may send several statements, so it needs @transaction")
    return session


def _takes_many(work: Callable[..., Any]) -> bool:
    names = list(signature(work).parameters)
    annotation = get_type_hints(work).get(names[1], Any) if len(names) > 1 else None
    kind = get_origin(annotation) or annotation
    return kind is Any or not isinstance(kind, type) or issubclass(list, kind)
