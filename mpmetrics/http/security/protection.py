"""The protection of an endpoint at work: the files of a `Security`, read, and read again when they change.

Made in the process that may read the files, which can be one with more privileges than the one that serves: what was
read comes along through a fork. Guarantees: once there are credentials or certificates, no change of the files takes
them away; whatever is wrong with the files, what was last read from them stays in force.
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
    """What ``security`` asks for. Raises SecurityError when a file cannot be used, TypeError when it is no Security."""

    def __init__(self, security: Security) -> None:
        if not isinstance(security, Security):
            msg = f"security is a mpmetrics.Security, not {security!r}"
            raise TypeError(msg)
        # All of them are str or None: made so by the class itself.
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
        """Whether there is anything that clients have to bring."""
        return self._context is not None or self._credentials is not None

    @property
    def is_tls(self) -> bool:
        """Whether clients have to speak TLS."""
        return self._context is not None

    def context(self) -> ssl.SSLContext | None:
        """What the next connection is to be encrypted with; None: not at all."""
        return None if self._context is None else self._context()

    def renew(self) -> None:
        """Look at the files now, with the privileges of now."""
        for held in (self._context, self._credentials):
            if held is not None:
                held.renew()

    def guard(self, handler: Handler) -> Handler:
        """``handler`` for those who show credentials, or for all where there are none to be shown."""
        return handler if self._credentials is None else Authorization(handler, self._credentials)


def _given(*paths: str | None) -> list[str]:
    return [path for path in paths if path is not None]
