"""A series' first use: what it writes, what it asks the owner for, and the cap."""

from __future__ import annotations

import time
from typing import Any

import pytest


def test_a_first_use_writes_what_the_format_says(owner: Any) -> None:
    """When make() returns, the record is committed: family, words, creation in ms, generation, labels."""
    owner.process.clock = lambda: 1234.56789
    owner.process.seen = 7
    counters, sizes = owner.metric(), owner.metric("DistributionCell")
    first = counters.make(("ä", "", "\U0001f600"))
    second = sizes.make(("b",))
    third = counters.make(None)

    assert [512, 513, 518] == [first.place, second.place, third.place]
    series = owner.series()
    assert (0, 1, 1234.567, 7, ("ä", "", "\U0001f600")) == series[512]
    assert (1, 5, 1234.567, 7, ("b",)) == series[513]
    assert (0, 1, 1234.567, 7, None) == series[518]
    assert [0.0] * 5 == second.values()


def test_a_series_is_made_once(owner: Any) -> None:
    """The same key gives the same cell; cells are in the order of creation."""
    metric = owner.metric()
    one = metric.make(("a",))

    assert metric.make(("".join("a"),)) is one is metric.get(("a",))
    other = metric.make(("b",))
    assert (["a", "b"], [one, other]) == ([key[0] for key in metric], metric.values())
    assert [(("a",), one), (("b",), other)] == metric.items()
    assert (2, True, False, None) == (len(metric), ("a",) in metric, ("c",) in metric, metric.get(("c",)))
    assert 2 == len(owner.series())


@pytest.mark.parametrize("key", ["a", 1, [], ("a", 1), (None,)])
def test_keys_are_texts(owner: Any, key: Any) -> None:
    """A key that is no tuple of str raises TypeError, and no series is made."""
    metric = owner.metric()
    if key == "a" and owner.twin.name == "pure":
        pytest.skip("a str is as good as a tuple of its characters there")

    with pytest.raises(TypeError):
        metric.make(key)

    assert 0 == len(metric)


def test_only_a_metric_makes_cells(twin: Any) -> None:
    """Calling a cell's class raises TypeError."""
    for kind in ("CounterCell", "GaugeCell", "RecentCell", "DistributionCell", "SketchCell"):
        with pytest.raises(TypeError):
            getattr(twin, kind)()


def test_a_wrong_width_is_refused(owner: Any) -> None:
    """A width other than the cell's raises ValueError: cells would write into their neighbours' words."""
    family = owner.metric().family
    with pytest.raises(ValueError, match="5 words, not 4"):
        owner.twin.Children(owner.process, family, owner.twin.DistributionCell, width=4, limit=1, budget=1)


@pytest.mark.parametrize(("limit", "budget"), [(2, 1 << 20), (100, 2)])
def test_series_beyond_the_cap_count_in_the_overflow_series(owner: Any, limit: int, budget: int) -> None:
    """Beyond the number of series, or the bytes of their labels, the overflow series counts; present series stay."""
    metric = owner.metric(limit=limit, budget=budget)
    one, two = metric.make(("a",)), metric.make(("b",))
    past = metric.make(("c",))

    assert past is metric.make(("d",)) is metric.get(None)
    assert metric.make(("a",)) is one
    assert metric.make(("b",)) is two
    metric.end(("a",))
    assert metric.make(("c",)) is not past
    assert metric.make(("d",)) is past


@pytest.mark.parametrize("key", [("x" * 65_536,), ("x" * 60_000,) * 18])
def test_labels_that_do_not_fit_into_a_record_overflow(owner: Any, key: tuple[str, ...]) -> None:
    """Labels that do not fit into a record count in the overflow series, without an exception."""
    metric = owner.metric(budget=1 << 30)

    assert metric.make(key) is metric.make(None)
    assert len(metric.make(("x" * 65_535,)).values()) == 1


def test_the_owner_makes_room_before_the_record(owner: Any) -> None:
    """The owner grows the slab when words or record do not fit, and the series is made once there is room."""
    metric = owner.metric("SketchCell")
    for number in range(10):
        metric.make((str(number),)).update(number)

    assert 10 == len(owner.series())
    assert all(1 == sum(cell.values()[12:]) for cell in metric.values())


def test_a_clock_that_raises_makes_nothing(owner: Any) -> None:
    """An exception of the clock reaches the caller, and nothing is half made."""
    metric = owner.metric()
    owner.process.clock = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        metric.make(("a",))
    assert 0 == len(metric)
    owner.process.clock = None
    cell = metric.make(("a",))

    created = owner.series()[cell.place].created
    assert abs(time.time() - created) < 50
    assert created == round(created, 3)


@pytest.mark.parametrize("step", ["begin", "declare_in", "grow", "overflow", "move_later", "catch_up"])
def test_an_exception_of_the_owner_reaches_the_caller(owner: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in any call of the owner reaches the caller, and the operation can be repeated."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    generation = owner.watch()
    if step == "catch_up":
        generation[3] = 1
    metric = owner.metric("SketchCell", limit=0 if step == "overflow" else 9)
    if step in ("grow", "move_later"):
        owner.fill()
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises(KeyboardInterrupt):
            metric.make(("a",))
    assert (step == "move_later") == len(metric)
    metric.make(("a",)).update(1)

    assert 1 == len(metric)
    assert (step not in ("grow", "move_later")) == len(owner.series())
