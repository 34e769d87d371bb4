"""The cluster: its settings, its certificates, and the CAs that they make trusted."""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import sqlalchemy as sa

from control import records
from control.errors import missing, refused
from control.records import (
    BUILTIN_ROLES,
    DEFAULT_PROFILE,
    FIRST_ACLS,
    TRUSTED_CA,
    Certificate,
    Cluster,
    Database,
    User,
)
from control.store.checks import (
    check_administrators,
    check_audit_sink,
    check_trusted_ca,
    check_unaudited,
)
from control.store.events import note
from control.store.holds import release_holds
from control.store.kernel import Kernel
from control.store.lines import (
    all_databases,
    await_pieces,
    await_policies,
    refresh_databases,
)
from control.store.pieces import finish_lines
from control.store.revoking import follow_revocations
from control.store.rows import (
    cluster_trust,
    database_trust,
    delete_certificate,
    differences,
    exchanged,
    insert_record,
    read_certificates,
    read_cluster,
    read_records,
    take_uid,
    values_of,
)
from control.store.schema import certificates, cluster_table, lease


class Settings:
    """There is one cluster, made by `initialise`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def initialise(self, cluster: Cluster, administrator: User) -> None:
        """Makes the cluster, its built-in roles and ACLs, and its first administrator. Raises
        Refusal 406 where there is one."""
        if self._kernel.revision():
            raise refused("already_initialised", "this control plane was initialised before")
        with self._kernel.transaction() as connection:
            cluster = replace(cluster, stores=((secrets.token_hex(8), 1),))
            values = values_of(cluster_table, cluster)
            connection.execute(sa.insert(cluster_table).values(id=1, revision=1, **values))
            for record in (*BUILTIN_ROLES, *FIRST_ACLS, DEFAULT_PROFILE, administrator):
                take_uid(connection, record)
                insert_record(connection, record)
            note(connection, "cluster_created", cluster_name=cluster.name)

    def cluster(self) -> Cluster:
        """Raises Refusal 406 before `initialise`."""

        def load() -> Cluster:
            with self._kernel.read() as connection:
                return read_cluster(connection)

        return self._kernel.cache.recall("cluster", load)

    def configure(self, change: Callable[[Cluster], Cluster]) -> Cluster:
        """Replaces the cluster's settings by what `change` makes of them. Raises Refusal."""
        with self._kernel.change() as connection:
            before = read_cluster(connection)
            changed = change(before)
            if changed.mtls_certificate_authentication > before.mtls_certificate_authentication:
                check_trusted_ca(connection)
            if changed.audit_sink is None and before.audit_sink is not None:
                check_unaudited(connection, changed)
            values = values_of(cluster_table, changed)
            connection.execute(sa.update(cluster_table).values(**values))
            if changed.demands != before.demands:
                refresh_databases(connection, all_databases(connection), own=True)
            if changed.acl_pubsub_default != before.acl_pubsub_default:
                refresh_databases(connection, all_databases(connection), alike=True)
            await_pieces(connection, all_databases(connection))
            if changed.db_conns_auditing > before.db_conns_auditing:
                check_audit_sink(connection)
            check_administrators(connection)
            note(connection, "cluster_updated", "INFO", **differences(before, changed))
        finish_lines(self._kernel)
        return changed

    def release(self, force: bool = False) -> None:
        """Ends a hold: the servers that were looked at are brought to what this store says; by
        `force` also those that another control plane writes to. The lease's epoch becomes
        the present time, which is above that of any other control plane with this identity, unless
        that one is released later: each server that this one has written to refuses what that one
        writes."""
        now, epoch = int(time.time()), lease.c.epoch
        with self._kernel.change() as connection:
            connection.execute(sa.update(cluster_table).values(hold=""))
            release_holds(connection, force)
            later = sa.case((epoch < now, now), else_=epoch + 1)
            connection.execute(sa.update(lease).values(epoch=later))
            note(connection, "released", "WARNING")

    # ---- Certificates ----

    def certificates(self) -> dict[str, Certificate]:
        """The cluster's certificates by name."""

        def load() -> dict[str, Certificate]:
            with self._kernel.read() as connection:
                return read_certificates(connection)

        return self._kernel.cache.recall("certificates", load)

    def put_certificates(
        self,
        put: Iterable[Certificate],
        settle: Callable[[Certificate], Certificate] = lambda certificate: certificate,
    ) -> None:
        """Installs certificates of the cluster, all or none. `settle` completes each, while nobody
        else changes anything, and may raise Refusal."""
        with self._kernel.change() as connection:
            for certificate in map(settle, put):
                before = read_certificates(connection).get(certificate.name)
                delete_certificate(connection, certificate.name)
                values = values_of(certificates, certificate)
                connection.execute(sa.insert(certificates).values(**values))
                told = exchanged(before.certificate if before else "", certificate.certificate)
                told = {"certificate": certificate.name, **told}
                note(connection, "certificate_updated", "INFO", **told)
                if certificate == before and certificate.name == TRUSTED_CA:
                    await_policies(connection)
            _follow_certificates(connection)

    def delete_certificate(self, name: str) -> None:
        """Removes a certificate of the cluster. Raises Refusal 404."""
        with self._kernel.change() as connection:
            if not delete_certificate(connection, name):
                raise missing(f"certificate '{name}'")
            note(connection, "certificate_deleted", certificate=name)
            _follow_certificates(connection)

    def trust(self) -> records.Trust:
        """The CAs of `mtls_trusted_ca`; none where it is not installed."""

        def load() -> records.Trust:
            with self._kernel.read() as connection:
                return cluster_trust(connection)

        return self._kernel.cache.recall("trust", load)

    def authorities(self) -> tuple[bytes, ...]:
        """DER of every CA that clients are judged by, here or on a database."""

        def load() -> tuple[bytes, ...]:
            with self._kernel.read() as connection:
                trusts = [cluster_trust(connection)]
                trusts += [
                    database_trust(connection, database)
                    for database in read_records(connection, Database)
                ]
                return tuple(dict.fromkeys(d for t in trusts for d in (*t.cas, *t.anchors)))

        return self._kernel.cache.recall("authorities", load)


def _follow_certificates(connection: sa.Connection) -> None:
    """Updates what depends on the cluster's certificates."""
    uids = all_databases(connection)
    refresh_databases(connection, uids, own=True)
    follow_revocations(connection, uids)
    check_administrators(connection)
