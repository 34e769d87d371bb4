"""How we verify the servers that we connect to, wherever we run."""

import ssl

# An interpreter's defaults differ: Python 3.13 refuses a certificate without an authority key
# identifier and a CA without key usage (what `openssl req -x509` makes), and takes an intermediate
# for an anchor. We verify as OpenSSL by itself, `redis-cli` and the servers do, on each of them.
OF_SOME_INTERPRETERS = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN


def public_cas() -> list[bytes]:
    """The CAs that this machine trusts for the web, DER; none where it has no such list."""
    return ssl.create_default_context().get_ca_certs(binary_form=True)


def verifying(cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    """A client's context that asks for a certificate for the server's name, from the CAs of that
    file or PEM, or from the system's where there is neither. Raises OSError, also ssl.SSLError."""
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    context.verify_flags &= ~OF_SOME_INTERPRETERS
    return context
