"""``mpmetrics check``: what is in use here, and whether the store can be used."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from mpmetrics import _cells
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.errors import MpmetricsError
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check"]


def check(store: str | None, say: Callable[[str], object]) -> int:
    """Say what there is, a line each; returns 0, or 1 when the store cannot be used as it should."""
    say(f"core: {_cells.TWIN} ({_cells.WHY})")
    say(f"python: {platform.python_implementation()} {platform.python_version()}")
    if not store:
        say("store: none; set MPMETRICS_DIR, or name its directory, to have it checked")
        return 0
    try:
        path = Store(store).current()
    except (MpmetricsError, OSError) as error:
        say(f"store: cannot be used: {error}")
        return 1
    if path is None:
        say(f"store: {store}: no server has begun to use it")
        return 1
    reader = EpochReader(path)  # which only looks: it folds nobody
    snapshot = reader.snapshot()
    reader.close()
    live = sum(column.alive for column in snapshot.columns)
    say(f"store: {store}: {live} live processes, {snapshot.series} series, {snapshot.size} bytes")
    for name, problem in snapshot.unreadable.items():
        say(f"unreadable: {name}: {problem}")
    if snapshot.damaged:
        say(f"damaged: {snapshot.damaged} records")
    for _, why in snapshot.hidden:
        say(f"hidden: {why}")
    return 1 if snapshot.unreadable or snapshot.damaged else 0
