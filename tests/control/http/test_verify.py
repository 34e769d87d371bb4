"""How the control plane verifies servers: the same under each interpreter."""

import re
import ssl
from collections.abc import Callable

import pytest

from control.http.verify import verifying
from tests.kit.support import ROOT, Cert, Pki, root

Default = Callable[..., ssl.SSLContext]


@pytest.fixture(params=["3.11", "3.13"])
def interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `create_default_context` makes under that version of Python."""
    plain = ssl.create_default_context

    def default(*words: object, **more: object) -> ssl.SSLContext:
        made = plain(*words, **more)  # type: ignore[arg-type]
        made.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
        if request.param == "3.13":
            made.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        return made

    monkeypatch.setattr(ssl, "create_default_context", default)
    return str(request.param)


def handshake(client: ssl.SSLContext, shown: Cert) -> None:
    """One with a server that shows this certificate. Raises ssl.SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*shown.files)
    ends = [ssl.MemoryBIO() for _ in range(2)]
    one = client.wrap_bio(ends[0], ends[1], server_hostname="localhost")
    two = server.wrap_bio(ends[1], ends[0], server_side=True)
    for _ in range(5):
        for end in (one, two):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert one.version()


def test_certificates_that_strict_clients_refuse_are_taken(interpreter: str, pki: Pki) -> None:
    """Those of the tests have no authority key identifier, and `openssl req -x509` makes a CA
    without key usage."""
    handshake(verifying(cadata=pki.server_ca.pem.decode()), pki.server)
    if interpreter == "3.13":
        default = ssl.create_default_context(cadata=pki.server_ca.pem.decode())
        with pytest.raises(ssl.SSLCertVerificationError, match="Missing"):
            handshake(default, pki.server)


def test_others_are_refused(interpreter: str, pki: Pki) -> None:
    """Another CA's; and below an intermediate alone, which is not an anchor anywhere."""
    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer|self-signed"):
        handshake(verifying(cadata=root("CN=other").pem.decode()), pki.server)
    between = root("CN=root").authority("CN=between")
    leaf = between.issue("CN=localhost", san=["dns:localhost"])
    with pytest.raises(ssl.SSLCertVerificationError, match="issuer certificate"):
        handshake(verifying(cadata=between.pem.decode()), leaf)


def test_nothing_else_makes_a_context_of_its_interpreter() -> None:
    """Neither by itself nor through redis-py's options."""
    for path in (ROOT / "control").rglob("*.py"):
        if path.name != "verify.py":
            assert not re.search(r"create_default_context|ssl_ca_|Ssl?Context\(", path.read_text())
