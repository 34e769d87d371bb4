"""Fields of Redis Enterprise's objects that are not settings here (RS 8.2, and those of 8.0 that a
cluster shows and no page names). tests/control/api/test_enterprise.py holds them to its table.

* IGNORED: where and how data is kept, and what only answers have. Accepted, and listed in the
  answer.
* HELD: what says who may do what, what is encrypted or what is logged. A value that holds here
  already, or than which it is stricter here, is not a change; any other one is a 406, since a
  client would take the 200 for the setting.
"""

from typing import Any

from control.api.models import Held, words

NO_PASSWORDS = "a database has no passwords here: clients are known by their certificates"
OF_SERVERS = "it is a setting of the servers, in their redis.conf"
NO_DIRECTORY = "logins are decided by certificates and the users here alone"
STRICTER = "certificates that have ended, and weak keys and signatures, are refused in any case"
CONTROL_CIPHERS = "the API's suites are ECDHE with AES-GCM or ChaCha20, which all of these hold"

BDB_IGNORED = words("""
    account_id active_defrag_cycle_max active_defrag_cycle_min active_defrag_ignore_bytes
    active_defrag_max_scan_fields active_defrag_threshold_lower active_defrag_threshold_upper
    activedefrag aof_policy authentication_admin_pass auto_shards_balancing
    auto_shards_balancing_grace_period auto_upgrade avoid_nodes background_op backup
    backup_failure_reason backup_history backup_interval backup_interval_offset backup_location
    backup_progress backup_status bigstore bigstore_max_ram_ratio bigstore_ram_size
    bigstore_ram_weights bigstore_version compact_replication compare_key_hslot conns
    conns_global_maximum_dedicated conns_minimum_dedicated conns_type crdt
    crdt_causal_consistency crdt_config_version crdt_featureset_version crdt_ghost_replica_ids
    crdt_guid crdt_modules crdt_protocol_version crdt_repl_backlog_size crdt_replica_id
    crdt_replicas crdt_sources crdt_sync crdt_sync_connection_alarm_timeout_seconds
    crdt_sync_dist crdt_syncer_auto_oom_unlatch crdt_xadd_id_uniqueness_mode created_time
    data_persistence database_already_created dataset_import_sources dns_address_master
    dns_suffixes email_alerts endpoint endpoint_ip endpoint_node eviction_policy
    export_failure_reason export_progress export_status failback flush_on_fullsync
    generate_text_monitor gradual_src_max_sources gradual_src_mode
    gradual_sync_max_shards_per_source gradual_sync_mode gradual_sync_policy
    gradual_sync_policy_parameters group_uid hash_slots_policy implicit_shard_key
    import_failure_reason import_progress import_status internal jump_start_dataset
    last_backup_time last_changed_time last_export_time link_sched_batch_size
    link_sconn_on_full_request master_persistence max_aof_file_size max_aof_load_time
    max_client_pipeline max_connections max_pipelined maxclients memory_size metrics_export_all
    mkms module_list multi_commands_opt oss_cluster oss_cluster_api_preferred_endpoint_type
    oss_cluster_api_preferred_ip_type oss_sharding partial_request_timeout_seconds port
    preemptive_drain_timeout_seconds preserve_node_ip probabilistic proxy_policy
    query_performance_factor rack_aware recovery_wait_time redis_cluster_enabled redis_version
    repl_backlog_size replica_sconns_on_demand replica_sources replica_sync
    replica_sync_connection_alarm_timeout_seconds replica_sync_dist replication
    replication_oom_threshold_percent resp3 saving_mode sched_policy search search_on_bigstore
    shard_block_crossslot_keys shard_block_foreign_keys shard_imbalance_threshold
    shard_imbalance_threshold_percentage shard_key_regex shard_list sharding shards_count
    shards_placement skip_import_analyze slave_buffer slave_ha slave_ha_priority snapshot_policy
    support_syncer_reconf sync sync_dedicated_threads sync_sources syncer_log_level syncer_mode
    tags throughput_ingress timeseries topology_epoch tracking_table_max_keys
    traffic_manually_disabled type use_nodes use_selective_flush version wait_command
""")

BDB_HELD: dict[str, Held] = {
    "acl": Held(([],), "rights are redis_acls, which roles_permissions give to roles"),
    "authentication_redis_pass": Held(("",), NO_PASSWORDS),
    "authentication_sasl_pass": Held(("",), NO_PASSWORDS),
    "authentication_sasl_uname": Held(("",), NO_PASSWORDS),
    "authentication_ssl_crdt_certs": Held(
        ([],), "there is no Active-Active; further peers of the servers are node_keys"
    ),
    "authorized_names": Held(([],), "send authorized_subjects"),
    "data_internode_encryption": Held((False,), OF_SERVERS + ": tls-replication, tls-cluster"),
    "disabled_commands": Held(("",), "an ACL of each role says which commands it has"),
    "disconnect_clients_on_password_removal": Held((False,), NO_PASSWORDS),
    "mtls_allow_outdated_certs": Held((False,), STRICTER),
    "mtls_allow_weak_hashing": Held((False,), STRICTER),
    "replica_read_only": Held((False,), OF_SERVERS + ": replica-read-only"),
}

# Of `alert_settings`: about nodes, memory and disks that there are none of here, or nobody's.
ALERTS_IGNORED = words("""
    cluster_even_node_count cluster_flash_overcommit cluster_inconsistent_redis_sw
    cluster_inconsistent_rl_sw cluster_internal_bdb cluster_license_about_to_expire
    cluster_multiple_nodes_down cluster_node_joined cluster_node_operation_failed
    cluster_node_remove_abort_completed cluster_node_remove_abort_failed
    cluster_node_remove_completed cluster_node_remove_failed cluster_ocsp_query_failed
    cluster_ocsp_status_revoked cluster_ram_overcommit cluster_too_few_nodes_for_replication
    cluster_users_count_approaches_limit node_aof_slow_disk_io node_checks_error
    node_cpu_utilization node_ephemeral_storage node_failed node_free_flash
    node_insufficient_disk_aofrw node_internal_certs_about_to_expire node_memory
    node_net_throughput node_persistent_storage
""")

CLUSTER_IGNORED = words("""
    availability_lag_tolerance_ms bigstore_driver ccs_internode_encryption
    client_maint_notifications cluster_api_internal_port cluster_ssh_public_key cm_port
    cm_server_version cnm_http_max_threads_per_worker cnm_http_port cnm_http_workers
    cnm_https_port control_cipher_suites_tls_1_3 crdb_coordinator_ignore_requests
    crdb_coordinator_port crdt_rest_client_retries crdt_rest_client_timeout
    crdt_supported_featureset_version crdt_supported_featureset_version_map
    crdt_supported_module_featureset_version_map crdt_supported_protocol_versions
    crdt_supported_protocol_versions_map debuginfo_path default_non_sharded_proxy_policy
    default_sharded_proxy_policy email_alerts email_from entra_id_cache_ttl envoy_admin_port
    envoy_max_downstream_connections envoy_mgmt_server_port gossip_envoy_admin_port
    handle_metrics_redirects handle_redirects logrotate_settings metrics_system
    module_upload_max_size_mb multi_commands_opt port proxy_certificate
    proxy_max_ccs_disconnection_time rack_aware replica_sconns_on_demand reserved_ports
    robust_crdt_syncer s3_ca_cert s3_url sentinel_cipher_suites_tls_1_3 slave_ha
    slave_ha_bdb_cooldown_period slave_ha_cooldown_period slave_ha_grace_period
    slowlog_in_sanitized_support smtp_host smtp_password smtp_port smtp_tls_mode smtp_use_tls
    smtp_username state_machine_smart_client_handoffs_delay_ms syncer_certificate
    system_reserved_ports upgrade_in_progress upgrade_mode use_external_ipv6 use_ipv6
    wait_command
""")

# What a new cluster of Redis Enterprise has.
CONTROL_CIPHER_SUITES = "DEFAULT:!3DES"
DATA_CIPHER_LIST = (
    "DEFAULT:!aNULL:!eNULL:!EXPORT:!DES:!3DES:!RC4:!MD5:!PSK:!aECDH:!EDH-DSS-DES-CBC3-SHA:"
    "!EDH-RSA-DES-CBC3-SHA:!KRB5-DES-CBC3-SHA"
)
TRUE_OR_FALSE: tuple[Any, ...] = (False, True)

CLUSTER_HELD: dict[str, Held] = {
    "allow_modules_upload": Held((False,), "the servers' modules are installed on the servers"),
    "block_cluster_changes": Held((False,), "who may change something is what roles say"),
    "cm_session_timeout_minutes": Held((15,), "sessions of the web page end after 15 minutes"),
    "control_cipher_suites": Held((CONTROL_CIPHER_SUITES,), CONTROL_CIPHERS),
    "data_cipher_list": Held((DATA_CIPHER_LIST,), OF_SERVERS + ": tls-ciphers"),
    "data_cipher_suites_tls_1_3": Held(([], ""), OF_SERVERS + ": tls-ciphersuites"),
    "disconnect_clients_on_password_removal": Held(("auto", "disabled"), NO_PASSWORDS),
    "dmc_external_authentication": Held((False,), NO_DIRECTORY),
    "dmc_external_cba_authentication": Held((False,), NO_DIRECTORY),
    "dmc_external_entraid_authentication": Held((False,), NO_DIRECTORY),
    "dmc_external_ldap_authentication": Held((False,), NO_DIRECTORY),
    "encrypt_pkeys": Held((False,), "keys are files that only the control plane's user can read"),
    "envoy_external_authorization": Held((False,), NO_DIRECTORY),
    "http_support": Held(TRUE_OR_FALSE, "the API is never without TLS"),
    "mask_bdb_credentials": Held(TRUE_OR_FALSE, "no answer has credentials of a database"),
    "metrics_auth": Held(TRUE_OR_FALSE, "metrics always need a login"),
    "min_sentinel_TLS_version": Held(("1.2",), OF_SERVERS + ": tls-protocols"),
    "password_hashing_algorithm": Held(("SHA-256", "PBKDF2"), "passwords are hashed with argon2"),
    "s3_certificate_verification": Held(TRUE_OR_FALSE, "nothing is sent to S3"),
    "sentinel_cipher_suites": Held(([],), OF_SERVERS + ": tls-ciphers"),
    "sentinel_ssl_policy": Held(("allowed",), OF_SERVERS),
    "sentinel_tls_mode": Held(("allowed",), OF_SERVERS),
}

POLICY_IGNORED = words("""
    auto_recovery automatic_node_offload bigstore_migrate_node_threshold
    bigstore_migrate_node_threshold_p bigstore_provision_node_threshold
    bigstore_provision_node_threshold_p default_bigstore_version
    default_concurrent_restore_actions default_fork_evict_ram default_non_sharded_proxy_policy
    default_oss_cluster default_oss_sharding default_provisioned_redis_version
    default_recovery_wait_time default_sharded_proxy_policy default_shards_placement
    default_tracking_table_max_keys_policy diskless_repl endpoint_rebind_propagation_grace_time
    evict_node_use_free_memory expose_hostnames_for_all_suffixes failure_detection_sensitivity
    filter_node_wd_health_metrics max_redis_forks max_saved_events_per_type
    max_simultaneous_backups max_slave_full_syncs metrics_exporter_expose_bdb_name
    oss_cluster_api_preferred_endpoint_type oss_cluster_api_preferred_ip_type
    parallel_shards_upgrade persistence_cleanup_grace_time persistence_cleanup_scan_interval
    persistent_node_removal rack_aware redis_migrate_node_threshold
    redis_migrate_node_threshold_p redis_provision_node_threshold
    redis_provision_node_threshold_p redis_upgrade_policy repl_diskless resp3_default
    shards_overbooking show_internals show_metrics_during_state_machine slave_ha
    slave_ha_bdb_cooldown_period slave_ha_cooldown_period slave_ha_grace_period slow_log_max_len
    use_librdb witness_disk_update_frequency_divisor
""")

POLICY_HELD: dict[str, Held] = {
    "data_internode_encryption": Held((False,), OF_SERVERS + ": tls-replication, tls-cluster"),
    "hide_user_data_from_log": Held((False,), OF_SERVERS + ": hide-user-data-from-log"),
}

USER_HELD: dict[str, Held] = {
    "password_hash_method": Held((), "send the password itself: the control plane hashes it"),
}
