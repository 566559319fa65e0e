"""Sends mpmetrics' log messages to the server's log."""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["log_through"]

log = logging.getLogger("mpmetrics")


def log_through(logger: Any) -> None:
    """Send our messages to gunicorn's error log, unless the application has configured a handler for them."""
    if not log.hasHandlers():
        for handler in logger.error_log.handlers:
            log.addHandler(handler)
        log.setLevel(logger.error_log.level)
