"""A change of a row changes its version, whatever makes it.

Revision ID: 0004
Revises: 0003

Safe online? Creating a trigger takes a short lock that does not block reads. The old version sets both columns to the
same values as the trigger.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        "CREATE FUNCTION set_next_version() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN NEW.version := OLD.version + 1; NEW.updated_at := now(); RETURN NEW; END $$"
    )
    # items: begin (the trigger)
    op.execute("CREATE TRIGGER next_version BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION set_next_version()")
    # items: end (the trigger)


def downgrade() -> None:
    # items: begin (the trigger)
    op.execute("DROP TRIGGER next_version ON items")
    # items: end (the trigger)
    op.execute("DROP FUNCTION set_next_version()")
