"""ACLs: rights on a database, in Redis's own words."""

from control.ui import objects
from control.ui.fields import Field, Rules
from control.ui.objects import Column, Kind
from control.ui.roles import used

KIND = Kind(
    "ACL",
    "ACLs",
    "Rights on a database, in Redis's ACL syntax. A database gives one to the holders of a role.",
    "acls",
    "/v1/redis_acls",
    ("create_redis_acl", "update_redis_acl", "delete_redis_acl"),
    (Column("Rules", lambda acl: acl["acl"], code=True),),
    (
        Field("name", "Name", required=True),
        Rules("acl", "Rules", "Such as +@read ~orders:*", required=True),
    ),
    "used.html",
    lambda acl: {"used": used("redis_acl_uid", acl["uid"]), "holders": ([], False)},
    noun_in_log="redis_acl",
)
blueprint = objects.blueprint_of(KIND)
