"""The answers that the REST API gives: what control/api/openapi.py describes and tests compare
with.

Handlers build plain dicts. A field without a default is in every answer."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from control.api.models import IdentityBody, SubjectBody
from control.records import (
    AuthMethod,
    Enforcement,
    KeyUsage,
    Management,
    Reason,
    Stale,
    Switch,
    TlsMode,
    Validation,
)


class Answer(BaseModel):
    """`ignored` names the fields of the request that were accepted and mean nothing here.
    `in_force` says on how many of how many servers a change is ("2/3"), and `pending` names the
    others, and why: of calls below /v1/certauth, and of all with `wait_for_sync`. `warnings` is
    what is done, and may not have been meant."""

    model_config = ConfigDict(strict=True, extra="forbid")
    ignored: list[str] = []
    in_force: str = ""
    pending: list[str] = []
    warnings: list[str] = []


class Empty(Answer):
    """An object without fields, so that a client that parses every answer can."""


class Started(Answer):
    """See /v1/actions."""

    action_uid: str = ""


class Problem(Answer):
    """Every error. `description` and `message` are the same sentence."""

    error_code: str
    description: str
    message: str


class ClusterAnswer(Answer):
    name: str
    created_time: str
    mtls_certificate_authentication: bool
    mtls_client_cert_subject_validation_type: Validation
    mtls_authorized_subjects: list[SubjectBody]
    control_plane_basic_authentication: bool
    password_complexity: bool
    password_min_length: int
    password_expiration_duration: int


class PolicyAnswer(Answer):
    login_lockout_threshold: int
    login_lockout_counter_reset_after: int
    login_lockout_duration: int
    master_healthcheck_api_auth: bool


class CertificatesAnswer(Answer):
    api_cert: str = ""
    mtls_trusted_ca_cert: str = ""


class OffBody(BaseModel):
    """A server that refuses the user's rules."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    address: str
    why: str


class UserAnswer(Answer):
    """`off_on`: the servers on which the user is off, since they refuse its rules. `note`: what a
    user without a role cannot do."""

    uid: int
    name: str
    email: str
    auth_method: AuthMethod
    certificate_subject_line: str
    certificate_identities: list[IdentityBody]
    role: Management
    role_uids: list[int]
    status: Literal["active", "locked", "password_expired"]
    password_issue_date: str = ""
    last_login: int = 0
    off_on: list[OffBody] = []
    note: str = ""


class UserRoleAnswer(Answer):
    role: Management


class TokenAnswer(Answer):
    access_token: str


class PermissionsOfRole(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    api_permissions: list[str]
    ui_permissions: list[str]


class RoleAnswer(Answer):
    uid: int
    name: str
    management: Management


class RedisAclAnswer(Answer):
    uid: int
    name: str
    acl: str


class BdbAnswer(Answer):
    """With ?fields=, only those. `refused` is what servers do not take of the policy: a user who is
    off there, or a line; `why` as the server says it."""

    uid: int
    name: str
    status: str
    action_uid: str
    endpoints: list[dict[str, Any]]
    tls_mode: TlsMode
    enforce_client_authentication: Switch
    client_cert_subject_validation_type: Validation
    authorized_subjects: list[SubjectBody]
    authentication_ssl_client_certs: list[dict[str, str]]
    roles_permissions: list[dict[str, int]]
    default_user: bool
    tls_server_ca: str
    tls_server_name: str
    node_addresses: dict[str, str]
    node_keys: list[str]
    sentinel_master: str
    allow_unbound_peers: bool
    allow_trust_on_internal_links: bool
    enforcement: Enforcement
    adopt_users: bool
    generation: int
    nodes: list[dict[str, Any]]
    refused: list[dict[str, str]]
    not_synced: list[dict[str, Any]]


class ActionAnswer(Answer):
    """`progress` is a percentage of the servers. A server that cannot be reached is tried for ever,
    so an action goes on until it is done."""

    action_uid: str
    name: str
    status: Literal["active", "completed"]
    progress: float
    creation_time: int
    object_name: str
    error: str = ""


class ActionsAnswer(Answer):
    actions: list[ActionAnswer]
    state_machines: list[ActionAnswer] = Field(alias="state-machines")


class ActionV2Answer(Answer):
    action_uid: str
    action_type: str
    name: str
    status: Literal["running", "completed"]
    progress: float
    creation_time: int
    additional_info: dict[str, str]


class EventAnswer(BaseModel):
    """And more, by type: whom or what it is about, and who did it."""

    model_config = ConfigDict(strict=True, extra="allow")
    time: str
    type: str
    severity: Literal["INFO", "WARNING"]


class OutcomeAnswer(Answer):
    time: int
    reason: str
    count: int


class NodeAnswer(Answer):
    uid: int
    status: Literal["active", "down"]
    software_version: str
    os_version: str
    architecture: str
    cores: int
    shard_count: int
    shard_list: list[int]


class BootstrapStatus(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    state: Literal["completed"]
    start_time: str
    end_time: str


class BootstrapAnswer(Answer):
    bootstrap_status: BootstrapStatus
    local_node_info: dict[str, Any]


class HealthcheckAnswer(Answer):
    """`inactive` comes with a 503."""

    status: Literal["active", "inactive"]


class CheckAnswer(Answer):
    cluster_test_result: bool
    nodes: list[dict[str, Any]]


class StatsAnswer(Answer):
    """Counts of this moment; no history is kept."""

    time: str
    users: int
    roles: int
    redis_acls: int
    bdbs: int
    servers: int
    servers_in_step: int


class HealthAnswer(Answer):
    fqdn: str
    status: Literal["ok", "warning", "error"]
    license: None
    certificates: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    active_alerts: list[str]
    database_infos: list[dict[str, Any]]


class ProfileAnswer(Answer):
    uid: int
    name: str
    lifetime: int
    subject: str
    sans: list[str]
    key_usage: list[KeyUsage]
    role_uids: list[int]


class ClientCertificateAnswer(Answer):
    """`certificate`, as clients present it, where it was issued here; not in lists. `serves`: its
    extended key usage is not for clients alone."""

    cert: str
    key: str
    ca: str
    issuer: str
    serial: str
    subject: str
    user: str
    not_before: int
    not_after: int
    issued: bool
    profile: str
    last_login: int
    bdb_uid: int
    node: str
    serves: bool
    certificate: str = ""


class ServerAnswer(BaseModel):
    """A node of a database. `lag` is in generations; `last_error_time` in seconds since 1970; `age`
    in seconds since it was last looked at, null for never."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    address: str
    in_step: bool
    generation: int
    digest: str
    lag: int
    error: str
    last_error: str
    last_error_time: int
    software: str
    module: str
    trust: str
    certificate_subject: str
    certificate_issuer: str
    certificate_serial: str
    certificate_not_after: str
    age: float | None


class ServersAnswer(Answer):
    """`leader` is the control plane that last began to speak to them, and `epoch` counts them;
    `leader_age` the seconds since it last said so, null for never. `faults` is what keeps the
    control plane that answers from its work. `hold`: why nothing is sent to them."""

    leader: str
    epoch: int
    leader_age: float | None
    faults: list[str]
    hold: str
    nodes: list[ServerAnswer]


class SessionAnswer(BaseModel):
    """A client of a server; what is null is not known."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    node: str
    id: int
    address: str
    user: str | None
    reason: str
    subject: str | None
    serial: str | None
    cert: str | None
    key: str | None
    ca: str | None
    since: int
    end: int
    not_after: int


class SilentAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    node: str
    error: str


class SessionsAnswer(Answer):
    """`silent` are the servers that did not say, `more` is whether there are more than shown."""

    sessions: list[SessionAnswer]
    more: bool
    silent: list[SilentAnswer]


class ExplainAnswer(Answer):
    action: str
    reason: str
    user: str | None
    users: list[str]
    line: str | None
    trace: list[str]
    certificate: dict[str, Any] | None


class DependantAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    user: str
    certificates: int
    sessions: int
    only: bool


class AuthorityAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    ca: str
    subject: str
    not_after: str
    admits: list[int]
    anchors: list[int]
    users: int
    certificates: int
    sessions: int
    who: list[DependantAnswer]


class RemovedAuthorityAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    ca: str
    refused: list[int]


class AuthoritiesAnswer(Answer):
    cas: list[AuthorityAnswer]
    removed: list[RemovedAuthorityAnswer]
    silent: list[str]


class RevocationAnswer(Answer):
    uid: int
    line: str
    reason: Reason
    time: str


class RevocationsAnswer(Answer):
    revocations: list[RevocationAnswer]


class CrlAnswer(Answer):
    uid: int
    issuer: str
    ca: str
    scope: str
    number: str
    this_update: str
    next_update: str
    overdue: bool
    entries: int
    stale: Stale
    url: str
    interval: int
    last_fetch: str = ""
    problem: str = ""


class RefusedAnew(BaseModel):
    """`user` is "" where it is about nobody."""

    model_config = ConfigDict(strict=True, extra="forbid")
    user: str
    line: str
    why: str


class PreviewOfNode(BaseModel):
    """`ending` are sessions that would be closed; `users` those whose password would go; `refused`
    are users of the change whom this server refuses, and why."""

    model_config = ConfigDict(strict=True, extra="forbid")
    address: str
    error: str
    sessions: int
    ends: int
    ending: list[dict[str, Any]]
    users: list[dict[str, Any]]
    refused: list[RefusedAnew]


class PreviewOfDatabase(BaseModel):
    """`added` and `removed` are policy lines. Lists of sessions and certificates end at a thousand;
    the numbers say how many there are."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    added: list[str]
    removed: list[str]
    nodes: list[PreviewOfNode]
    certificates: list[dict[str, Any]]
    certificates_changed: int
    certificates_unknown: int


class PreviewAnswer(Answer):
    """A database for each whose policy would change."""

    databases: list[PreviewOfDatabase]
