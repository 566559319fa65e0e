"""PrometheusDriver: names, types and units; once, run, start, stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from mpmetrics import Collector, ConflictError, Provider
from mpmetrics.drivers import Config, PrometheusDriver
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def registry(provider: Provider) -> Registry:
    """A registry with the metrics in the example of go-metrics-plus."""
    registry = Registry("test", provider=provider)
    registry.get_or_register_timer("myTimer").update(1.0)
    registry.get_or_register_counter("myCounter").inc(50)
    registry.get_or_register_meter("myMeter").mark(10)
    return registry


def samples(prometheus_registry: CollectorRegistry) -> dict[str, float]:
    """Return what the registry shows, by name and labels, without creation times."""
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(prometheus_registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


FIGURES = (
    "count min max mean sum variance stddev median percentile_75 percentile_95 percentile_99_0 percentile_99_9"
    " rate_1min rate_5min rate_15min rate_mean"
)


def test_the_series_of_style_gauges(registry: Registry) -> None:
    """Style gauges shows exactly the series of go-metrics-plus, all as gauges."""
    target = CollectorRegistry()
    PrometheusDriver(registry, 1, "namespace", "subsystem", target, style="gauges").once()
    shown = samples(target)

    timer = {f"namespace_subsystem_myTimer_{figure}" for figure in FIGURES.split()}
    meter = {f"namespace_subsystem_myMeter_{figure}" for figure in FIGURES.split() if figure[:4] in ("coun", "rate")}
    assert {*timer, *meter, "namespace_subsystem_myCounter_count"} == shown.keys()
    assert 50 == shown["namespace_subsystem_myCounter_count"]
    assert 10 == shown["namespace_subsystem_myMeter_count"]
    assert {1.0} == {shown[f"namespace_subsystem_myTimer_{figure}"] for figure in FIGURES.split()[:5]}
    assert b" counter\n" not in generate_latest(target)


def test_the_types_of_style_native(registry: Registry) -> None:
    """Style native shows counters, summaries in seconds, and all else as gauges."""
    registry.get_or_register_gauge("depth").update(3)
    registry.get_or_register_healthcheck("db").healthy()
    registry.get_or_register_histogram("size").update(20)
    target = CollectorRegistry()
    PrometheusDriver(registry, 1, "namespace", "subsystem", target).once()
    types = {family.name: family.type for family in target.collect()}
    shown = samples(target)

    assert "counter" == types["namespace_subsystem_myCounter"] == types["namespace_subsystem_myMeter"]
    assert "summary" == types["namespace_subsystem_myTimer_seconds"] == types["namespace_subsystem_size"]
    assert "gauge" == types["namespace_subsystem_depth"] == types["namespace_subsystem_db"]
    assert 50 == shown["namespace_subsystem_myCounter_total"]
    assert 1 == shown["namespace_subsystem_myTimer_seconds{0.99}"] == shown["namespace_subsystem_myTimer_seconds_sum"]
    assert 0 == shown["namespace_subsystem_myTimer_rate_1min"]
    assert (3, 1) == (shown["namespace_subsystem_depth"], shown["namespace_subsystem_db"])
    assert list(openmetrics_parser.text_string_to_metric_families(openmetrics.generate_latest(target).decode()))


@pytest.mark.parametrize("style", ["native", "gauges"])
def test_promtool(provider: Provider, style: Any) -> None:
    """Promtool parses both styles, and has no advice for the native one."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    registry = Registry("test", provider=provider)
    registry.get_or_register_timer("a.duration", {"code": 'a"\n\\'}).update(1.0)
    registry.get_or_register_counter("a-thing").inc(50)
    registry.get_or_register_meter("an event").mark(10)
    registry.get_or_register_histogram("a/size").update(-10)
    registry.get_or_register_gauge("9 lives").update(1)
    target = CollectorRegistry()
    PrometheusDriver(registry, 1, "", "", target, style=style).once()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(target), capture_output=True, timeout=50, check=False
    )

    # Status 1: cannot be parsed; 3: advice, because gauges end with _count, _sum and _gauge.
    advice = {line.split(" ", 1)[1] for line in (done.stdout + done.stderr).decode().splitlines() if line}
    if style == "native":
        assert (0, set()) == (done.returncode, advice)
    else:
        assert 3 == done.returncode
        assert all("suffix" in line or "type 'gauge'" in line for line in advice), advice


def test_a_counter_that_fell_is_a_gauge(registry: Registry) -> None:
    """A counter that went down is shown as a gauge, because a scraper takes a fall for a restart."""
    registry.get_or_register_counter("myCounter").dec(1)
    registry.get_or_register_counter("myCounter", {"a": "b"}).inc(2)
    target = CollectorRegistry()
    PrometheusDriver(registry, 1, "", "", target).once()

    assert {"myCounter": 49.0, "myCounter{b}": 2.0}.items() <= samples(target).items()
    assert "myCounter_total" not in samples(target)


def test_units(registry: Registry) -> None:
    """Durations are shown in the configured unit, with its name in theirs."""
    target = CollectorRegistry()
    for unit, style in (("ms", "gauges"), ("minutes", "native")):
        config: Any = Config("", unit, registry, 1, duration_unit=unit, style=style)  # type: ignore[arg-type]
        PrometheusDriver.with_config(config, target).once()
    shown = samples(target)

    assert 1000 == shown["ms_myTimer_max"] == shown["ms_myTimer_sum"]
    assert pytest.approx(1000, rel=0.01) == shown["ms_myTimer_median"]
    assert pytest.approx(1 / 60) == shown["minutes_myTimer_minutes_max"] == shown["minutes_myTimer_minutes_sum"]


def test_collisions(provider: Provider) -> None:
    """Two metrics that get one name raise an error that names both; all others are flushed."""
    registry = Registry("test", provider=provider)
    registry.get_or_register_counter("a.b").inc(1)
    registry.get_or_register_gauge("a_b_total").update(2)
    registry.get_or_register_counter("c").inc(3)
    target = CollectorRegistry()
    driver = PrometheusDriver(registry, 1, "", "", target)
    with pytest.raises(ConflictError, match=r"'a_b_total'.*'a\.b'"):
        driver.once()

    assert {"a_b_total": 1.0, "c_total": 3.0} == samples(target)


def test_what_is_unregistered_is_gone(registry: Registry) -> None:
    """An unregistered metric is missing from the next flush on."""
    target = CollectorRegistry()
    driver = PrometheusDriver(registry, 1, "", "", target)
    driver.once()
    registry.unregister("myTimer")
    registry.unregister("myMeter")
    driver.once()

    assert {"myCounter_total": 50.0} == samples(target)


def test_several_drivers_on_one_registry(registry: Registry, provider: Provider) -> None:
    """Several drivers share one prometheus_client registry, whether or not they show the same names."""
    target = CollectorRegistry()
    child = Registry("other", provider=provider)
    child.get_or_register_counter("more").inc(4)
    drivers = [PrometheusDriver(one, 1, "", "", target) for one in (registry, registry, child)]
    for driver in drivers:
        driver.once()

    assert {"myCounter_total": 50.0, "more_total": 4.0}.items() <= samples(target).items()
    assert generate_latest(target).count(b"# TYPE myCounter_total ") == 1


def test_the_endpoint_shows_what_was_flushed(registry: Registry, provider: Provider) -> None:
    """A collector with the driver as a source shows what was flushed."""
    driver = PrometheusDriver(registry, 1)
    collector = Collector(provider, sources=[driver.readings])
    assert b"myCounter" not in collector.render()[1]
    driver.once()

    assert b"\nmyCounter_total 50.0\n" in collector.render()[1]


def test_start_and_stop(registry: Registry) -> None:
    """The driver flushes at once and every interval until it is stopped, and can be started again."""
    target = CollectorRegistry()
    driver = PrometheusDriver(registry, 0.05, "", "", target)
    counter = registry.get_or_register_counter("myCounter")
    for value in (50, 51):
        driver.start()
        driver.start()
        wait_until(lambda value=value: samples(target).get("myCounter_total") == value)  # type: ignore[misc]
        counter.inc()
        wait_until(lambda value=value: samples(target).get("myCounter_total") == value + 1)  # type: ignore[misc]
        driver.stop()
        driver.stop()
        assert "mpmetrics-PrometheusDriver" not in [thread.name for thread in threading.enumerate()]
    assert driver.successes > 2
    assert 0 == driver.failures


def test_run_ends_by_a_signal_handler(registry: Registry) -> None:
    """A signal handler ends ``run`` in the foreground."""
    driver = PrometheusDriver(registry, 60)
    before = signal.signal(signal.SIGUSR1, lambda *_: driver.stop())
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        driver.run()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)

    assert 1 == driver.successes
    driver.start()  # it can run again
    wait_until(lambda: driver.successes == 2)
    driver.stop()


def test_a_failure_is_logged_once_and_tried_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of ``once`` does not end the thread; it is logged once, and counted each time."""
    registry.get_or_register_gauge("myCounter_total").update(1)
    driver = PrometheusDriver(registry, 0.02)
    driver.start()
    wait_until(lambda: driver.failures > 1)
    driver.stop()

    assert 1 == len([record for record in caplog.records if "is tried again" in record.message])


def test_a_forked_child_drives_nothing(registry: Registry, child: Callable[[Callable[[], object]], Any]) -> None:
    """A forked child's driver does nothing until the child starts it."""
    driver = PrometheusDriver(registry, 0.02)
    driver.start()
    wait_until(lambda: driver.successes > 0)

    def work() -> None:
        before = driver.successes
        time.sleep(0.2)
        assert before == driver.successes
        driver.start()
        wait_until(lambda: driver.successes > before)

    child(work).end()
    driver.stop()


def test_it_ticks_between_flushes(provider: Provider) -> None:
    """The running driver ticks the rates also between two flushes."""
    clock = [0.0]
    registry = Registry("test", provider=provider, clock=lambda: clock[0])
    meter = registry.get_or_register_meter("it")
    driver = PrometheusDriver(registry, 3600)
    driver.start()
    wait_until(lambda: driver.successes > 0)
    meter.mark(5)
    driver.stop()
    clock[0] = 5.0
    stop = threading.Event()
    due = threading.Thread(target=driver._wait_until, args=(time.monotonic() + 3600, stop))
    due.start()
    wait_until(lambda: registry.next_tick == 10.0)
    stop.set()
    due.join()

    assert 1.0 == meter.rate1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, 1), TypeError, "None"),
        (("registry", 0), ValueError, "above 0, not 0"),
        (("registry", -1), ValueError, "-1"),
        (("registry", float("nan")), ValueError, "nan"),
        (("registry", "1"), TypeError, "'1'"),
        (("registry", 1, 3), TypeError, "namespace must be a str, not 3"),
    ],
)
def test_bad_input(registry: Registry, arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    """Bad arguments raise an error at construction that names the value."""
    given = [registry if argument == "registry" else argument for argument in arguments]
    with pytest.raises(error, match=words):
        PrometheusDriver(*given)


@pytest.mark.parametrize("name", ["duration_unit", "style", "percentiles"])
def test_bad_choices(registry: Registry, name: str) -> None:
    """An unknown choice is refused, and the message names the known ones."""
    with pytest.raises(ValueError, match=f"{name}|percentiles") as caught:
        Config(registry=registry, **{name: "fortnights"})  # type: ignore[arg-type]

    assert "'fortnights'" in str(caught.value)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
