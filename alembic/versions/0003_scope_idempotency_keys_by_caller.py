"""Scope idempotency keys by their caller.

Revision ID: 0003
Revises: 0002

Safe online? The column has a constant default, so the table is not rewritten, and the old version, which does not name
it, stores keys without a caller, as before. The new index is built concurrently; only replacing the primary key takes a
lock, for a moment. The new key has the old name, which the old version uses.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE idempotency_keys ADD COLUMN IF NOT EXISTS caller text COLLATE \"C\" NOT NULL DEFAULT ''")
    _replace_primary_key("caller", "key")


def downgrade() -> None:
    # Callers may have used the same key; the old version knows one of each.
    op.execute("DELETE FROM idempotency_keys WHERE caller <> ''")
    _replace_primary_key("key")
    op.drop_column("idempotency_keys", "caller")


def _replace_primary_key(*columns: str) -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS new_pk_idempotency_keys")  # left by an attempt that failed
        op.create_index(
            "new_pk_idempotency_keys",
            "idempotency_keys",
            [sa.column(column) for column in columns],
            unique=True,
            postgresql_concurrently=True,
        )
    op.execute(
        # One statement puts the new key in the place of the old one.
        "-- squawk-ignore ban-drop-constraint\n"
        "ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys, "
        "ADD CONSTRAINT pk_idempotency_keys PRIMARY KEY USING INDEX new_pk_idempotency_keys"
    )
