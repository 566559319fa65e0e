"""The endpoint's protection at the start and at each reload of a configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mpmetrics.errors import SecurityError
from mpmetrics.http.security.protection import Protection

if TYPE_CHECKING:
    from mpmetrics.http.security.settings import Security

__all__ = ["protect"]

log = logging.getLogger("mpmetrics")


def protect(security: Security, held: Protection | None, *, again: bool) -> Protection | None:
    """Return the protection that ``security`` asks for. ``held`` is the one in force; None: the endpoint is closed.

    At the start, files that cannot be used raise SecurityError. On a reload (``again``), gunicorn would end the server
    for an exception. So the error is logged, and the protection in force stays; if it protects nothing, None is
    returned, and the endpoint must be closed.
    """
    try:
        return Protection(security)
    except SecurityError as error:
        if not again:
            raise
        if held is not None and held.is_needed:
            log.error("%s; the endpoint stays protected as it was", error)
            return held
        log.error("%s; the endpoint is closed until a reload finds what protects it", error)
        return None
