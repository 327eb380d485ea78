"""UPDATE and DELETE of a row, each one statement of which the conditions of the request are a part."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Boolean, Connection, Row, Table, any_, bindparam, delete, update

from app.core.api.conditional_requests import ConditionalRequest, PreconditionFailed, Preconditions

Conditional = ConditionalRequest | Preconditions

_MAX_VERSION = 2**63 - 1


class Changes:
    """The changes of a table with the columns `id` and `version`.

    Parameters
    ----------
    table
        The table.
    find
        Reads a row by its id, or raises.
    """

    def __init__(self, table: Table, find: Callable[[Connection, int], Row[Any]]) -> None:
        this = table.c.id == bindparam("this_id", type_=BigInteger)
        self._version, self._find = table.c.version, find
        # Sets what else it is given parameters for, by the names of the columns.
        self._update = update(table).where(this).returning(*table.c)
        self._delete = delete(table).where(this).returning(table.c.id)
        self._conditional: dict[tuple[bool, bool, bool], Any] = {}

    def update(self, connection: Connection, row_id: int, changes: Mapping[str, Any], given: Conditional) -> Row[Any]:
        """Change what `changes` names, or nothing where it is empty, and return the row."""
        conditions = _preconditions(given)
        if not changes:
            return self._checked(connection, row_id, conditions)
        statement, parameters = self._with_conditions(self._update, conditions)
        row = connection.execute(statement, {"this_id": row_id, **parameters, **changes}).one_or_none()
        if row is None:
            raise self._reason(connection, row_id, conditions)
        return row

    def delete(self, connection: Connection, row_id: int, given: Conditional) -> None:
        """Delete a row."""
        conditions = _preconditions(given)
        statement, parameters = self._with_conditions(self._delete, conditions)
        if connection.execute(statement, {"this_id": row_id, **parameters}).one_or_none() is None:
            raise self._reason(connection, row_id, conditions)

    def _with_conditions(self, statement: Any, conditions: Preconditions) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
        """Add the conditions to a statement, so that checking and changing are one."""
        match, none_match = conditions.if_match, conditions.if_none_match
        matches, differs = match is not None and "*" not in match, none_match is not None
        if not (matches or differs):
            return statement, {}
        shape = (statement is self._update, matches, differs)
        if (made := self._conditional.get(shape)) is None:
            made = statement
            if matches:
                made = made.where(self._version == any_(bindparam("if_match", type_=ARRAY(BigInteger))))
            if differs:
                other = ~(self._version == any_(bindparam("if_none_match", type_=ARRAY(BigInteger))))
                made = made.where(other, ~bindparam("if_none_match_star", type_=Boolean))
            self._conditional[shape] = made
        parameters: dict[str, Any] = {"if_match": _versions(match)} if matches else {}
        if differs:
            parameters |= {"if_none_match": _versions(none_match), "if_none_match_star": "*" in (none_match or ())}
        return made, parameters

    def _checked(self, connection: Connection, row_id: int, conditions: Preconditions) -> Row[Any]:
        row = self._find(connection, row_id)
        if not conditions.hold(row.version):
            raise PreconditionFailed
        return row

    def _reason(self, connection: Connection, row_id: int, conditions: Preconditions) -> PreconditionFailed:
        """Return why nothing was changed, or raise that there is no row."""
        self._checked(connection, row_id, conditions)
        return PreconditionFailed()  # it has another version by now


def _preconditions(given: Conditional) -> Preconditions:
    return given.preconditions if isinstance(given, ConditionalRequest) else given


def _versions(tags: frozenset[str] | None) -> list[int]:
    """Return the tags that can be versions: others match nothing."""
    numbers = (int(tag) for tag in tags or () if tag.isascii() and tag.isdecimal() and len(tag) < 20)
    return [number for number in numbers if number <= _MAX_VERSION]
