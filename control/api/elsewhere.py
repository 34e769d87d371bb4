"""What Redis Enterprise has and this control plane has not: a directory (LDAP). Each call is
refused by name, so that nobody is left to guess what a 404 means."""

from flask import Blueprint, Response

from control.api.models import Body, words
from control.api.web import needs
from control.errors import refused

WHY = (
    "there is no directory here: logins are decided by certificates, and rights by the roles that "
    "users have here"
)


class LdapBody(Body):
    """What PUT /v1/cluster/ldap and /v1/ldap_mappings take on Redis Enterprise; nothing of it is
    looked at."""

    IGNORED = words("""
        bind_dn bind_pass ca_cert cba cba_identity_oid cba_identity_source control_plane data_plane
        directory_timeout_s dn_group_attr dn_group_query starttls uris user_dn_query
        user_dn_template account_id action_uid bdbs_email_alerts cluster_email_alerts dn email
        email_alerts name role_uids uid
    """)

    OPTIONAL = True


blueprint = Blueprint("elsewhere", __name__)


@blueprint.get("/v1/cluster/ldap")
@needs("view_cluster_info")
def read_ldap() -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.put("/v1/cluster/ldap")
@needs("update_cluster", takes=LdapBody)
def put_ldap(sent: LdapBody) -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.delete("/v1/cluster/ldap")
@needs("update_cluster")
def delete_ldap() -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.get("/v1/ldap_mappings")
@needs("view_cluster_info")
def read_mappings() -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.post("/v1/ldap_mappings")
@needs("update_cluster", takes=LdapBody)
def post_mapping(sent: LdapBody) -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.get("/v1/ldap_mappings/<int(max=2147483647):uid>")
@needs("view_cluster_info")
def read_mapping(uid: int) -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.put("/v1/ldap_mappings/<int(max=2147483647):uid>")
@needs("update_cluster", takes=LdapBody)
def put_mapping(sent: LdapBody, uid: int) -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)


@blueprint.delete("/v1/ldap_mappings/<int(max=2147483647):uid>")
@needs("update_cluster")
def delete_mapping(uid: int) -> Response:
    """Always a 406."""
    raise refused("ldap_unsupported", WHY)
