"""What protects an endpoint: the names of its certificates' and credentials' files."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from mpmetrics.errors import SecurityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    File = str | os.PathLike[str] | None

__all__ = ["Security"]

_PREFIX = "MPMETRICS_"


@dataclass(frozen=True, kw_only=True)
class Security:
    """Files that protect an endpoint, which are read again when they change; without any, it is open to all.

    ``tls_cert`` and ``tls_key``: the server's certificate with its chain, and its private key without a passphrase, in
    PEM; without ``tls_key``, the key is in the certificate's file. Clients then have to speak TLS, 1.2 or later.
    ``tls_client_ca``: certificates of the authorities one of which has to have signed a client's certificate.
    ``users_file``: names and bcrypt hashes for basic authentication, as ``htpasswd -B`` writes them.
    ``token_file``: bearer tokens, one a line. Where there are users and tokens, either will do.

    Relative names are taken from the directory that is the current one now. Raises
    :class:`~mpmetrics.errors.SecurityError` when a key or a client's authority is given without a certificate.
    """

    tls_cert: File = None
    tls_key: File = None
    tls_client_ca: File = None
    users_file: File = None
    token_file: File = None

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            object.__setattr__(self, field.name, None if path is None else os.path.abspath(os.fsdecode(path)))
        for name in ("tls_key", "tls_client_ca"):
            if self.tls_cert is None and getattr(self, name) is not None:
                msg = f"{name} {getattr(self, name)!r} is of no use without tls_cert, the server's certificate"
                raise SecurityError(msg)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Security:
        """What the variables ``MPMETRICS_TLS_CERT``, ``MPMETRICS_USERS_FILE`` and so on say; empty ones say nothing."""
        return cls(**{field.name: environ.get(_PREFIX + field.name.upper()) or None for field in fields(cls)})
