"""Insert rows once for each key; inserts with different keys share a statement."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, tuple_
from sqlalchemy.exc import DBAPIError

from app.core.database.batching import NotShared
from app.core.database.engine.dialect import rewrite_statement
from app.core.database.errors import LOCK_TIMEOUT, sqlstate_of
from app.core.database.idempotency import IdempotencyKey, IdempotencyKeyInUse, IdempotencyKeyReused, expired
from app.core.database.once import Once
from app.core.errors import DatabaseError
from app.core.resources.inserts import Inserts

_TRIES = 3
"""A key that expires while it is looked at is tried again."""
_BEFORE = 3
"""Columns of a replay before those of the table."""
_SHARED_LOCK_TIMEOUT, _NEXT_LOCK_TIMEOUT = 50, 5
"""Milliseconds that a shared statement waits for a key that is in use, and then each of its keys by itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows to be inserted once for a key."""

    once: Once
    fingerprint: bytes
    values: Sequence[object]

    @property
    def key(self) -> tuple[str, str]:
        """Caller and key."""
        return self.once.turn


@dataclass(frozen=True, slots=True)
class Inserted:
    """The new rows in the order given, or those of the first time."""

    new: Sequence[Any]
    replayed: bool

    def rows(self, asked: Asked) -> Sequence[Any]:
        """Return the rows, and tell the request if they are a replay."""
        if self.replayed:
            asked.once.on_replay()
        return self.new


def insert_shared(connection: Connection, inserts: Inserts, asked: Sequence[Asked]) -> Sequence[Inserted | Exception]:
    """Insert the rows of each question once; `NotShared` stands for one that waited for another transaction."""
    try:
        return insert_each_once(connection, inserts, asked, lock_timeout=_SHARED_LOCK_TIMEOUT)
    except NotShared as error:
        if len(asked) == 1:
            return [error]
    answers: list[Inserted | Exception] = []
    for question in asked:
        try:
            answers += insert_each_once(connection, inserts, [question], lock_timeout=_NEXT_LOCK_TIMEOUT)
        except NotShared as error:
            answers.append(error)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            answers.append(NotShared())  # it gets its own error when it is asked again
    return answers


def insert_each_once(
    connection: Connection, inserts: Inserts, asked: Sequence[Asked], *, lock_timeout: int | None = None
) -> Sequence[Inserted | Exception]:
    """Insert the rows of each question, unless they were inserted for its key before: then read what was stored.

    Parameters
    ----------
    lock_timeout
        Milliseconds to wait for another transaction, if not as long as any statement does.

    Raises
    ------
    IdempotencyKeyInUse
        The first request with a key held it for too long.
    NotShared
        Another transaction held something for longer than `lock_timeout`.
    """
    answers: dict[int, Inserted | Exception] = {}
    for _ in range(_TRIES):
        left = [index for index in range(len(asked)) if index not in answers]
        # Of several questions with one key the first is asked, and the others are replays of it.
        firsts = {asked[index].key: index for index in reversed(left)}
        new = _insert(connection, inserts, [asked[index] for index in firsts.values()], lock_timeout)
        for key, rows in new.items():
            answers[firsts[key]] = Inserted(rows, replayed=False)
        left = [index for index in left if index not in answers]
        if left:
            replays = _replays(connection, inserts, [asked[index] for index in left])
            answers.update({left[position]: answer for position, answer in replays.items()})
        if len(answers) == len(asked):
            break
        _forget_expired(connection, [asked[index] for index in left if index not in answers])
    return [answers.get(index) or DatabaseError() for index in range(len(asked))]


def _insert(
    connection: Connection, inserts: Inserts, asked: Sequence[Asked], lock_timeout: int | None
) -> dict[tuple[str, str], Sequence[Any]]:
    """Insert the rows of the keys that are new, and return them by key."""
    values = inserts.values([row for question in asked for row in question.values])
    values["_question_values"] = [number for number, question in enumerate(asked, 1) for _ in question.values]
    if lock_timeout is not None:
        rewrite_statement.set(f"SET LOCAL lock_timeout = {lock_timeout}; ".__add__)
    try:
        rows = connection.execute(inserts.once, {**values, **_keys(asked)}).all()
    except DBAPIError as error:
        if sqlstate_of(error) != LOCK_TIMEOUT:
            raise
        if lock_timeout is not None:
            raise NotShared from error
        if _waited_for_key(error):
            raise IdempotencyKeyInUse from error
        raise
    finally:
        rewrite_statement.set(None)
    found = {number: [inserts.row(row[1:]) for row in new] for number, new in _by_question(rows).items()}
    return {asked[number - 1].key: new for number, new in found.items()}


def _replays(connection: Connection, inserts: Inserts, asked: Sequence[Asked]) -> Mapping[int, Inserted | Exception]:
    """Return the stored rows, or an error, for each question whose key is there and has not expired."""
    answers: dict[int, Inserted | Exception] = {}
    for number, rows in _by_question(connection.execute(inserts.replay, _keys(asked)).all()).items():
        is_same_request, has_expired = rows[0][1:_BEFORE]
        if not is_same_request and not has_expired:
            answers[number - 1] = IdempotencyKeyReused()
        elif not has_expired:
            answers[number - 1] = Inserted([inserts.row(row[_BEFORE:]) for row in rows], replayed=True)
    return answers


def _by_question(rows: Sequence[Row[Any]]) -> dict[int, list[Row[Any]]]:
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def _keys(asked: Sequence[Asked]) -> dict[str, Any]:
    return {
        "callers": [question.once.caller for question in asked],
        "keys": [question.once.key for question in asked],
        "fingerprints": [question.fingerprint for question in asked],
    }


def _forget_expired(connection: Connection, asked: Sequence[Asked]) -> None:
    these = tuple_(IdempotencyKey.caller, IdempotencyKey.key).in_([question.key for question in asked])
    connection.execute(delete(IdempotencyKey).where(these, expired))


def _waited_for_key(error: DBAPIError) -> bool:
    """Return whether another transaction held the key's row, not one of the rows that are to be inserted."""
    where: str | None = getattr(getattr(error.orig, "diag", None), "context", None)
    return IdempotencyKey.__tablename__ in (where or "")
