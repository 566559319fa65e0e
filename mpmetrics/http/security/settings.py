"""The names of the files that protect an endpoint."""

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
    """Files that protect an endpoint; they are read again when they change. Without any, the endpoint is open to all.

    ``tls_cert`` and ``tls_key``: the server's certificate with its chain, and its private key without a passphrase, in
    PEM. Without ``tls_key``, the key is in the certificate's file. Clients then need TLS 1.2 or later.
    ``tls_client_ca``: certificates of authorities; clients need a certificate that one of them signed.
    ``users_file``: names and bcrypt hashes for basic authentication, as ``htpasswd -B`` writes them.
    ``token_file``: bearer tokens, one a line. With users and tokens, a client needs one of the two.

    Relative names are relative to the current directory at the time of the call. Raises
    :class:`~mpmetrics.errors.SecurityError` if a key or a client authority is given without a certificate.
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
                msg = f"{name} {getattr(self, name)!r} needs tls_cert, the server's certificate, too"
                raise SecurityError(msg)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Security:
        """Read ``MPMETRICS_TLS_CERT``, ``MPMETRICS_USERS_FILE`` and so on; empty variables count as unset."""
        return cls(**{field.name: environ.get(_PREFIX + field.name.upper()) or None for field in fields(cls)})
