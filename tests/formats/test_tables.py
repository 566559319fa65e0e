"""The endpoint renders tables without an object per sample; the text is the same as from objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

import mpmetrics
from mpmetrics.collector.exporter_options import ExporterOptions, apply_options
from mpmetrics.collector.prometheus_families import prometheus_families
from mpmetrics.formats.text import render_openmetrics, render_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.core import Metric

    from mpmetrics.collector.reading import Reading

VALUES = st.floats(0, 1e12)
TEXTS = st.sampled_from(["", "a", 'quote " and \\', "two\nlines", "ü", "b"])
MODES = ("all", "liveall", "min", "livemax", "sum", "livesum", "mostrecent", "livemostrecent")

OPERATIONS: dict[str, Any] = {
    "counter": lambda made, label, value: made["counter"].labels(label).inc(value),
    "plain": lambda made, _, value: made["plain"].inc(value),
    "up-down": lambda made, label, value: made["up-down"].labels(label).dec(value),
    "histogram": lambda made, label, value: made["histogram"].labels(label).observe(value),
    "cold": lambda made, _, value: made["cold"].observe(-value),
    "summary": lambda made, label, value: made["summary"].labels(label).observe(value),
    "enum": lambda made, label, value: made["enum"].labels(label).state("on" if value > 1 else "off"),
    "info": lambda made, label, value: made["info"].info({"version": f"{label}{value}"}),
    "remove": lambda made, label, _: made["counter"].remove(label),
    "clear": lambda made, _, __: made["histogram"].clear(),
    "meter": lambda made, label, value: made["meter"].add(value, {"user.name": label, "user_name": "x"}),
    "record": lambda made, label, value: made["record"].record(value, {"a b": label}),
    **{mode: lambda made, label, value, mode=mode: made[mode].labels(label).set(value) for mode in MODES},
}


def make(provider: mpmetrics.Provider) -> dict[str, Any]:
    """A metric of each kind."""
    meter = provider.meter("m")
    return {
        "counter": mpmetrics.Counter("c", "Counts.", ["k"], provider=provider),
        "plain": mpmetrics.Counter("plain", "Counts.", provider=provider),
        "up-down": mpmetrics.UpDownCounter("u", "Both ways.", ["k"], provider=provider),
        "histogram": mpmetrics.Histogram("h", "Spreads.", ["k"], buckets=(1, 1e6), provider=provider),
        "cold": mpmetrics.Histogram("cold", "May be negative.", buckets=(-5, 0), provider=provider),
        "summary": mpmetrics.Summary("s", "Adds.", ["k"], provider=provider),
        "enum": mpmetrics.Enum("e", "States.", ["k"], states=["on", "off"], provider=provider),
        "info": mpmetrics.Info("i", "Says.", provider=provider),
        "meter": meter.counter("meter.counter", help="Adds.", unit="s"),
        "record": meter.histogram("meter.histogram", help="Spreads."),
        **{
            mode: mpmetrics.Gauge(f"g_{mode}", "Levels.", ["k"], multiprocess_mode=mode, provider=provider)
            for mode in MODES
        },
    }


def as_samples(readings: list[Reading]) -> list[Reading]:
    """The same readings with an object for each sample."""
    for reading in readings:
        reading.samples = list(reading.samples)
    return readings


OPTIONS = (
    ExporterOptions(),
    ExporterOptions(without_counter_suffixes=True, without_scope_labels=True, namespace="n"),
    ExporterOptions(resource_labels=True, without_units=True),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("where", ["private", "store"])
def test_tables_render_like_samples(where: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """After any operations, in each format and with any options, tables and samples render to the same bytes.

    Series come and go between two scrapes of one collector, so that the collector adds to the rows it kept and makes
    others again.
    """
    directory: Path | None = tmp_path_factory.mktemp("store") if where == "store" else None
    provider = mpmetrics.Provider(directory, resource={"le": "3", "worker": "w", "host": "h"})
    try:
        made = make(provider)
        collector = mpmetrics.Collector(provider)
        for _ in range(2):
            steps = data.draw(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), TEXTS, VALUES), max_size=12))
            for operation, label, value in steps:
                OPERATIONS[operation](made, label, value)
            readings = collector.readings()
            for options in OPTIONS:
                for utf8 in (False, True):
                    shown = apply_options(readings, options, resource=provider.resource, utf8=utf8, complain=str)
                    again = apply_options(readings, options, resource=provider.resource, utf8=utf8, complain=str)
                    names = data.draw(st.sampled_from([(), ("c_total", "h_bucket", "g_min"), ("u", "h")]))
                    for render in (render_text, render_openmetrics):
                        tables = render(shown, names)
                        assert tables == render(as_samples(again), names)
        readings = [one for one in collector.readings() if not one.name.startswith("mpmetrics_")]
        whole = render_openmetrics(collector.exported(readings)).decode()
        assert samples_of(parse_openmetrics(whole)) == samples_of(prometheus_families(collector.exported(readings)))
        names = {family.name for family in collector.collect()}
        assert names >= {family.name for family in parse_openmetrics(whole)}
    finally:
        provider.shutdown()


def samples_of(found: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Names, labels and values of all samples, and types and units of their families."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in found:
        for sample in family.samples:
            if sample.name == "cold_count":
                continue  # OpenMetrics has no count without a sum, and no sum that can decrease
            about = {("type", family.type), ("unit", family.unit), ("help", family.documentation)}
            samples[sample.name, frozenset({*sample.labels.items(), *about})] = sample.value
    return samples
