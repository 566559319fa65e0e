"""Where our messages go within a server."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["log_through"]

log = logging.getLogger("mpmetrics")


def log_through(logger: Any) -> None:
    """Have our messages stand in gunicorn's error log, unless the application has its own idea of where they go."""
    if not log.hasHandlers():
        for handler in logger.error_log.handlers:
            log.addHandler(handler)
        log.setLevel(logger.error_log.level)
