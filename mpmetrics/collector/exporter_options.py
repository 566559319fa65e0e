"""How the instruments of the Meter API are shown: their names, units and labels, by an exporter's options.

Pure functions of readings. Metrics with a Prometheus name of their own pass through as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics.collector.reading import Ending, Grid, Labels, Reading, Sample
from mpmetrics.names.attributes import SCOPE_NAME, SCOPE_VERSION
from mpmetrics.names.translation import exposed_name, label_name, utf8_label, utf8_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["ExporterOptions", "apply_options"]

_SCOPE_LABELS = frozenset({SCOPE_NAME, SCOPE_VERSION})
_NAMESPACE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\Z")
_TARGET = "target"


@dataclass(frozen=True, kw_only=True)
class ExporterOptions:
    """How instruments of the Meter API are shown; other metrics have the names that they were made with.

    ``without_counter_suffixes``: counters go without ``_total``; in OpenMetrics, which has no such counters, their type
    is unknown. ``without_units``: the unit is no part of the name. ``without_target_info``: the resource does not show
    as ``target_info``. ``without_scope_labels``: series do not say which meter they are of; those that are the same
    then are put together: sums add up, of gauges the last one counts. ``namespace`` stands before each name.
    ``resource_labels``: the resource's attributes are labels of each series.

    ValueError for a namespace that no name can begin with.

    Source: the options of the OpenTelemetry exporter for Prometheus.
    """

    without_counter_suffixes: bool = False
    without_units: bool = False
    without_target_info: bool = False
    without_scope_labels: bool = False
    namespace: str = ""
    resource_labels: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.namespace, str) or not _NAMESPACE.match(self.namespace):
            msg = f"invalid namespace {self.namespace!r}: letters, digits, '_' and ':' only, and not a digit first"
            raise ValueError(msg)


def apply_options(
    readings: Iterable[Reading],
    options: ExporterOptions,
    *,
    resource: Mapping[str, str],
    utf8: bool,
    complain: Callable[[str], None],
) -> list[Reading]:
    """``readings`` as ``options`` show them, to a scraper that takes names in UTF-8 or not.

    Of two metrics whose names are the same with these options, as those of two units without their units, only one can
    be shown: ``complain`` is told which one is not. ``resource`` are the attributes of what the metrics are of.
    """
    readings = list(readings)
    sources = {reading.name: reading for reading in readings if not reading.original}
    shown = []
    target = tuple(sorted(resource.items()))
    constant = target if options.resource_labels else ()
    for reading in readings:
        named = reading
        if reading.original:
            named = _named(reading, options, constant, utf8=utf8)
            held = sources.setdefault(named.name, reading)
            if held is not reading:
                complain(
                    f"metric {reading.name!r} is not shown: its name with the exporter's options, {named.name!r}, is"
                    f" that of {held.name!r}"
                )
                continue
        shown.append(named)
    if resource and not options.without_target_info and sources.keys().isdisjoint((_TARGET, f"{_TARGET}_info")):
        labels = _renamed(target, utf8_label if utf8 else label_name)
        shown.insert(0, Reading(_TARGET, "info", "Target metadata", samples=[Sample("_info", labels, 1.0)]))
    return shown


def _named(reading: Reading, options: ExporterOptions, constant: Labels, *, utf8: bool) -> Reading:
    """The same reading with the name, the unit and the labels that it is shown with."""
    bare = reading.type == "counter" and options.without_counter_suffixes
    unit = "" if options.without_units else reading.unit
    name = (utf8_name if utf8 else exposed_name)(reading.type, reading.original, unit)
    if options.namespace:
        name = f"{options.namespace}_{name}"
    label = _Labelling(options.without_scope_labels, constant, utf8)
    # OpenMetrics wants a name to end with its unit.
    made = Reading(
        name,
        reading.type,
        reading.help,
        unit if name.endswith(f"_{unit}") else "",
        original=reading.original,
        adds=reading.adds,
        bare=bare,
        grid=_grid(reading.grid, label, is_bare=bare),
    )
    if made.grid is not None:
        return made
    samples = []
    for suffix, labels, value in reading.samples:
        if not bare or suffix == "_total":
            samples.append(Sample("" if bare else suffix, label.shown(labels), value))
    made.samples = _combined(samples, made)
    return made


class _Labelling(NamedTuple):
    """How the labels of a sample are shown."""

    without_scope: bool
    constant: Labels
    utf8: bool

    def shown(self, labels: Labels) -> Labels:
        """These labels as they are shown."""
        if self.without_scope:
            labels = tuple(pair for pair in labels if pair[0] not in _SCOPE_LABELS)
        if self.constant:
            own = {label for label, _ in labels}
            labels = (*(pair for pair in self.constant if pair[0] not in own), *labels)
        return _renamed(labels, utf8_label if self.utf8 else label_name)


def _grid(grid: Grid | None, label: _Labelling, *, is_bare: bool) -> Grid | None:
    """The same grid with labels as they are shown; None where samples have to be put together."""
    constant = {name for name, _ in label.constant}
    if grid is None or any(ending and ending.label and ending.label[0] in constant for ending in grid.endings):
        return None
    rows = grid.rows.relabelled(label, label.shown)
    if rows is None:
        return None
    if not is_bare:
        return grid._replace(rows=rows)
    endings = tuple(Ending("") if ending and ending.suffix == "_total" else None for ending in grid.endings)
    return grid._replace(rows=rows, endings=endings, has_created=False)


def _renamed(labels: Labels, rename: Callable[[str], str]) -> Labels:
    """Labels with names that Prometheus takes; of those that become one, the values in the order of the names.

    Source: the page above, "metric attributes": values are joined by ``;``.
    """
    if all(rename(name) == name for name, _ in labels):
        return labels
    values: dict[str, list[tuple[str, str]]] = {}
    for name, value in labels:
        values.setdefault(rename(name), []).append((name, value))
    return tuple((name, ";".join(value for _, value in sorted(pairs))) for name, pairs in values.items())


def _combined(samples: list[Sample], reading: Reading) -> list[Sample]:
    """One sample for each suffix and set of labels: sums add up, of gauges the last counts, of creations the first."""
    values: dict[tuple[str, Labels], float] = {}
    adds = reading.adds or reading.type != "gauge"
    for suffix, labels, value in samples:
        name = suffix, labels
        held = values.get(name)
        if held is None:
            values[name] = value
        elif suffix == "_created":
            values[name] = min(held, value)
        else:
            values[name] = held + value if adds else value
    return [Sample(suffix, labels, value) for (suffix, labels), value in values.items()]
