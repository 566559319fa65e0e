"""Both twins write the same bytes, and the twin in C leaks no memory."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mpmetrics._cells import offsets
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("CounterCell", "GaugeCell", "RecentCell", "DistributionCell", "SketchCell")
VALUES = st.one_of(
    st.floats(width=64), st.integers(-(10**6), 10**6), st.sampled_from([0.0, -0.0, 1e150, 1e-9, 0.1, 10**400, True])
)
KEYS = st.sampled_from([("a",), ("b",), ("ä",), ("\U0001f600", "x"), (), ("x" * 300,), None])
METHODS = ("inc", "dec", "set", "unset", "observe", "update")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 4), KEYS),
        st.tuples(st.just("end"), st.integers(0, 4), KEYS),
        st.tuples(st.sampled_from(METHODS), st.integers(0, 4), KEYS, VALUES),
        st.tuples(st.just("flip")),
        st.tuples(st.just("anew")),
        st.tuples(st.just("other slab")),
        st.tuples(st.just("move")),
    ),
    max_size=40,
)


def run(owner: Any, steps: list[Any]) -> list[Any]:
    """Run the steps; returns the outcome of each."""
    owner.process.time_offset = 1 << 62  # so large that the clock does not matter
    metrics = [owner.metric(kind, limit=4) for kind in KINDS]
    owner.begin(counting=True)
    return [_outcome(owner, metrics, step) for step in steps]


def _outcome(owner: Any, metrics: list[Any], step: Any) -> Any:  # noqa: PLR0911 (one return for each kind of step)
    name, *arguments = step
    try:
        if name == "make":
            return metrics[arguments[0]].make(arguments[1]).values()
        if name == "end":
            return metrics[arguments[0]].end(arguments[1])
        if name == "flip":
            owner.head[fmt.ROOM] = owner.head[fmt.ROOM + 1] = max(owner.head[fmt.ROOM], owner.head[fmt.ROOM + 1])
            return owner.process.slab.flip()
        if name == "anew":
            owner.process.begun = owner.process.counting = 0
            return owner.begin(counting=True)
        if name == "other slab":
            return owner.renew_slab()
        if name == "move":
            return [metric.move(cell) for metric in metrics for cell in metric.values()]
        cell = metrics[arguments[0]].make(arguments[1])
        getattr(cell, name)(*arguments[2:] if name != "unset" else ())
        return list(map(repr, cell.values()))
    except Exception as error:  # noqa: BLE001 (both twins must raise the same)
        return type(error), str(error) if isinstance(error, ValueError) else ""


def written(owner: Any) -> list[bytes]:
    """The contents of the slab, without the constant part of the head."""
    data, head = memoryview(owner.map).cast("B"), owner.head
    areas = [data[fmt.AREA_0 + at * fmt.AREA_SIZE :][: head[fmt.ROOM + at]] for at in range(2)]
    return [part.tobytes() for part in (data[: head[fmt.WORDS_END]], *areas)]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
@example([step for kind in (0, 1) for step in (("inc", kind, ("a",), 1), ("anew",), ("inc", kind, ("a",), 10**400))])
def test_both_twins_write_the_same_bytes(twins: tuple[Any, Any], owners: Any, steps: list[Any]) -> None:
    """After any steps, both twins have the same bytes in the slab and the same results and exceptions."""
    ours, theirs = (owners(twin) for twin in twins)

    assert run(ours, steps) == run(theirs, steps)
    assert written(ours) == written(theirs)
    assert ours.calls == theirs.calls or "grow" in ours.calls


def test_the_twins_have_the_formats_numbers() -> None:
    """The numbers in both twins are those of the specification."""
    for name in offsets.__all__:
        if hasattr(fmt, name):
            mine, theirs = getattr(offsets, name), getattr(fmt, name)
            assert getattr(theirs, "format", theirs) == getattr(mine, "format", mine)


def everything(owner: Any) -> None:
    """Use each function and method, errors included."""
    for kind in KINDS:
        metric = owner.metric(kind, limit=3)
        for key in (("a",), ("b",), ("c",), ("d",), None):
            cell = metric.make(key)
            for method in ("inc", "set", "observe", "update"):
                if hasattr(cell, method):
                    getattr(cell, method)(1.5)
        for bad in ("x", [], object()):
            for method in ("inc", "set", "observe", "update"):
                if hasattr(cell, method):
                    with pytest.raises((TypeError, ValueError)):
                        getattr(cell, method)(bad)
        for bad in (1, "ab", ("a", 1), ("x" * 70_000,)):
            with pytest.raises(TypeError):
                metric.make(bad) if bad != ("x" * 70_000,) else metric.get(1)
        assert len(metric.keys() + metric.values() + metric.items()) == 3 * len(list(metric))
        metric.end(("a",))
        metric.move(metric.get(("b",)))
        cell.values(), cell.place, cell.gone, cell._key, cell._children, cell._name


needs_count = pytest.mark.skipif(sys.getallocatedblocks() == 0, reason="this allocator does not count its blocks")


def growth(work: Callable[[], object]) -> int:
    """Memory blocks that 100 rounds leave; the least of several runs, since Python's caches fill up."""
    grown = []
    for _ in range(6):
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(100):
            work()
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    return min(grown)


@needs_count
def test_nothing_leaks(twins: tuple[Any, Any], owners: Any) -> None:
    """After many rounds, no more memory blocks are in use, and arguments have no more references."""
    name = str(owners) + "a name that is held by none"
    held = owners(twins[1], room=1 << 16)
    held.begin(counting=True)

    def work() -> None:
        owner = owners(twins[1])
        everything(owner)
        owner.watch()
        owner.process.watch(None, 0)
        metric = held.metric()
        held.metrics.clear()
        metric.make((name,)).inc()
        metric.end((name,))
        it = twins[1].Labelled()
        it._children = metric
        it.labels(name)
        it.labels("".join(name))
        metric.end((name,))

    counts = sys.getrefcount(name)
    assert growth(work) < 60
    gc.collect()
    assert sys.getrefcount(name) == counts


@needs_count
def test_the_check_detects_a_leak() -> None:
    """The control: a leak of one object a round fails the check."""
    kept: list[object] = []
    assert growth(lambda: kept.append(object())) >= 60


def test_cycles_are_collected(twins: tuple[Any, Any], owners: Any) -> None:
    """A metric in a reference cycle with its context is collected."""
    for twin in twins:
        gone = []

        class Context:
            def __init__(self, gone: list[None] = gone) -> None:
                self.gone = gone

            def __del__(self) -> None:
                self.cell.inc()  # type: ignore[attr-defined]
                self.gone.append(None)

        owner = owners(twin)
        metric = owner.metric()
        context = Context()
        metric.context = context
        context.cell = metric.make(("a",))  # type: ignore[attr-defined]
        context.cell.inc()  # type: ignore[attr-defined]
        del owner, metric, context
        gc.collect()
        assert [None] == gone


def test_first_uses_start_no_garbage_collection(twins: tuple[Any, Any], owners: Any) -> None:
    """In C, the garbage collector does not track cells, not even those of a class made in Python."""

    @twins[1].without_gc
    class Kind(twins[1].CounterCell):  # type: ignore[misc, name-defined]
        """A class of cells made in Python."""

        __slots__ = ()

        def twice(self) -> None:
            """Count two."""
            self.inc(2)

    owner = owners(twins[1])
    twins[1].Kind = Kind
    owner.widths["Kind"] = 1
    metric = owner.metric("Kind")
    keys = [(str(number),) for number in range(5000)]
    gc.collect()
    before = gc.get_count()[0]
    for key in keys:
        metric.make(key).twice()
    made = gc.get_count()[0] - before

    assert made < 50
    assert all([2.0] == cell.values() for cell in metric.values())
    assert not gc.is_tracked(metric.get(keys[0]))
    assert ("Kind", "A class of cells made in Python.") == (Kind.__name__, Kind.__doc__)
    with pytest.raises(TypeError):
        Kind()
    for bad in (int, twins[1].Slab, 1):
        with pytest.raises(TypeError):
            twins[1].without_gc(bad)


def test_series_outlive_their_metric(twins: tuple[Any, Any], owners: Any) -> None:
    """A cell that outlives its metric can be written to, without effect."""
    for twin in twins:
        owner = owners(twin)
        kept = [owner.metric(kind).make(("a",)) for kind in KINDS]
        cells = [[owner.metric(kind).make((str(number),)) for number in range(100)] for kind in KINDS]
        del owner
        gc.collect()
        for cell in [*kept, *(cell for several in cells for cell in several)]:
            for method in METHODS:
                if hasattr(cell, method):
                    getattr(cell, method)(*(() if method == "unset" else (1.5,)))
            assert "it" == cell._name
            assert cell.values()
