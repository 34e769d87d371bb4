"""What all tables are made of: their metadata, and columns, none of which is ever NULL."""

from typing import Any, get_origin

import sqlalchemy as sa
from pydantic import TypeAdapter


class Json(sa.types.TypeDecorator[Any]):
    """Frozen records in a text column, as JSON; reading validates them into records again."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self._empty: Any = () if get_origin(kind) is tuple else None

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        """A record or tuple of records as JSON, for SQLAlchemy."""
        return self._adapter.dump_json(value).decode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """The record of a row; raises pydantic's ValidationError where JSON is not of its type."""
        if value == "[]" and self._empty == ():  # most, of many users
            return self._empty
        return self._adapter.validate_json(value)


metadata = sa.MetaData()


def table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    """A table of `metadata`, by which schema.py declares it."""
    return sa.Table(name, metadata, *parts)


def text(name: str) -> "sa.Column[Any]":
    """A string; "" where there is none."""
    return sa.Column(name, sa.Text, nullable=False)


def number(name: str, *parts: Any, **options: Any) -> "sa.Column[Any]":
    """An integer of 64 bits, such as microseconds since 1970; `parts` and `options` as sa.Column
    takes them."""
    return sa.Column(name, sa.BigInteger, *parts, nullable=False, **options)


def flag(name: str) -> "sa.Column[Any]":
    """True or false."""
    return sa.Column(name, sa.Boolean, nullable=False)


def json(name: str, kind: Any) -> "sa.Column[Any]":
    """A value of type `kind`, a record or a tuple of records."""
    return sa.Column(name, Json(kind), nullable=False)


def uid() -> "sa.Column[Any]":
    """The key of a table of objects, which the store counts itself: uids are never given twice."""
    return number("uid", primary_key=True, autoincrement=False)


def row_id() -> "sa.Column[Any]":
    """A key that the database counts. SQLite does that only for INTEGER, which has 64 bits
    there."""
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def of(column: str, name: str, on_delete: str) -> "sa.Column[Any]":
    """The number of a row elsewhere (`column`: TABLE.COLUMN); `on_delete` (CASCADE, RESTRICT) is
    what happens here when that row goes."""
    return number(name, sa.ForeignKey(column, ondelete=on_delete))


def unique_unless_empty(name: str, column: str) -> sa.Index:
    """An index by which no two rows have the same text in `column`, but "" as often as they
    like."""
    filled = sa.text(f"{column} <> ''")
    return sa.Index(name, column, unique=True, sqlite_where=filled, postgresql_where=filled)
