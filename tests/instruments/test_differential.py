"""Differential test: the same operations on prometheus_client's instruments and on ours show the same families."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpmetrics import instruments
from mpmetrics.endpoint.collector import Collector
from mpmetrics.provider import Provider

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = ["idle", "busy", "gone"]
BUCKETS = (-1.0, 0.5, 2.0, 1e6)

# Metrics by a short name: kind and keyword arguments of both libraries.
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "counter": ("Counter", {}),
    "sum": ("Gauge", {"multiprocess_mode": "sum"}),
    "max": ("Gauge", {"multiprocess_mode": "max"}),
    "recent": ("Gauge", {"multiprocess_mode": "mostrecent"}),
    "histogram": ("Histogram", {"buckets": (0.5, 2.0, 1e6)}),
    "negative": ("Histogram", {"buckets": BUCKETS}),
    "summary": ("Summary", {}),
    "info": ("Info", {}),
    "enum": ("Enum", {"states": STATES}),
}

label = st.sampled_from(["", "a", "b", "\n", '"', "é", "\\"])
labels = st.tuples(label, label)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
number = st.one_of(st.integers(-5, 5), finite, st.sampled_from([float("inf"), 1e300, 5e-324, -0.0]))
amount = st.one_of(st.integers(0, 5), st.floats(0, 1e9), st.just(float("inf")))
pairs = st.dictionaries(st.sampled_from(["version", "host"]), label, min_size=1)

writes = st.one_of(
    st.tuples(st.just("counter"), st.just("inc"), amount),
    st.tuples(st.sampled_from(["sum", "max"]), st.sampled_from(["set", "inc", "dec"]), number),
    st.tuples(st.just("recent"), st.just("set"), number),
    st.tuples(st.sampled_from(["histogram", "negative", "summary"]), st.just("observe"), number),
    st.tuples(st.just("info"), st.just("info"), pairs),
    st.tuples(st.just("enum"), st.just("state"), st.sampled_from(STATES)),
)
forgets = st.one_of(
    st.tuples(st.sampled_from(list(METRICS)), st.just("remove"), labels),
    st.tuples(st.sampled_from(list(METRICS)), st.just("clear"), st.none()),
    st.tuples(
        st.sampled_from(list(METRICS)),
        st.just("remove_by_labels"),
        st.dictionaries(st.sampled_from(["x", "y"]), label),
    ),
)
operations = st.lists(st.one_of(st.tuples(writes, st.one_of(st.none(), labels)), st.tuples(forgets, st.none())))


class Bench:
    """The metrics of one library, with and without labels."""

    def __init__(self, library: Any, **common: Any) -> None:
        self.plain: dict[str, Any] = {}
        self.labelled: dict[str, Any] = {}
        for name, (kind, arguments) in METRICS.items():
            make = getattr(library, kind)
            self.plain[name] = make(f"{name}_plain", f"help of {name}", **arguments, **common)
            self.labelled[name] = make(f"{name}_by", f"help of {name}", ["x", "y"], **arguments, **common)
        # A gauge or info that was never set has no value here; in prometheus_client it is zero or empty.
        for name in ("max", "recent"):
            self.plain[name].set(0)
        self.plain["info"].info({"version": "0"})

    def apply(self, operation: tuple[tuple[str, str, Any], Any]) -> None:
        """Carry out one operation."""
        (name, method, argument), key = operation
        if method == "remove":
            self.labelled[name].remove(*argument)
        elif method == "clear":
            self.labelled[name].clear()
        elif method == "remove_by_labels":
            self.labelled[name].remove_by_labels(argument)
        else:
            target = self.plain[name] if key is None else self.labelled[name].labels(*key)
            getattr(target, method)(argument)


Families = dict[str, tuple[str, str, str, list[tuple[str, list[tuple[str, str]], str]]]]


def families(collector: Any) -> Families:
    """Return what a collector shows, sorted, without creation times and without empty labels; NaN equals itself.

    An empty label is the same as none, in Prometheus and here; prometheus_client shows it.
    """
    return {
        family.name: (
            family.type,
            family.documentation,
            family.unit,
            sorted(
                (
                    sample.name,
                    sorted(pair for pair in sample.labels.items() if pair[1]),
                    repr(float(sample.value) + 0.0),
                )
                for sample in family.samples
                if not sample.name.endswith("_created")
            ),
        )
        for family in collector.collect()
        if not family.name.startswith("mpmetrics_")
    }


@contextlib.contextmanager
def provider(where: str) -> Iterator[Provider]:
    """Make a provider on private memory or on a new store."""
    directory = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm") if where == "store" else None
    made = Provider(directory)
    try:
        yield made
    finally:
        made.shutdown()
        if directory is not None:
            shutil.rmtree(directory)


@pytest.mark.parametrize("where", ["private", "store"])
@given(operations=operations)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_same_families_as_prometheus_client(where: str, operations: list[Any]) -> None:
    """After any writes and removals, both libraries show the same names, types, help texts, labels and values."""
    registry = prometheus_client.CollectorRegistry()
    theirs = Bench(prometheus_client, registry=registry)
    with provider(where) as ours_in:
        ours = Bench(instruments, provider=ours_in)
        collector = Collector(ours_in)
        for operation in operations:
            theirs.apply(operation)
            ours.apply(operation)
        assert families(registry) == families(collector)


def test_the_comparison_can_fail() -> None:
    """The control: in each metric, one more operation on one side makes the comparison fail."""
    for name, argument in {"counter": 1, "sum": 1, "max": 1, "recent": 1, "summary": 1, "enum": "busy"}.items():
        method = {"counter": "inc", "summary": "observe", "enum": "state"}.get(name, "set")
        registry = prometheus_client.CollectorRegistry()
        theirs = Bench(prometheus_client, registry=registry)
        with provider("private") as ours_in:
            ours = Bench(instruments, provider=ours_in)
            assert families(registry) == families(Collector(ours_in))
            theirs.apply(((name, method, argument), ("a", "b")))
            assert families(registry) != families(Collector(ours_in))
            ours.apply(((name, method, argument), ("a", "b")))
            assert families(registry) == families(Collector(ours_in))


REFUSED = {
    "negative increment": lambda bench: bench.plain["counter"].inc(-1),
    "increment by text": lambda bench: bench.plain["counter"].inc("1"),
    "too few labels": lambda bench: bench.labelled["counter"].labels("a"),
    "no labels": lambda bench: bench.labelled["counter"].labels(),
    "write without labels": lambda bench: bench.labelled["counter"].inc(),
    "set without labels": lambda bench: bench.labelled["max"].set(1),
    "observe without labels": lambda bench: bench.labelled["histogram"].observe(1),
    "state without labels": lambda bench: bench.labelled["enum"].state("idle"),
    "wrong label name": lambda bench: bench.labelled["sum"].labels(x="a", z="b"),
    "label by position and name": lambda bench: bench.labelled["sum"].labels("a", y="b"),
    "labels of an unlabelled one": lambda bench: bench.plain["sum"].labels("a"),
    "unknown state": lambda bench: bench.plain["enum"].state("nowhere"),
    "info over a label": lambda bench: bench.labelled["info"].labels("a", "b").info({"x": "1"}),
    "info without a value": lambda bench: bench.plain["info"].info({"version": None}),
    "set to text": lambda bench: bench.plain["max"].set("one"),
    "remove too few": lambda bench: bench.labelled["sum"].remove("a"),
    "remove from an unlabelled one": lambda bench: bench.plain["sum"].remove("a"),
    "remove by an unknown label": lambda bench: bench.labelled["sum"].remove_by_labels({"z": "1"}),
    "remove by no mapping": lambda bench: bench.labelled["sum"].remove_by_labels(["x"]),
    "move a mostrecent one": lambda bench: bench.plain["recent"].inc(),
}


@pytest.mark.parametrize("where", ["private", "store"])
@pytest.mark.parametrize("what", list(REFUSED))
def test_same_refusals_as_prometheus_client(where: str, what: str) -> None:
    """A call that prometheus_client refuses raises the same class of error here, and changes no shown value."""
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (the words are prometheus_client's)
        REFUSED[what](Bench(prometheus_client, registry=None))
    with provider(where) as ours_in:
        ours = Bench(instruments, provider=ours_in)
        ours.labelled["sum"].labels("a", "b").set(1)
        before = families(Collector(ours_in))
        with pytest.raises(theirs.type):
            REFUSED[what](ours)
        assert before == families(Collector(ours_in))
