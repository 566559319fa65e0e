"""The exporter's options change how instruments of the Meter API are shown, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from mpmetrics import Collector, Counter, ExporterOptions, Gauge, Provider

OPENMETRICS = "application/openmetrics-text"


def shown(provider: Provider, accept: str | None = None, **options: Any) -> list[str]:
    """Return the lines of a scrape, without help texts and self-metrics."""
    collector = Collector(provider, options=ExporterOptions(**options))
    lines = collector.render(accept)[1].decode().splitlines()
    return [line for line in lines if "mpmetrics_" not in line and "_created" not in line and "HELP" not in line]


@pytest.fixture
def filled() -> Provider:
    """A provider with a counter and a gauge of a meter, and a metric with a Prometheus name."""
    provider = Provider(resource={"service.name": "shop"})
    meter = provider.meter("m", version="1")
    meter.counter("a.reads", unit="By").add(3, {"disk.id": "0"})
    meter.gauge("a.load", unit="1", multiprocess_mode="sum").set(0.5)
    Counter("plain_seconds", "", provider=provider).inc()
    return provider


TARGET = ["# TYPE target_info gauge", 'target_info{service_name="shop"} 1.0']
PLAIN = ["# TYPE plain_seconds_total counter", "plain_seconds_total 1.0"]
SCOPE = 'otel_scope_name="m",otel_scope_version="1"'


def test_defaults(filled: Provider) -> None:
    """By default, names have units and counter suffixes, labels the meter, and target_info the resource."""
    assert [
        *TARGET,
        "# TYPE a_load_ratio gauge",
        f"a_load_ratio{{{SCOPE}}} 0.5",
        "# TYPE a_reads_bytes_total counter",
        f'a_reads_bytes_total{{disk_id="0",{SCOPE}}} 3.0',
        *PLAIN,
    ] == shown(filled)


def test_everything_can_be_left_out(filled: Provider) -> None:
    """Units, counter suffixes, the meter's labels and target_info can be left out."""
    options = dict.fromkeys(
        ["without_counter_suffixes", "without_units", "without_target_info", "without_scope_labels"], True
    )

    assert [
        "# TYPE a_load gauge",
        "a_load 0.5",
        "# TYPE a_reads counter",
        'a_reads{disk_id="0"} 3.0',
        *PLAIN,
    ] == shown(filled, **options)


def test_bare_counters_in_openmetrics(filled: Provider) -> None:
    """In OpenMetrics, a counter without its suffix has the type unknown, and its unit only if the name ends with it."""
    lines = shown(filled, OPENMETRICS, without_counter_suffixes=True)

    assert ["# TYPE a_reads_bytes unknown", "# UNIT a_reads_bytes bytes"] == lines[5:7]
    assert "# TYPE plain_seconds counter" in lines
    assert "a_load" not in "".join(line for line in shown(filled, OPENMETRICS, without_units=True) if "UNIT" in line)


def test_namespace_and_resource_labels(filled: Provider) -> None:
    """Instruments of meters get the namespace, and their series the resource's labels; a series' own label wins."""
    filled.meter("m", version="1").gauge("b", multiprocess_mode="sum").set(1, {"service.name": "own"})
    lines = shown(filled, namespace="acme", resource_labels=True, without_scope_labels=True, without_target_info=True)

    assert [
        "# TYPE acme_a_load_ratio gauge",
        'acme_a_load_ratio{service_name="shop"} 0.5',
        "# TYPE acme_a_reads_bytes_total counter",
        'acme_a_reads_bytes_total{service_name="shop",disk_id="0"} 3.0',
        "# TYPE acme_b gauge",
        'acme_b{service_name="own"} 1.0',
        *PLAIN,
    ] == lines


@pytest.mark.parametrize("namespace", ["1a", "a b", "a-b", 5])
def test_bad_namespace(namespace: object) -> None:
    """A namespace with which no name can begin is an error that names it."""
    with pytest.raises(ValueError, match=f"invalid namespace {namespace!r}"):
        ExporterOptions(namespace=namespace)  # type: ignore[arg-type]


def test_series_that_become_equal(provider: Provider) -> None:
    """Without the meters' labels, equal totals and histograms add up, and the last gauge counts."""
    for number, name in enumerate(["x", "y"], start=1):
        meter = provider.meter(name)
        meter.counter("c").add(number)
        meter.up_down_counter("u").add(number)
        meter.histogram("h", buckets=[1.5]).record(number)
        meter.gauge("g", multiprocess_mode="sum").set(number)
    lines = shown(provider, without_scope_labels=True)

    assert ["c_total 3.0", "g 2.0", "u 3.0"] == [line for line in lines if line[:2] in {"c_", "g ", "u "}]
    assert ['h_bucket{le="1.5"} 1.0', 'h_bucket{le="+Inf"} 2.0', "h_count 2.0", "h_sum 3.0"] == [
        line for line in lines if line.startswith("h_")
    ]


def test_attributes_that_become_one_label(provider: Provider) -> None:
    """The values of attributes that become one label are joined in the order of their names; equal series merge."""
    counter = provider.meter("m").counter("c")
    counter.add(1, {"a.b": "x", "a_b": "y"})
    counter.add(2, {"a_b": "x;y"})

    assert ['c_total{a_b="x;y",otel_scope_name="m"} 3.0'] == [line for line in shown(provider) if line.startswith("c_")]


def test_names_that_become_equal(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """Only one of two metrics is shown, preferably one with a Prometheus name; the log says so once."""
    meter = provider.meter("m")
    meter.counter("c", unit="s").add(1)
    meter.counter("c", unit="ms").add(2)
    Gauge("plain", "", provider=provider, multiprocess_mode="sum").set(5)
    meter.gauge("plain", unit="s", multiprocess_mode="sum").set(6)
    collector = Collector(provider, options=ExporterOptions(without_units=True, without_scope_labels=True))
    for _ in range(2):
        lines = [line for line in collector.render()[1].decode().splitlines() if line[:1] in {"c", "p"}]

    assert ["c_total 2.0", "plain 5.0"] == lines
    assert [
        "'c_seconds' is not shown: with the exporter's options its name is 'c', like that of 'c_milliseconds'",
        "'plain_seconds' is not shown: with the exporter's options its name is 'plain', like that of 'plain'",
    ] == [message.removeprefix("metric ").partition(";")[0] for message in caplog.messages]


def test_a_metric_named_target(filled: Provider) -> None:
    """A metric of the application named target is shown in place of the resource's."""
    Gauge("target", "", provider=filled, multiprocess_mode="sum").set(1)

    assert not [line for line in shown(filled) if "target_info" in line]


def test_no_resource(provider: Provider) -> None:
    """Without a resource there is no target_info."""
    assert [] == shown(provider)


def test_prometheus_client_sees_the_same(filled: Provider) -> None:
    """A prometheus_client registry collects the same names, types and values."""
    families = {family.name: family for family in Collector(filled).collect()}

    assert "counter" == families["a_reads_bytes"].type
    (sample, *_) = families["a_reads_bytes"].samples
    assert ("a_reads_bytes_total", 3.0) == (sample.name, sample.value)
    bare = Collector(filled, options=ExporterOptions(without_counter_suffixes=True))
    families = {family.name: family for family in bare.collect()}
    assert "unknown" == families["a_reads_bytes"].type
