"""Every method of prometheus_client's instruments, on private memory and on a store."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest

from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


def test_counter_adds_up(provider: Provider, shown: Shown) -> None:
    """A counter adds 1 or the given amount, and is exposed with one _total, whether or not its name has one."""
    Counter("a", "", provider=provider).inc()
    second = Counter("b_total", "", provider=provider)
    second.inc(2)
    second.inc(amount=0.5)
    second.inc(0)

    assert {("a_total", ()): 1.0, ("b_total", ()): 2.5} == shown(provider)


def test_labels_by_position_and_name(provider: Provider, shown: Shown) -> None:
    """Label values are converted by str; by position and by name they make the same series."""
    counter = Counter("hits", "", ["method", "code"], provider=provider)
    counter.labels("GET", 200).inc()
    counter.labels(code="200", method="GET").inc()
    counter.labels("GET", None).inc()
    counter.labels(["x"], 1.5).inc()

    expected = {
        ("hits_total", (("code", "200"), ("method", "GET"))): 2.0,
        ("hits_total", (("code", "None"), ("method", "GET"))): 1.0,
        ("hits_total", (("code", "1.5"), ("method", "['x']"))): 1.0,
    }
    assert expected == shown(provider)


def test_labels_returns_one_child(provider: Provider) -> None:
    """The same label values return the same object."""
    counter = Counter("hits", "", ["method"], provider=provider)

    assert counter.labels("GET") is counter.labels(method="GET")


@pytest.mark.parametrize("seen_before", [False, True])
def test_label_values_that_are_str(provider: Provider, shown: Shown, *, seen_before: bool) -> None:
    """A subclass of str counts as the text it holds, not as its str(), whether or not that series exists."""

    class Method(str, enum.Enum):  # noqa: UP042 (a StrEnum prints as its value)
        GET = "get"

    counter = Counter("hits", "", ["method"], provider=provider)
    if seen_before:
        counter.labels("get").inc(0)
    counter.labels(Method.GET).inc()

    assert 1.0 == shown(provider).get(("hits_total", (("method", "get"),)))


def test_parts_of_the_name(provider: Provider, shown: Shown) -> None:
    """Namespace, subsystem, name and unit are joined; a unit at the end of the name is not added again."""
    Counter("sent", "", (), "app", "net", "bytes", provider=provider).inc()
    Gauge("used_bytes", "", namespace="app", unit="bytes", multiprocess_mode="sum", provider=provider).set(1)
    Counter("read_bytes_total", "", unit="bytes", provider=provider).inc()

    expected = {"app_net_sent_bytes_total", "app_used_bytes", "read_bytes_total"}
    assert expected == {name for name, _ in shown(provider)}


def test_gauge_moves(provider: Provider, shown: Shown) -> None:
    """A gauge can be set, incremented and decremented, with everything that float() converts."""
    gauge = Gauge("a", "", multiprocess_mode="sum", provider=provider)
    gauge.set("2.5")  # type: ignore[arg-type]
    gauge.inc()
    gauge.inc(2)
    gauge.dec()
    gauge.dec(amount=0.5)

    assert {("a", ()): 4.0} == shown(provider)


def test_gauge_by_worker(provider: Provider, shown: Shown) -> None:
    """By default a gauge has a series for each worker, numbered from 0."""
    Gauge("a", "", provider=provider).set(3)

    assert {("a", (("worker", "0"),)): 3.0} == shown(provider)


def test_set_to_current_time(provider: Provider, shown: Shown) -> None:
    """set_to_current_time stores the Unix time, on the metric, on a series and in mode mostrecent."""
    before = time.time()
    Gauge("a", "", multiprocess_mode="max", provider=provider).set_to_current_time()
    Gauge("b", "", ["x"], multiprocess_mode="max", provider=provider).labels("1").set_to_current_time()
    Gauge("c", "", multiprocess_mode="mostrecent", provider=provider).set_to_current_time()

    values = list(shown(provider).values())
    assert 3 == len(values)
    assert all(before <= value <= time.time() for value in values)


@pytest.mark.parametrize("kind", [Gauge, UpDownCounter])
def test_track_inprogress(provider: Provider, shown: Shown, kind: Any) -> None:
    """track_inprogress adds 1 within the code, as context manager and decorator, and subtracts it, after errors too."""
    metric = kind("a", "", multiprocess_mode="sum", provider=provider)
    child = kind("b", "", ["x"], multiprocess_mode="sum", provider=provider).labels("1")
    within = []

    @metric.track_inprogress()
    @child.track_inprogress()
    def work() -> None:
        within.append(shown(provider))
        raise ZeroDivisionError

    with metric.track_inprogress(), pytest.raises(ZeroDivisionError):
        work()

    key_a, key_b = ("a", ()), ("b", (("x", "1"),))
    assert [{key_a: 2.0, key_b: 1.0}] == within
    assert {key_a: 0.0, key_b: 0.0} == shown(provider)


def test_updowncounter_cannot_be_set(provider: Provider) -> None:
    """An up-down counter has no set: one process cannot set a sum over processes."""
    metric = UpDownCounter("a", "", provider=provider)

    assert not callable(getattr(metric, "set", None))
    labelled = UpDownCounter("b", "", ["x"], provider=provider).labels("1")
    assert not callable(getattr(labelled, "set", None))


def test_updowncounter_moves(provider: Provider, shown: Shown) -> None:
    """An up-down counter goes up and down, also below zero, and is exposed as a gauge."""
    metric = UpDownCounter("a", "", provider=provider)
    metric.inc(2)
    metric.dec(5)

    assert {("a", ()): -3.0} == shown(provider)


def test_count_exceptions(provider: Provider, shown: Shown) -> None:
    """count_exceptions counts exceptions of its types and raises them again; it does not count others."""
    counter = Counter("a", "", provider=provider)
    child = Counter("b", "", ["x"], provider=provider).labels("1")

    @counter.count_exceptions()
    def fail(error: type[BaseException]) -> None:
        raise error

    with pytest.raises(ValueError), child.count_exceptions((ValueError, KeyError)):  # noqa: PT011 (raised by the test itself)
        fail(ValueError)
    with pytest.raises(KeyboardInterrupt), child.count_exceptions(ValueError):
        fail(KeyboardInterrupt)
    with counter.count_exceptions():
        pass

    assert {("a_total", ()): 1.0, ("b_total", (("x", "1"),)): 1.0} == shown(provider)


def test_histogram_counts_by_bucket(provider: Provider, shown: Shown) -> None:
    """A value falls into the first bucket whose bound is not below it; shown buckets are cumulative."""
    histogram = Histogram("a", "", buckets=(1, 2.5, "5"), provider=provider)
    for value in (0, 1, 1.5, 5, 6, math.inf):
        histogram.observe(value)

    expected = {"1.0": 2.0, "2.5": 3.0, "5.0": 4.0, "+Inf": 6.0}
    actual = shown(provider)
    assert expected == {labels[0][1]: value for (name, labels), value in actual.items() if name == "a_bucket"}
    assert 6.0 == actual["a_count", ()]
    assert math.inf == actual["a_sum", ()]


def test_default_buckets_are_prometheus_clients(provider: Provider, shown: Shown) -> None:
    """The default buckets are those of prometheus_client."""
    assert prometheus_client.Histogram.DEFAULT_BUCKETS == Histogram.DEFAULT_BUCKETS

    Histogram("a", "", provider=provider).observe(0.06)
    assert 15 == sum(name == "a_bucket" for name, _ in shown(provider))


def test_summary(provider: Provider, shown: Shown) -> None:
    """A summary has the count of values and their sum, negative ones included."""
    summary = Summary("a", "", ["x"], provider=provider)
    summary.labels("1").observe(2.5)
    summary.labels(x=1).observe(-1)

    labels = (("x", "1"),)
    assert {("a_count", labels): 2.0, ("a_sum", labels): 1.5} == shown(provider)


@pytest.mark.parametrize("kind", [Histogram, Summary])
def test_time_observes(provider: Provider, shown: Shown, kind: Any) -> None:
    """time() observes the duration, as context manager and decorator, on metric and series, also after an error."""
    metric = kind("a", "", provider=provider)
    labelled = kind("b", "", ["x"], provider=provider)

    @metric.time()
    @labelled.labels("1").time()
    def work() -> str:
        return "done"

    assert "done" == work()
    with pytest.raises(ZeroDivisionError), metric.time() as timer:
        raise ZeroDivisionError
    assert timer.duration >= 0

    actual = shown(provider)
    assert 2.0 == actual["a_count", ()]
    assert 1.0 == actual["b_count", (("x", "1"),)]


@pytest.mark.parametrize("kind", [Gauge, Histogram, Summary])
def test_labels_chosen_on_the_timer(provider: Provider, shown: Shown, kind: Any) -> None:
    """As in prometheus_client, labels can be given to the timer of a labelled metric while it runs."""
    metric = kind("a", "", ["x"], provider=provider)
    with metric.time() as timer:
        timer.labels("late")

    assert all(("x", "late") in labels for _, labels in shown(provider))
    assert shown(provider)


def test_gauge_time_sets(provider: Provider, shown: Shown) -> None:
    """A gauge's time() sets it to the duration of the last call."""
    gauge = Gauge("a", "", multiprocess_mode="max", provider=provider)
    gauge.set(1e9)
    recent = Gauge("b", "", multiprocess_mode="mostrecent", provider=provider)
    with gauge.time(), recent.time():
        pass

    actual = shown(provider)
    assert 0 <= actual["a", ()] < 1e9
    assert 0 <= actual["b", ()] < 1e9


def test_mostrecent_can_only_be_set(provider: Provider, shown: Shown) -> None:
    """As in prometheus_client, a gauge of mode mostrecent has no increments: RuntimeError, and the value stays."""
    gauge = Gauge("a", "", multiprocess_mode="mostrecent", provider=provider)
    child = Gauge("b", "", ["x"], multiprocess_mode="livemostrecent", provider=provider).labels("1")
    for metric in (gauge, child):
        metric.set(5)
        for move in (metric.inc, metric.dec, lambda metric=metric: metric.track_inprogress().__enter__()):
            with pytest.raises(RuntimeError):
                move()

    assert {("a", ()): 5.0, ("b", (("x", "1"),)): 5.0} == shown(provider)


def test_info_shows_the_latest_pairs(provider: Provider, shown: Shown) -> None:
    """New pairs replace all earlier ones; earlier pairs can be set again."""
    info = Info("build", "", provider=provider)
    for pairs in ({"version": "1", "host": "a"}, {"version": "2"}, {"version": "1", "host": "a"}, {"version": "2"}):
        info.info(pairs)
        expected = {("build_info", tuple(sorted(pairs.items()))): 1.0}
        assert expected == shown(provider)


def test_info_set_by_two_threads_at_the_same_moment(
    provider: Provider, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that ends the earlier series does not end the series of a thread that came in meanwhile."""
    info = Info("build", "The build.", provider=provider)
    info.info({"version": "0"})
    forget = Info._forget

    def late(self: Info, key: tuple[str, ...], latest: Any) -> None:
        monkeypatch.setattr(Info, "_forget", forget)
        info.info({"version": "2"})
        monkeypatch.setattr(Info, "_forget", late)
        forget(self, key, latest)

    monkeypatch.setattr(Info, "_forget", late)
    info.info({"version": "1"})

    assert {("build_info", (("version", "2"),)): 1.0} == shown(provider)


def test_info_with_labels(provider: Provider, shown: Shown) -> None:
    """Each set of label values has its own pairs, which may be empty; setting one set does not change the others."""
    info = Info("build", "", ["app"], provider=provider)
    info.labels("a").info({"version": "1"})
    info.labels("b").info({"version": 1})
    info.labels(app="a").info({"version": "2"})
    info.labels("c").info({})

    expected = {
        ("build_info", (("app", "a"), ("version", "2"))): 1.0,
        ("build_info", (("app", "b"), ("version", "1"))): 1.0,
        ("build_info", (("app", "c"),)): 1.0,
    }
    assert expected == shown(provider)


def test_info_from_nothing_to_something(provider: Provider, shown: Shown) -> None:
    """A labelled info whose pairs were empty can get pairs later."""
    info = Info("build", "", ["app"], provider=provider)
    info.labels("a").info({})
    info.labels("a").info({"version": "2"})

    assert {("build_info", (("app", "a"), ("version", "2"))): 1.0} == shown(provider)


def test_info_labels_are_not_its_pairs(provider: Provider) -> None:
    """Pairs cannot be passed to labels() behind the label values: that is a wrong number of labels."""
    info = Info("build", "", ["app"], provider=provider)
    info.labels("a").info({"version": "2"})

    with pytest.raises(ValueError, match="labels"):
        info.labels("a", "version", "2")


def test_info_takes_another_set_at_its_cap(provider: Provider, shown: Shown) -> None:
    """At the cap of a metric, new pairs still replace the old ones: the old series ends first."""
    info = Info("build", "", provider=provider, max_series=1)
    info.info({"version": "1"})
    info.info({"version": "2"})

    assert {("build_info", (("version", "2"),)): 1.0} == shown(provider)


def test_enum_states(provider: Provider, shown: Shown) -> None:
    """An enum is in its first state until another is set; exactly one state is true."""
    task = Enum("task", "", states=["starting", "running"], provider=provider)
    before = shown(provider)
    task.state("running")

    assert {("task", (("task", "starting"),)): 1.0, ("task", (("task", "running"),)): 0.0} == before
    assert {("task", (("task", "starting"),)): 0.0, ("task", (("task", "running"),)): 1.0} == shown(provider)


def test_enum_with_labels(provider: Provider, shown: Shown) -> None:
    """Each set of label values has its own state."""
    task = Enum("task", "", ["name"], states=("on", "off"), provider=provider)
    task.labels("a").state("off")
    task.labels(name="b").state("on")

    true = {dict(labels)["name"]: dict(labels)["task"] for (_, labels), value in shown(provider).items() if value}
    assert {"a": "off", "b": "on"} == true


def _all_kinds(provider: Provider) -> list[tuple[Any, Callable[[Any], object]]]:
    names = ["a", "b"]
    return [
        (Counter("c", "", names, provider=provider), lambda child: child.inc()),
        (UpDownCounter("u", "", names, provider=provider), lambda child: child.inc()),
        (Gauge("g", "", names, multiprocess_mode="sum", provider=provider), lambda child: child.set(1)),
        (Gauge("r", "", names, multiprocess_mode="mostrecent", provider=provider), lambda child: child.set(1)),
        (Histogram("h", "", names, provider=provider), lambda child: child.observe(1)),
        (Summary("s", "", names, provider=provider), lambda child: child.observe(1)),
        (Info("i", "", names, provider=provider), lambda child: child.info({"v": "1"})),
        (Enum("e", "", names, states=["x", "y"], provider=provider), lambda child: child.state("y")),
    ]


KINDS = range(8)


def _label_sets(actual: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> set[str]:
    return {dict(labels)["a"] + dict(labels)["b"] for _, labels in actual}


@pytest.mark.parametrize("at", KINDS)
def test_remove(provider: Provider, shown: Shown, at: int) -> None:
    """remove() removes one series of any kind; removing a series that does not exist is no error."""
    metric, write = _all_kinds(provider)[at]
    for labels in ("12", "13", "22"):
        write(metric.labels(*labels))
    metric.remove(1, "2")
    metric.remove("9", "9")

    own = {key: value for key, value in shown(provider).items() if key[0].split("_")[0] == metric._family.name}
    assert {"13", "22"} == _label_sets(own)


@pytest.mark.parametrize("at", KINDS)
def test_remove_by_labels(provider: Provider, shown: Shown, at: int) -> None:
    """remove_by_labels() removes all series with these label values; with no labels it removes none."""
    metric, write = _all_kinds(provider)[at]
    for labels in ("12", "13", "22"):
        write(metric.labels(*labels))
    metric.remove_by_labels({})
    assert {"12", "13", "22"} == _label_sets(shown(provider))

    metric.remove_by_labels({"a": 1})
    assert {"22"} == _label_sets(shown(provider))


@pytest.mark.parametrize("at", KINDS)
def test_clear_and_begin_anew(provider: Provider, shown: Shown, at: int) -> None:
    """clear() removes all series of this metric alone; a series that is made again starts at zero."""
    kinds = _all_kinds(provider)
    metric, write = kinds[at]
    other, write_other = kinds[(at + 1) % len(kinds)]
    write(metric.labels("1", "2"))
    once = shown(provider)
    write_other(other.labels("4", "4"))
    metric.clear()
    assert {"44"} == _label_sets(shown(provider))

    other.clear()
    write(metric.labels("1", "2"))
    assert once == shown(provider)


def test_clear_without_labels_does_nothing(provider: Provider, shown: Shown) -> None:
    """clear() does nothing to a metric without labels, as in prometheus_client."""
    counter = Counter("a", "", provider=provider)
    counter.inc()
    counter.clear()

    assert {("a_total", ()): 1.0} == shown(provider)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 7])
def test_writes_to_a_removed_child_go_nowhere(provider: Provider, shown: Shown, at: int) -> None:
    """Writes to the object of a removed series have no effect, also not on a new series of the same labels."""
    metric, write = _all_kinds(provider)[at]
    held = metric.labels("1", "2")
    write(held)
    metric.remove("1", "2")
    write(held)
    assert {} == shown(provider)

    write(metric.labels("1", "2"))
    once = shown(provider)
    write(held)
    assert once == shown(provider)


def test_the_same_metric_twice(provider: Provider, shown: Shown) -> None:
    """Declaring a metric again makes another object with the same values, labelled or not."""
    for _ in range(2):
        Counter("a", "one text", provider=provider).inc()
        Counter("b", "another", ["x"], provider=provider).labels("1").inc()

    assert {("a_total", ()): 2.0, ("b_total", (("x", "1"),)): 2.0} == shown(provider)


def test_label_names_from_any_iterable(provider: Provider, shown: Shown) -> None:
    """Label names may come from a generator."""
    Counter("a", "", (name for name in "xy"), provider=provider).labels("1", "2").inc()

    assert {("a_total", (("x", "1"), ("y", "2"))): 1.0} == shown(provider)


@pytest.mark.parametrize("kind", ["Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"])
def test_same_public_methods_as_prometheus_client(kind: str) -> None:
    """Each instrument has the public methods of prometheus_client's, except those that a shared store cannot offer."""
    ours, theirs = globals()[kind], getattr(prometheus_client, kind)
    collector_side = {"collect", "describe"}
    not_over_processes = {"reset", "set_function"}
    wanted = {name for name in dir(theirs) if not name.startswith("_")} - collector_side - not_over_processes

    assert set() == wanted - set(dir(ours))
