"""EST: issuers of birth certificates have no `url`; certificates say by which issuer they came."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    """SQLite cannot drop a constraint, so both tables are made again; the keys go first, or they
    would go with their issuers."""
    connection = op.get_bind()
    issuers = _rows(connection, "issuers")
    keys = _rows(connection, "issuer_keys")
    op.drop_table("issuer_keys")
    op.drop_table("issuers")
    made = _issuers()
    new = {"manufacturer_ca": "", "renewable": False}
    op.bulk_insert(made, [{**row, **new} for row in issuers])
    op.bulk_insert(_issuer_keys(), keys)
    came = sa.Column("enrolled_by", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("client_certificates", came)


def _rows(connection: sa.Connection, name: str) -> list[dict[str, object]]:
    found = connection.execute(sa.select(sa.text("*")).select_from(sa.table(name)))
    return [dict(row._mapping) for row in found]


def _issuers() -> sa.Table:
    made = op.create_table(
        "issuers",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("audiences", sa.Text, nullable=False),
        sa.Column("algorithms", sa.Text, nullable=False),
        sa.Column("clock_skew", sa.BigInteger, nullable=False),
        sa.Column("jwks", sa.Text, nullable=False),
        sa.Column("jwks_url", sa.Text, nullable=False),
        sa.Column("ca", sa.Text, nullable=False),
        sa.Column("interval", sa.BigInteger, nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("manufacturer_ca", sa.Text, nullable=False),
        sa.Column("renewable", sa.Boolean, nullable=False),
    )
    filled = sa.text("url <> ''")
    op.create_index(
        "issuers_url",
        "issuers",
        ["url"],
        unique=True,
        sqlite_where=filled,
        postgresql_where=filled,
    )
    return made


def _issuer_keys() -> sa.Table:
    return op.create_table(
        "issuer_keys",
        sa.Column(
            "issuer_uid",
            sa.BigInteger,
            sa.ForeignKey("issuers.uid", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("jwks", sa.Text, nullable=False),
        sa.Column("fetched", sa.BigInteger, nullable=False),
        sa.Column("tried", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
    )
