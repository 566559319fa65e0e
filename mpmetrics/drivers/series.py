"""What the metrics of a registry become in Prometheus: names, types and units. Pure functions of views.

A name is ``namespace_subsystem_name``, without the parts that are empty. Each character that is no ASCII letter, digit
or underscore becomes an underscore, and a name that would start with a digit gets one before it. A label is renamed
likewise; one called ``quantile`` becomes ``exported_quantile``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpmetrics.collector.reading import Labels, Reading, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.drivers.config import Config
    from mpmetrics.registry import View

__all__ = ["exposed_name", "readings"]

_UNSAFE = re.compile(r"[^a-zA-Z0-9_]")
_QUANTILES = {"0.5": "median", "0.75": "percentile_75", "0.95": "percentile_95", "0.99": "percentile_99_0"}
_QUANTILES["0.999"] = "percentile_99_9"
_SHARES = tuple(map(float, _QUANTILES))
_RATES = ("rate_1min", "rate_5min", "rate_15min", "rate_mean")


def exposed_name(*parts: str) -> str:
    """The parts, those that are not empty, as one name that Prometheus takes."""
    name = _UNSAFE.sub("_", "_".join(part for part in parts if part))
    return f"_{name}" if name[:1].isdigit() else name


def readings(views: Iterable[View], config: Config, complain: Callable[[str], None]) -> list[Reading]:
    """The metrics of ``views`` as ``config`` shows them.

    Of two metrics that would have a name in common only the first is shown: ``complain`` is told both of them.
    """
    show = _gauges if config.style == "gauges" else _native
    shown: dict[str, Reading] = {}
    owners: dict[str, tuple[str, str]] = {}
    seen: dict[tuple[str, Labels], View] = {}
    for view in views:
        labels = _labels(view.labels)
        name = exposed_name(config.namespace, config.subsystem, view.name)
        made = show(name, view, labels, config)
        claims = {
            reading.name + suffix for reading in made for suffix in ("", *(one.suffix for one in reading.samples))
        }
        me = view.name, view.role
        other = next((owners[claim] for claim in sorted(claims) if owners.get(claim, me) != me), None)
        if other is not None:
            complain(
                f"the {view.role} {view.name!r} and the {other[1]} {other[0]!r} of the registry would both be shown as"
                f" {name!r}; rename one of them"
            )
            continue
        twin = seen.setdefault((view.name, labels), view)
        if twin is not view:
            complain(
                f"the {view.role} {view.name!r} would be shown with the labels {dict(labels)} of two:"
                f" {dict(twin.labels)} and {dict(view.labels)}; rename a label"
            )
            continue
        owners.update(dict.fromkeys(claims, me))
        for reading in made:
            held = shown.setdefault(reading.name, reading)
            if held is not reading:
                held.samples += reading.samples
                # A counter that went down in one series is none in the others.
                if held.type != reading.type:
                    _turn_into_gauge(held)
    return list(shown.values())


def _turn_into_gauge(reading: Reading) -> None:
    reading.type = "gauge"
    kept = [sample for sample in reading.samples if sample.suffix != "_created"]
    reading.samples = [Sample("", labels, value) for _, labels, value in kept]


def _labels(labels: Labels) -> Labels:
    renamed: dict[str, str] = {}
    for name, value in labels:
        exposed = exposed_name(name)
        exposed = "exported_quantile" if exposed == "quantile" else exposed
        exposed = exposed.lstrip("_") or "_" if exposed.startswith("__") else exposed
        renamed[exposed] = f"{renamed[exposed]};{value}" if exposed in renamed else value
    return tuple(renamed.items())


def _help(view: View) -> str:
    return f"{view.role.capitalize()} {view.name}"


def _gauges(name: str, view: View, labels: Labels, config: Config) -> list[Reading]:
    """The series of go-metrics-plus, which knows gauges alone."""
    scale = config.unit[1] if view.role == "timer" else 1.0
    figures: dict[str, float] = {}
    if view.role == "gauge":
        if view.value is not None:
            figures["gauge"] = view.value
    elif view.role != "healthcheck":
        figures["count"] = view.count
    if view.role in ("histogram", "timer"):
        figures |= _figures(view, scale)
        figures |= dict(zip(_QUANTILES.values(), _percentiles(view, scale, config), strict=True))
    if view.role in ("meter", "timer"):
        figures |= _rates(view)
    return [_gauge(f"{name}_{suffix}", view, labels, value) for suffix, value in figures.items()]


def _native(name: str, view: View, labels: Labels, config: Config) -> list[Reading]:
    """Counters as counters, distributions as summaries, and gauges for what Prometheus has no type for."""
    if view.role in ("gauge", "healthcheck"):
        return [] if view.value is None else [_gauge(name, view, labels, view.value)]
    if view.role in ("counter", "meter"):
        kind = "gauge" if view.has_fallen else "counter"
        plain = name.removesuffix("_total")
        samples = [Sample("" if view.has_fallen else "_total", labels, float(view.count))]
        if not view.has_fallen:
            samples.append(Sample("_created", labels, view.created))
        made = [Reading(plain, kind, _help(view), samples=samples)]
        return made + [_gauge(f"{plain}_{suffix}", view, labels, value) for suffix, value in _rates(view).items()]
    unit, scale = config.unit if view.role == "timer" else ("", 1.0)
    base = name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"
    quantiles = zip(_QUANTILES, _percentiles(view, scale, config), strict=True)
    samples = [Sample("", (*labels, ("quantile", share)), value) for share, value in quantiles if view.count]
    samples += [
        Sample("_count", labels, float(view.count)),
        Sample("_sum", labels, view.distribution.sum / scale),
        Sample("_created", labels, view.created),
    ]
    made = [Reading(base, "summary", _help(view), unit, samples)]
    others = _figures(view, scale)
    del others["sum"]
    for suffix, value in others.items():
        made.append(_gauge(f"{base}_{suffix}", view, labels, value))
    return made + [_gauge(f"{name}_{suffix}", view, labels, value) for suffix, value in _rates(view).items()]


def _gauge(name: str, view: View, labels: Labels, value: float) -> Reading:
    return Reading(name, "gauge", _help(view), samples=[Sample("", labels, float(value))])


def _figures(view: View, scale: float) -> dict[str, float]:
    values = view.distribution
    return {
        "min": values.min / scale,
        "max": values.max / scale,
        "mean": values.mean / scale,
        "sum": values.sum / scale,
        "variance": values.variance / scale / scale,
        "stddev": values.stddev / scale,
    }


def _percentiles(view: View, scale: float, config: Config) -> list[float]:
    buckets = view.window if config.percentiles == "window" else None
    return [value / scale for value in view.distribution.percentiles(_SHARES, buckets)]


def _rates(view: View) -> dict[str, float]:
    if view.role not in ("meter", "timer"):
        return {}
    return dict(zip(_RATES, (*view.rates, view.rate_mean), strict=True))
