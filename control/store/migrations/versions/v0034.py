"""Indexes by which the long lists are sorted: users and certificates."""

from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    op.create_index("users_method", "users", ["auth_method", "uid"])
    op.create_index("users_last_login", "users", ["last_login", "uid"])
    op.drop_index("client_certificates_user", "client_certificates")
    op.drop_index("client_certificates_end", "client_certificates")
    for name, *columns in (
        ("user", "user", "not_after", "cert"),
        ("end", "not_after", "cert"),
        ("subject", "subject", "cert"),
        ("login", "last_login", "cert"),
    ):
        op.create_index(f"client_certificates_{name}", "client_certificates", columns)
