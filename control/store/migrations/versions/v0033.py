"""Pages of a policy, in the order of who its lines are for."""

from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    op.drop_index("policy_lines_bdb", "policy_lines")
    op.create_index("policy_lines_bdb", "policy_lines", ["bdb_uid", "owner"])
