"""Lets only those ask a handler who show credentials."""

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
"""Passwords that are checked or wait for it; more are told to come again. Each one keeps a thread of the server."""


class Authorization:
    """A handler that has ``handler`` answer those who show what is among ``credentials()``, and others with 401.

    Only the health path needs none. A password check takes long by design: so it runs on the server's threads, one at
    a time, which is what wrong passwords can cost, and whoever showed a right one before does not wait for it.
    """

    def __init__(self, handler: Handler, credentials: Callable[[], Credentials]) -> None:
        self._handler = handler
        self._credentials = credentials
        self._places = threading.BoundedSemaphore(_CHECKS)
        self._turn = threading.Lock()

    def immediate(self, request: Request) -> Response | None:
        """Refuse at once whom that is possible of, and let those pass who are known."""
        if request.path == HEALTHY:
            return self._handler.immediate(request)
        credentials = self._credentials()
        known = credentials.glance(request.headers.get("authorization"))
        if known is None:
            return None
        return self._handler.immediate(request) if known else credentials.refusal

    def __call__(self, request: Request) -> Response:
        """Check the password if there is one to be checked, and then answer."""
        # Also of a request that `immediate` let pass: the credentials may have been read again since.
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
