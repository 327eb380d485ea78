"""Create items.

Revision ID: 0001
Revises:

Safe online? It creates a new, unused table, so its indexes need not be created concurrently.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("price", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 255", name=op.f("ck_items_name_length")),
        sa.CheckConstraint("price > 0 AND price <> 'NaN'", name=op.f("ck_items_price_positive")),
        sa.CheckConstraint("char_length(description) <= 10000", name=op.f("ck_items_description_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    for column in ("name", "price", "created_at"):
        op.create_index(op.f(f"ix_items_{column}_id"), "items", [column, "id"])


def downgrade() -> None:
    op.drop_table("items")
