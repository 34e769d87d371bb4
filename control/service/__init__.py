"""The control plane as a service: its folder, its settings, `init` and `serve`.

HOME/certauth.toml     settings, optional
HOME/control.db        its data (unless `database` says otherwise)
HOME/ca.crt, .key      its own CA: of its certificates, and of whatever an operator issues with it
HOME/clients.pem       the CA of clients, where there is one: see control/domain/issuing.py
HOME/control.crt, .key its certificate for nodes
HOME/bootstrap         what nodes take as `loadmodule … bootstrap FILE`: who writes their policy
"""

from control.service.backups import backup, restore, would_restore
from control.service.checking import check_settings, rendered_settings
from control.service.client_ca import create_ca, import_ca, trust_too
from control.service.config import SETTINGS, Config, DatabaseAway, ServiceError, load_config
from control.service.enrolment import Enrolment, enrol, enrol_sentinel
from control.service.health import fault
from control.service.home import (
    LIFETIME,
    authority_of,
    ca_line,
    init,
    own_certificates,
    renew,
    rotate,
)
from control.service.recovery import allow_passwords, release, set_password, take_node
from control.service.serving import running, serve
from control.service.signals import stop_on_signal

__all__ = [
    "LIFETIME",
    "SETTINGS",
    "Config",
    "DatabaseAway",
    "Enrolment",
    "ServiceError",
    "allow_passwords",
    "authority_of",
    "backup",
    "ca_line",
    "check_settings",
    "create_ca",
    "enrol",
    "enrol_sentinel",
    "fault",
    "import_ca",
    "init",
    "load_config",
    "own_certificates",
    "release",
    "rendered_settings",
    "renew",
    "restore",
    "rotate",
    "running",
    "serve",
    "set_password",
    "stop_on_signal",
    "take_node",
    "trust_too",
    "would_restore",
]
