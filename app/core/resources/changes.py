"""UPDATE and DELETE of a row, each one statement of which the conditions of the request are a part."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Boolean, Connection, Table, any_, bindparam, delete, update

from app.core.api.conditional_requests import ConditionalRequest, PreconditionFailed, Preconditions
from app.core.errors import APIError
from app.core.resources.updates import Update, Updates

Conditional = ConditionalRequest | Preconditions

_VERSION = re.compile("0|[1-9][0-9]{0,18}")
_MAX_VERSION = 2**63 - 1


class Changes:
    """The changes of a table with the columns `id` and `version`.

    Parameters
    ----------
    table
        The table.
    names
        The columns that updates may share a statement for.
    find
        Reads a row by its id, or raises `not_found`.
    not_found
        Makes the error.

    Attributes
    ----------
    update_each
        Makes the updates that share a statement.
    """

    def __init__(
        self,
        table: Table,
        names: Sequence[str],
        find: Callable[[Connection, int], Any],
        not_found: Callable[[int], APIError],
    ) -> None:
        self._updates = Updates(table, names)
        self.update_each = self._updates.run  # kept, because batches are told apart by it
        this = table.c.id == bindparam("_this_id", type_=BigInteger)
        self._version, self._find, self._not_found = table.c.version, find, not_found
        # Sets what else it is given parameters for, by the names of the columns.
        self._update = update(table).where(this).returning(*table.c)
        self._delete = delete(table).where(this).returning(table.c.id)
        self._conditional: dict[tuple[bool, bool, bool], Any] = {}

    def shared(self, row_id: int, changes: Mapping[str, Any], given: Conditional) -> Update | None:
        """Return the update if it can share a statement: it has at most one condition, a single version."""
        conditions = _preconditions(given)
        if conditions.if_none_match is not None:
            return None
        version = None
        if conditions.if_match is not None and "*" not in conditions.if_match:
            if len(versions := _versions(conditions.if_match)) != 1:
                return None
            (version,) = versions
        update = Update(row_id, version, changes)
        return update if self._updates.can_share(update) else None

    def update(self, connection: Connection, row_id: int, changes: Mapping[str, Any], given: Conditional) -> Any:  # noqa: ANN401 - a row
        """Change what `changes` names, or nothing where it is empty, and return the row."""
        conditions = _preconditions(given)
        if not changes:
            return self._checked(connection, row_id, conditions)
        statement, parameters = self._with_conditions(self._update, conditions)
        row = connection.execute(statement, {"_this_id": row_id, **parameters, **changes}).one_or_none()
        if row is None:
            raise self.reason(connection, row_id, conditions)
        return self._updates.row(row)

    def delete(self, connection: Connection, row_id: int, given: Conditional) -> None:
        """Delete a row."""
        conditions = _preconditions(given)
        statement, parameters = self._with_conditions(self._delete, conditions)
        if connection.execute(statement, {"_this_id": row_id, **parameters}).one_or_none() is None:
            raise self.reason(connection, row_id, conditions)

    def reason(self, connection: Connection, row_id: int, given: Conditional) -> APIError:
        """Return why nothing was changed, or raise that there is no row."""
        conditions = _preconditions(given)
        self._checked(connection, row_id, conditions)
        # By now it has another version, or there is a row.
        return PreconditionFailed() if conditions else self._not_found(row_id)

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
                made = made.where(self._version == any_(bindparam("_if_match", type_=ARRAY(BigInteger))))
            if differs:
                other = ~(self._version == any_(bindparam("_if_none_match", type_=ARRAY(BigInteger))))
                made = made.where(other, ~bindparam("_if_none_match_star", type_=Boolean))
            self._conditional[shape] = made
        parameters: dict[str, Any] = {"_if_match": _versions(match)} if matches else {}
        if differs:
            parameters |= {"_if_none_match": _versions(none_match), "_if_none_match_star": "*" in (none_match or ())}
        return made, parameters

    def _checked(self, connection: Connection, row_id: int, conditions: Preconditions) -> Any:  # noqa: ANN401
        row = self._find(connection, row_id)
        conditions.require(row.version)
        return row


def _preconditions(given: Conditional) -> Preconditions:
    return given.preconditions if isinstance(given, ConditionalRequest) else given


def _versions(tags: frozenset[str] | None) -> list[int]:
    """Return the tags that are versions, as `entity_tag` writes them: others match nothing."""
    numbers = (int(tag) for tag in tags or () if _VERSION.fullmatch(tag))
    return [number for number in numbers if number <= _MAX_VERSION]
