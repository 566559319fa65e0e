"""ExporterOptions: how the instruments of the Meter API are shown, their names, units and labels.

Pure functions of readings. Metrics that were declared with a Prometheus name are not changed.
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
    """How instruments of the Meter API are shown. Other metrics keep the names that they were declared with.

    * ``without_counter_suffixes``: counters have no ``_total``. OpenMetrics has no such counters, so their type is
      unknown there.
    * ``without_units``: the unit is not part of the name.
    * ``without_target_info``: the resource is not shown as ``target_info``.
    * ``without_scope_labels``: series have no labels with the name and version of their meter. Series that become equal
      are merged: totals add up, the last value of a gauge counts.
    * ``namespace``: a prefix of each name.
    * ``resource_labels``: the attributes of the resource are labels of each series.

    ValueError for a namespace with which no name can begin.

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
            msg = f"invalid namespace {self.namespace!r}: use letters, digits, '_' and ':' only, and no digit first"
            raise ValueError(msg)


def apply_options(
    readings: Iterable[Reading],
    options: ExporterOptions,
    *,
    resource: Mapping[str, str],
    utf8: bool,
    complain: Callable[[str], None],
) -> list[Reading]:
    """Return ``readings`` as ``options`` show them. ``utf8``: the scraper accepts names in UTF-8.

    If two metrics get the same name, such as two that differ in the omitted unit, only one is shown, and ``complain``
    is called with a message about the other. ``resource`` are the attributes of the measured program.
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
                    f"metric {reading.name!r} is not shown: with the exporter's options its name is {named.name!r},"
                    f" like that of {held.name!r}; rename one or change the options"
                )
                continue
        shown.append(named)
    if resource and not options.without_target_info and sources.keys().isdisjoint((_TARGET, f"{_TARGET}_info")):
        labels = _renamed(target, utf8_label if utf8 else label_name)
        shown.insert(0, Reading(_TARGET, "info", "Target metadata", samples=[Sample("_info", labels, 1.0)]))
    return shown


def _named(reading: Reading, options: ExporterOptions, constant: Labels, *, utf8: bool) -> Reading:
    """Return the reading with the name, unit and labels that it is shown with."""
    bare = reading.type == "counter" and options.without_counter_suffixes
    unit = "" if options.without_units else reading.unit
    name = (utf8_name if utf8 else exposed_name)(reading.type, reading.original, unit)
    if options.namespace:
        name = f"{options.namespace}_{name}"
    label = _Labelling(options.without_scope_labels, constant, utf8)
    # In OpenMetrics a name must end with its unit.
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
        """Return these labels as they are shown."""
        if self.without_scope:
            labels = tuple(pair for pair in labels if pair[0] not in _SCOPE_LABELS)
        if self.constant:
            own = {label for label, _ in labels}
            labels = (*(pair for pair in self.constant if pair[0] not in own), *labels)
        return _renamed(labels, utf8_label if self.utf8 else label_name)


def _grid(grid: Grid | None, label: _Labelling, *, is_bare: bool) -> Grid | None:
    """Return the grid with labels as they are shown; None if its series must be merged."""
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
    """Return labels with names that Prometheus accepts. Values of names that become equal are joined by ``;``.

    The values are in the order of the original names. Source: the page named in ``names/translation.py``, "metric
    attributes".
    """
    if all(rename(name) == name for name, _ in labels):
        return labels
    values: dict[str, list[tuple[str, str]]] = {}
    for name, value in labels:
        values.setdefault(rename(name), []).append((name, value))
    return tuple((name, ";".join(value for _, value in sorted(pairs))) for name, pairs in values.items())


def _combined(samples: list[Sample], reading: Reading) -> list[Sample]:
    """Merge samples of equal suffix and labels: totals add up; the last gauge and the first creation time count."""
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
