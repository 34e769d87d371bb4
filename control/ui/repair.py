"""What to do about a certificate that is refused: the steps of an explanation with the failed one,
and for each cure that the page can carry out a button with everything filled in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from flask import Blueprint, request, url_for

from control.domain.effects import bound
from control.errors import invalid, missing
from control.pki.pem import split_pem
from control.policy import bindings, core
from control.ui import changes
from control.ui.ask import answer, ask, may
from control.ui.changes import Change, Item
from control.ui.fields import is_number
from control.ui.users import KIND, named

blueprint = Blueprint("repair", __name__, url_prefix="/ui/repair")
NEAR = 0.9  # of two texts: how much of them is the same
FACTS = ("subject ", "its RDN ", "its SAN", "without a subject", "path: ", "by the `")
NEAREST = "nearest: "
UNKNOWN = ("issued by (empty)", "1970-01-01T00:00:00Z")  # what a log entry does not have


@dataclass(frozen=True)
class Steps:
    """Of an explanation: what was read, what was passed, what failed, and what is said about it."""

    facts: Sequence[str]
    passed: Sequence[str]
    failed: str
    advice: Sequence[str]


@dataclass(frozen=True)
class Cure:
    """A button or, without `sent`, a link. `hint` says what it does."""

    label: str
    address: str
    hint: str = ""
    sent: Mapping[str, str] = field(default_factory=dict)


def steps(told: Mapping[str, Any]) -> Steps:
    facts, passed, advice = list[str](), list[str](), list[str]()
    failed = ""
    for one in told["trace"]:
        if one.startswith(f"{told['reason']}: "):
            failed = one.removeprefix(f"{told['reason']}: ")
        elif failed:
            advice.append(one)
        elif not one.startswith((*FACTS, "on ", "the TLS handshake")):
            passed.append(one)
        elif not any(part in one for part in UNKNOWN):
            facts.append(one)
    return Steps(facts, passed, failed, advice)


# ---- Cures ---------------------------------------------------------------------------------------


def cures(body: Mapping[str, Any], told: Mapping[str, Any], uid: int | None) -> Iterator[Cure]:
    """What helps where this explanation is of a refusal, on the database `uid` or here."""
    leaf = leaf_of(body, told)
    if told["action"] != "refuse" or leaf is None:
        return
    reason = told["reason"]
    if reason == "no_binding":
        yield from of_nobody(leaf, told)
    elif reason == "untrusted_issuer":
        yield from of_strangers(body)
    elif reason == "revoked":
        yield from of_revoked(leaf)
    elif reason in ("expired", "lifetime", "required_eku", "key_usage", "key_too_small"):
        yield from of_unfit(leaf, told)
    if reason in PLACES and uid and may("view_all_bdbs_info"):
        label, hint = PLACES[reason]
        yield Cure(label, f"/ui/databases/{uid}", hint)
    elif reason in ("conflict", "address") and (user := user_of(told)):
        yield Cure(f"Change the user {user['name']}", f"/ui/users/{user['uid']}#edit")


PLACES = {
    "gate": ("Look at who is listed", "The database admits listed subjects only."),
    "lifetime": ("Look at the demands", "What the database demands of certificates."),
    "user_missing": ("Look at the servers", "A user is not on this server (yet)."),
    "user_off": ("Look at the servers", "A server has refused the user's rights."),
}


@dataclass(frozen=True)
class Leaf:
    """As far as it is known."""

    subject: str
    serial: str
    cert: str
    key: str
    sans: Sequence[str]

    @property
    def line(self) -> str:
        """An identity that names it: by its subject, else by its SAN, else by its key."""
        if self.subject and core.common_names(self.subject):
            return bindings.written({"subject": self.subject})
        for san in self.sans:
            kind, _, value = san.partition(":")
            if value and kind != "...":
                return bindings.written({kind: value})
        return bindings.written({"subject": self.subject} if self.subject else {"key": self.key})

    @property
    def name(self) -> str:
        return (*core.common_names(self.subject), "")[0]


def leaf_of(body: Mapping[str, Any], told: Mapping[str, Any]) -> Leaf | None:
    if known := body.get("known"):
        text = {name: known.get(name, "") for name in ("subject", "serial", "cert", "key")}
        return Leaf(**text, sans=known.get("sans", ()))
    if shown := told.get("certificate"):
        sans = [":".join(one) for one in shown["sans"]]
        return Leaf(shown["subject"], shown["serial"], shown["cert"], shown["key"], sans)
    return None


def of_nobody(leaf: Leaf, told: Mapping[str, Any]) -> Iterator[Cure]:
    """Whose it may be: of whom an identity is nearly this, who is called like it, and somebody
    new."""
    seen = set[str]()
    if may("update_user"):
        for line in told["trace"]:
            if line.startswith(NEAREST + "bind "):
                who, by = bound(line.removeprefix(NEAREST).partition(": the certificate has ")[0])
                user = named(who) if is_slip(by, leaf) else None
                if user:
                    seen.add(who)
                    yield Cure(
                        f"Correct {who}'s identity", "/ui/repair/identity",
                        f"{by} becomes {leaf.line}",
                        {"uid": str(user["uid"]), "old": by, "new": leaf.line},
                    )  # fmt: skip
        if leaf.name not in seen and (user := named(leaf.name)):
            yield Cure(
                f"Add it to the user {leaf.name}", "/ui/repair/identity",
                f"{leaf.line} becomes one more identity of {leaf.name}",
                {"uid": str(user["uid"]), "old": "", "new": leaf.line},
            )  # fmt: skip
    if may("create_new_user"):
        address = url_for("onboard.show", name=leaf.name, identity=leaf.line)
        yield Cure("Make a user from it", address, "With rights that you choose")


def is_slip(by: str, leaf: Leaf) -> bool:
    """Whether an identity may well be this certificate's, written wrong: the same name but for case
    and blanks, or nearly the same text of another kind. The nearest line of a policy may also be
    somebody else's, whose identity nobody is to be offered."""
    kind, _, value = by.partition(" ")
    if kind == "subject":
        theirs = (*core.common_names(value), "")[0]
        return bool(leaf.name) and plain(theirs) == plain(leaf.name)
    same = [san.partition(":")[2] for san in leaf.sans if san.startswith(f"{kind}:")]
    near = (SequenceMatcher(None, plain(value), plain(one)).ratio() for one in same)
    return max(near, default=0) >= NEAR


def plain(text: str) -> str:
    return "".join(text.split()).casefold()


def of_strangers(body: Mapping[str, Any]) -> Iterator[Cure]:
    if not may("update_cluster"):
        return
    above = [
        one for one in split_pem(body.get("certificate", "")) if core.identity(one.encode()).ca
    ]
    if above:
        yield Cure("Trust the CA that was given with it", "/ui/cas/add", "", {"pem": above[-1]})
    else:
        yield Cure(
            "Add the CA that issued it", "/ui/cas/#add",
            "Or have the client send its intermediate CAs: a file with the certificate first, and "
            "they behind it.",
        )  # fmt: skip


def of_revoked(leaf: Leaf) -> Iterator[Cure]:
    if not may("revoke_certificates") or not may("view_cluster_info"):
        return
    ends = (f" {leaf.serial}", f" {leaf.key}", f" {leaf.cert}")
    for one in ask("GET /v1/certauth/revocations"):
        if one["line"].endswith(ends):
            yield Cure(
                "Take the revocation back", f"/ui/certificates/revocations/{one['uid']}/restore",
                f"Revoked at {one['time']}: {one['reason']}", {"sure": "on"},
            )  # fmt: skip


def of_unfit(leaf: Leaf, told: Mapping[str, Any]) -> Iterator[Cure]:
    user = user_of(told) or named(leaf.name)
    if user and may("update_user"):
        address = f"/ui/certificates/?for={user['name']}#issue"
        yield Cure(f"Issue {user['name']} another one", address, "From a CSR of the client's key")


def user_of(told: Mapping[str, Any]) -> Item | None:
    line = told.get("line") or ""
    return named(bound(line)[0]) if line.startswith("bind ") else None


@blueprint.post("/identity")
def identity() -> Any:
    """Another identity of a user, in place of an old one or beside them all."""
    uid, old, new = (request.form.get(name, "") for name in ("uid", "old", "new"))
    if not is_number(uid):
        raise invalid("invalid_param", "which user?")
    now = answer(f"GET /v1/users/{uid}")
    user, wanted = now.content, bindings.typed(new)
    there: list[Item] = user["certificate_identities"]
    if old and not any(is_that(one, old) for one in there):
        raise missing(f"identity '{old}' of {user['name']}")
    kept = [{**options(one), **wanted} if is_that(one, old) else one for one in there]
    body: Item = {"certificate_identities": kept if old else [*kept, wanted]}
    change = Change(
        "PUT", f"/v1/users/{uid}", body, f"Change the user {user['name']}",
        f"The user {user['name']} was changed.", f"/ui/users/{uid}", now.etag,
        name=user["name"], was=user, fields=KIND.fields,
    )  # fmt: skip
    carried = {"uid": uid, "old": old, "new": new}
    return changes.run(change, carried, lambda _: f"/ui/users/{uid}")


def is_that(one: Mapping[str, Any], old: str) -> bool:
    kind, _, value = old.partition(" ")
    return bool(old) and bindings.kind_of(one) == kind and bindings.value_of(one) == value


def options(one: Mapping[str, Any]) -> Item:
    """What an identity says beside its value: where from, how long."""
    return {name: said for name, said in one.items() if name != bindings.kind_of(one)}
