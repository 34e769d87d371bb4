"""The tables of what is asked elsewhere: issuers, their keys, tokens that were used, CAs that are
followed, and OCSP responders."""

import sqlalchemy as sa

from control.records import EnrolmentRule, TokenAlgorithm
from control.store.columns import flag, json, number, of, table, text, uid, unique_unless_empty

issuers = table(
    "issuers",
    uid(),
    text("name"),
    text("url"),
    json("audiences", tuple[str, ...]),
    json("algorithms", tuple[TokenAlgorithm, ...]),
    number("clock_skew"),
    text("jwks"),
    text("jwks_url"),
    text("ca"),
    number("interval"),
    json("rules", tuple[EnrolmentRule, ...]),
    text("manufacturer_ca"),
    flag("renewable"),
    sa.UniqueConstraint("name"),
    unique_unless_empty("issuers_url", "url"),
)
issuer_keys = table(
    "issuer_keys",
    number(
        "issuer_uid",
        sa.ForeignKey("issuers.uid", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    text("jwks"),
    number("fetched"),
    number("tried"),
    text("problem"),
)
trust_sources = table(
    "trust_sources",
    uid(),
    text("name"),
    text("location"),
    number("bdb_uid"),
    text("ca"),
    number("interval"),
    number("most"),
    sa.UniqueConstraint("name"),
)
trust_states = table(
    "trust_states",
    number(
        "source_uid",
        sa.ForeignKey("trust_sources.uid", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    json("given", tuple[str, ...]),
    number("sequence"),
    number("hint"),
    number("fetched"),
    number("tried"),
    text("problem"),
    text("pending"),
)
# Tokens that were used, each with the key that it was used for, until they end.
enrolments = table(
    "enrolments",
    sa.Column("digest", sa.Text, primary_key=True),
    number("expires"),
    sa.Index("enrolments_end", "expires"),
)
responders = table(
    "responders",
    uid(),
    text("name"),
    text("ca"),
    text("url"),
    number("interval"),
    text("stale"),
    flag("nonce"),
    sa.UniqueConstraint("name"),
    sa.UniqueConstraint("ca"),
)
ocsp_answers = table(
    "ocsp_answers",
    of("responders.uid", "responder_uid", "CASCADE"),
    text("serial"),
    number("ends"),
    text("status"),
    number("this_update"),
    number("next_update"),
    number("asked"),
    number("due"),
    text("problem"),
    flag("overdue"),
    sa.PrimaryKeyConstraint("responder_uid", "serial"),
)
