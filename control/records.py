"""What the control plane knows, as frozen records. The store keeps them, the policy reads them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from control.words import AuditMode as AuditMode
from control.words import AuditProtocol as AuditProtocol
from control.words import AuthMethod as AuthMethod
from control.words import BindingKind as BindingKind
from control.words import Enforcement as Enforcement
from control.words import FilterType as FilterType
from control.words import KeyUsage as KeyUsage
from control.words import Management as Management
from control.words import MinTls as MinTls
from control.words import NodeRole as NodeRole
from control.words import Origin as Origin
from control.words import PatternKind as PatternKind
from control.words import PubsubDefault as PubsubDefault
from control.words import Reason as Reason
from control.words import SeveralNames as SeveralNames
from control.words import Severity as Severity
from control.words import Stale as Stale
from control.words import Switch as Switch
from control.words import TlsMode as TlsMode
from control.words import TlsVersion as TlsVersion
from control.words import TokenAlgorithm as TokenAlgorithm
from control.words import Validation as Validation

EventDetail = str | int | list[str]

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
    """What certificates have to have, see "Demands" in docs/policy.md. 0, () and "" demand nothing,
    "refuse" is what holds without a word; None is what the cluster demands, and of the cluster
    nothing."""

    max_certificate_lifetime: int | None = None  # seconds from notBefore to notAfter
    required_extended_key_usages: tuple[str, ...] | None = None  # OIDs, as policy lines have them
    required_certificate_policies: tuple[str, ...] | None = None
    min_key_bits: int | None = None
    min_tls_version: MinTls | None = None
    several_names: SeveralNames | None = None  # of a kind of which lines name one

    def over(self, defaults: "Demands") -> "Demands":
        """These, and where they say nothing, those."""
        return replace(
            defaults, **{name: said for name, said in vars(self).items() if said is not None}
        )


@dataclass(frozen=True)
class AuditSink:
    """Where records of connections go, see control/nodes/auditing.py."""

    audit_protocol: AuditProtocol
    audit_address: str  # a host, or the path of a socket
    audit_port: int = 0  # 0: of a socket
    audit_reconnect_interval: int = 1  # seconds between two attempts
    audit_reconnect_max_attempts: int = 0  # after which all is dropped; 0: no end
    audit_queue_max_bytes: int = 524_288  # that wait; what does not fit is dropped


@dataclass(frozen=True)
class UsernameFilter:
    """Which users' connections are audited: those listed (inclusive) or all others (exclusive)."""

    enabled: bool = False
    usernames: tuple[str, ...] = ()
    filter_type: FilterType = "inclusive"
    allow_while_username_unknown: bool = False  # records of who is nobody (yet)


@dataclass(frozen=True)
class AddressFilter:
    """From where connections are audited: addresses and CIDR ranges that are listed (inclusive) or
    all others (exclusive)."""

    enabled: bool = False
    ip_addresses: tuple[str, ...] = ()
    cidr_ranges: tuple[str, ...] = ()
    filter_type: FilterType = "inclusive"


@dataclass(frozen=True)
class AuditSettings:
    """Which connections of a database an auditor hears of."""

    audit_mode: AuditMode = "disabled"
    username_filter: UsernameFilter = UsernameFilter()
    source_ip_filter: AddressFilter = AddressFilter()
    max_total_key_bytes: int = 131_072  # of the keys in a record, of which there are none


@dataclass(frozen=True)
class AlertSetting:
    """Whether an alert of a certificate's end is raised, and how early."""

    enabled: bool
    threshold: int  # days before the end


@dataclass(frozen=True)
class AlertSettings:
    """The alerts of Redis Enterprise's `alert_settings` that are about the control plane's own
    certificates."""

    # Our own last 90 days and are renewed when 30 are left: 45, as on Redis Enterprise, tells each.
    cluster_certs_about_to_expire: AlertSetting = AlertSetting(True, 20)
    cluster_ca_cert_about_to_expire: AlertSetting = AlertSetting(True, 90)


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
    acl_pubsub_default: PubsubDefault = "resetchannels"  # of ACLs that name no channel
    min_control_TLS_version: TlsVersion = "1.2"  # of the REST API and the page
    options_method_forbidden: bool = False  # whether HTTP's OPTIONS is refused
    db_conns_auditing: bool = False  # whether connections of new databases are audited
    audit_sink: AuditSink | None = None
    alert_settings: AlertSettings = AlertSettings()
    log_retention: int = 400  # days for which the event log keeps what was changed here
    jwt_key: str = field(default="", repr=False)  # signs tokens; never leaves the control plane
    # The ids of the stores that this was, each with its first event: a restore makes another one.
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
    """What its users may do on the REST API (`management`); RolePermission says what on servers."""

    uid: int
    name: str
    management: Management
    resources: tuple[int, ...] = ()  # the databases that it manages, by uid; (): everything


@dataclass(frozen=True)
class RedisAcl:
    """Rules of Redis's ACL under a name; `acl` as ACL SETUSER takes them."""

    uid: int
    name: str
    acl: str


@dataclass(frozen=True)
class Password:
    """The hash of one of a user's passwords, and when that was set."""

    hash: str  # argon2
    issued: int  # seconds since 1970


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
    """Somebody who logs in to servers, to the REST API or to both: by certificates or by passwords,
    as `auth_method` says."""

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

    @property
    def address(self) -> str:
        """host:port by the first of its hosts, which is what a server is called."""
        return f"{self.hosts[0]}:{self.port}"


@dataclass(frozen=True)
class RolePermission:
    """On the database that holds this, users of the role have the rules of the ACL."""

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
    sentinel_master: str = ""  # the master that is meant, where a Sentinel watches several
    allow_unbound_peers: bool = False  # enforce also where a node's peer could not be bound
    allow_trust_on_internal_links: bool = False
    enforcement: Enforcement = "refuse"  # where tls_mode is enabled
    adopt_users: bool = False  # take over ACL users of the same names that a server has already
    deleting: bool = False  # the nodes are being detached
    audit_settings: AuditSettings = AuditSettings()
    created: int = 0  # seconds since 1970; 0: not known

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
class EnrolmentRule:
    """Which of an issuer's tokens it is for, and the certificate that these are good for."""

    identity: str  # kind:template, with claims in braces: see control/domain/claims.py
    claims: tuple[tuple[str, str], ...] = ()  # path and value, all of which a token has to have
    profile: str = "default"  # of the certificate, by name
    lifetime: int = 3600  # seconds, at most
    every_token: bool = False  # whether all tokens of the issuer may come to be one user by it


@dataclass(frozen=True)
class Issuer:
    """Whose tokens, or birth certificates, enrol. Keys of tokens are in `jwks`, at `jwks_url`, or
    where its discovery document says; birth certificates are of the CAs in `manufacturer_ca`."""

    uid: int
    name: str
    url: str = ""  # as its tokens have it in `iss`
    audiences: tuple[str, ...] = ()  # one of which a token has to be for
    algorithms: tuple[TokenAlgorithm, ...] = ("RS256", "ES256")
    clock_skew: int = 60  # seconds
    jwks: str = ""  # JSON; "": fetched
    jwks_url: str = ""  # "": by discovery
    ca: str = ""  # PEM of the CAs that its https is verified with; "": those of the system
    interval: int = 3600  # seconds between two fetches
    rules: tuple[EnrolmentRule, ...] = ()  # the first that a token fits counts
    manufacturer_ca: str = ""  # PEM of CAs of devices; with it, nothing of tokens is set
    renewable: bool = False  # whether its certificates may renew themselves (EST)


@dataclass(frozen=True)
class TrustSource:
    """CAs that are followed: a file of this machine, or what is at an https address."""

    uid: int
    name: str
    location: str = ""  # /path or https://…; PEM, DER, PKCS#7, or a SPIFFE bundle
    bdb_uid: int = 0  # the database whose CAs they are; 0: those of the cluster
    ca: str = ""  # PEM of the CAs that its https is verified with; "": those of the system
    interval: int = 300  # seconds between two looks
    most: int = 2  # CAs that may come, or go, at once without an administrator


@dataclass(frozen=True)
class Responder:
    """Who is asked, by OCSP, about the certificates of a CA that is trusted here."""

    uid: int
    name: str
    ca: str  # its key id
    url: str = ""  # "": what each certificate names
    interval: int = 3600  # seconds until a certificate is asked about again, at the latest
    stale: Stale = "warn"
    nonce: bool = False  # whether only answers count that repeat what the question had


def rendered_time(seconds: int) -> str:
    """Seconds since 1970 as answers and logs show them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):  # year 0000 of a certificate is not one of Python's
        return f"{seconds} seconds since 1970"


BUILTIN_ROLES = (
    Role(1, "Admin", "admin"), Role(2, "Cluster Member", "cluster_member"),
    Role(3, "Cluster Viewer", "cluster_viewer"), Role(4, "DB Member", "db_member"),
    Role(5, "DB Viewer", "db_viewer"), Role(6, "None", "none"),
    Role(7, "User Manager", "user_manager"),
)  # fmt: skip
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
