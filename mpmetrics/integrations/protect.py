"""The endpoint's protection through starts and reloads of a configuration."""

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
    """The protection that ``security`` asks for; ``held`` is the one in force, None when the endpoint is closed.

    The first time, files that cannot be used raise SecurityError. ``again``, gunicorn would end the server for that: so
    what is in force stays, unless that is no protection at all, and then the endpoint is to be closed: None.
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
