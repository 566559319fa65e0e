"""Exemplars: accepted, since prometheus_client's instruments take them, and not kept."""

from __future__ import annotations

import functools
import logging

__all__ = ["warn_exemplar_dropped"]


@functools.cache
def warn_exemplar_dropped() -> None:
    """Say so in the log, the first time."""
    log = logging.getLogger("mpmetrics")
    log.warning("exemplars are not kept across processes: the value counts, the exemplar does not")
