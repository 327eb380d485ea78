"""The inserts of a resource, each one statement for any number of rows and made once.

Rows go in as arrays, one a column, so the text is the same for one row and for a thousand.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, ColumnElement, Computed, Integer, Table, TextClause, bindparam, column, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.selectable import TextualSelect

from app.core.resources.rows import row_class

QUESTION = "_question"
"""The column that says which of several questions a row belongs to, from 1 on."""
_KEYS = (
    "unnest(CAST(:callers AS text[]), CAST(:keys AS text[]), CAST(:fingerprints AS bytea[])) "
    "WITH ORDINALITY AS keys(_caller, _key, _fingerprint, _question)"  # no names of a feature's columns
)
_dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
quote = _dialect.identifier_preparer.quote
"""Writes a name as SQL has it."""


class Inserts:
    """The inserts of a table.

    Parameters
    ----------
    table
        Its primary key is `id`, an identity.
    given
        The columns that have values; the others have their defaults.

    Attributes
    ----------
    row
        Makes a row of the values of all columns.
    """

    def __init__(self, table: Table, given: Sequence[str]) -> None:
        self._table, self._name = table, quote(table.name)
        self._given: list[Column[Any]] = [table.c[name] for name in given]
        for inserted in self._given:
            if isinstance(inserted.type, ARRAY):
                raise TypeError(f"{inserted} is an array: insert its rows in a @transaction")
        for known in table.c:
            has_value = known.name in {"id", *given} or known.server_default is not None
            if not known.nullable and not has_value:
                raise TypeError(f"{known} may not be null: insert a value, or give it a server_default")
        self.row: Any = row_class(table)
        self._all = ", ".join(quote(known.name) for known in table.c)
        self.plain = self._plain()
        self.once = self._once()
        self.replay = self._replay()

    def values(self, rows: Sequence[object]) -> dict[str, Any]:
        """Return the parameters for rows: objects that have the given columns as attributes."""
        return {f"{given.name}_values": [getattr(row, given.key) for row in rows] for given in self._given}

    def _plain(self) -> TextualSelect:
        """Insert rows, and return them in the order given: identities are drawn in the order of the SELECT."""
        names = ", ".join(quote(given.name) for given in self._given)
        values = ", ".join(map(_value, self._given))
        statement = (
            f"WITH new AS (INSERT INTO {self._name} ({names}) SELECT {values} FROM {self._rows()} "  # noqa: S608
            f"ORDER BY _n RETURNING *) SELECT {self._all} FROM new ORDER BY id"
        )
        return self._bound(statement).columns(*self._table.c)

    def _once(self) -> TextualSelect:
        """Insert the rows of each question whose key is new, and store them with it.

        A key that exists, or is inserted by another transaction meanwhile, is no error: its question has no rows. As
        the rows are stored before they are inserted, they are made first, defaults included. Keys are inserted in their
        order, so that two statements never wait for each other.
        """
        made = {"id": f"nextval(pg_get_serial_sequence('{self._name}', 'id'))"}
        made |= {given.name: f"CAST({_value(given)} AS {type_of(given)})" for given in self._given}
        made |= {known.name: f"CAST({_default(known)} AS {type_of(known)})" for known in self._defaults()}
        names = ", ".join(map(quote, made))
        statement = (
            f"WITH keys AS (SELECT * FROM {_KEYS}), "  # noqa: S608
            f"made AS MATERIALIZED (SELECT _question, _n, {', '.join(f'{v} AS {quote(k)}' for k, v in made.items())} "
            f"FROM (SELECT * FROM {self._rows(column('_question', Integer))} ORDER BY _n) AS given), "
            "stored AS (INSERT INTO idempotency_keys (caller, key, fingerprint, rows) "
            "SELECT _caller, _key, _fingerprint, (SELECT jsonb_agg(to_jsonb(made.*) - '_question' - '_n' ORDER BY _n) "
            "FROM made WHERE made._question = keys._question) FROM keys ORDER BY _caller, _key "
            "ON CONFLICT (caller, key) DO NOTHING RETURNING caller AS _caller, key AS _key), "
            f"new AS (INSERT INTO {self._name} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM made "
            "JOIN keys USING (_question) JOIN stored USING (_caller, _key) ORDER BY _n RETURNING *) "
            f"SELECT _question, {', '.join(f'new.{quote(known.name)}' for known in self._table.c)} "
            "FROM new JOIN made USING (id) ORDER BY _n"
        )
        return self._bound(statement).columns(column(QUESTION, Integer), *self._table.c)

    def _replay(self) -> TextualSelect:
        """Read the stored rows of keys, and whether the keys are those of the same requests and still hold.

        A column that was added since has its default.
        """
        defaults = ", ".join(f"'{known.name}', {_default(known)}" for known in self._defaults())
        statement = (
            "SELECT _question, stored.fingerprint = _fingerprint AS is_same_request, "  # noqa: S608
            "stored.created_at < now() - interval '24 hours' AS has_expired, "
            f"{', '.join(f'first.{quote(known.name)}' for known in self._table.c)} "
            f"FROM {_KEYS} JOIN idempotency_keys AS stored ON stored.caller = _caller AND stored.key = _key "
            "LEFT JOIN LATERAL jsonb_array_elements(CASE WHEN stored.fingerprint = _fingerprint THEN stored.rows "
            "ELSE '[]' END) WITH ORDINALITY AS element(value, n) ON true "
            f"LEFT JOIN LATERAL jsonb_populate_record(NULL::{self._name}, jsonb_build_object({defaults}) || "
            "element.value) AS first ON true ORDER BY _question, element.n"
        )
        return text(statement).columns(
            column(QUESTION), column("is_same_request"), column("has_expired"), *self._table.c
        )

    def _rows(self, *more: ColumnElement[Any]) -> str:
        """Write rows of arrays, numbered by `_n` in the order given."""
        columns = [*self._given, *more]
        arrays = ", ".join(f"CAST(:{known.name}_values AS {type_of(known)}[])" for known in columns)
        return f"unnest({arrays}) WITH ORDINALITY AS given({', '.join(quote(c.name) for c in columns)}, _n)"

    def _bound(self, statement: str) -> TextClause:
        return text(statement).bindparams(
            *(bindparam(f"{given.name}_values", type_=ARRAY(given.type)) for given in self._given)
        )

    def _defaults(self) -> list[Column[Any]]:
        given = {"id", *(given.name for given in self._given)}
        return [
            known
            for known in self._table.c
            if known.name not in given and known.server_default is not None and not isinstance(known.computed, Computed)
        ]


def type_of(known: ColumnElement[Any]) -> str:
    """Write a type as a cast has it: without collation, and without a length, to which a cast would cut."""
    written = re.sub(r" COLLATE .*", "", known.type.compile(dialect=_dialect))
    return re.sub(r"^CHAR\(\d+\)", "BPCHAR", re.sub(r"^VARCHAR\(\d+\)", "VARCHAR", written))


def _value(given: Column[Any]) -> str:
    """Write a given value; one that is missing where the column wants one is its default."""
    name = f"given.{quote(given.name)}"
    return name if given.nullable or given.server_default is None else f"coalesce({name}, {_default(given)})"


def _default(known: Column[Any]) -> str:
    default: Any = getattr(known.server_default, "arg", None)
    if isinstance(default, str):
        return "'{}'".format(default.replace("'", "''"))
    return str(default.compile(dialect=_dialect))
