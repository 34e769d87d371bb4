"""/v1/cluster and /v1/cluster/policy: the settings of the control plane itself."""

from dataclasses import asdict, replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import Field

from control.api import demands
from control.api.demands import DemandsAnswer, DemandsBody
from control.api.models import Answer, Body, Many, SubjectBody, words
from control.api.web import CHANGING, answer, in_field, needs, store, unchanged
from control.policy import lines as policy
from control.records import Cluster, Subject, Validation, rendered_time


class ClusterBody(DemandsBody):
    mtls_certificate_authentication: bool = False
    mtls_client_cert_subject_validation_type: Validation = "disabled"
    mtls_authorized_subjects: Many[SubjectBody] = []
    control_plane_basic_authentication: bool = True
    password_complexity: bool = False
    password_min_length: Annotated[int, Field(ge=8, le=256)] = 8
    password_expiration_duration: Annotated[int, Field(ge=0, le=36_500)] = 0

    IGNORED = words("""
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

    IGNORED = words("""
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


class ClusterAnswer(DemandsAnswer, Answer):
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


blueprint = Blueprint("cluster", __name__)


@blueprint.get("/v1/cluster")
@needs("view_cluster_info", answers=ClusterAnswer)
def read() -> Response:
    return answer(render(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster")
@needs("update_cluster", takes=ClusterBody, answers=ClusterAnswer, query=(*CHANGING, "force"))
def update(sent: ClusterBody) -> Response:
    said = sent.sent()
    changes = {name: value for name, value in said.items() if name not in demands.FIELDS}
    if "mtls_authorized_subjects" in changes:
        changes["mtls_authorized_subjects"] = subjects(
            "mtls_authorized_subjects", changes["mtls_authorized_subjects"]
        )

    def change(cluster: Cluster) -> Cluster:
        after = demands.demanded(cluster.demands, sent)
        return replace(unchanged(cluster), **changes, demands=after)

    if demands.FIELDS & said.keys():
        demands.check_own(change(store().settings.cluster()))
        demands.check_sessions(lambda stage: stage.settings.configure(change))
    changed = store().settings.configure(change)
    return answer(render(changed), changed)


@blueprint.get("/v1/cluster/policy")
@needs("view_cluster_info", answers=PolicyAnswer)
def read_policy() -> Response:
    return answer(rendered_policy(store().settings.cluster()), store().settings.cluster())


@blueprint.put("/v1/cluster/policy")
@needs("update_cluster", takes=PolicyBody, answers=PolicyAnswer, query=CHANGING)
def update_policy(sent: PolicyBody) -> Response:
    changes = sent.sent()
    changed = store().settings.configure(lambda cluster: replace(unchanged(cluster), **changes))
    return answer(rendered_policy(changed), changed)


def subjects(field: str, entries: list[Any]) -> tuple[Subject, ...]:
    """The records of an allow list, checked. Raises Refusal 400."""
    records = tuple(entry.record() for entry in entries)
    in_field(field, lambda: policy.check_gate(records))
    return records


def rendered_subjects(entries: tuple[Subject, ...]) -> list[dict[str, Any]]:
    """An allow list as answers show it: only what is set."""
    return [{name: value for name, value in asdict(entry).items() if value} for entry in entries]


def render(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "created_time": rendered_time(cluster.created),
        "mtls_certificate_authentication": cluster.mtls_certificate_authentication,
        "mtls_client_cert_subject_validation_type": (
            cluster.mtls_client_cert_subject_validation_type
        ),
        "mtls_authorized_subjects": rendered_subjects(cluster.mtls_authorized_subjects),
        "control_plane_basic_authentication": cluster.control_plane_basic_authentication,
        "password_complexity": cluster.password_complexity,
        "password_min_length": cluster.password_min_length,
        "password_expiration_duration": cluster.password_expiration_duration,
        **demands.rendered(cluster.demands.over(demands.NOTHING)),
    }


def rendered_policy(cluster: Cluster) -> dict[str, Any]:
    return {
        "login_lockout_threshold": cluster.login_lockout_threshold,
        "login_lockout_counter_reset_after": cluster.login_lockout_counter_reset_after,
        "login_lockout_duration": cluster.login_lockout_duration,
        "master_healthcheck_api_auth": cluster.master_healthcheck_api_auth,
    }
