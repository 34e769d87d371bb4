"""What a 404 says of a path that Redis Enterprise has and this API does not, so that nobody has to
guess what it means."""

# By the first word of the path behind the version; see `not_here`.
OF_SERVERS = "shards are the servers' own here, which /v1/nodes and `nodes` of a database show"
SERVERS_ALONE = "the servers and their modules are installed and started outside the control plane"
NOT_HERE = {
    "alerts": "alerts are /v1/cluster/alerts; of nodes and databases, Prometheus's: /metrics",
    "bdb_groups": "databases have no groups here: each has servers of its own",
    "cm_settings": "the web page has no settings; those of logins are /v1/cluster",
    "crdb_tasks": "this product has no Active-Active",
    "crdbs": "this product has no Active-Active",
    "debuginfo": "this product makes no support packages; see `redis-certauth status`",
    "diagnostics": "nothing is diagnosed in jobs here; /v1/cluster/check says how things are",
    "endpoints": "clients speak to the servers themselves: `endpoints` of a database names them",
    "job_scheduler": "this product schedules no jobs; `redis-certauth backup` makes backups",
    "local": "of this machine there is /v1/local/node/master_healthcheck alone",
    "migrations": "data is not moved here: it stays on the servers",
    "modules": SERVERS_ALONE,
    "ocsp": "who is asked by OCSP, about clients' certificates, is /v1/certauth/responders",
    "proxies": "this product has no proxies: clients speak to the servers themselves",
    "services": SERVERS_ALONE,
    "sessions": "clients of databases are /v1/certauth/sessions",
    "shards": OF_SERVERS,
    "suffix": "this product has no DNS suffixes: `endpoints` of a database names its servers",
    "suffixes": "this product has no DNS suffixes: `endpoints` of a database names its servers",
    "usage_report": "nobody is charged here, so nothing is reported",
}
# By the last word of a path, of nodes and databases.
NOT_OF_ONE = {
    "acl": "who has which ACL on a database is `roles_permissions` of the database",
    "actions": "what a database is doing is /v2/actions",
    "alert_settings": "settings of alerts are `alert_settings` of /v1/cluster",
    "alerts": "alerts of nodes and databases are Prometheus's here, see /metrics",
    "audit_log": "what happened is /v1/logs",
    "availability": "of one database there are its `status` and `nodes`",
    "backup": "data is backed up on the servers, not here",
    "change_password_hashing_algorithm": "passwords are hashed with argon2, and in no other way",
    "clients": NOT_HERE["sessions"],
    "command": "commands go to the servers themselves, as users with certificates",
    "debuginfo": NOT_HERE["debuginfo"],
    "endpoints": NOT_HERE["endpoints"],
    "events": "what happened is /v1/logs",
    "export": "data is moved on the servers, not here",
    "flush": "data is deleted on the servers, not here",
    "health": "of all databases there is /v4/cluster/health; of one, its `status` and `nodes`",
    "import": "data is moved on the servers, not here",
    "ldap": "this product asks no LDAP directory: see /v1/cluster/ldap",
    "license": "the license is /v1/license",
    "metrics": "metrics are Prometheus's here: /metrics",
    "modules": SERVERS_ALONE,
    "peer_stats": NOT_HERE["crdbs"],
    "policies": "policies of the cluster are /v1/cluster/policy",
    "proxies": NOT_HERE["proxies"],
    "recover": "data is recovered on the servers, not here",
    "reset_admin_pass": "databases have no passwords here",
    "restore": "data is moved on the servers, not here",
    "services_configuration": SERVERS_ALONE,
    "settings": "settings of the cluster are /v1/cluster and /v1/cluster/policy",
    "sessions": NOT_HERE["sessions"],
    "shards": OF_SERVERS,
    "slowlog": "the servers themselves answer SLOWLOG",
    "snapshots": "nodes are not restored from here",
    "stats": "statistics are Prometheus's here: /metrics; of the cluster, /v1/cluster/stats",
    "status": "of nodes there are /v1/nodes and /v1/certauth/nodes",
    "sync_source_stats": "there are no sources that a database is a replica of here",
    "syncer_state": "this product has no syncer: the servers replicate by themselves",
    "upgrade": SERVERS_ALONE,
    "wd_status": "of nodes there are /v1/nodes and /v1/certauth/nodes",
}


def not_here(path: str) -> str:
    """What a 404 says of a path that Redis Enterprise has; "" of any other."""
    found = [word for word in path.split("/") if word]
    if len(found) < 2 or found[0][:1] != "v" or not found[0][1:].isdecimal():
        return ""
    if found[1] in NOT_HERE:
        return NOT_HERE[found[1]]
    if found[1] in ("bdbs", "nodes", "db", "cluster", "users"):
        return next((NOT_OF_ONE[word] for word in reversed(found) if word in NOT_OF_ONE), "")
    return ""
