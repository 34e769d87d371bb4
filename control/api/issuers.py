"""/v1/certauth/enrol and /v1/certauth/issuers: certificates for the tokens of other parties, and
whose tokens these are.

Enrolling needs no login: the token is one. What a stranger may learn of it is why the token was not
taken, and nothing of what is here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api.issuing import ClientCertificateAnswer
from control.api.issuing import render as render_certificate
from control.api.models import Answer, Body, Filled, Many, ObjectName, Pem, Uid, words
from control.api.web import (
    CHANGING,
    LISTING,
    PUBLIC,
    answer,
    flag,
    found,
    guard,
    in_field,
    needs,
    store,
    unchanged,
)
from control.domain import claims, enrolment
from control.domain.metrics import ENROLMENTS
from control.errors import Refusal, forbidden, invalid, unauthorized
from control.pki import jose
from control.pki.jose import TokenError
from control.pki.uploads import check_authorities, check_trust
from control.records import EnrolmentRule, Issuer, TokenAlgorithm, rendered_time
from control.reports import IssuerKeys

Address = Annotated[str, StringConstraints(max_length=1024)]


class RuleBody(Body):
    identity: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    claims: Annotated[dict[Filled, Filled], Field(max_length=16)] = {}
    profile: ObjectName = "default"
    lifetime: Annotated[int, Field(ge=300, le=366 * 86400)] = 3600  # seconds
    every_token: bool = False


class IssuerBody(Body):
    name: ObjectName = ""
    url: Address = ""
    audiences: Annotated[Many[Filled], Field(max_length=16)] = []
    algorithms: Annotated[Many[TokenAlgorithm], Field(min_length=1)] = ["RS256", "ES256"]
    clock_skew: Annotated[int, Field(ge=0, le=enrolment.SKEW)] = 60
    jwks: Annotated[str, StringConstraints(max_length=jose.SET_BYTES)] = ""
    jwks_url: Address = ""
    ca: Pem = ""
    interval: Annotated[int, Field(ge=60, le=7 * 86400)] = 3600
    rules: Annotated[Many[RuleBody], Field(max_length=100)] = []
    manufacturer_ca: Pem = ""
    renewable: bool = False

    IGNORED = words("uid keys fetched problem")


class NewIssuerBody(IssuerBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = words("keys fetched problem")


class EnrolBody(Body):
    token: Annotated[str, StringConstraints(max_length=65536)]
    csr: Annotated[str, StringConstraints(max_length=65536)]


class RuleAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    identity: str
    claims: dict[str, str]
    profile: str
    lifetime: int
    every_token: bool


class IssuerAnswer(Answer):
    """`keys`: how many are known. `fetched`: when they were last there, "" for never. `problem`:
    why the last fetch brought none."""

    uid: int
    name: str
    url: str
    audiences: list[str]
    algorithms: list[TokenAlgorithm]
    clock_skew: int
    jwks: str
    jwks_url: str
    ca: str
    interval: int
    rules: list[RuleAnswer]
    manufacturer_ca: str
    renewable: bool
    keys: int
    fetched: str
    problem: str


blueprint = Blueprint("issuers", __name__)
FORBIDDEN = {"token_no_rule", "token_claim_value", "token_email_unverified"}  # the others are 401


# ---- Enrolling ----


@blueprint.post("/v1/certauth/enrol")
@needs(PUBLIC, takes=EnrolBody, answers=ClientCertificateAnswer, query=CHANGING)
def enrol(sent: EnrolBody) -> Response:
    """A certificate for a token. A dry run hands none out."""
    with enrolling() as came:
        token = jose.read_token(sent.token)
        came.issuer = enrolment.issuer_of(store(), token).name
        made = enrolment.enrol(
            current_app.extensions["policies"],
            guard().decide,
            current_app.extensions["authority"](),
            current_app.extensions["keys"],
            token,
            sent.csr,
        )
    return answer({**render_certificate(made), "certificate": "" if flag("dry_run") else made.pem})


@dataclass
class Came:
    """By which issuer a client came to a certificate."""

    issuer: str = ""  # by name; "": not known (yet)


@contextmanager
def enrolling() -> Iterator[Came]:
    """Around all that a stranger may ask for: refuses it from a locked network and after a restore,
    and tells numbers and event log what came of it. Raises Refusal."""
    address, came = request.remote_addr or "", Came()
    store().request.act_as("", address=address)
    try:
        guard().check_address(address)
        check_released()
        yield came
    except TokenError as error:
        raise counted(refusal(error), came.issuer, address) from error
    except Refusal as error:
        raise counted(error, came.issuer, address) from error
    ENROLMENTS.labels(came.issuer, "").inc(not flag("dry_run"))


def check_released() -> None:
    """Raises Refusal 503 after a restore, until somebody says `release`: an issuer that was deleted
    since the backup is there again, and so is each token that was used since."""
    if hold := store().settings.cluster().hold:
        text = f"tokens enrol nobody before redis-certauth release: {hold}"
        raise Refusal(503, "on_hold", text)


def refusal(error: TokenError) -> Refusal:
    return (forbidden if error.code in FORBIDDEN else unauthorized)(error.code, str(error))


def counted(error: Refusal, issuer: str, address: str) -> Refusal:
    """The same, in the numbers and in the event log."""
    ENROLMENTS.labels(issuer, error.error_code).inc()
    guard().refused_enrolment(error, issuer, address)
    return error


# ---- Issuers ----


@blueprint.get("/v1/certauth/issuers")
@needs("view_cluster_info", answers=list[IssuerAnswer], query=LISTING)
def read_all() -> Response:
    keys = store().issuers.all_keys()
    return answer([render(one, keys.get(one.uid)) for one in found(Issuer)])


@blueprint.get("/v1/certauth/issuers/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=IssuerAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(Issuer, uid))


@blueprint.post("/v1/certauth/issuers")
@needs("update_cluster", takes=NewIssuerBody, answers=IssuerAnswer, query=CHANGING)
def create(sent: NewIssuerBody) -> Response:
    """Its keys are fetched within a second or two; the answer does not wait for them."""
    return shown(store().objects.create(changed(Issuer(sent.uid, sent.name), sent)))


@blueprint.put("/v1/certauth/issuers/<int(max=2147483647):uid>")
@needs("update_cluster", takes=IssuerBody, answers=IssuerAnswer, query=CHANGING)
def update(uid: int, sent: IssuerBody) -> Response:
    """What was issued before stays as it is."""

    def change(issuer: Issuer) -> Issuer:
        return changed(unchanged(issuer), sent)

    return shown(store().objects.update(Issuer, uid, change))


@blueprint.delete("/v1/certauth/issuers/<int(max=2147483647):uid>")
@needs("update_cluster", query=CHANGING)
def delete(uid: int) -> Response:
    """It enrols nobody any more; what was issued by it stays good until it ends."""
    store().objects.delete(Issuer, uid, unchanged)
    return answer({})


def changed(issuer: Issuer, sent: IssuerBody) -> Issuer:
    """With what the request says. Raises Refusal 400 where no token could enrol so."""
    values = {name: value for name, value in sent.sent().items() if name != "uid"}
    for name in ("audiences", "algorithms"):
        if name in values:
            values[name] = tuple(dict.fromkeys(values[name]))
    if values.get("jwks"):
        values["jwks"] = in_field("jwks", partial(jose.read_keys, values["jwks"]))
    if values.get("ca"):
        values["ca"] = check_authorities(values["ca"])
    if values.get("manufacturer_ca"):
        values["manufacturer_ca"] = "".join(check_trust(values["manufacturer_ca"]))
    born = bool(values.get("manufacturer_ca", issuer.manufacturer_ca))
    if "rules" in values:
        values["rules"] = rules_of(values["rules"])
    made = replace(issuer, **values)
    if born:
        check_born(made)
        return made
    if not made.url:
        raise invalid(
            "invalid_param", "url: must be the value of `iss` in the issuer's tokens; devices with "
            "birth certificates have a manufacturer_ca instead",
        )  # fmt: skip
    if not made.audiences:
        raise invalid(
            "invalid_param", "audiences: name the audiences that the issuer's tokens must have"
        )
    if not made.jwks:
        name = "jwks_url" if made.jwks_url else "url"
        in_field(name, lambda: enrolment.check_url(made.jwks_url or made.url))
    return made


def check_born(issuer: Issuer) -> None:
    """Raises Refusal 400 where an issuer of birth certificates has what only tokens have."""
    for name in ("url", "audiences", "jwks", "jwks_url", "ca"):
        if getattr(issuer, name):
            raise invalid(
                "invalid_param", f"{name}: is about tokens, and an issuer with a manufacturer_ca "
                "is one of birth certificates: make two issuers",
            )  # fmt: skip
    for index, one in enumerate(issuer.rules):
        in_field(f"rules.{index}", partial(claims.check_born, one))


def rules_of(sent: Sequence[RuleBody]) -> tuple[EnrolmentRule, ...]:
    made = []
    for index, one in enumerate(sent):
        rule = EnrolmentRule(
            one.identity, tuple(sorted(one.claims.items())), one.profile, one.lifetime,
            one.every_token,
        )  # fmt: skip
        in_field(f"rules.{index}", partial(enrolment.check_rule, store(), rule))
        enrolment.check_agreed(rule)
        made.append(rule)
    return tuple(made)


def shown(issuer: Issuer) -> Response:
    return answer(render(issuer, store().issuers.keys(issuer.uid)), issuer)


def render(issuer: Issuer, keys: IssuerKeys | None) -> dict[str, Any]:
    known = keys or IssuerKeys(issuer.uid)
    rules = [{**asdict(one), "claims": dict(one.claims)} for one in issuer.rules]
    return {
        **asdict(issuer),
        "rules": rules,
        "keys": jose.count(issuer.jwks or known.jwks),
        "fetched": rendered_time(known.fetched) if known.fetched else "",
        "problem": known.problem,
    }
