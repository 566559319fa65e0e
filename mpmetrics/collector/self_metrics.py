"""Self-metrics: the collector's metrics about itself and its store. They show if an answer is incomplete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.collector.reading import Reading, Sample
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from mpmetrics.collector.snapshot import Snapshot

__all__ = ["self_metrics"]


def self_metrics(snapshot: Snapshot, *, seconds: float) -> list[Reading]:
    """Return the self-metrics of a collection that has taken ``seconds`` so far."""
    workers = [column for column in snapshot.columns if column.ordinal < fmt.AUXILIARY and not column.is_retired]
    # A process whose values wait for room in the store has a second column, so ordinals are counted.
    live = len({column.ordinal for column in workers if column.alive})
    dead = sum(not column.alive for column in workers)
    return [
        _one("scrape_duration", "gauge", "Time that callbacks, reading and merging took.", seconds, "seconds"),
        _one("damaged_records", "gauge", "Records in the store's files that could not be used.", snapshot.damaged),
        _one(
            "drops",
            "counter",
            "Series that a process kept in private memory because the store could not take them.",
            snapshot.trouble,
        ),
        _one(
            "folds",
            "counter",
            "Dead processes whose values were folded into the retired file.",
            snapshot.folded,
        ),
        _one(
            "hidden_shapes",
            "gauge",
            "Declarations that are not shown: a later one of the metric has another type, mode, buckets or states.",
            len(snapshot.hidden),
        ),
        Reading(
            "mpmetrics_processes",
            "gauge",
            "Workers whose values are in the store; dead ones wait to be folded.",
            samples=[
                Sample("", (("state", "live"),), float(live)),
                Sample("", (("state", "dead"),), float(dead)),
            ],
        ),
        _one("series", "gauge", "Series in the store.", snapshot.series),
        _one("store_bytes", "gauge", "Size of the store's files as allocated.", snapshot.size, "bytes"),
        _one("store_files", "gauge", "Files in the store's current epoch.", snapshot.files),
        _one(
            "store_up",
            "gauge",
            "1 if the store can be read, 0 if each process counts in private memory, which a scrape does not show.",
            snapshot.up,
        ),
        _one(
            "unreadable_files",
            "gauge",
            "Files of the store that could not be read, so their values are missing.",
            len(snapshot.unreadable),
        ),
    ]


def _one(name: str, kind: str, text: str, value: float, unit: str = "") -> Reading:
    suffix = "_total" if kind == "counter" else ""
    whole = f"mpmetrics_{name}" if not unit or name.endswith(unit) else f"mpmetrics_{name}_{unit}"
    return Reading(whole, kind, text, unit, [Sample(suffix, (), float(value))])
