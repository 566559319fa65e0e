"""Wrong names, labels, buckets, states, modes and amounts raise errors that name the value, and change nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.provider import Provider

NAN = math.nan
SIMPLE = [Counter, UpDownCounter, Gauge, Histogram, Summary, Info]
LABELLED = ["x", "y"]

# What is refused, the error, and words that its message must contain.
DECLARATIONS: dict[str, tuple[Callable[[Provider], object], type[Exception], list[str]]] = {
    "empty name": (lambda p: Counter("", "", provider=p), ValueError, ["name"]),
    "name with a dash": (lambda p: Counter("a-b", "", provider=p), ValueError, ["a-b"]),
    "name with a dot": (lambda p: Gauge("a.b", "", provider=p), ValueError, ["a.b"]),
    "name with a digit first": (lambda p: Gauge("1a", "", provider=p), ValueError, ["1a"]),
    "name with a newline": (lambda p: Gauge("a\n", "", provider=p), ValueError, ["a\\n"]),
    "name not ASCII": (lambda p: Gauge("é", "", provider=p), ValueError, ["é"]),
    "name that is no str": (lambda p: Gauge(1, "", provider=p), TypeError, ["1"]),
    "bad namespace": (lambda p: Gauge("a", "", namespace="n s", provider=p), ValueError, ["n s_a"]),
    "bad unit": (lambda p: Gauge("a", "", unit="m/s", provider=p), ValueError, ["m/s"]),
    "unit of an info": (lambda p: Info("a", "", unit="seconds", provider=p), ValueError, ["a", "seconds"]),
    "unit of an enum": (lambda p: Enum("a", "", unit="s", states=["x"], provider=p), ValueError, ["a", "unit"]),
    "reserved prefix": (lambda p: Counter("mpmetrics_x", "", provider=p), ValueError, ["mpmetrics_"]),
    "reserved prefix by namespace": (lambda p: Gauge("x", "", namespace="mpmetrics", provider=p), ValueError, ["x"]),
    "text for a list of labels": (lambda p: Counter("a", "", "method", provider=p), TypeError, ["a", "'method'"]),
    "label le": (lambda p: Histogram("a", "", ["le"], provider=p), ValueError, ["a", "'le'"]),
    "label quantile": (lambda p: Summary("a", "", ["quantile"], provider=p), ValueError, ["a", "'quantile'"]),
    "label worker": (lambda p: Gauge("a", "", ["worker"], provider=p), ValueError, ["a", "'worker'"]),
    "label worker, mode all": (
        lambda p: Gauge("a", "", ["worker"], multiprocess_mode="all", provider=p),
        ValueError,
        ["worker"],
    ),
    "label with two underscores": (lambda p: Counter("a", "", ["__x"], provider=p), ValueError, ["a", "'__x'"]),
    "label with a dash": (lambda p: Counter("a", "", ["b-c"], provider=p), ValueError, ["a", "'b-c'"]),
    "label with a colon": (lambda p: Counter("a", "", ["b:c"], provider=p), ValueError, ["a", "'b:c'"]),
    "label with a newline": (lambda p: Counter("a", "", ["b\n"], provider=p), ValueError, ["a"]),
    "empty label": (lambda p: Counter("a", "", [""], provider=p), ValueError, ["a"]),
    "label that is no str": (lambda p: Counter("a", "", [1], provider=p), ValueError, ["a", "1"]),
    "a label twice": (lambda p: Counter("a", "", ["x", "x"], provider=p), ValueError, ["a", "different"]),
    "enum's own label": (lambda p: Enum("a", "", ["a"], states=["x"], provider=p), ValueError, ["a"]),
    "enum's own label, by its whole name": (
        lambda p: Enum("a", "", ["app_a"], namespace="app", states=["x"], provider=p),
        ValueError,
        ["app_a"],
    ),
    "no buckets": (lambda p: Histogram("a", "", buckets=(), provider=p), ValueError, ["bucket"]),
    "only the infinite bucket": (lambda p: Histogram("a", "", buckets=[math.inf], provider=p), ValueError, ["bucket"]),
    "a NaN bucket": (lambda p: Histogram("a", "", buckets=[1, NAN], provider=p), ValueError, ["nan"]),
    "a NaN bucket first": (lambda p: Histogram("a", "", buckets=[NAN, 1], provider=p), ValueError, ["nan"]),
    "buckets out of order": (lambda p: Histogram("a", "", buckets=[2, 1], provider=p), ValueError, ["increase"]),
    "a bucket twice": (lambda p: Histogram("a", "", buckets=[1, 1], provider=p), ValueError, ["increase"]),
    "the infinite bucket within": (lambda p: Histogram("a", "", buckets=[1, math.inf, 2], provider=p), ValueError, []),
    "a bucket of text": (lambda p: Histogram("a", "", buckets=["x"], provider=p), ValueError, ["x"]),
    "unknown mode": (lambda p: Gauge("a", "", multiprocess_mode="avg", provider=p), ValueError, ["avg", "livesum"]),
    "unknown mode of an up-down counter": (
        lambda p: UpDownCounter("a", "", multiprocess_mode="max", provider=p),
        ValueError,
        ["max", "livesum"],
    ),
    "enum without states": (lambda p: Enum("a", "", provider=p), ValueError, ["a", "states"]),
    "enum with no states": (lambda p: Enum("a", "", states=[], provider=p), ValueError, ["a", "states"]),
    "enum with text for states": (lambda p: Enum("a", "", states="on", provider=p), ValueError, ["a", "on"]),
    "enum with a state twice": (lambda p: Enum("a", "", states=["x", "x"], provider=p), ValueError, ["a", "x"]),
    "no series at all": (lambda p: Counter("a", "", max_series=0, provider=p), ValueError, ["max_series", "0"]),
    "a registry": (
        lambda p: Counter("a", "", registry=prometheus_client.REGISTRY, provider=p),
        ValueError,
        ["a", "Collector", "register"],
    ),
}


@pytest.mark.parametrize("what", list(DECLARATIONS))
def test_bad_declaration(provider: Provider, what: str) -> None:
    """A bad declaration raises an error that names the problem, and leaves no family behind."""
    declare, error, words = DECLARATIONS[what]
    with pytest.raises(error) as raised:
        declare(provider)

    assert [] == [word for word in words if word not in str(raised.value)]
    assert [] == [family.name for family in Collector(provider).collect() if not family.name.startswith("mpmetrics_")]


@pytest.mark.parametrize(
    ("name", "labels"), [("a:b", ()), ("_a", ["_x"]), ("A9", ["le", "quantile", "worker"]), ("a", ["x" * 500])]
)
def test_good_declaration(provider: Provider, name: str, labels: list[str]) -> None:
    """All names of the data model are accepted; only the labels that a kind itself uses are reserved."""
    Counter(name, "", labels, provider=provider)
    shown = [family.name for family in Collector(provider).collect() if not family.name.startswith("mpmetrics_")]

    assert [name] == shown


def test_worker_may_be_a_label_of_a_merged_gauge(provider: Provider) -> None:
    """Only the modes with a series for each worker reserve the label `worker`."""
    gauge = Gauge("a", "", ["worker"], multiprocess_mode="max", provider=provider)
    gauge.labels("me").set(1)

    (sample,) = next(family for family in Collector(provider).collect() if family.name == "a").samples
    assert {"worker": "me"} == sample.labels


USES: dict[str, tuple[Callable[[dict[str, Any]], object], type[Exception], list[str]]] = {
    "negative": (lambda m: m["counter"].inc(-1), ValueError, ["-1"]),
    "negative child": (lambda m: m["labelled"].labels("1", "2").inc(-0.5), ValueError, ["-0.5"]),
    "minus infinity": (lambda m: m["counter"].inc(-math.inf), ValueError, ["-inf"]),
    "NaN": (lambda m: m["counter"].inc(NAN), ValueError, ["nan"]),
    "NaN observed": (lambda m: m["histogram"].observe(NAN), ValueError, ["not a number"]),
    "NaN summed": (lambda m: m["summary"].observe(NAN), ValueError, ["not a number"]),
    "nothing": (lambda m: m["counter"].inc(None), TypeError, []),
    "nothing added": (lambda m: m["gauge"].inc(None), TypeError, []),
    "nothing set": (lambda m: m["gauge"].set(None), TypeError, []),
    "nothing observed": (lambda m: m["histogram"].observe(None), TypeError, []),
    "too large": (lambda m: m["counter"].inc(10**400), OverflowError, []),
    "too large observed": (lambda m: m["histogram"].observe(10**400), OverflowError, []),
    "too few labels": (lambda m: m["labelled"].labels("1"), ValueError, ["labelled", "2 labels", "('x', 'y')"]),
    "too many labels": (lambda m: m["labelled"].labels("1", "2", "3"), ValueError, ["labelled", "3 values"]),
    "unknown label": (lambda m: m["labelled"].labels(x="1", z="2"), ValueError, ["labelled", "z"]),
    "missing label": (lambda m: m["labelled"].labels(x="1"), ValueError, ["labelled", "y"]),
    "both ways": (lambda m: m["labelled"].labels("1", y="2"), ValueError, ["labelled", "or all by name"]),
    "labels of none": (lambda m: m["counter"].labels("1"), ValueError, ["counter", "no labels"]),
    "no labels of none": (lambda m: m["counter"].labels(), ValueError, ["counter", "no labels"]),
    "without labels": (lambda m: m["labelled"].inc(), ValueError, ["labelled", "x, y"]),
    "unknown state": (lambda m: m["enum"].state("z"), ValueError, ["'z'", "on"]),
    "state by number": (lambda m: m["enum"].state(1), ValueError, ["1"]),
    "info of None": (lambda m: m["info"].info({"good": "1", "bad": None}), ValueError, ["info", "None"]),
    "info of a bad name": (lambda m: m["info"].info({"good": "1", "b-d": "1"}), ValueError, ["info", "b-d"]),
    "info of a reserved name": (lambda m: m["info"].info({"__x": "1"}), ValueError, ["info", "__x"]),
    "info over a label": (lambda m: m["described"].labels("1").info({"x": "1"}), ValueError, ["described", "x"]),
    "info of text": (lambda m: m["info"].info("version"), TypeError, ["info"]),
    "remove of none": (lambda m: m["counter"].remove("1"), ValueError, ["counter"]),
    "remove too few": (lambda m: m["labelled"].remove("1"), ValueError, ["labelled"]),
    "remove by unknown label": (lambda m: m["labelled"].remove_by_labels({"z": 1}), ValueError, ["labelled", "z"]),
    "remove by no mapping": (lambda m: m["labelled"].remove_by_labels("x"), TypeError, ["labelled"]),
    "remove by label of none": (lambda m: m["counter"].remove_by_labels({}), ValueError, ["counter"]),
}


def _metrics(provider: Provider) -> dict[str, Any]:
    made = {
        "counter": Counter("counter", "", provider=provider),
        "labelled": Counter("labelled", "", LABELLED, provider=provider),
        "gauge": Gauge("gauge", "", provider=provider),
        "histogram": Histogram("histogram", "", provider=provider),
        "summary": Summary("summary", "", provider=provider),
        "enum": Enum("enum", "", states=["on", "off"], provider=provider),
        "info": Info("info", "", provider=provider),
        "described": Info("described", "", ["x"], provider=provider),
    }
    made["counter"].inc(3)
    made["labelled"].labels("1", "2").inc(3)
    made["gauge"].set(3)
    made["histogram"].observe(3)
    made["summary"].observe(3)
    made["enum"].state("off")
    made["info"].info({"good": "0"})
    made["described"].labels("1").info({"good": "0"})
    return made


@pytest.mark.parametrize("what", list(USES))
def test_bad_use(provider: Provider, shown: Callable[[Any], object], what: str) -> None:
    """A bad call raises an error that names the problem, and changes no value and no series."""
    use, error, words = USES[what]
    metrics = _metrics(provider)
    before = shown(provider)
    with pytest.raises(error) as raised:
        use(metrics)

    assert [] == [word for word in words if word not in str(raised.value)]
    assert before == shown(provider)
    metrics["counter"].inc()
    assert before != shown(provider), "the metrics still work, and a change would have been seen"


def test_no_series_for_a_child_that_was_refused(provider: Provider, shown: Callable[[Any], object]) -> None:
    """Refused label values leave no series behind."""
    _metrics(provider)["labelled"].labels("1", "2")
    before = shown(provider)
    for values in ((), ("1",), ("1", "2", "3")):
        with pytest.raises(ValueError, match="labels"):
            Counter("labelled", "", LABELLED, provider=provider).labels(*values)

    assert before == shown(provider)


@pytest.mark.parametrize("kind", SIMPLE)
def test_repr_names_the_metric(provider: Provider, kind: Any) -> None:
    """An instrument's repr has its kind and its name."""
    assert f"{kind.__name__}('some_name')" == repr(kind("some_name", "", provider=provider))


def test_enum_whose_name_is_no_label_name(provider: Provider) -> None:
    """An enum's name is also a label name, so a colon in it is refused: Prometheus would reject the whole scrape."""
    with pytest.raises(ValueError, match="job:state"):
        Enum("job:state", "", states=["on"], provider=provider)
