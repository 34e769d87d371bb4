"""The bodies and the answer of /v1/bdbs."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from control.api.demands import DemandsAnswer, DemandsBody
from control.api.models import MOST, Answer, Body, Host, Many, Pem, Sha256, SubjectBody, Uid, words
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

    MISSING = {"name": "missing_db_name"}
    IGNORED = words("""
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

    IGNORED = words("recovery_plan")


class BdbPasswordBody(Body):
    password: Annotated[str, StringConstraints(max_length=1024)]


class BdbAnswer(DemandsAnswer, Answer):
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
    generation: int
    nodes: list[dict[str, Any]]
    refused: list[dict[str, str]]
    not_synced: list[dict[str, Any]]
