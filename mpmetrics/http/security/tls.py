"""TLS contexts for the server, made from certificate files."""

from __future__ import annotations

import ssl

from mpmetrics.errors import SecurityError
from mpmetrics.http.security.files import read

__all__ = ["make_context"]


def make_context(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """Make a context; SecurityError if a file cannot be used. With ``client_ca``, clients need a certificate, too."""
    read(cert, "TLS certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    if key is not None:
        read(key, "TLS key")
    try:
        context.load_cert_chain(cert, key, password=_ask_nobody)
    except (ssl.SSLError, OSError, ValueError) as error:
        msg = (
            f"TLS certificate {cert!r} with the key {key or cert!r} cannot be used: {error}; both must be in PEM, the"
            " key without a passphrase and that of the certificate"
        )
        raise SecurityError(msg) from error
    if client_ca is not None:
        read(client_ca, "TLS client CA")
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            msg = f"TLS client CA {client_ca!r} cannot be used: {error}; it has to hold certificates in PEM"
            raise SecurityError(msg) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _ask_nobody() -> str:
    """Raise an error; otherwise OpenSSL would ask for the passphrase at the terminal."""
    raise SecurityError("the key has a passphrase")
