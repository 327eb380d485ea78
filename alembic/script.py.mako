"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

Safe online? The old version of the service runs while this migrates, and after it (docs/operations.md, "Migrations").
Expand first, contract in a later release. An index on a table that exists is created concurrently:

    with op.get_context().autocommit_block():
        op.create_index(..., postgresql_concurrently=True, if_not_exists=True)
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
