"""``mpmetrics check``: shows which core and Python are in use, and the state of a store. Changes nothing."""

from __future__ import annotations

import os
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
    """Print the facts, one a line, with ``say``; return 0, or 1 if the store is unusable or damaged."""
    say(f"core: {_cells.TWIN} ({_cells.WHY})")
    say(f"python: {platform.python_implementation()} {platform.python_version()}")
    if not store:
        say("store: none; to check one, give its directory or set MPMETRICS_DIR")
        return 0
    if not os.path.lexists(store):  # which a Store would make
        say(f"store: {store}: there is no such directory; the first server or process that uses it makes it")
        return 1
    try:
        path = Store(store).current()
    except (MpmetricsError, OSError) as error:
        say(f"store: cannot be used: {error}")
        return 1
    if path is None:
        say(f"store: {store}: no server has used it yet")
        return 1
    reader = EpochReader(path)  # reads only, and folds nothing
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
