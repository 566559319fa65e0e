"""Requires credentials for a handler."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mpmetrics.http.messages import HEALTHY, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.http.messages import Handler, Request, Response
    from mpmetrics.http.security.credentials import Credentials

__all__ = ["Authorization"]

_CHECKS = 4
"""Passwords that are checked or wait for it; more get 503. Each of them occupies a thread of the server."""


class Authorization:
    """A handler that passes requests with one of ``credentials()`` to ``handler``, and answers others with 401.

    Only the health path needs no credentials. A password check takes long by design, so it runs on a thread of its
    request, one check at a time; this bounds what wrong passwords cost. Requests with a token, or with a password that
    was verified before, do not wait for it.
    """

    def __init__(self, handler: Handler, credentials: Callable[[], Credentials]) -> None:
        self._handler = handler
        self._credentials = credentials
        self._places = threading.BoundedSemaphore(_CHECKS)
        self._turn = threading.Lock()

    def immediate(self, request: Request) -> Response | None:
        """Reject at once where possible, and pass requests whose credentials are known."""
        if request.path == HEALTHY:
            return self._handler.immediate(request)
        credentials = self._credentials()
        known = credentials.glance(request.headers.get("authorization"))
        if known is None:
            return None
        return self._handler.immediate(request) if known else credentials.refusal

    def __call__(self, request: Request) -> Response:
        """Check the credentials, and then answer. Unverified requests are checked individually."""
        # Also if `immediate` has passed the request: the credentials may have been read again since.
        refusal = self._refuse(request.headers.get("authorization"))
        return refusal or self._handler.immediate(request) or self._handler(request)

    def _refuse(self, authorization: str | None) -> Response | None:
        credentials = self._credentials()
        known = credentials.glance(authorization)
        if known is None:
            if not self._places.acquire(blocking=False):
                return plain(503, ("Retry-After", "1"))
            try:
                with self._turn:
                    known = credentials.verify(authorization)
            finally:
                self._places.release()
        return None if known else credentials.refusal
