"""What CA certificates are for is stored beside them. It was read from their positions so far, and
stays that: nothing more is trusted than before, and nothing less."""

import json

import sqlalchemy as sa
from alembic import op

from control import records
from control.pki import trust

revision = "0009"
down_revision = "0008"

NOTHING = json.dumps({"anchors": [], "removed": []})


def upgrade() -> None:
    for table, column in (("certificates", "uses"), ("bdbs", "client_ca_uses")):
        added = sa.Column(column, sa.Text, nullable=False, server_default=NOTHING)
        op.add_column(table, added)
    connection = op.get_bind()
    named = sa.text("SELECT name, certificate FROM certificates WHERE name = 'mtls_trusted_ca'")
    for name, pem in connection.execute(named).all():
        put = sa.text("UPDATE certificates SET uses = :uses WHERE name = :name")
        connection.execute(put, {"uses": by_position(pem), "name": name})
    own = sa.text("SELECT uid, authentication_ssl_client_certs FROM bdbs")
    for uid, pems in connection.execute(own).all():
        put = sa.text("UPDATE bdbs SET client_ca_uses = :uses WHERE uid = :uid")
        connection.execute(put, {"uses": by_position("".join(json.loads(pems))), "uid": uid})


def by_position(pem: str) -> str:
    uses = trust.settled(records.Trust(), pem)
    return json.dumps({"anchors": list(uses.anchors), "removed": []})
