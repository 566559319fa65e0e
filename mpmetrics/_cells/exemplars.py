"""Exemplars: accepted, since prometheus_client's instruments accept them, but not kept."""

from __future__ import annotations

import functools
import logging

__all__ = ["warn_exemplar_dropped"]


@functools.cache
def warn_exemplar_dropped() -> None:
    """Log a warning, at the first call only."""
    log = logging.getLogger("mpmetrics")
    log.warning("exemplars are not kept across processes: the value counts, the exemplar does not")
