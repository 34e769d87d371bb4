"""`certificate_identities`: what a certificate must have to be a user."""

from functools import partial
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from control.api.models import Body
from control.api.web import in_field, store, warn
from control.errors import invalid
from control.policy import bindings, core, pasted
from control.records import Binding

Text = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Session = Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]{0,8}[smhd])?$")]


class OidBody(Body):
    oid: Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9.-]+$")]
    value: Text


class IdentityBody(Body):
    """One of the kinds, and what else a certificate must fulfil to be the user by it."""

    subject: Text = ""
    cn: Text = ""
    uri: Text = ""
    dns: Text = ""
    email: Text = ""
    ip: Text = ""
    upn: Text = ""
    key: Text = ""
    cert: Text = ""
    attributes: Text = ""
    attribute: OidBody | None = None
    extension: OidBody | None = None
    ca: Annotated[str, StringConstraints(max_length=1024)] = ""
    from_: Annotated[list[Text], Field(alias="from", max_length=64)] = []
    session: Session = ""
    shared: bool = False
    comment: Annotated[str, StringConstraints(max_length=255)] = ""

    def said(self) -> dict[str, Any]:
        """The fields that the request has, by their names there."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def identities(sent: list[IdentityBody], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record that hold these identities. Raises Refusal 400, also where they and a
    subject line beside them do not say the same."""
    found = [
        in_field(f"certificate_identities.{at}", partial(read_identity, one))
        for at, one in enumerate(sent)
    ]
    for one, other in combinations(found, 2):
        if bindings.is_same(one, other):
            raise invalid(
                "invalid_param", f"certificate_identities: {one.kind} '{one.value}' is there twice"
            )
    line, others = bindings.parted(found)
    subjects = {one.value for one in found if one.kind == "subject"}
    if changes.get("certificate_subject_line", line) not in subjects | {line}:
        raise invalid(
            "invalid_param",
            "certificate_subject_line: certificate_identities does not contain this subject: "
            "send one of the two fields, or the same subject in both",
        )
    for at, given in enumerate(sent):
        if given.subject and (remark := pasted.name(given.subject).remark):
            warn(f"certificate_identities.{at}: {remark}")
    for one in found:
        if doubt := bindings.doubt(one):
            warn(doubt)
    return {"certificate_subject_line": line, "bindings": others}


def read_identity(sent: IdentityBody) -> Binding:
    """The binding of a body. Raises ValueError."""
    said = sent.said()
    if said.get("ca"):
        said["ca"] = ca_named(said["ca"])
    return bindings.read(said)


def ca_named(text: str) -> str:
    """The key id of the trusted CA that has this name, SHA-256 or key id. Raises ValueError."""
    return bindings.ca_among(text, [core.identity(der) for der in store().settings.authorities()])
