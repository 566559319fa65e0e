"""Translation of a registry's metrics to readings for Prometheus: names, types and units. Pure functions.

A name is ``namespace_subsystem_name``, without empty parts. Each character but ASCII letters, digits and underscores
becomes an underscore, and a name that starts with a digit gets an underscore before it. Labels are renamed likewise;
the label ``quantile`` becomes ``exported_quantile``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpmetrics.collector.reading import Labels, Reading, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.drivers.config import Config
    from mpmetrics.registry import MetricValues

__all__ = ["exposed_name", "registry_readings"]

_UNSAFE = re.compile(r"[^a-zA-Z0-9_]")
_QUANTILES = {"0.5": "median", "0.75": "percentile_75", "0.95": "percentile_95", "0.99": "percentile_99_0"}
_QUANTILES["0.999"] = "percentile_99_9"
_SHARES = tuple(map(float, _QUANTILES))
_RATES = ("rate_1min", "rate_5min", "rate_15min", "rate_mean")


def exposed_name(*parts: str) -> str:
    """Join the parts that are not empty into a name that Prometheus accepts."""
    name = _UNSAFE.sub("_", "_".join(part for part in parts if part))
    return f"_{name}" if name[:1].isdigit() else name


def registry_readings(
    metrics: Iterable[MetricValues], config: Config, complain: Callable[[str], None]
) -> list[Reading]:
    """Return ``metrics`` as ``config`` shows them.

    If two metrics would have a name in common, only the first one is shown, and ``complain`` is called with a message.
    """
    show = _gauges if config.style == "gauges" else _native
    shown: dict[str, Reading] = {}
    claimed_by: dict[str, tuple[str, str]] = {}
    seen: dict[tuple[str, Labels], MetricValues] = {}
    for metric in metrics:
        labels = _labels(metric.labels)
        name = exposed_name(config.namespace, config.subsystem, metric.name)
        made = show(name, metric, labels, config)
        claims = {
            reading.name + suffix for reading in made for suffix in ("", *(one.suffix for one in reading.samples))
        }
        claimant = metric.name, metric.role
        other = next(
            (claimed_by[claim] for claim in sorted(claims) if claimed_by.get(claim, claimant) != claimant), None
        )
        if other is not None:
            complain(
                f"the {metric.role} {metric.name!r} and the {other[1]} {other[0]!r} of the registry would both be"
                f" shown as {name!r}; rename one of them"
            )
            continue
        twin = seen.setdefault((metric.name, labels), metric)
        if twin is not metric:
            complain(
                f"the {metric.role} {metric.name!r} would be shown with the labels {dict(labels)} of two:"
                f" {dict(twin.labels)} and {dict(metric.labels)}; rename a label"
            )
            continue
        claimed_by.update(dict.fromkeys(claims, claimant))
        for reading in made:
            held = shown.setdefault(reading.name, reading)
            if held is not reading:
                held.samples += reading.samples
                # If one series of a counter has gone down, all its series are shown as a gauge.
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


def _help(metric: MetricValues) -> str:
    return f"{metric.role.capitalize()} {metric.name}"


def _gauges(name: str, metric: MetricValues, labels: Labels, config: Config) -> list[Reading]:
    """Return the readings with the names of go-metrics-plus, which has gauges only."""
    scale = config.unit[1] if metric.role == "timer" else 1.0
    gauges: dict[str, float] = {}
    if metric.role == "gauge":
        if metric.value is not None:
            gauges["gauge"] = metric.value
    elif metric.role != "healthcheck":
        gauges["count"] = metric.count
    if metric.role in ("histogram", "timer"):
        gauges |= _statistics(metric, scale)
        gauges |= dict(zip(_QUANTILES.values(), _percentiles(metric, scale, config), strict=True))
    if metric.role in ("meter", "timer"):
        gauges |= _rates(metric)
    return [_gauge(f"{name}_{suffix}", metric, labels, value) for suffix, value in gauges.items()]


def _native(name: str, metric: MetricValues, labels: Labels, config: Config) -> list[Reading]:
    """Return counters as counters, distributions as summaries, and all else as gauges."""
    if metric.role in ("gauge", "healthcheck"):
        return [] if metric.value is None else [_gauge(name, metric, labels, metric.value)]
    if metric.role in ("counter", "meter"):
        kind = "gauge" if metric.has_fallen else "counter"
        plain = name.removesuffix("_total")
        samples = [Sample("" if metric.has_fallen else "_total", labels, float(metric.count))]
        if not metric.has_fallen:
            samples.append(Sample("_created", labels, metric.created))
        made = [Reading(plain, kind, _help(metric), samples=samples)]
        return made + [_gauge(f"{plain}_{suffix}", metric, labels, value) for suffix, value in _rates(metric).items()]
    unit, scale = config.unit if metric.role == "timer" else ("", 1.0)
    base = name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"
    quantiles = zip(_QUANTILES, _percentiles(metric, scale, config), strict=True)
    samples = [Sample("", (*labels, ("quantile", share)), value) for share, value in quantiles if metric.count]
    samples += [
        Sample("_count", labels, float(metric.count)),
        Sample("_sum", labels, metric.distribution.sum / scale),
        Sample("_created", labels, metric.created),
    ]
    made = [Reading(base, "summary", _help(metric), unit, samples)]
    others = _statistics(metric, scale)
    del others["sum"]
    for suffix, value in others.items():
        made.append(_gauge(f"{base}_{suffix}", metric, labels, value))
    return made + [_gauge(f"{name}_{suffix}", metric, labels, value) for suffix, value in _rates(metric).items()]


def _gauge(name: str, metric: MetricValues, labels: Labels, value: float) -> Reading:
    return Reading(name, "gauge", _help(metric), samples=[Sample("", labels, float(value))])


def _statistics(metric: MetricValues, scale: float) -> dict[str, float]:
    values = metric.distribution
    return {
        "min": values.min / scale,
        "max": values.max / scale,
        "mean": values.mean / scale,
        "sum": values.sum / scale,
        "variance": values.variance / scale / scale,
        "stddev": values.stddev / scale,
    }


def _percentiles(metric: MetricValues, scale: float, config: Config) -> list[float]:
    buckets = metric.window if config.percentiles == "window" else None
    return [value / scale for value in metric.distribution.percentiles(_SHARES, buckets)]


def _rates(metric: MetricValues) -> dict[str, float]:
    if metric.role not in ("meter", "timer"):
        return {}
    return dict(zip(_RATES, (*metric.rates, metric.rate_mean), strict=True))
