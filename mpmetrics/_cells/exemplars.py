"""Exemplars: accepted, since prometheus_client's instruments take them, and not kept."""

from __future__ import annotations

import functools
import logging

__all__ = ["say_not_kept"]


@functools.cache
def say_not_kept() -> None:
    """Say so in the log, the first time."""
    log = logging.getLogger("mpmetrics")
    log.warning("exemplars are not kept across processes: the value counts, the exemplar does not")
