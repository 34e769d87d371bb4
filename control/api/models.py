"""The bodies that the REST API takes: types, required fields, and what is accepted but ignored.

Fields of Redis Enterprise that mean nothing here, and those that only answers have (a client may
send back what it got), are in each model's IGNORED: accepted, and listed in the answer. All others
that are not named here are refused, so that a misspelt restriction is never taken for none.
"""

import json
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from control.errors import Refusal, invalid
from control.records import (
    AuthMethod,
    Enforcement,
    KeyUsage,
    Management,
    Reason,
    Stale,
    Subject,
    Switch,
    TlsMode,
    Validation,
)

Item = TypeVar("Item")
# One wrong element is told of, not each of half a million: that took seconds, and 40 MB of answer.
Many = Annotated[list[Item], FailFast()]
MOST = 1000  # fields of one JSON object, and servers of a database
TOLD = 10  # problems that a refusal names

Uid = Annotated[int, Field(ge=1, le=2**31 - 1)]
Pem = Annotated[str, StringConstraints(max_length=1 << 20)]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Value = Annotated[str, StringConstraints(max_length=256)]
Filled = Annotated[str, StringConstraints(min_length=1, max_length=256)]
UserName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[ -!#-%'-;=?-~]+$")
]
ObjectName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9_ \[\]()@,.;#-]+$")
]
Email = Annotated[str, StringConstraints(max_length=255, pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$")]


class Body(BaseModel):
    """A JSON object. Nothing is converted: "1" is no number, null is no absent field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    IGNORED: ClassVar[frozenset[str]] = frozenset()
    MISSING: ClassVar[dict[str, str]] = {}  # field → error_code, where Redis Enterprise has one
    OPTIONAL: ClassVar[bool] = False  # a request may have no body at all

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        if info.context is not None:
            info.context["ignored"].update(cls.IGNORED & data.keys())
        return {name: value for name, value in data.items() if name not in cls.IGNORED}

    def sent(self) -> dict[str, Any]:
        """The fields that the request has, and no defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class SubjectBody(Body):
    CN: Filled
    OU: Many[Filled] = []
    O: Value = ""  # noqa: E741
    L: Value = ""
    ST: Value = ""
    C: Value = ""

    def record(self) -> Subject:
        return Subject(self.CN, tuple(self.OU), self.O, self.L, self.ST, self.C)


class ClusterBody(Body):
    mtls_certificate_authentication: bool = False
    mtls_client_cert_subject_validation_type: Validation = "disabled"
    mtls_authorized_subjects: Many[SubjectBody] = []
    control_plane_basic_authentication: bool = True
    password_complexity: bool = False
    password_min_length: Annotated[int, Field(ge=8, le=256)] = 8
    password_expiration_duration: Annotated[int, Field(ge=0, le=36_500)] = 0

    IGNORED = _words("""
        name created_time rack_aware wait_command slave_ha slave_ha_grace_period
        email_alerts email_from alert_settings bigstore_driver cm_port cnm_http_port
        cnm_https_port cm_session_timeout_minutes cluster_ssh_public_key
        cnm_http_max_threads_per_worker control_cipher_suites
        control_cipher_suites_tls_1_3 crdb_coordinator_port crdt_rest_client_retries
        crdt_rest_client_timeout data_cipher_list data_cipher_suites_tls_1_3
        debuginfo_path default_non_sharded_proxy_policy default_sharded_proxy_policy
        disconnect_clients_on_password_removal dmc_external_authentication
        dmc_external_cba_authentication dmc_external_entraid_authentication
        dmc_external_ldap_authentication encrypt_pkeys envoy_admin_port
        envoy_max_downstream_connections envoy_mgmt_server_port gossip_envoy_admin_port
        handle_redirects http_support logrotate_settings min_control_TLS_version
        min_data_TLS_version min_sentinel_TLS_version options_method_forbidden
        password_hashing_algorithm port proxy_certificate reserved_ports sentinel_cipher_suites
        sentinel_cipher_suites_tls_1_3 sentinel_ssl_policy sentinel_tls_mode smtp_host
        smtp_password smtp_port smtp_tls_mode smtp_use_tls smtp_username
        syncer_certificate system_reserved_ports upgrade_in_progress upgrade_mode
        use_external_ipv6 use_ipv6 availability_lag_tolerance_ms
    """)


Seconds = Annotated[int, Field(ge=0, le=10**9)]


class PolicyBody(Body):
    login_lockout_threshold: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    login_lockout_counter_reset_after: Seconds = 900
    login_lockout_duration: Seconds = 1800
    master_healthcheck_api_auth: bool = True

    IGNORED = _words("""
        acl_pubsub_default auto_recovery automatic_node_offload bigstore_migrate_node_threshold
        bigstore_migrate_node_threshold_p bigstore_provision_node_threshold
        bigstore_provision_node_threshold_p data_internode_encryption db_conns_auditing
        default_concurrent_restore_actions default_fork_evict_ram
        default_non_sharded_proxy_policy default_oss_sharding default_provisioned_redis_version
        default_sharded_proxy_policy default_shards_placement diskless_repl
        endpoint_rebind_propagation_grace_time evict_node_use_free_memory
        expose_hostnames_for_all_suffixes failure_detection_sensitivity hide_user_data_from_log
        max_saved_events_per_type max_simultaneous_backups parallel_shards_upgrade
        persistence_cleanup_scan_interval persistent_node_removal rack_aware
        redis_migrate_node_threshold redis_migrate_node_threshold_p
        redis_provision_node_threshold redis_provision_node_threshold_p redis_upgrade_policy
        resp3_default shards_overbooking show_internals slave_ha slave_ha_bdb_cooldown_period
        slave_ha_cooldown_period slave_ha_grace_period
    """)


class RotateBody(Body):
    name: Filled = "api"

    OPTIONAL = True


class CertificateBody(Body):
    name: Filled
    certificate: Pem
    key: Pem = ""
    client_cas: Many[Sha256] = []
    trust_grows: bool = False


class CertificatesBody(Body):
    certificates: Annotated[Many[CertificateBody], Field(min_length=1)]


# A sentence has room in it; argon2 takes as long for any length.
NewPassword = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


IdentityText = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class OidBody(Body):
    oid: Annotated[str, StringConstraints(max_length=128, pattern=r"^[0-9.]+$")]
    value: IdentityText


class IdentityBody(Body):
    """One of the kinds, and what else a certificate must fulfil to be the user by it."""

    subject: IdentityText = ""
    cn: IdentityText = ""
    uri: IdentityText = ""
    dns: IdentityText = ""
    email: IdentityText = ""
    ip: IdentityText = ""
    upn: IdentityText = ""
    key: IdentityText = ""
    cert: IdentityText = ""
    attributes: IdentityText = ""
    attribute: OidBody | None = None
    extension: OidBody | None = None
    ca: Annotated[str, StringConstraints(max_length=1024)] = ""
    from_: Annotated[list[IdentityText], Field(alias="from", max_length=64)] = []
    session: Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]{0,8}[smhd])?$")] = ""
    shared: bool = False
    comment: Annotated[str, StringConstraints(max_length=255)] = ""

    def said(self) -> dict[str, Any]:
        """The fields that the request has, by their names there."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class UserBody(Body):
    name: UserName = ""
    email: Email = ""
    auth_method: AuthMethod = "regular"
    # Longer ones would not fit into the index of a PostgreSQL table.
    certificate_subject_line: Annotated[str, StringConstraints(max_length=512)] = ""
    certificate_identities: Annotated[list[IdentityBody], Field(max_length=64)] = []
    password: NewPassword = ""
    role: Management = "none"
    role_uids: Many[Uid] = []

    IGNORED = _words("""
        uid account_id action_uid alert_bdb_backup bdbs_email_alerts cluster_email_alerts
        email_alerts last_login note off_on password_issue_date status
    """)


class NewUserBody(UserBody):
    uid: Uid = 0

    IGNORED = UserBody.IGNORED - {"uid"}


class AuthorizeBody(Body):
    username: Annotated[str, StringConstraints(max_length=1024)] = ""
    password: Annotated[str, StringConstraints(max_length=1024)] = ""
    ttl: Annotated[int, Field(ge=1, le=86400)] = 300  # seconds

    OPTIONAL = True


class RefreshBody(Body):
    ttl: Annotated[int, Field(ge=1, le=86400)] = 300  # seconds

    OPTIONAL = True


class NewPasswordBody(Body):
    username: UserName = ""  # by default the caller's own
    new_password: NewPassword


class OldPasswordBody(Body):
    username: UserName = ""
    old_password: Annotated[str, StringConstraints(max_length=1024)]


class RoleBody(Body):
    name: ObjectName = ""
    management: Management = "none"
    resources: Many[dict[str, Any]] = []

    IGNORED = _words("uid account_id action_uid")


class NewRoleBody(RoleBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = RoleBody.IGNORED - {"uid"}


class RedisAclBody(Body):
    name: ObjectName = ""
    acl: Annotated[str, StringConstraints(min_length=1, max_length=65536)] = ""

    IGNORED = _words("uid account_id action_uid min_version max_version")


class NewRedisAclBody(RedisAclBody):
    name: ObjectName
    acl: Annotated[str, StringConstraints(min_length=1, max_length=65536)]
    uid: Uid = 0

    IGNORED = RedisAclBody.IGNORED - {"uid"}


ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{0,253}$")]
Port = r"(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
Address = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._:-]{{1,253}}:{Port}$")]


class EndpointBody(Body):
    addr: Many[Host] = []
    port: Annotated[int, Field(ge=1, le=65535)]
    dns_name: ServerName = ""

    IGNORED = _words("""
        uid addr_type proxy_policy exclude_proxies include_proxies
        oss_cluster_api_preferred_ip_type oss_cluster_api_preferred_endpoint_type
    """)


class ClientCertificateBody(Body):
    client_cert: Pem

    IGNORED = _words("status")


class RolePermissionBody(Body):
    role_uid: Uid
    redis_acl_uid: Uid


class BdbBody(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")] = ""
    endpoints: Annotated[Many[EndpointBody], Field(min_length=1, max_length=MOST)] = []
    tls_mode: TlsMode = "disabled"
    enforce_client_authentication: Switch = "enabled"
    client_cert_subject_validation_type: Validation = "disabled"
    authorized_subjects: Many[SubjectBody] = []
    authentication_ssl_client_certs: Many[ClientCertificateBody] = []
    client_cas: Many[Sha256] = []
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

    MISSING = {"name": "missing_db_name"}
    IGNORED = _words("""
        uid account_id action_uid generation nodes not_synced refused status ignored acl
        aof_policy authentication_admin_pass authentication_redis_pass
        authentication_sasl_pass authentication_sasl_uname authentication_ssl_crdt_certs
        auto_upgrade avoid_nodes background_op backup backup_failure_reason backup_history
        backup_interval backup_interval_offset backup_location backup_progress
        backup_status bigstore bigstore_max_ram_ratio bigstore_ram_size
        bigstore_ram_weights bigstore_version client_cert compact_replication conns
        conns_type crdt crdt_causal_consistency crdt_config_version
        crdt_featureset_version crdt_ghost_replica_ids crdt_guid crdt_modules
        crdt_protocol_version crdt_repl_backlog_size crdt_replica_id crdt_replicas
        crdt_sources crdt_sync crdt_sync_connection_alarm_timeout_seconds crdt_sync_dist
        crdt_syncer_auto_oom_unlatch crdt_xadd_id_uniqueness_mode created_time
        data_internode_encryption data_persistence database_already_created
        dataset_import_sources db_conns_auditing disconnect_clients_on_password_removal
        dns_address_master email_alerts enforce_client_authentication_tls eviction_policy
        export_failure_reason export_progress export_status failback
        gradual_src_max_sources gradual_src_mode gradual_sync_max_shards_per_source
        gradual_sync_mode hash_slots_policy implicit_shard_key import_failure_reason
        import_progress import_status internal jump_start_dataset last_backup_time
        last_changed_time last_export_time link_sched_batch_size max_aof_file_size
        max_aof_load_time max_client_pipeline max_connections max_pipelined memory_size
        metrics_export_all mkms module_list mtls_allow_outdated_certs
        mtls_allow_weak_hashing multi_commands_opt oss_cluster
        oss_cluster_api_preferred_endpoint_type oss_cluster_api_preferred_ip_type
        oss_sharding port preserve_node_ip proxy_policy query_performance_factor
        rack_aware recovery_wait_time redis_cluster_enabled redis_version
        repl_backlog_size replica_read_only replica_sources replica_sync
        replica_sync_connection_alarm_timeout_seconds replica_sync_dist replication resp3
        saving_mode shard_block_crossslot_keys shard_block_foreign_keys
        shard_imbalance_threshold shard_imbalance_threshold_percentage shard_key_regex
        shard_list sharding shards_count shards_placement skip_import_analyze slave_buffer
        slave_ha slave_ha_priority snapshot_policy ssl sync sync_dedicated_threads
        sync_sources syncer_log_level syncer_mode tags throughput_ingress topology_epoch
        tracking_table_max_keys type use_nodes use_selective_flush version wait_command
    """)


class NewBdbBody(BdbBody):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
    endpoints: Annotated[Many[EndpointBody], Field(min_length=1, max_length=MOST)]
    uid: Uid = 0

    IGNORED = BdbBody.IGNORED - {"uid"}


class BdbV2Body(Body):
    bdb: NewBdbBody

    IGNORED = _words("recovery_plan")


class BdbPasswordBody(Body):
    password: Annotated[str, StringConstraints(max_length=1024)]


class BootstrapBody(Body):
    """What POST /v1/bootstrap/… takes on Redis Enterprise; nothing of it is looked at."""

    IGNORED = _words("""
        action cluster credentials node license dns_suffixes policy recovery_filename envoy
        required_version retry_count_max retry_time cnm_https_port crdb certificates
    """)

    OPTIONAL = True


class KnownBody(Body):
    """What the event log has of a certificate."""

    subject: Annotated[str, StringConstraints(max_length=65536)]
    serial: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
    cert: Sha256
    key: Sha256
    ca: Sha256 | None = None
    not_after: Annotated[int, Field(ge=0, le=253_402_300_799)] = 0


class ExplainBody(Body):
    certificate: Pem = ""
    known: KnownBody | None = None
    address: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    time: Annotated[int, Field(ge=0, le=253_402_300_799)] | None = None
    bdb_uid: Uid | None = None


Template = Annotated[str, StringConstraints(max_length=512)]


class ProfileBody(Body):
    name: ObjectName = ""
    lifetime: Annotated[int, Field(ge=3600, le=366 * 86400)] = 86400  # seconds
    subject: Template = ""
    sans: Annotated[Many[Template], Field(max_length=16)] = []
    key_usage: Annotated[Many[KeyUsage], Field(min_length=1)] = ["digital_signature"]
    role_uids: Many[Uid] = []

    IGNORED = _words("uid")


class NewProfileBody(ProfileBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = frozenset()


class IssueBody(Body):
    csr: Annotated[str, StringConstraints(max_length=65536)]
    user: UserName = ""
    profile: ObjectName = ""


Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
Serial = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F:]{1,95}$")]


class RevokeBody(Body):
    """One of: a certificate; `ca` and `serial`; `cert`; `key`; a user."""

    certificate: Pem = ""
    ca: Hash = ""
    serial: Serial = ""
    cert: Hash = ""
    key: Hash = ""
    user_uid: Uid = 0
    reason: Reason = "unspecified"


class CrlBody(Body):
    url: Annotated[str, StringConstraints(max_length=2048)] = ""
    interval: Annotated[int, Field(ge=60, le=10**9)] = 3600  # seconds
    stale: Stale = "warn"

    IGNORED = _words("""
        uid issuer ca scope number this_update next_update overdue entries last_fetch problem
        ignored
    """)


class NewCrlBody(CrlBody):
    crl: Pem = ""
    authorities: Pem = ""


class EndSessionBody(Body):
    bdb_uid: Uid
    node: Address
    id: Annotated[int, Field(ge=1, le=2**62)]
    cert: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class ChangeBody(Body):
    """A request. What is in its body, its own model checks."""

    method: Literal["POST", "PUT", "DELETE"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]{1,255}$")]
    body: dict[str, Any] | None = None


class PreviewBody(Body):
    changes: Annotated[Many[ChangeBody], Field(min_length=1, max_length=1000)]


Model = TypeVar("Model", bound=Body)


def parse(model: type[Model], content: bytes) -> tuple[Model, list[str]]:
    """The body of a request, and the names of its fields that are ignored. Raises Refusal 400,
    which names the field and never repeats its value: that may be a password."""
    ignored: set[str] = set()
    sent = {} if model.OPTIONAL and not content else _object(content)
    try:
        found = model.model_validate(sent, context={"ignored": ignored})
    except ValidationError as error:
        raise _refusal(model, error) from None
    return found, sorted(ignored)


def _object(content: bytes) -> dict[str, Any]:
    try:
        # json.loads would also take UTF-16 and UTF-32, which whoever filters requests may not read.
        text = content.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise invalid("invalid_json", "the body is no JSON: not in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise invalid("invalid_json", f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid("invalid_json", "the body is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST:
        raise ValueError(f"an object in it has more than {MOST} fields")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _refusal(model: type[Body], error: ValidationError) -> Refusal:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{_where(problem['loc'])}: {_what(problem)}" for problem in problems[:TOLD]]
    if len(problems) > TOLD:
        said.append(f"and {len(problems) - TOLD} more")
    first = problems[0]
    codes = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
    code = codes.get(first["type"], "invalid_schema")
    if first["type"] == "missing" and len(first["loc"]) == 1:
        code = model.MISSING.get(str(first["loc"][0]), code)
    return invalid(code, "; ".join(said))


def _where(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location]
    return ".".join(part if part.isprintable() else "?" for part in parts)[:200]


def _what(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such field"
    if problem["type"] == "missing":
        return "this field is missing"
    message = str(problem["msg"])
    return message[:1].lower() + message[1:]
