"""The CA that issues clients' certificates: made here, or brought from elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from control.domain import issuing
from control.pki import trust
from control.pki.keys import KeyType
from control.pki.uploads import merge_bundles
from control.records import TRUSTED_CA, Certificate
from control.service.config import Config, ServiceError
from control.service.home import at_work
from control.store import Store

# ---- The CA of clients ---------------------------------------------------------------------------


def create_ca(config: Config, name: str, key_type: KeyType, again: bool) -> None:
    """Makes a CA of clients, and has `mtls_trusted_ca` trust it too. `name` is its organisation, ""
    for that of the cluster; `again`: instead of the present one. Raises ServiceError."""
    with _place_for_ca(config, again) as store:
        named = name or store.settings.cluster().name
        issuing.create(
            config.home, named, config.passphrase(), key_type, lambda pem: trust_too(store, pem)
        )


def import_ca(config: Config, certificates: str, key: str, again: bool) -> None:
    """Takes a CA from elsewhere instead: PEM of its certificate and those above it, and of its key,
    which may have the passphrase of this control plane. Else as `create_ca`."""
    with _place_for_ca(config, again) as store:
        issuing.adopt(
            config.home, certificates, key, config.passphrase(), lambda pem: trust_too(store, pem)
        )


@contextmanager
def _place_for_ca(config: Config, again: bool) -> Iterator[Store]:
    with at_work(config) as store:
        if (config.home / issuing.CLIENTS).exists() and not again:
            raise ServiceError(
                f"{config.home} holds a CA of clients already; --replace puts another one in its "
                "place, and both are trusted then"
            )
        try:
            yield store
        except ValueError as error:
            raise ServiceError(str(error)) from error
        except OSError as error:
            raise ServiceError(f"{error.filename}: {error.strerror}") from error


def trust_too(store: Store, pem: str) -> None:
    """Adds CA certificates to `mtls_trusted_ca`. Raises Refusal."""
    found = store.settings.certificates().get(TRUSTED_CA)
    trusted = merge_bundles(found.certificate if found else "", pem)
    uses = trust.settled(store.settings.trust(), trusted)
    store.settings.put_certificates([Certificate(TRUSTED_CA, trusted, uses=uses)])
