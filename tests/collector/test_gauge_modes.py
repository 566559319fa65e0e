"""What each mode of a gauge shows of living, killed and folded processes."""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from mpmetrics.endpoint.collector import Collector
from mpmetrics.instruments import Gauge, UpDownCounter
from mpmetrics.instruments.gauge import GaugeMode
from mpmetrics.storage.locks import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics.provider import Provider

MODES = get_args(GaugeMode)
INF, NAN = math.inf, math.nan

# Which process set which value, in order of time; and what each mode shows: a value, nothing, or by worker. The process
# "folded" is worker 0, "killed" is worker 1, "live" is worker 2.
Steps = list[tuple[str, float]]
CASES: dict[str, tuple[Steps, dict[str, Any]]] = {
    "numbers": (
        [("folded", 3), ("killed", 1), ("live", 2)],
        {
            "all": {"0": 3, "1": 1, "2": 2},
            "liveall": {"2": 2},
            "min": 1,
            "livemin": 2,
            "max": 3,
            "livemax": 2,
            "sum": 6,
            "livesum": 2,
            "mostrecent": 2,
            "livemostrecent": 2,
        },
    ),
    "the folded one last": (
        [("killed", 1), ("live", 2), ("folded", 3)],
        {
            "all": {"0": 3, "1": 1, "2": 2},
            "liveall": {"2": 2},
            "min": 1,
            "livemin": 2,
            "max": 3,
            "livemax": 2,
            "sum": 6,
            "livesum": 2,
            "mostrecent": 3,
            "livemostrecent": 2,
        },
    ),
    "the killed one last": (
        [("live", 2), ("folded", 3), ("killed", 1)],
        {
            "all": {"0": 3, "1": 1, "2": 2},
            "liveall": {"2": 2},
            "min": 1,
            "livemin": 2,
            "max": 3,
            "livemax": 2,
            "sum": 6,
            "livesum": 2,
            "mostrecent": 1,
            "livemostrecent": 2,
        },
    ),
    "zeros": (
        [("folded", 0), ("killed", -0.0), ("live", 0)],
        {
            "all": {"0": 0, "1": 0, "2": 0},
            "liveall": {"2": 0},
            "min": 0,
            "livemin": 0,
            "max": 0,
            "livemax": 0,
            "sum": 0,
            "livesum": 0,
            "mostrecent": 0,
            "livemostrecent": 0,
        },
    ),
    "a zero between": (
        [("folded", 5), ("killed", 0), ("live", 7)],
        {
            "all": {"0": 5, "1": 0, "2": 7},
            "liveall": {"2": 7},
            "min": 0,
            "livemin": 7,
            "max": 7,
            "livemax": 7,
            "sum": 12,
            "livesum": 7,
            "mostrecent": 7,
            "livemostrecent": 7,
        },
    ),
    "negative numbers": (
        [("folded", -3), ("killed", -1), ("live", -2)],
        {
            "all": {"0": -3, "1": -1, "2": -2},
            "liveall": {"2": -2},
            "min": -3,
            "livemin": -2,
            "max": -1,
            "livemax": -2,
            "sum": -6,
            "livesum": -2,
            "mostrecent": -2,
            "livemostrecent": -2,
        },
    ),
    "never set": (
        [],
        {
            "all": {},
            "liveall": {},
            "min": None,
            "livemin": None,
            "max": None,
            "livemax": None,
            "sum": 0,
            "livesum": 0,
            "mostrecent": None,
            "livemostrecent": None,
        },
    ),
    "never set by the living": (
        [("folded", 3), ("killed", -1)],
        {
            "all": {"0": 3, "1": -1},
            "liveall": {},
            "min": -1,
            "livemin": None,
            "max": 3,
            "livemax": None,
            "sum": 2,
            "livesum": 0,
            "mostrecent": -1,
            "livemostrecent": None,
        },
    ),
    "set by the living only": (
        [("live", 3)],
        {
            "all": {"2": 3},
            "liveall": {"2": 3},
            "min": 3,
            "livemin": 3,
            "max": 3,
            "livemax": 3,
            "sum": 3,
            "livesum": 3,
            "mostrecent": 3,
            "livemostrecent": 3,
        },
    ),
    "infinities": (
        [("folded", INF), ("killed", -INF), ("live", 1)],
        {
            "all": {"0": INF, "1": -INF, "2": 1},
            "liveall": {"2": 1},
            "min": -INF,
            "livemin": 1,
            "max": INF,
            "livemax": 1,
            "sum": NAN,
            "livesum": 1,
            "mostrecent": 1,
            "livemostrecent": 1,
        },
    ),
    "an infinity": (
        [("folded", 1), ("killed", INF), ("live", 1)],
        {
            "all": {"0": 1, "1": INF, "2": 1},
            "liveall": {"2": 1},
            "min": 1,
            "livemin": 1,
            "max": INF,
            "livemax": 1,
            "sum": INF,
            "livesum": 1,
            "mostrecent": 1,
            "livemostrecent": 1,
        },
    ),
    "set again": (
        [("live", 9), ("folded", 9), ("killed", 9), ("live", 2), ("folded", 3), ("killed", 1), ("folded", 0)],
        {
            "all": {"0": 0, "1": 1, "2": 2},
            "liveall": {"2": 2},
            "min": 0,
            "livemin": 2,
            "max": 2,
            "livemax": 2,
            "sum": 3,
            "livesum": 2,
            "mostrecent": 0,
            "livemostrecent": 2,
        },
    ),
}
# NaN in all modes but min and max, which have their own test.
NAN_STEPS: Steps = [("folded", NAN), ("killed", 1), ("live", 2)]
NAN_SHOWN = {
    "all": {"0": NAN, "1": 1, "2": 2},
    "liveall": {"2": 2},
    "livemin": 2,
    "livemax": 2,
    "sum": NAN,
    "livesum": 2,
    "mostrecent": 2,
    "livemostrecent": 2,
}


class Workers:
    """Three processes that take turns: one will be folded, one killed but not folded, and one stays alive."""

    def __init__(self, provider: Provider, conduct: Callable[[Callable[[], object]], Any]) -> None:
        self.provider = provider
        self._child = conduct
        self._running: dict[str, Any] = {}
        assert provider.epoch is not None
        self._lock = str(Path(provider.epoch.path) / "fold.lock")
        self.collector = Collector(provider)

    def run(self, steps: Steps, write: Callable[[float], object], take_place: Callable[[], object]) -> None:
        """Carry out the steps in this order, each in its process; then kill two processes and fold one of them."""
        turns = {role: [value for actor, value in steps if actor == role] for role in ("folded", "killed", "live")}
        order = [role for role, _ in steps]
        for role in ("folded", "killed", "live"):
            self._running[role] = self._child(_Puppet(turns[role], write, take_place))
        for role in order:
            self._running[role].step()
        self._running["folded"].kill()
        self.collector.fold()
        self._running["killed"].kill()

    def end(self) -> None:
        """Kill the process that is still alive."""
        self._running["live"].kill()

    @contextmanager
    def unfolded(self) -> Iterator[None]:
        """Keep processes from folding, within the context."""
        with Mutex(self._lock, 1.0):
            yield


class _Puppet:
    """What a worker does: take its ordinal, then write one value at each step."""

    def __init__(self, values: list[float], write: Callable[[float], object], take_place: Callable[[], object]) -> None:
        self.values = values
        self.write = write
        self.take_place = take_place

    def __iter__(self) -> Iterator[None]:
        self.take_place()
        yield
        for value in self.values:
            self.write(value)
            yield


@pytest.fixture
def workers(shared: Provider, stepwise: Callable[..., Any]) -> Workers:
    """The three processes."""
    return Workers(shared, stepwise)


def _shown(collector: Collector, modes: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in collector.collect():
        if family.name in modes:
            if family.name.endswith("all"):
                found[family.name] = {sample.labels["worker"]: sample.value for sample in family.samples}
            else:
                assert all({} == sample.labels for sample in family.samples)
                found[family.name] = next((sample.value for sample in family.samples), None)
    return found


def _same(expected: Any, actual: Any) -> bool:
    """True if they are equal; NaN equals itself, and zeros must be positive."""
    return repr(_floats(expected)) == repr(_floats(actual))


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floats(value[key]) for key in sorted(value)}
    return None if value is None else float(value)


def _gauges(provider: Provider) -> tuple[Callable[[float], None], Callable[[], None]]:
    gauges = [Gauge(mode, "", multiprocess_mode=mode, provider=provider) for mode in MODES]
    place = UpDownCounter("place", "", provider=provider)

    def write(value: float) -> None:
        for gauge in gauges:
            gauge.set(value)

    return write, place.inc


@pytest.mark.parametrize("case", list(CASES))
def test_modes(workers: Workers, case: str) -> None:
    """Each mode shows what the table says, before and after the killed process is folded, and when no process lives."""
    steps, expected = CASES[case]
    write, take_place = _gauges(workers.provider)
    workers.run(steps, write, take_place)

    with workers.unfolded():
        actual = _shown(workers.collector, MODES)
        assert _same(expected, actual), f"killed, not folded: {actual}"
    actual = _shown(workers.collector, MODES)
    assert _same(expected, actual), f"folded: {actual}"

    workers.end()
    none_left = {"liveall": {}, "livemin": None, "livemax": None, "livesum": 0, "livemostrecent": None}
    for _ in range(2):
        actual = _shown(workers.collector, MODES)
        assert _same({**expected, **none_left}, actual), f"no process is left: {actual}"


def test_modes_with_nan(workers: Workers) -> None:
    """Modes that do not compare values treat NaN like any other value."""
    write, take_place = _gauges(workers.provider)
    workers.run(NAN_STEPS, write, take_place)
    modes = tuple(NAN_SHOWN)

    with workers.unfolded():
        assert _same(NAN_SHOWN, _shown(workers.collector, modes))
    assert _same(NAN_SHOWN, _shown(workers.collector, modes))


@pytest.mark.parametrize("values", sorted(set(itertools.permutations([NAN, 1.0, 2.0])), key=repr))
def test_extremes_with_nan_survive_folding(workers: Workers, values: tuple[float, ...]) -> None:
    """Min and max of NaN and numbers are the same before and after a fold, and for any order of the processes."""
    write, take_place = _gauges(workers.provider)
    workers.run(list(zip(("folded", "killed", "live"), values, strict=True)), write, take_place)
    with workers.unfolded():
        before = _shown(workers.collector, ("min", "max"))
    after = _shown(workers.collector, ("min", "max"))
    workers.end()
    end = _shown(workers.collector, ("min", "max"))

    assert _same(before, after)
    assert _same(after, end)


def test_the_comparison_can_fail() -> None:
    """The control: the comparison of this file notices a missing value, another sign and another number."""
    assert _same({"a": NAN, "b": 0}, {"b": 0.0, "a": NAN})
    assert not _same({"a": None}, {"a": 0})
    assert not _same({"a": 0.0}, {"a": -0.0})
    assert not _same({"a": {"0": 1}}, {"a": {"1": 1}})


def test_up_down_counter_modes(workers: Workers) -> None:
    """An up-down counter adds up over all processes, or with livesum over living ones, also at and below zero."""
    modes = ("sum", "livesum")
    metrics = [UpDownCounter(mode, "", multiprocess_mode=mode, provider=workers.provider) for mode in modes]

    def write(value: float) -> None:
        for metric in metrics:
            metric.inc(value) if value >= 0 else metric.dec(-value)

    workers.run([("folded", 5), ("killed", -2), ("live", 1), ("live", 3), ("folded", -6)], write, metrics[0].inc)
    expected = {"sum": 3 + 5 - 2 + 1 + 3 - 6, "livesum": 4}

    with workers.unfolded():
        assert _same(expected, _shown(workers.collector, modes))
    assert _same(expected, _shown(workers.collector, modes))
    workers.end()
    assert _same({**expected, "livesum": 0}, _shown(workers.collector, modes))


def test_a_successor_takes_the_worker_number(workers: Workers) -> None:
    """A new process gets the smallest free ordinal, and its value replaces that of the dead process."""
    write, take_place = _gauges(workers.provider)
    workers.run([("folded", 3), ("killed", 1), ("live", 2)], write, take_place)
    list(workers.collector.collect())
    write(8)

    shown = _shown(workers.collector, ("all", "liveall"))
    assert {"all": {"0": 8, "1": 1, "2": 2}, "liveall": {"0": 8, "2": 2}} == shown


@pytest.mark.parametrize("mode", MODES)
def test_labels_and_modes(shared: Provider, child: Callable[..., Any], mode: str) -> None:
    """Each set of label values is merged on its own."""
    gauge = Gauge("a", "", ["x"], multiprocess_mode=mode, provider=shared)  # type: ignore[arg-type]
    gauge.labels("1").set(1)
    child(lambda: gauge.labels("2").set(2))

    by_label = {
        sample.labels["x"]: sample.value
        for family in Collector(shared).collect()
        if family.name == "a"
        for sample in family.samples
    }
    assert {"1": 1.0, "2": 2.0} == by_label


def test_many_dead_workers(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the grid of all workers that ever lived would be too large, it is made in pieces with the same values."""
    gauge = Gauge("all", "", ["x"], multiprocess_mode="all", provider=workers.provider)

    def write(value: float) -> None:
        for x in range(int(value)):
            gauge.labels(x).set(value)

    workers.run([("folded", 3), ("killed", 1), ("live", 2)], write, lambda: gauge.labels("first").set(0))
    workers.end()
    list(workers.collector.collect())

    def samples(*, is_whole: bool) -> list[Any]:
        (reading,) = [reading for reading in workers.collector.readings() if reading.name == "all"]
        assert is_whole == (reading.grid is not None)
        return reading.samples

    whole = samples(is_whole=True)
    assert 3 + 3 + 1 + 2 == len(whole)
    for most in range(1, 12):
        monkeypatch.setattr("mpmetrics.collector.merge.MOST_CELLS", most)
        assert whole == samples(is_whole=False)
