"""The words that the fields of records may have: all there are of each kind."""

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
SeveralNames = Literal["refuse", "same"]
TlsVersion = Literal["1.2", "1.3"]
PubsubDefault = Literal["resetchannels", "allchannels"]
AuthMethod = Literal["regular", "certificate"]
TokenAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
KeyUsage = Literal["digital_signature", "key_encipherment", "key_agreement"]
Severity = Literal["INFO", "WARNING"]
Stale = Literal["warn", "refuse"]
AuditMode = Literal["disabled", "connection"]
AuditProtocol = Literal["TCP", "local", "syslog"]
FilterType = Literal["inclusive", "exclusive"]
Reason = Literal[  # RFC 5280, 5.3.1
    "unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded",
    "cessationOfOperation", "certificateHold", "privilegeWithdrawn",
]  # fmt: skip
PatternKind = Literal["subject", "cn", "uri", "dns", "email", "upn"]
BindingKind = Literal[
    "subject", "cn", "uri", "dns", "email", "ip", "upn", "key", "cert", "attributes", "attribute",
    "extension",
]  # fmt: skip
LineOwner = Literal["database", "user", "pattern", "revocations"]
