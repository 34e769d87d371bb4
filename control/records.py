"""What the control plane knows, as frozen records. The store keeps them, the policy reads them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

Validation = Literal["disabled", "san_cn", "full_subject"]
Management = Literal[
    "admin", "cluster_member", "cluster_viewer", "db_member", "db_viewer", "user_manager", "none"
]
TlsMode = Literal["enabled", "disabled", "replica_ssl"]
Switch = Literal["enabled", "disabled"]
NodeRole = Literal["", "master", "replica", "cluster master", "cluster replica", "sentinel"]
Origin = Literal["endpoint", "found", "leaving", "gone"]
Enforcement = Literal["shadow", "leave", "refuse"]
MinTls = Literal["", "1.2", "1.3"]
AuthMethod = Literal["regular", "certificate"]
KeyUsage = Literal["digital_signature", "key_encipherment", "key_agreement"]
Severity = Literal["INFO", "WARNING"]
EventDetail = str | int | list[str]
Stale = Literal["warn", "refuse"]
Reason = Literal[  # RFC 5280, 5.3.1
    "unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
    "cessationOfOperation", "certificateHold", "privilegeWithdrawn",
]  # fmt: skip

TRUSTED_CA = "mtls_trusted_ca"
API = "api"


@dataclass(frozen=True)
class Subject:
    """One entry of an allow list, with Redis Enterprise's attribute names. "" means absent."""

    CN: str
    OU: tuple[str, ...] = ()
    O: str = ""  # noqa: E741
    L: str = ""
    ST: str = ""
    C: str = ""


@dataclass(frozen=True)
class Demands:
    """What certificates have to have, see "Demands" in docs/policy.md. 0, () and "" demand nothing;
    None is what the cluster demands, and of the cluster nothing."""

    max_certificate_lifetime: int | None = None  # seconds from notBefore to notAfter
    required_extended_key_usages: tuple[str, ...] | None = None  # OIDs, as policy lines have them
    required_certificate_policies: tuple[str, ...] | None = None
    min_key_bits: int | None = None
    min_tls_version: MinTls | None = None

    def over(self, defaults: "Demands") -> "Demands":
        """These, and where they say nothing, those."""
        return replace(
            defaults, **{name: said for name, said in vars(self).items() if said is not None}
        )


@dataclass(frozen=True)
class Cluster:
    """The settings of the control plane itself."""

    name: str
    identifier: str  # random, made by init: the owner that nodes are stamped with
    created: int  # seconds since 1970
    mtls_certificate_authentication: bool = False
    mtls_client_cert_subject_validation_type: Validation = "disabled"
    mtls_authorized_subjects: tuple[Subject, ...] = ()
    demands: Demands = Demands()  # of all databases, and of this API but for the TLS version
    control_plane_basic_authentication: bool = True
    password_complexity: bool = False
    password_min_length: int = 8  # where password_complexity is on
    password_expiration_duration: int = 0  # days; 0: never
    login_lockout_threshold: int = 5  # wrong passwords; 0: no lockout
    login_lockout_counter_reset_after: int = 900  # seconds without a wrong password
    login_lockout_duration: int = 1800  # seconds; 0: until somebody sets a new password
    master_healthcheck_api_auth: bool = True
    jwt_key: str = field(default="", repr=False)  # signs tokens; never leaves the control plane
    # The ids of the stores that this one has been, and the number of the first event of each: a
    # restore makes another one, whose events go on behind those of the backup.
    stores: tuple[tuple[str, int], ...] = ()
    hold: str = ""  # why nothing is sent to the servers until somebody says `release`; "": it is

    def store_of(self, event: int) -> str:
        """The store in which the event with this number happened."""
        return next((one for one, first in reversed(self.stores) if first <= event), "")


@dataclass(frozen=True)
class CaUses:
    """What the certificates of a place are for. Of CAs, by their key ids: `anchors` are only above
    others, all others are what clients come from; `removed` were taken away from under one that
    stayed. `pins`, by the SHA-256 of their DER, are clients' own. See control/pki/trust.py."""

    anchors: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """A certificate of the cluster, by its name in the REST API."""

    name: str
    certificate: str  # PEM, one or several
    key: str = ""  # PEM; never leaves the control plane
    uses: CaUses = CaUses()  # of `mtls_trusted_ca`


@dataclass(frozen=True)
class Role:
    uid: int
    name: str
    management: Management


@dataclass(frozen=True)
class RedisAcl:
    uid: int
    name: str
    acl: str


@dataclass(frozen=True)
class Password:
    hash: str  # argon2
    issued: int  # seconds since 1970


BindingKind = Literal[
    "subject", "cn", "uri", "dns", "email", "ip", "upn", "key", "cert", "attributes", "attribute",
    "extension",
]  # fmt: skip


@dataclass(frozen=True)
class Binding:
    """What a certificate must have to be a user: the words of a `bind` line (docs/policy.md), each
    in its canonical spelling."""

    kind: BindingKind
    value: str  # of attribute and extension: OID=VALUE
    ca: str = ""  # key id of the CA that must be in the certificate's path; "": any trusted CA
    networks: tuple[str, ...] = ()  # addresses that the client may come from; (): all
    session: str = ""  # such as "8h"; "": until the certificate ends
    shared: bool = False  # whether other users may have the same binding: the client then chooses
    comment: str = ""


PatternKind = Literal["subject", "cn", "uri", "dns", "email", "upn"]


@dataclass(frozen=True)
class Pattern:
    """A `pattern` line (docs/policy.md), each of its words in canonical spelling: many
    certificates, each a user of its own whose rights come from `role_uids`, or all one user."""

    uid: int
    name: str
    kind: PatternKind
    template: str
    user: str  # with placeholders of the template; or without, the name of a certificate user
    role_uids: tuple[int, ...] = ()  # none where all of them are one user, who has its own
    ca: str = ""  # as those of Binding
    networks: tuple[str, ...] = ()
    session: str = ""
    comment: str = ""


@dataclass(frozen=True)
class User:
    uid: int
    name: str
    auth_method: AuthMethod
    role_uids: tuple[int, ...]
    email: str = ""
    certificate_subject_line: str = ""  # canonical RFC 4514; "" where no certificate is so bound
    bindings: tuple[Binding, ...] = ()  # those beside it
    passwords: tuple[Password, ...] = ()  # any of them logs in; none for certificate users
    last_login: int = 0  # seconds since 1970; 0: never
    locked: int = 0  # when too many wrong passwords had come, in seconds since 1970; 0: never

    @property
    def identities(self) -> tuple[Binding, ...]:
        """Every binding, the subject line first."""
        line = self.certificate_subject_line
        return ((Binding("subject", line),) if line else ()) + self.bindings


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens. `dns_name` is also the name that its certificate must show."""

    addr: tuple[str, ...]
    port: int
    dns_name: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names or addresses to connect to, any of which will do."""
        return self.addr or (self.dns_name,)


@dataclass(frozen=True)
class RolePermission:
    role_uid: int
    redis_acl_uid: int


@dataclass(frozen=True)
class Database:
    """A Redis or Valkey deployment that runs somewhere, and who may do what on it."""

    uid: int
    name: str
    endpoints: tuple[Endpoint, ...] = ()
    tls_mode: TlsMode = "disabled"
    enforce_client_authentication: Switch = "enabled"
    client_cert_subject_validation_type: Validation = "disabled"
    authorized_subjects: tuple[Subject, ...] = ()
    authentication_ssl_client_certs: tuple[str, ...] = ()  # PEM
    client_ca_uses: CaUses = CaUses()  # of those
    demands: Demands = Demands()
    roles_permissions: tuple[RolePermission, ...] = ()
    default_user: bool = False
    tls_server_ca: str = ""  # PEM; "": the control plane's own CA
    tls_server_name: str = ""  # that nodes' certificates show; "": the host, or an endpoint's name
    node_addresses: tuple[tuple[str, str], ...] = ()  # host:port as announced, and as it is reached
    node_keys: tuple[str, ...] = ()  # SHA-256 of the keys of further node peers, in hex
    sentinel_master: str = ""  # the one that is meant, where a Sentinel watches several
    allow_unbound_peers: bool = False  # enforce also where a node's peer could not be bound
    allow_trust_on_internal_links: bool = False
    enforcement: Enforcement = "refuse"  # where tls_mode is enabled
    adopt_users: bool = False  # take over ACL users of the same names that a server has already
    deleting: bool = False  # the nodes are being detached

    @property
    def refuses(self) -> bool:
        """Whether a client whose certificate is nobody's is turned away."""
        strict = self.enforcement == "refuse" and not self.default_user
        return self.tls_mode == "enabled" and strict


@dataclass(frozen=True)
class Target:
    """The policy that the nodes of a database are to hold."""

    generation: int
    digest: str  # as CERTAUTH.POLICY shows it


@dataclass(frozen=True)
class Change:
    """One generation of a policy: what it added to the one before it, and what it took away."""

    generation: int
    digest: str  # of the policy after it
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A policy line that a server does not take."""

    line: str
    instead: str  # the line that the server holds in its place; "": none
    why: str  # as the server says it; "": it goes with another line
    user: str  # whom it is about; "": nobody


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
    certificate: str = ""  # that it shows: PEM
    digest: str = ""  # of the policy that it holds
    last_error: str = ""  # the last `error` that there was
    last_error_time: int = 0  # since when it was there, in seconds since 1970
    refused: tuple["Refused", ...] = ()  # what it does not take of the policy that it holds
    age: float = field(default=0.0, compare=False)  # seconds since it was last looked at

    def follows(self, target: "Target") -> bool:
        """Whether it holds that generation of the policy."""
        return self.in_step and self.generation == target.generation

    @property
    def is_peer(self) -> bool:
        """Whether its key lets it in to the others: a Sentinel, or a server that was seen to hold
        our policy. `key` without `module` is what a server shows that runs without certauth."""
        return bool(self.key and (self.module or self.role == "sentinel"))


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


@dataclass(frozen=True)
class Profile:
    """What a certificate is like that is issued here, and whose it may be."""

    uid: int
    name: str
    lifetime: int = 86400  # seconds
    subject: str = ""  # RFC 4514, with {name} and the like in it; "": the user's subject line
    sans: tuple[str, ...] = ()  # kind:value, in the same manner
    key_usage: tuple[KeyUsage, ...] = ("digital_signature",)
    role_uids: tuple[int, ...] = ()  # a user needs one of these roles; (): any user


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


def rendered_time(seconds: int) -> str:
    """Seconds since 1970 as answers and logs show them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


BUILTIN_ROLES = (
    Role(1, "Admin", "admin"),
    Role(2, "Cluster Member", "cluster_member"),
    Role(3, "Cluster Viewer", "cluster_viewer"),
    Role(4, "DB Member", "db_member"),
    Role(5, "DB Viewer", "db_viewer"),
    Role(6, "None", "none"),
    Role(7, "User Manager", "user_manager"),
)
DEFAULT_PROFILE = Profile(1, "default")
FULL_ACCESS = RedisAcl(1, "Full Access", "+@all ~* &*")
FIRST_ACLS = (
    FULL_ACCESS,
    RedisAcl(2, "Read Only", "+@read ~*"),
    RedisAcl(3, "Not Dangerous", "+@all -@dangerous ~*"),
)


@dataclass(frozen=True)
class Trust:
    """What an upload admits, as DER: leaves that come from `cas` may become users; `anchors` are
    the certificates above those, which the TLS handshake needs to verify them. CAs whose key id is
    in `removed` are refused, no matter who issued them. `pins` are clients' own certificates, each
    of which is trusted by itself."""

    cas: tuple[bytes, ...] = ()
    anchors: tuple[bytes, ...] = ()
    removed: tuple[str, ...] = ()
    pins: tuple[bytes, ...] = ()
