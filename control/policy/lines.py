"""From rows to policy lines. Pure: nothing is read or written here, so a preview, an explanation
and what is sent to a node come from the same functions.

A database's policy is the union of its own lines (`database_lines`), those of each certificate
user with rights on it (`user_lines`), and those of patterns (control/policy/patterns.py); no line
belongs to two of them. All lines are canonical.

* `set enforce on` where the database speaks TLS to its clients (`tls_mode` enabled), else `off`:
  without TLS there are no certificates to decide by, and `off` leaves every user alone. The way
  there may lead over `enforcement`: `shadow` only records what would be, `leave` logs in who has a
  certificate and leaves everybody else as it was, passwords included.
* `set unmatched leave` where the database asks for `default_user`: clients whose certificate maps
  to nobody stay the default user, as on Redis Enterprise. Otherwise they are refused.
* A user with several ACLs on a database gets each as a selector: what any one of them allows.
* Replicas, cluster nodes and Sentinels are clients of each other: see control/policy/peers.py.
"""

import base64
import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from control.policy import bindings, core, taking
from control.policy.peers import peer_lines, peers_of
from control.policy.taking import RESERVED
from control.records import Cluster, Database, Demands, PubsubDefault, Subject, Trust, User
from control.reports import ClientCertificate, Node

# What a server shows of each user that a line makes, as if it were the hash of a password: see MARK
# in module/server/server.h.
MARK = b"redis-certauth: not a password!!".hex()

NOTHING = Demands()
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}")  # any ACL user may have such a name
KEPT_RULES = 1_000  # ACLs, and combinations of them: many users have the same
RULE = re.compile(
    r"[+-]@?[\w.|-]+|~\S+|%(?:R|W|RW|WR)~\S+|&\S+|"
    r"allkeys|resetkeys|allchannels|resetchannels|allcommands|nocommands|clearselectors",
    re.IGNORECASE | re.ASCII,
)


# ---- Databases ----


def database_lines(
    database: Database, trust: Trust, nodes: Iterable[Node] = (), demands: Demands = NOTHING
) -> frozenset[str]:
    """The lines of a database that do not depend on its users. `nodes` are its servers and
    Sentinels, as far as they are known; `demands` are the cluster's."""
    on = "shadow" if database.enforcement == "shadow" else "on"
    leave = database.default_user or database.enforcement == "leave"
    lines = [
        f"set enforce {on if database.tls_mode == 'enabled' else 'off'}",
        f"set gate {database.client_cert_subject_validation_type}",
        f"set unmatched {'leave' if leave else 'refuse'}",
    ]
    if database.enforcement == "leave":
        lines.append("set password-auth allow")
    if database.tls_mode == "enabled":
        required = database.enforce_client_authentication == "enabled"
        lines.append(f"set tls-client-auth {'yes' if required else 'optional'}")
    if database.allow_trust_on_internal_links:
        lines.append("set internal-trust allow")
    if not database.default_user:
        lines.append("user default adopt off")
    lines += demand_lines(database.demands.over(demands))
    lines += peer_lines(peers_of(nodes, database.node_keys))
    return _canonical([*lines, *_gate(database.authorized_subjects), *trust_lines(trust)])


def user_lines(
    user: User,
    acls: Sequence[str],
    adopt: bool = False,
    others: Iterable[User] = (),
    known: Container[str] = (),
) -> frozenset[str]:
    """The lines of one user on one database, where its roles are given `acls`; none without a
    certificate or without an ACL, nor for a name from before `check_name` refused it: the lines of
    all others must not wait for it. `adopt`: also where the server has a user of that name.
    `others` are those with rights there who share an identity with this user: the line of a shared
    identity belongs to the first of them. `known` are canonical lines, which need no parsing."""
    if user.auth_method != "certificate" or not acls:
        return frozenset()
    taken = " adopt" if adopt else ""
    lines = []
    for binding in user.identities:
        sharing = bindings.sharing(binding, user, others)
        if sharing[0].uid == user.uid:
            lines.append(bindings.line_of(binding, [one.name for one in sharing]))
    try:
        made = _user_line(user.name, taken, tuple(acls))
        return frozenset([made, *(one if one in known else core.canonical(one) for one in lines)])
    except core.CoreError:
        if is_name(user.name):
            raise
        return frozenset()


def _user_line(name: str, taken: str, acls: tuple[str, ...]) -> str:
    if PLAIN_NAME.fullmatch(name):
        return f"user {name}{taken} {_canonical_rules(acls)}"
    return core.canonical(f"user {core.quote(name)}{taken} on {_joined_rules(acls)}")


@lru_cache(KEPT_RULES)
def _canonical_rules(acls: tuple[str, ...]) -> str:
    return rules_of(core.canonical(f"user x on {_joined_rules(acls)}"))


def joined_rules(acls: Sequence[str]) -> str:
    """The rules of who has these ACLs: what any one of them allows."""
    return _joined_rules(tuple(acls))


@lru_cache(KEPT_RULES)
def _joined_rules(acls: tuple[str, ...]) -> str:
    different = list(dict.fromkeys(" ".join(acl.split()) for acl in acls))
    if len(different) == 1:
        rules = split_acl(different[0])
    else:
        rules = [rule for acl in different for rule in _selectors(split_acl(acl))]
    return " ".join(core.quote(rule) for rule in rules)


@lru_cache(KEPT_RULES)
def with_channels(acl: str, default: PubsubDefault) -> str:
    """An ACL's text with the channels that it has by the cluster's `acl_pubsub_default`: all, where
    that says so and the ACL names none. One that names any, or resets them, keeps to what it says;
    so does each selector, which the server begins again."""
    if default == "resetchannels":
        return acl
    rules = words(acl)
    own = [rule for rule in rules if not _special(rule)]
    rules = [_with_all(rule) if rule.startswith("(") else rule for rule in rules]
    return " ".join([*rules, *(["&*"] if own and not any(map(_of_channels, own)) else [])])


def _with_all(selector: str) -> str:
    inner = selector[1:-1].split()
    return selector if any(map(_of_channels, inner)) else f"({' '.join([*inner, '&*'])})"


def _of_channels(rule: str) -> bool:
    return rule.startswith("&") or rule.lower() in ("allchannels", "resetchannels")


def _selectors(rules: Sequence[str]) -> list[str]:
    """An ACL as selectors: its own rules as one, and the selectors that it already has."""
    own = " ".join(rule for rule in rules if not _special(rule))
    return ([f"({own})"] if own else []) + [rule for rule in rules if rule.startswith("(")]


def _special(rule: str) -> bool:
    return rule.startswith("(") or rule.lower() == "clearselectors"


def split_acl(text: str) -> list[str]:
    """The rules of a Redis ACL's text, a selector being one rule. Raises ValueError naming the rule
    that an ACL cannot hold: an ACL says what may be done, never how one logs in."""
    rules: list[str] = []
    for part in words(text):
        if part.startswith("(") and part.endswith(")"):
            inner = [_checked(rule) for rule in part[1:-1].split()]
            if any(_special(rule) for rule in inner) or not inner:
                raise ValueError(
                    f"'{_shown(part)}' is not a selector: it holds rules, and no other selector"
                )
            rules.append(f"({' '.join(inner)})")
        else:
            rules.append(_checked(part))
    if not rules:
        raise ValueError("it contains no rule")
    return rules


def words(text: str) -> list[str]:
    """A selector, with the blanks in it, is one."""
    return re.findall(r"\([^()]*\)|\S+", text)


def _shown(rule: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in rule)[:80]


def _checked(rule: str) -> str:
    if not RULE.fullmatch(rule) or "(" in rule or ")" in rule or not rule.isprintable():
        raise ValueError(
            f"'{_shown(rule)}' is not a rule of an ACL: those are +command, -command, +@category, "
            "-@category, ~key, %R~key, %W~key, %RW~key, &channel, resetchannels, (selector), "
            "clearselectors"
        )
    return rule


# ---- The REST API ----


def rest_lines(cluster: Cluster, trust: Trust, users: Iterable[User]) -> frozenset[str]:
    """The REST API's own policy, as far as it concerns one client: `users` are those who have an
    identity that the client's certificate may have (see bindings.of_certificate). Other users'
    lines could not change what is decided, nor the hint that goes with it. Names are uids."""
    lines = [
        "set enforce on",
        f"set gate {cluster.mtls_client_cert_subject_validation_type}",
        *_gate(cluster.mtls_authorized_subjects),
        *demand_lines(replace(cluster.demands, min_tls_version=None)),
        *trust_lines(trust),
        *removed_lines(trust),
    ]
    users = list(users)
    for user in users:
        for binding in user.identities:
            sharing = bindings.sharing(binding, user, users)
            lines.append(bindings.line_of(binding, [str(one.uid) for one in sharing]))
    return _canonical(lines)


# ---- Parts of both ----


SETTINGS = {  # of Demands, in policy lines
    "max_certificate_lifetime": "max-lifetime",
    "required_extended_key_usages": "require-eku",
    "required_certificate_policies": "require-policy",
    "min_key_bits": "min-key-bits",
    "min_tls_version": "min-tls",
    "several_names": "several-names",
}


def demand_lines(demands: Demands) -> list[str]:
    """Raises core.CoreError."""
    return [line for name in SETTINGS if (line := demand_line(name, getattr(demands, name)))]


def demand_line(name: str, value: int | str | Sequence[str] | None) -> str:
    """The canonical line of a field of Demands; "" where it demands nothing. Raises
    core.CoreError."""
    if not value or value == "refuse":
        return ""
    text = str(value) if isinstance(value, int | str) else ",".join(value)
    unit = "s" if name == "max_certificate_lifetime" else ""
    return core.canonical(f"set {SETTINGS[name]} {text}{unit}")


def check_user(user: User) -> None:
    """Raises core.CoreError where the name of a certificate user can be no ACL user's, or is one
    that something else on a node has: binding a certificate to it would hand over its rights."""
    check_name(user.name)
    user_lines(user, ["-@all"])


def check_name(name: str) -> None:
    """Raises core.CoreError where no certificate user can have this name, see `check_user`."""
    if name == "default":
        raise core.CoreError(
            "'default' is the user of clients without a certificate: choose another name"
        )
    if name.lower().startswith(RESERVED):
        raise core.CoreError(f"names that start with '{RESERVED}' are reserved for this product")
    core.canonical(f"user {core.quote(name)}")


def is_name(name: str) -> bool:
    """Whether `check_name` takes it."""
    try:
        check_name(name)
    except core.CoreError:
        return False
    return True


def check_acl(text: str) -> None:
    """Raises ValueError, or core.CoreError, where the text is not an ACL."""
    acl_rules(text)


def acl_rules(text: str) -> str:
    """An ACL as the `user` lines of those who have it and no other one end: `on`, and its rules.
    Raises ValueError, core.CoreError."""
    return rules_of(core.canonical(f"user x on {joined_rules([text])}"))


def rules_of(line: str) -> str:
    """The end of a canonical `user` line of a certificate user, or of a `pattern` line, from `on`;
    "" of a pattern that names a user."""
    if line.startswith("pattern "):
        return " ".join(taking.pattern_rules(line))
    _, _, rest = line.partition(" ")
    name = taking.user_of(line)
    return rest.removeprefix(f"{name} ").removeprefix("adopt ")


def check_gate(subjects: Iterable[Subject]) -> None:
    """Raises core.CoreError where an entry can fit no certificate that is let in."""
    _canonical(_gate(subjects))


def _gate(subjects: Iterable[Subject]) -> list[str]:
    return [
        " ".join(
            ["allow", *(f"{kind}={core.quote(value)}" for kind, value in _attributes(subject))]
        )
        for subject in subjects
    ]


def _attributes(subject: Subject) -> list[tuple[str, str]]:
    pairs = [("CN", subject.CN), *(("OU", unit) for unit in subject.OU)]
    pairs += [("O", subject.O), ("L", subject.L), ("ST", subject.ST), ("C", subject.C)]
    return [(kind, value) for kind, value in pairs if value]


def trust_lines(trust: Trust) -> list[str]:
    """The lines that admit leaves of these CAs, and the pinned certificates."""
    return [
        f"{word} {base64.b64encode(der).decode()}"
        for word, ders in (("ca", trust.cas), ("anchor", trust.anchors), ("pin", trust.pins))
        for der in ders
    ]


def removed_lines(trust: Trust) -> list[str]:
    """The lines that refuse the CAs that were taken away, no matter what is above them."""
    return [f"revoke key {key}" for key in trust.removed]


def _canonical(lines: Iterable[str]) -> frozenset[str]:
    return frozenset(core.canonical(line) for line in lines)


# ---- Revocations ----


def key_ids(trust: Trust) -> frozenset[str]:
    """Of the CAs that are trusted, anchors included."""
    return frozenset(core.identity(der).key for der in (*trust.cas, *trust.anchors))


def revocations_of(
    presented: bytes, trusted: Sequence[tuple[bytes, core.Identity]]
) -> tuple[str, ...]:
    """Every line that would revoke a client's certificate or one of those above it. `presented` is
    PEM, the leaf first; `trusted` are the CAs, with their DER. Raises core.CoreError."""
    shown = core.identities(presented)
    found = [*shown, *(one for _, one in trusted)]
    issuers = {one.issuer for one in shown}
    above = [der for der, one in trusted if one.subject in issuers]
    lines = [f"revoke cert {one.cert}" for one in found]
    lines += [f"revoke cert {other}" for other in core.signed_as(presented, above)]
    lines += [f"revoke key {one.key}" for one in found]
    lines += [
        f"revoke serial {issuer.key} {one.serial}"
        for one in found
        for issuer in found
        if one.issuer == issuer.subject
    ]
    return tuple(dict.fromkeys(lines))


def revoke_lines(one: ClientCertificate) -> list[str]:
    """Every line that would revoke this certificate itself."""
    serial = f"revoke serial {one.ca} {one.serial}"
    return [serial, f"revoke cert {one.cert}", f"revoke key {one.key}"]


# ---- The digest, kept up to date line by line ----


def digest_of(before: str, added: Iterable[str], removed: Iterable[str]) -> str:
    """The digest of a policy after a change, from the one before it: "" for none. What
    core.digest says of the whole set, in time that does not depend on the set's size."""
    count, total = (int(before.split(":")[0]), int(before.split(":")[1], 16)) if before else (0, 0)
    for sign, lines in ((1, added), (-1, removed)):
        for line in lines:
            count += sign
            total += sign * int.from_bytes(hashlib.sha256(line.encode()).digest(), "big")
    return f"{count}:{total % 2**256:064x}"
