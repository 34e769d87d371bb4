"""By what lists are sorted. Each column of a table that may be long has an index, in both
directions with the key behind it, so that a page costs the same wherever it is."""

from collections.abc import Mapping

import sqlalchemy as sa

from control.records import (
    Database,
    Issuer,
    Pattern,
    Profile,
    RedisAcl,
    Responder,
    Role,
    TrustSource,
    User,
)
from control.store.schema import Kind, client_certificates

SORTS: Mapping[Kind, tuple[str, ...]] = {
    User: ("uid", "name", "auth_method", "last_login"),
    Role: ("uid", "name", "management"),
    RedisAcl: ("uid", "name"),
    Database: ("uid", "name"),
    Pattern: ("uid", "name", "kind", "user"),
    Issuer: ("uid", "name"),
    TrustSource: ("uid", "name"),
    Responder: ("uid", "name"),
    Profile: ("uid", "name", "lifetime"),
}
CERTIFICATE_SORTS = ("not_after", "subject", "user", "last_login")


def order_of(table: sa.Table, sort: str) -> list[sa.ColumnElement[object]]:
    """`sort` is a column, with "-" before it where the greatest comes first; rows that are alike
    in it come by their key, so that no page has a row twice."""
    name = sort.removeprefix("-")
    columns = [table.c[name], *(one for one in table.primary_key if one.name != name)]
    if table is client_certificates and name == "user":
        columns.insert(1, table.c.not_after)  # as its index has it
    return [one.desc() if sort.startswith("-") else one.asc() for one in columns]
