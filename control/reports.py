"""What servers, clients and this control plane are seen to do, as frozen records: certificates,
revocations, sessions, servers, events."""

from dataclasses import dataclass, field
from typing import Literal

from control.records import Database, EventDetail, NodeRole, Origin, Reason, Severity, Stale, Target
from control.words import LineOwner


@dataclass(frozen=True)
class Refused:
    """A policy line that a server does not take."""

    line: str
    instead: str  # the line that the server holds in its place; "": none
    why: str  # as the server says it; "": it goes with another line
    user: str  # whom it is about; "": nobody


@dataclass(frozen=True)
class PolicyLine:
    """A line of a database's policy, and what it is there for."""

    line: str
    owner: LineOwner
    owner_uid: int  # of the user or the pattern; 0 of others
    owner_name: str


@dataclass(frozen=True)
class Node:
    """What the sync worker last saw of one server."""

    bdb_uid: int
    address: str  # host:port
    generation: int
    in_step: bool  # holds the database's policy
    error: str = ""  # why it is behind, for a person
    detail: str = ""  # what its module says of the trust that it manages
    # The database names it, others name it, it is to be detached, or to be forgotten as it is.
    origin: Origin = "endpoint"
    server_name: str = ""  # that its certificate must show; "": its host
    role: NodeRole = ""  # "": it has not answered yet
    software: str = ""  # "redis 8.6.3"
    module: str = ""  # version of certauth, once it has held our policy
    key: str = ""  # SHA-256 of its key, in hex: who it is for its peers
    next_key: str = ""  # of a certificate that it is about to show
    client_key: str = ""  # that it shows on its own links, once its module has said so
    certificate: str = ""  # that it shows: PEM
    digest: str = ""  # of the policy that it holds
    outbid: int = 0  # the epoch with which another control plane took it from us; 0: none has
    last_error: str = ""  # the last `error` that there was
    last_error_time: int = 0  # since when it was there, in seconds since 1970
    refused: tuple["Refused", ...] = ()  # what it does not take of the policy that it holds
    age: float = field(default=0.0, compare=False)  # seconds since it was last looked at

    def follows(self, target: "Target") -> bool:
        """Whether it holds that generation of the policy."""
        return self.in_step and self.generation == target.generation

    @property
    def keys(self) -> tuple[str, ...]:
        """By which the other nodes know it."""
        found = filter(None, (self.key, self.next_key, self.client_key))
        return tuple(dict.fromkeys(found))

    @property
    def is_peer(self) -> bool:
        """Whether its key lets it in to the others: a Sentinel, or a server that was seen to hold
        our policy. `key` without `module` is what a server shows that runs without certauth."""
        return bool(self.key and (self.module or self.role == "sentinel"))


# `unseen`: what it holds was not looked at; `seen`: it was; `released`: it may be written to, as
# long as it holds what was seen.
HoldState = Literal["unseen", "seen", "released"]


@dataclass(frozen=True)
class Hold:
    """A server to which nothing is sent before somebody has seen what it holds."""

    bdb_uid: int
    address: str  # host:port
    why: str  # for a person
    state: HoldState = "unseen"
    generation: int = 0  # of the policy that was seen there
    digest: str = ""  # of that; "": whatever it holds
    lines: tuple[str, ...] = ()  # `revoke` and `lock` lines of it that a release keeps


@dataclass(frozen=True)
class Lock:
    """A policy line that holds somebody out for the time being."""

    uid: int
    line: str
    reason: str  # an administrator's words
    time: int  # since when, in seconds since 1970
    end: int  # in seconds since 1970; 0: until somebody takes it back


@dataclass(frozen=True)
class Place:
    """A database, and what is known of its servers."""

    database: Database
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class NewRules:
    """ACL rules, as policy lines have them, that a change would bring to the servers of a database
    (uid `bdb_uid`, the only one of `places`); or, where no database grants them yet (0), that any
    of these could be given."""

    bdb_uid: int
    rules: frozenset[str]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Action:
    """A change of a database that its nodes are to follow: to the policy of `generation`."""

    uid: str
    bdb_uid: int
    name: str
    generation: int
    created: int  # seconds since 1970


# What a certificate is worth, the first of these that holds: revoked by anybody, ended, of a user
# that is gone, followed by another one of the same user, near its end.
CertificateState = Literal["revoked", "expired", "orphaned", "superseded", "expiring", "valid"]


@dataclass(frozen=True)
class ClientCertificate:
    """A client's certificate that was issued here, or seen at a login. Hashes and serial numbers
    are lower-case hex; times are seconds since 1970, 0 where they are not known."""

    cert: str  # SHA-256 of its DER
    key: str  # SHA-256 of its public key: the "key id"
    ca: str  # key id of the CA that issued it; "": not known
    issuer: str
    serial: str
    subject: str
    user: str  # by name
    not_before: int
    not_after: int
    first: int  # when it was issued, or seen first
    issued: bool = False  # here
    profile: str = ""  # of what was issued here, by name
    last_login: int = 0
    bdb_uid: int = 0  # of the last login; 0: the REST API
    node: str = ""  # of the last login, host:port; "": the REST API
    pem: str = ""  # of what was issued here
    serves: bool = False  # its extended key usage is not for clients alone
    sans: tuple[str, ...] = ()  # "uri:spiffe://acme/cart"; the last is "..." where there are more
    enrolled_by: int = 0  # uid of the issuer whose token or birth certificate it is for; 0: none
    ocsp: str = ""  # URL of the first OCSP responder that it names
    state: str = field(default="", compare=False)  # see CertificateState; "": nobody asked


@dataclass(frozen=True)
class Session:
    """A client that is connected to a node, by its certificate."""

    bdb_uid: int
    node: str  # host:port
    user: str
    cert: str  # SHA-256 of its certificate
    path: tuple[str, ...]  # key ids of the CAs above it, its issuer first


@dataclass(frozen=True)
class CertificateFigures:
    """How many certificates of clients there are: good ones, those among them that end soon and
    have no successor, and those that have ended. `next_end` is when the next good one ends, 0 where
    there is none."""

    valid: int = 0
    expiring: int = 0
    expired: int = 0
    next_end: int = 0


@dataclass(frozen=True)
class Revocation:
    """A certificate, or a key, that administrators have revoked: a `revoke` line everywhere."""

    uid: int
    line: str
    reason: Reason
    time: int  # seconds since 1970


@dataclass(frozen=True)
class RevocationList:
    """The last good revocation list of a CA, without its entries. Times are seconds since 1970."""

    uid: int
    issuer: str  # RFC 4514
    ca: str  # id of the key that signed it
    keys: tuple[str, ...]  # key ids of the CA: that one, and others that it has
    path: tuple[str, ...]  # key ids: its own, and of the CAs above it
    scope: str  # "" where the list is about all that the CA has issued
    number: str  # of up to 160 bits
    this_update: int
    next_update: int
    stale: Stale = "warn"  # what happens when nextUpdate has passed
    overdue: bool = False  # it has
    url: str = ""  # "": it is only ever uploaded
    interval: int = 3600  # seconds between two fetches
    authorities: str = ""  # PEM of CAs up to a trusted one, sent along with the list
    tried: int = 0  # when it was fetched last, with or without success
    problem: str = ""  # why the last fetch brought nothing


@dataclass(frozen=True)
class OwnCrl:
    """The revocation list that a CA of ours publishes."""

    ca: str  # its key id
    number: int
    this_update: int
    next_update: int
    certificates: tuple[str, ...]  # serial numbers in hex
    der: str  # base64


@dataclass(frozen=True)
class IssuerKeys:
    """What was fetched of an issuer's keys. Times are seconds since 1970, 0 for never."""

    issuer_uid: int
    jwks: str = ""  # JSON
    fetched: int = 0  # when they were last there
    tried: int = 0  # when it was last asked
    problem: str = ""  # why it gave none then


@dataclass(frozen=True)
class TrustState:
    """What came of following CAs. Times are seconds since 1970, 0 for never."""

    source_uid: int
    given: tuple[str, ...] = ()  # SHA-256 of the CAs that it gave, which were put in force
    sequence: int = 0  # of the last SPIFFE bundle
    hint: int = 0  # seconds until that wants to be read again; 0: it does not say
    fetched: int = 0  # when it was last read well
    tried: int = 0
    problem: str = ""  # why the last look brought nothing, or what has to be accepted
    pending: str = ""  # PEM of the CAs that an administrator has to accept


@dataclass(frozen=True)
class OcspAnswer:
    """What a responder has said last of a certificate. Times are seconds since 1970."""

    responder_uid: int
    serial: str  # hex, as policy lines have it
    ends: int  # when the certificate does
    status: Literal["", "good", "revoked"] = ""  # "": it has not said anything yet
    this_update: int = 0
    next_update: int = 0
    asked: int = 0
    due: int = 0  # when it is asked again
    problem: str = ""  # why the last question brought no answer that counts
    overdue: bool = False


@dataclass(frozen=True)
class ResponderFigures:
    """What a responder has said of all its certificates."""

    good: int = 0
    revoked: int = 0
    unanswered: int = 0  # nothing was ever said of these
    overdue: int = 0  # of these and of others the next answer should be there
    asked: int = 0  # when it was last asked, in seconds since 1970; 0: never
    next_update: int = 0  # when the first of its answers expires; 0: it has given none
    problem: str = ""  # of the last question that brought nothing, unless it has answered since


@dataclass(frozen=True)
class Enrolment:
    """What a certificate was issued for: a token, or another certificate."""

    issuer: str  # by name
    digest: str = ""  # of what is signed of the token, and of the key: SHA-256, hex; "": no token
    expires: int = 0  # when the token is good for nobody any more, in seconds since 1970
    subject: str = ""  # as the token names it
    cert: str = ""  # SHA-256 of the birth certificate, or of the certificate that is renewed


@dataclass(frozen=True)
class Event:
    """An entry of the event log. `detail` never holds what was in a field, only which it was."""

    time: int  # seconds since 1970
    type: str
    severity: Severity
    detail: dict[str, EventDetail]


@dataclass(frozen=True)
class Outcome:
    """How many clients came in from `time` on, or (with a `reason`) were refused."""

    time: int  # seconds since 1970
    reason: str
    count: int


@dataclass(frozen=True)
class Position:
    """How far a node's log has been read: `boot` is of this start of the server, "" for never."""

    boot: str = ""
    seq: int = 0


@dataclass(frozen=True)
class EventPage:
    """A part of the event log, each event with its number in it. `newest` is the last number that
    there is; `dropped` the last one of those that had to go, to keep the log in bounds."""

    newest: int
    dropped: int
    events: tuple[tuple[int, Event], ...]
