"""The fields of forms: how a value of the API looks in one, and what a form means by it."""

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.datastructures import MultiDict

from control.errors import invalid
from control.pki.pem import split_pem
from control.pki.reading import as_text
from control.policy import bindings, core

Form = MultiDict[str, str]
LONG = 19  # digits: no number of ours is longer, and Python reads no more than 4300
Choices = Callable[[], Iterable[tuple[str, str]]]  # values and what they are called


@dataclass(frozen=True)
class Field:
    """A text in one line; other kinds are below. `hint` stands below it."""

    name: str
    label: str
    hint: str = ""
    required: bool = False
    choices: Choices = tuple
    widget = "text"
    nullable = False  # is null something else than nothing, which is said then?

    def shown(self, value: Any) -> Any:
        """A value of the API as the form shows it."""
        return value or ""

    def typed(self, form: Form) -> Any:
        """What stands in a form that was sent, to be shown again."""
        return form.get(self.name, "")

    def read(self, form: Form) -> Any:
        """The value that a form means. Raises Refusal 400, which begins with the field's name."""
        return self.typed(form).strip()

    def posted(self, value: Any) -> list[tuple[str, str]]:
        """The form that means a value of the API."""
        return [(self.name, self.shown(value))]

    def told(self, value: Any) -> str:
        """A value of the API for who reads it."""
        named = dict(self.choices())
        found = self.shown(value)
        found = found if isinstance(found, list) else [found]
        return ", ".join(named.get(one, str(one)) for one in found)


def words(**texts: str) -> Choices:
    """The values of a field, each with what it means."""
    return lambda: texts.items()


def is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= LONG


def pasted(name: str) -> str:
    """The text of a field of this request's form or, where that is empty, of the file beside it."""
    text, file = request.form.get(name, "").strip(), request.files.get("file")
    return text or (as_text(file.read()) if file else "")


class Area(Field):
    """A text of several lines."""

    widget = "area"

    def read(self, form: Form) -> Any:
        text = super().read(form).replace("\r\n", "\n")
        return f"{text}\n" if "-----END" in text else text


class Rules(Area):
    """ACL rules: one line for Redis, as many as one likes here."""

    def read(self, form: Form) -> Any:
        return " ".join(self.typed(form).split())


class Flag(Field):
    widget = "flag"

    def told(self, value: Any) -> str:
        return "yes" if value else "no"

    def shown(self, value: Any) -> Any:
        return "on" if value else ""

    def read(self, form: Form) -> Any:
        return self.typed(form) == "on"


class Pick(Field):
    """One of the choices."""

    widget = "pick"


class Many(Field):
    """Any of the choices, which are uids."""

    widget = "many"

    def shown(self, value: Any) -> Any:
        return [str(one) for one in value or ()]

    def typed(self, form: Form) -> Any:
        return form.getlist(self.name)

    def read(self, form: Form) -> Any:
        return sorted(int(one) for one in self.typed(form) if is_number(one))

    def posted(self, value: Any) -> list[tuple[str, str]]:
        return [(self.name, one) for one in self.shown(value)]


class Several(Many):
    """Any of the choices, which are words."""

    def read(self, form: Form) -> Any:
        known = [key for key, _ in self.choices()]
        return [one for one in known if one in self.typed(form)]


class Lines(Area):
    """A list of texts, one a line."""

    def shown(self, value: Any) -> Any:
        return "\n".join(value or ())

    def read(self, form: Form) -> Any:
        return [line.strip() for line in self.typed(form).splitlines() if line.strip()]

    def told(self, value: Any) -> str:
        return ", ".join(value or ())


class Endpoints(Field):
    """A line for each server: addresses with commas and the port; then the name that it shows."""

    widget = "area"

    def shown(self, value: Any) -> Any:
        return "\n".join(map(_endpoint, value or ()))

    def read(self, form: Form) -> Any:
        lines = (line.split() for line in self.typed(form).splitlines() if line.strip())
        return [self._read(words) for words in lines]

    def _read(self, words: Sequence[str]) -> dict[str, Any]:
        hosts, _, port = words[0].rpartition(":")
        if len(words) > 2 or not (port.isascii() and port.isdecimal() and len(port) < 6):
            raise invalid("invalid_param", f"{self.name}: '{' '.join(words)}' is not a HOST:PORT")
        addresses = [host.strip("[]") for host in hosts.split(",") if host]
        return {"addr": addresses, "port": int(port), "dns_name": (*words[1:], "")[0]}


def _endpoint(value: dict[str, Any]) -> str:
    hosts = ",".join(f"[{host}]" if ":" in host else host for host in value["addr"])
    return f"{hosts}:{value['port']} {value['dns_name']}".strip()


class Grants(Field):
    """Pairs of a role and an ACL. `choices` are the roles, `others` the ACLs."""

    widget = "grants"
    others: Choices = staticmethod(tuple)

    def shown(self, value: Any) -> Any:
        return [(str(one["role_uid"]), str(one["redis_acl_uid"])) for one in value or ()]

    def typed(self, form: Form) -> Any:
        pairs = zip(form.getlist(self.name), form.getlist(f"{self.name}.acl"), strict=False)
        return [pair for pair in pairs if any(pair)]

    def read(self, form: Form) -> Any:
        pairs = self.typed(form)
        if not all(is_number(role) and is_number(acl) for role, acl in pairs):
            raise invalid("invalid_param", f"{self.name}: each row needs a role and an ACL")
        return [{"role_uid": int(role), "redis_acl_uid": int(acl)} for role, acl in pairs]

    def posted(self, value: Any) -> list[tuple[str, str]]:
        names = (self.name, f"{self.name}.acl")
        pairs = self.shown(value)
        return [(name, one) for pair in pairs for name, one in zip(names, pair, strict=True)]

    def told(self, value: Any) -> str:
        roles, acls = dict(self.choices()), dict(self.others())
        pairs = (
            f"{roles.get(role, role)}: {acls.get(acl, acl)}" for role, acl in self.shown(value)
        )
        return ", ".join(pairs)


class Certificates(Area):
    """PEM certificates, one after the other."""

    def shown(self, value: Any) -> Any:
        return "".join(one["client_cert"] for one in value or ())

    def told(self, value: Any) -> str:
        return "; ".join(map(named_certificate, split_pem(self.shown(value))))

    def read(self, form: Form) -> Any:
        text = super().read(form)
        return [{"client_cert": text}] if text else []


def named_certificate(pem: str) -> str:
    """As one compares it with what another person reads out."""
    try:
        one = core.identity(pem.encode())
    except core.CoreError as error:
        return f"a certificate that does not parse ({error})"
    return f"{one.subject or '(no subject)'} (SHA-256 {one.cert})"


class Fingerprints(Area):
    """SHA-256 of certificates, one a line, with or without colons."""

    def shown(self, value: Any) -> Any:
        return "\n".join(value or ())

    def read(self, form: Form) -> Any:
        return sorted(self.typed(form).replace(":", "").lower().split())


class Words(Field):
    """Several, with blanks or commas between them."""

    def shown(self, value: Any) -> Any:
        return " ".join(value or ())

    def read(self, form: Form) -> Any:
        return self.typed(form).replace(",", " ").split()


# ---- What is demanded of certificates: null is what the cluster demands ----

CLUSTER, ANY, NONE = "cluster", "any", "none"


class Number(Field):
    """A whole number; empty: null."""

    nullable = True

    def shown(self, value: Any) -> Any:
        return "" if value is None else str(value)

    def read(self, form: Form) -> Any:
        text = super().read(form)
        if text and not is_number(text):
            raise invalid("invalid_param", f"{self.name}: '{text}' is not a whole number")
        return int(text) if text else None


class Demand(Pick):
    """One of the choices; of these, `cluster` is null and `any` is empty."""

    nullable = True

    def shown(self, value: Any) -> Any:
        return CLUSTER if value is None else value or ANY

    def read(self, form: Form) -> Any:
        text = self.typed(form)
        return None if text in ("", CLUSTER) else "" if text == ANY else text


class Oids(Words):
    """A list; empty: null; `none`: an empty one."""

    nullable = True

    def shown(self, value: Any) -> Any:
        return NONE if value == [] else super().shown(value)

    def read(self, form: Form) -> Any:
        found = super().read(form)
        return [] if found == [NONE] else found or None


@dataclass(frozen=True)
class Held:
    """What a certificate that somebody gave holds: a line for each identity that a user could have
    by it, whether that is chosen, and what speaks against it; `wrong`: why there is none."""

    pem: str = ""
    subject: str = ""
    lines: Sequence[tuple[str, bool, str]] = ()
    wrong: str = ""


class Leaf(Field):
    """A certificate, as PEM or a file, from which identities are chosen: no field of the API. What
    is chosen of it, the field of identities reads."""

    widget = "leaf"

    def shown(self, value: Any) -> Any:
        return Held()

    def typed(self, form: Form) -> Any:
        text = form.get(self.name, "").strip()
        file = request.files.get("file")
        return held(text.encode() or (file.read() if file else b""), chosen(form))

    def read(self, form: Form) -> Any:
        return ""

    def posted(self, value: Any) -> list[tuple[str, str]]:
        return []


SEVERAL = "several of a kind in one certificate are ambiguous"


def chosen(form: Form) -> list[str]:
    """The lines of identities that were chosen of a certificate."""
    return form.getlist("certificate.by")


def held(content: bytes, chosen: Sequence[str]) -> Held:
    if not content:
        return Held()
    try:
        leaf = core.identity(content)
    except core.CoreError as error:
        return Held(content.decode(errors="replace"), wrong=str(error))
    pem = content.decode() if b"-----BEGIN" in content else ssl.DER_cert_to_PEM_cert(content)
    if leaf.refusal:
        return Held(pem, leaf.subject, wrong=f"it logs nobody in: {leaf.detail or leaf.refusal}")
    found = bindings.choices(leaf)
    kinds = [kind for kind, _ in found]
    lines = [(bindings.written({kind: value}), SEVERAL if kinds.count(kind) > 1 else "")
             for kind, value in found]  # fmt: skip
    return Held(pem, leaf.subject, [(line, line in chosen, doubt) for line, doubt in lines])


class Identities(Area):
    """A line for each, beside the subject, which is the field `subject` of the same form, and those
    that are chosen of a certificate (Leaf): what is sent is all of them."""

    subject = "certificate_subject_line"

    def shown(self, value: Any) -> Any:
        plain = next((one for one in value or () if one.keys() == {"subject"}), None)
        return "\n".join(bindings.written(one) for one in value or () if one is not plain)

    def read(self, form: Form) -> Any:
        lines = enumerate(self.typed(form).splitlines(), 1)
        found = [self._read(number, line) for number, line in lines if line.strip()]
        found += [one for one in map(bindings.typed, chosen(form)) if one not in found]
        line = form.get(self.subject, "").strip()
        there = not line or any(one.get("subject") == line for one in found)
        return found if there else [{"subject": line}, *found]

    def _read(self, number: int, line: str) -> dict[str, Any]:
        try:
            return bindings.typed(line)
        except ValueError as error:
            raise invalid("invalid_param", f"{self.name}: line {number}: {error}") from error

    def posted(self, value: Any) -> list[tuple[str, str]]:
        subjects = [one["subject"] for one in value or () if "subject" in one]
        return [(self.name, self.shown(value)), (self.subject, (*subjects, "")[0])]

    def told(self, value: Any) -> str:
        return ", ".join(map(bindings.written, value or ()))
