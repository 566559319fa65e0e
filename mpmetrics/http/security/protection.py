"""The contents of a `Security`'s files, which are read again when the files change.

Made in the process that may read the files. That may be one with more privileges than the process that serves, which
inherits the contents through a fork. Guarantee: credentials and certificates stay in force, as last read, whatever is
wrong with the files later.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

from mpmetrics.http.security.authorization import Authorization
from mpmetrics.http.security.credentials import load_credentials
from mpmetrics.http.security.reloaded import Reloaded
from mpmetrics.http.security.settings import Security
from mpmetrics.http.security.tls import make_context

if TYPE_CHECKING:
    import ssl

    from mpmetrics.http.messages import Handler

__all__ = ["Protection"]


class Protection:
    """Reads the files of ``security``. SecurityError if a file cannot be used, TypeError if it is not a Security."""

    def __init__(self, security: Security) -> None:
        if not isinstance(security, Security):
            msg = f"security is a mpmetrics.Security, not {security!r}"
            raise TypeError(msg)
        # All are str or None: Security converts them.
        cert, key, ca = (
            cast("str | None", path) for path in (security.tls_cert, security.tls_key, security.tls_client_ca)
        )
        users, token = cast("str | None", security.users_file), cast("str | None", security.token_file)
        self._context: Reloaded[ssl.SSLContext] | None = None
        if cert is not None:
            make = functools.partial(make_context, cert, key, ca)
            self._context = Reloaded(_given(cert, key, ca), make, secrets=[key or cert])
        self._credentials = None
        if users is not None or token is not None:
            given = _given(users, token)
            self._credentials = Reloaded(given, functools.partial(load_credentials, users, token), secrets=given)

    @property
    def is_needed(self) -> bool:
        """Whether clients need TLS or credentials."""
        return self._context is not None or self._credentials is not None

    @property
    def is_tls(self) -> bool:
        """Whether clients need TLS."""
        return self._context is not None

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context for the next connection; None without TLS."""
        return None if self._context is None else self._context()

    def renew(self) -> None:
        """Check the files for changes now, with the current privileges."""
        for held in (self._context, self._credentials):
            if held is not None:
                held.renew()

    def guard(self, handler: Handler) -> Handler:
        """Return ``handler``, behind a check of credentials if there are any."""
        return handler if self._credentials is None else Authorization(handler, self._credentials)


def _given(*paths: str | None) -> list[str]:
    return [path for path in paths if path is not None]
