"""/v1/cluster/auditing/db_conns: the auditor that hears of connections to databases, and
`audit_settings` of a database: of which. control/nodes/auditing.py is what tells it."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from control.api.models import Answer, Body, Filled, Many, UserName
from control.api.web import CHANGING, answer, needs, store, unchanged
from control.errors import Refusal, invalid, refused
from control.records import (
    AuditMode,
    AuditProtocol,
    AuditSettings,
    AuditSink,
    Cluster,
    Database,
    FilterType,
)

ENTRIES = 512  # of a filter
HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}", re.ASCII)
PATH = re.compile(r"/[^\0]{1,106}")  # as long as a socket's may be
NO_COMMANDS = (
    "audit_settings.audit_mode: this setting is not kept here, where connection or disabled "
    "holds: commands go to the servers, and not through the control plane"
)


class UsernameFilterBody(Body):
    enabled: bool = False
    usernames: Annotated[Many[UserName], Field(max_length=ENTRIES)] = []
    filter_type: FilterType = "inclusive"
    allow_while_username_unknown: bool = False


class AddressFilterBody(Body):
    enabled: bool = False
    ip_addresses: Annotated[Many[Filled], Field(max_length=ENTRIES)] = []
    cidr_ranges: Annotated[Many[Filled], Field(max_length=ENTRIES)] = []
    filter_type: FilterType = "inclusive"


class AuditSettingsBody(Body):
    """What is not sent stays as it is."""

    audit_mode: Literal["disabled", "connection", "connection_and_crud"] = "disabled"
    username_filter: UsernameFilterBody = UsernameFilterBody()
    source_ip_filter: AddressFilterBody = AddressFilterBody()
    max_total_key_bytes: Annotated[int, Field(ge=0, le=2**53)] = 131_072

    @field_validator("audit_mode")
    @classmethod
    def _commands_are_not_seen(cls, mode: str) -> str:
        if mode == "connection_and_crud":
            raise refused("unsupported_setting", NO_COMMANDS)
        return mode


class UsernameFilterAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    enabled: bool
    usernames: list[str]
    filter_type: FilterType
    allow_while_username_unknown: bool


class AddressFilterAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    enabled: bool
    ip_addresses: list[str]
    cidr_ranges: list[str]
    filter_type: FilterType


class AuditSettingsAnswer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    audit_mode: AuditMode
    username_filter: UsernameFilterAnswer
    source_ip_filter: AddressFilterAnswer
    max_total_key_bytes: int


class AuditingBody(Body):
    """What is not sent stays as it is. `syslog` is ours."""

    audit_protocol: AuditProtocol = "TCP"
    audit_address: Filled = ""
    audit_port: Annotated[int, Field(ge=1, le=65535)] = 0
    audit_reconnect_interval: Annotated[int, Field(ge=1, le=86_400)] = 1
    audit_reconnect_max_attempts: Annotated[int, Field(ge=0, le=10**9)] = 0
    audit_queue_max_bytes: Annotated[int, Field(ge=0, le=1 << 28)] = 524_288


class AuditingAnswer(Answer):
    """`audit_port` is there where there is one."""

    audit_protocol: AuditProtocol
    audit_address: str
    audit_port: int = 0
    audit_reconnect_interval: int
    audit_reconnect_max_attempts: int
    audit_queue_max_bytes: int


blueprint = Blueprint("auditing", __name__)


@blueprint.get("/v1/cluster/auditing/db_conns")
@needs("view_cluster_info", answers=AuditingAnswer)
def read() -> Response:
    cluster = store().settings.cluster()
    return answer(render(cluster.audit_sink), cluster)


@blueprint.put("/v1/cluster/auditing/db_conns")
@needs("update_cluster", takes=AuditingBody, answers=AuditingAnswer, query=CHANGING)
def update(sent: AuditingBody) -> Response:
    def change(cluster: Cluster) -> Cluster:
        return replace(unchanged(cluster), audit_sink=told(cluster.audit_sink, sent))

    changed = store().settings.configure(change)
    return answer(render(changed.audit_sink), changed)


@blueprint.delete("/v1/cluster/auditing/db_conns")
@needs("update_cluster", query=CHANGING)
def delete() -> Response:
    """Not while a database, or what new databases begin with, needs it."""

    def change(cluster: Cluster) -> Cluster:
        if unchanged(cluster).audit_sink is None:
            raise no_auditor()
        return replace(cluster, audit_sink=None)

    store().settings.configure(change)
    return answer({})


def no_auditor() -> Refusal:
    text = "no auditor is configured: configure it with PUT /v1/cluster/auditing/db_conns"
    return Refusal(404, "db_conns_audit_config_not_found", text)


def told(before: AuditSink | None, sent: AuditingBody) -> AuditSink:
    """The auditor after a request. Raises Refusal 400."""
    said = sent.sent()
    if before is None:
        missing = [one for one in ("audit_protocol", "audit_address") if one not in said]
        if missing:
            text = f"{missing[0]}: this field is missing"
            raise invalid("db_conns_auditing_missing_config", text)
        return checked(AuditSink(**said))
    if "audit_protocol" in said and said["audit_protocol"] != before.audit_protocol:
        before = replace(before, audit_port=0)  # it was of the other one
    return checked(replace(before, **said))


def checked(sink: AuditSink) -> AuditSink:
    """Raises Refusal 400 where the fields do not go together."""
    is_path = sink.audit_address.startswith("/")
    if sink.audit_protocol == "local" and not is_path:
        text = "audit_address: with local, this must be the path of a stream socket on this machine"
        raise invalid("db_conns_auditing_bad_address", text)
    if sink.audit_protocol == "TCP" and is_path:
        text = (
            "audit_address: a TCP auditor needs a host name or IP address; for a socket, use local"
        )
        raise invalid("db_conns_auditing_bad_address", text)
    if not (PATH if is_path else HOST).fullmatch(sink.audit_address):
        text = "audit_address: this is not a host name, IP address or path of a socket"
        raise invalid("db_conns_auditing_bad_address", text)
    if is_path and sink.audit_port:
        text = "audit_port: a socket has no port"
        raise invalid("db_conns_auditing_bad_config", text)
    if not is_path and not sink.audit_port:
        raise invalid("db_conns_auditing_missing_config", "audit_port: this field is missing")
    return sink


def render(sink: AuditSink | None) -> dict[str, Any]:
    """Raises Refusal 404 where there is none."""
    if sink is None:
        raise no_auditor()
    shown = asdict(sink)
    return {name: value for name, value in shown.items() if name != "audit_port" or value}


# ---- Of a database ----


def settled(before: AuditSettings, said: dict[str, Any]) -> AuditSettings:
    """The settings after a request with these fields. `db_conns_auditing` is the older name of
    `audit_mode`, which wins, as on Redis Enterprise. Raises Refusal 400 where that would leave
    auditing off although the older name switches it on."""
    sent: AuditSettingsBody | None = said.get("audit_settings")
    found = merged(before, sent) if sent else before
    if "db_conns_auditing" in said:
        mode: AuditMode = "connection" if said["db_conns_auditing"] else "disabled"
        if not sent or "audit_mode" not in sent.sent():
            return replace(found, audit_mode=mode)
        if mode == "connection" and before.audit_mode == found.audit_mode == "disabled":
            text = "db_conns_auditing: this contradicts audit_settings.audit_mode: send only one"
            raise invalid("invalid_param", text)
    return found


def merged(before: AuditSettings, sent: AuditSettingsBody) -> AuditSettings:
    said: dict[str, Any] = sent.sent()
    for name in ("username_filter", "source_ip_filter"):
        if name in said:
            fields = {
                field: tuple(value) if isinstance(value, list) else value
                for field, value in said[name].sent().items()
            }
            said[name] = replace(getattr(before, name), **fields)
    found = replace(before, **said)
    check_filters(found)
    return found


def check_filters(settings: AuditSettings) -> None:
    """Raises Refusal 400, with the error codes of Redis Enterprise."""
    names, addresses = settings.username_filter, settings.source_ip_filter
    if names.enabled and not names.usernames:
        text = "audit_settings.username_filter.usernames: this filter is enabled, but empty"
        raise invalid("audit_settings_empty_filter_list", text)
    count = len(addresses.ip_addresses) + len(addresses.cidr_ranges)
    if addresses.enabled and not count:
        text = "audit_settings.source_ip_filter: this filter is enabled, and has no addresses"
        raise invalid("audit_settings_empty_filter_list", text)
    if count > ENTRIES:
        text = f"audit_settings.source_ip_filter: more than {ENTRIES} addresses and ranges"
        raise invalid("audit_settings_filter_list_too_large", text)
    for text in addresses.ip_addresses:
        if not reads(ipaddress.ip_address, text):
            field = "audit_settings.source_ip_filter.ip_addresses"
            why = f"{field}: '{text}' is not an IP address"
            raise invalid("audit_settings_invalid_ip_address", why)
    for text in addresses.cidr_ranges:
        if not reads(ipaddress.ip_network, text):
            field = "audit_settings.source_ip_filter.cidr_ranges"
            why = f"{field}: '{text}' is not a range of addresses (or has host bits)"
            raise invalid("audit_settings_invalid_cidr_range", why)


def reads(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def for_new(database: Database, said: dict[str, Any], cluster: Cluster) -> Database:
    """With what the cluster says of new databases, where the request says nothing."""
    if cluster.db_conns_auditing and not said.keys() & {"audit_settings", "db_conns_auditing"}:
        settings = replace(database.audit_settings, audit_mode="connection")
        return replace(database, audit_settings=settings)
    return database


def rendered(settings: AuditSettings) -> dict[str, Any]:
    names, addresses = asdict(settings.username_filter), asdict(settings.source_ip_filter)
    lists = ("ip_addresses", "cidr_ranges")
    return {
        "db_conns_auditing": settings.audit_mode != "disabled",
        "audit_settings": {
            "audit_mode": settings.audit_mode,
            "username_filter": names | {"usernames": list(names["usernames"])},
            "source_ip_filter": addresses | {name: list(addresses[name]) for name in lists},
            "max_total_key_bytes": settings.max_total_key_bytes,
        },
    }
