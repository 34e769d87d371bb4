"""The bodies and the answer of /v1/bdbs."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from control.api import enterprise
from control.api.auditing import AuditSettingsAnswer, AuditSettingsBody
from control.api.demands import DemandsAnswer, DemandsBody
from control.api.models import (
    MOST,
    Answer,
    Body,
    Held,
    Host,
    Many,
    Pem,
    Sha256,
    SubjectBody,
    Uid,
    words,
)
from control.errors import refused
from control.records import Enforcement, Switch, TlsMode, Validation

ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{0,253}$")]
Port = r"(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
Address = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._:-]{{1,253}}:{Port}$")]


class EndpointBody(Body):
    addr: Many[Host] = []
    port: Annotated[int, Field(ge=1, le=65535)]
    dns_name: ServerName = ""

    IGNORED = words("""
        uid addr_type proxy_policy exclude_proxies include_proxies
        oss_cluster_api_preferred_ip_type oss_cluster_api_preferred_endpoint_type
    """)


class ClientCertificateBody(Body):
    client_cert: Pem

    IGNORED = words("status")


class RolePermissionBody(Body):
    role_uid: Uid
    redis_acl_uid: Uid


class BdbBody(DemandsBody):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")] = ""
    endpoints: Annotated[Many[EndpointBody], Field(min_length=1, max_length=MOST)] = []
    tls_mode: TlsMode = "disabled"
    enforce_client_authentication: Switch = "enabled"
    client_cert_subject_validation_type: Validation = "disabled"
    authorized_subjects: Many[SubjectBody] = []
    authentication_ssl_client_certs: Many[ClientCertificateBody] = []
    client_cas: Many[Sha256] = []
    pinned_certificates: Many[Sha256] = []
    trust_grows: bool = False
    roles_permissions: Many[RolePermissionBody] = []
    default_user: bool = False
    tls_server_ca: Pem = ""
    tls_server_name: ServerName = ""
    node_addresses: dict[Address, Address] = {}
    node_keys: Many[Sha256] = []
    sentinel_master: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,255}$")] = ""
    allow_unbound_peers: bool = False
    allow_trust_on_internal_links: bool = False
    enforcement: Enforcement = "refuse"
    adopt_users: bool = False
    audit_settings: AuditSettingsBody = AuditSettingsBody()
    db_conns_auditing: bool = False

    MISSING = {"name": "missing_db_name"}
    IGNORED = enterprise.BDB_IGNORED | words("""
        uid action_uid generation nodes not_synced refused status status_text ignored
    """)
    HELD = enterprise.BDB_HELD

    @model_validator(mode="before")
    @classmethod
    def _read_ssl(cls, data: Any) -> Any:
        """`ssl` is an older name of `tls_mode`: true is `enabled`. Where both are there,
        `tls_mode` counts; not where it asks for less."""
        if not isinstance(data, dict) or "ssl" not in data:
            return data
        rest = {name: value for name, value in data.items() if name != "ssl"}
        Held(enterprise.TRUE_OR_FALSE, "it is true or false").check("ssl", data["ssl"])
        mode = rest.setdefault("tls_mode", "enabled") if data["ssl"] else rest.get("tls_mode")
        if mode is None or (data["ssl"] and mode != "enabled"):
            text = "ssl: send tls_mode instead: enabled or disabled"
            raise refused("unsupported_setting", text)
        return rest


class NewBdbBody(BdbBody):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
    endpoints: Annotated[Many[EndpointBody], Field(min_length=1, max_length=MOST)]
    uid: Uid = 0

    IGNORED = BdbBody.IGNORED - {"uid"}


class BdbV2Body(Body):
    bdb: NewBdbBody

    IGNORED = words("recovery_plan")


class BdbPasswordBody(Body):
    password: Annotated[str, StringConstraints(max_length=1024)]


class BdbAnswer(DemandsAnswer, Answer):
    """With ?fields=, only those. `status_text` is what is missing, where something is: a sentence
    beside `status`, which has the values of Redis Enterprise. `refused` is what servers do not take
    of the policy: a user who is off there, or a line; `why` as the server says it."""

    uid: int
    name: str
    status: Literal["active", "active-change-pending", "delete-pending"]
    status_text: str
    created_time: str
    action_uid: str
    type: Literal["redis"]
    port: int
    version: str
    endpoints: list[dict[str, Any]]
    tls_mode: TlsMode
    enforce_client_authentication: Switch
    client_cert_subject_validation_type: Validation
    authorized_subjects: list[SubjectBody]
    authentication_ssl_client_certs: list[dict[str, str]]
    pinned_certificates: list[str]
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
    audit_settings: AuditSettingsAnswer
    db_conns_auditing: bool
    generation: int
    nodes: list[dict[str, Any]]
    refused: list[dict[str, str]]
    not_synced: list[dict[str, Any]]
