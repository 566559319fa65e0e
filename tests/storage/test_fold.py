"""A fold moves dead processes' values into the retired file exactly once; no reader sees them twice or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpmetrics
from mpmetrics.collector import epoch_reader as epoch_module
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import retire as retire_module
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import DirectoryMutex
from mpmetrics.storage.slab import is_alive, list_slabs
from mpmetrics.storage.store import Store

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Peek = Callable[[str], dict[str, float]]


@pytest.fixture
def heap_of_dead(fork: Fork, provider: MakeProvider) -> Callable[[int], str]:
    """Leaves ``count`` dead slabs, each with a count of 10 and an observation of 1.5; returns the epoch's path."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    sizes = mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 2), provider=mine)

    def write() -> None:
        hits.inc(10)
        sizes.observe(1.5)

    def leave(count: int) -> str:
        for child in [fork(write) for _ in range(count)]:
            child.result()
        return str(mine.epoch.path)

    return leave


def figures(values: dict[str, float]) -> tuple[float, ...]:
    """The totals of the fixture's dead slabs, as shown."""
    names = ("hits_total", "sizes_count", "sizes_sum", "sizes_bucket{le=2.0}")
    return tuple(values[name] for name in names)


def expected(count: int) -> tuple[float, ...]:
    """The totals of ``count`` dead slabs, by arithmetic."""
    return (10.0 * count, float(count), 1.5 * count, float(count))


def folded(path: str) -> int:
    """The number of folded slabs in the head of the retired file."""
    reader = EpochReader(path)
    count = reader.snapshot().folded
    reader.close()
    return count


def dead_names(path: str) -> list[str]:
    """The slabs whose owners are dead."""
    return [slab.file for slab in list_slabs(path) if not is_alive(f"{path}/{slab.file}")]


def die_after_the_commit(path: str) -> None:
    """Fold, and die between the rename of the retired file and the first unlink."""
    with mock.patch.object(fold_module._Fold, "_mark", side_effect=lambda _: os._exit(0)):
        fold(path)


def test_without_the_list_of_folded_slabs_they_would_count_twice(
    heap_of_dead: Callable[[int], str], fork: Fork, peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without FOLDED records, a reader counts the folded slabs again."""
    path = heap_of_dead(3)
    fork(die_after_the_commit, path).wait()
    assert expected(3) == figures(peek(path))

    add_record = retire_module.Contents.add_record

    def forget(self: Any, kind: int, body: bytes) -> None:
        if kind != epoch_module.fmt.FOLDED:
            add_record(self, kind, body)

    fold(path)  # finishes what the killed process left
    path = heap_of_dead(2)
    monkeypatch.setattr(retire_module.Contents, "add_record", forget)
    fork(die_after_the_commit, path).wait()
    assert expected(5) != figures(peek(path))


def test_a_folded_slab_that_is_set_aside_while_it_is_looked_for(
    heap_of_dead: Callable[[int], str], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folded slab whose file remains is renamed by a new process between listing and opening: it counts once."""
    path = heap_of_dead(0)
    with DirectoryMutex(path, 1.0):
        heap_of_dead(1)
        assert 1 == fold(path)
        heap_of_dead(1)
    inode = Path(f"{path}/slab-0").stat().st_ino
    collect = fold_module._Fold._read_dead

    def set_aside(dir_fd: int) -> list[Any]:
        found = list_slabs(dir_fd)
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}/slab-0").rename(f"{path}/dead-0-{inode}")
        return found

    def collect_late(self: Any, most: int) -> Any:
        with monkeypatch.context() as newcomer:
            newcomer.setattr(fold_module, "list_slabs", set_aside)
            return collect(self, most)

    monkeypatch.setattr(fold_module._Fold, "_read_dead", collect_late)
    for _ in range(3):
        fold(path)
        assert expected(2) == figures(peek(path))
    assert [] == dead_names(path)


def test_slabs_of_a_killed_fold_are_removed_and_not_folded_again(
    heap_of_dead: Callable[[int], str], fork: Fork
) -> None:
    """The next fold unlinks the slabs that the retired file names, and folds nothing."""
    path = heap_of_dead(3)
    fork(die_after_the_commit, path).wait()
    assert 3 == len(dead_names(path)) == folded(path)

    assert 0 == fold(path)

    assert [] == dead_names(path)
    assert 3 == folded(path)


@pytest.mark.parametrize("checked", [True, False], ids=["", "control"])
@pytest.mark.parametrize("moment", ["before_the_list", "after_the_list"])
def test_a_fold_in_the_middle_of_a_snapshot_is_noticed(
    moment: str,
    checked: bool,  # noqa: FBT001 (whether the protection is in place)
    heap_of_dead: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A snapshot starts over if a fold happens meanwhile; without that check (control) it misses the folded slabs."""
    path = heap_of_dead(3)
    names = epoch_module.list_slabs
    interfere = iter([True])

    def cut(dir_fd: int) -> Any:
        found = names(dir_fd) if moment == "after_the_list" else None
        if next(interfere, False):
            fold(path)
        return names(dir_fd) if found is None else found

    monkeypatch.setattr(epoch_module, "list_slabs", cut)
    if not checked:
        read_epoch = EpochReader._read_epoch
        monkeypatch.setattr(EpochReader, "_read_epoch", lambda *arguments: read_epoch(*arguments) or True)
    reader = EpochReader(path)
    values: dict[str, float] = {}
    for reading in merge(reader.snapshot()):
        values.update({reading.name + suffix: value for suffix, _, value in reading.samples})
    reader.close()

    assert (30.0 if checked else 0.0) == values.get("hits_total", 0.0)


def test_a_reader_tells_a_folded_slab_from_one_that_was_removed(
    heap_of_dead: Callable[[int], str], slabs: Callable[[str], list[str]]
) -> None:
    """After two missed folds, a reader drops the folded slabs that it still maps and does not count them again."""
    path = heap_of_dead(3)
    reader = EpochReader(path)

    def total() -> float:
        return sum(sample.value for reading in merge(reader.snapshot()) for sample in reading.samples[:1])

    before = total()
    assert 3 == fold(path)
    heap_of_dead(1)
    assert 1 == fold(path)  # its FOLDED records no longer name the first three
    assert [] == slabs(path)

    snapshot = reader.snapshot()
    assert {} == snapshot.unreadable
    assert before * 4 / 3 == total()
    reader.close()


def test_totals_stand_still_while_several_fold(
    heap_of_dead: Callable[[int], str], fork: Fork, gate: Callable[..., Any], peek: Peek
) -> None:
    """Three processes fold 90 dead slabs one by one, in competition; a reader always sees the same total."""
    path = heap_of_dead(90)
    ready, begin = gate(), gate()

    def keep_folding() -> int:
        begin.wait()
        count = 0
        while dead_names(path):
            count += fold(path, most=1)
        return count

    def keep_reading() -> int:
        rounds = 0
        ready.open()
        while dead_names(path):
            assert expected(90) == figures(peek(path))
            rounds += 1
        return rounds

    reader = fork(keep_reading)
    ready.wait()
    folding = [fork(keep_folding) for _ in range(3)]
    begin.open(3)

    assert 90 == sum(process.result() for process in folding)
    assert reader.result() > 0
    assert expected(90) == figures(peek(path))
    assert 90 == folded(path)


def test_a_stopped_fold_does_not_block_scrapes(
    heap_of_dead: Callable[[int], str], fork: Fork, gate: Callable[..., Any], scrape: Callable[..., dict[str, float]]
) -> None:
    """While another process holds the fold lock, scrapes and new leases work, and unfolded dead slabs count."""
    path = heap_of_dead(3)
    inside = gate()

    def hold() -> None:
        with mock.patch.object(fold_module, "_fill", side_effect=lambda *_: (inside.open(), time.sleep(60))):
            fold(path)

    holder = fork(hold)
    inside.wait()

    assert expected(3) == figures(scrape(os.path.dirname(path)))  # noqa: PTH120
    path = heap_of_dead(2)
    assert expected(5) == figures(scrape(os.path.dirname(path)))  # noqa: PTH120
    holder.stop()
    values = scrape(os.path.dirname(path))  # noqa: PTH120
    assert expected(5) == figures(values)
    assert 5 == values["mpmetrics_folds_total"]


MODES = {
    # mode: shown with all three alive; with workers 0 and 1 dead; with all dead
    "all": ({0: 3.0, 1: -1.0, 2: 2.0}, {0: 3.0, 1: -1.0, 2: 2.0}, {0: 3.0, 1: -1.0, 2: 2.0}),
    "liveall": ({0: 3.0, 1: -1.0, 2: 2.0}, {2: 2.0}, {}),
    "min": (-1.0, -1.0, -1.0),
    "livemin": (-1.0, 2.0, None),
    "max": (3.0, 3.0, 3.0),
    "livemax": (3.0, 2.0, None),
    "sum": (4.0, 4.0, 4.0),
    "livesum": (4.0, 2.0, 0.0),
    "mostrecent": (-1.0, -1.0, -1.0),
    "livemostrecent": (-1.0, 2.0, None),
}


@pytest.mark.parametrize("mode", MODES)
def test_gauges_fold_by_their_mode(
    mode: Any, fork: Fork, gate: Callable[..., Any], provider: MakeProvider, peek: Peek
) -> None:
    """Three workers set 3, 2 and -1: what each mode shows as they die, before and after their fold."""
    mine = provider()
    path = str(mine.epoch.path)
    gauge = mpmetrics.Gauge("level", "Level.", multiprocess_mode=mode, provider=mine)
    ready = gate()

    def stay(value: float, go_on: Any) -> None:
        mpmetrics.Counter("other", "Gives the worker its slab, and so its ordinal.", provider=mine).inc()
        ready.open()
        go_on.wait()
        gauge.set(value)
        ready.open()
        gate().wait()

    def shown() -> Any:
        values = {name: value for name, value in peek(path).items() if name.startswith("level")}
        if mode.endswith("all"):
            return {int(name.partition("worker=")[2].rstrip("}")): value for name, value in values.items()}
        return values.get("level")

    children, gates = [], []
    for value in (3, -1, 2):
        gates.append(gate())
        children.append(fork(stay, value, gates[-1]))
        ready.wait()
    for number in (0, 2, 1):
        gates[number].open()
        ready.wait()

    everyone, one, nobody = MODES[mode]
    assert everyone == shown()
    children[0].stop()
    children[1].stop()
    assert one == shown()
    assert 2 <= fold(path)
    assert one == shown()
    children[2].stop()
    assert nobody == shown()
    assert 1 == fold(path)
    assert nobody == shown()


@pytest.mark.parametrize("mode", ["min", "max", "all", "mostrecent", "sum"])
def test_a_gauge_that_was_set_to_zero_is_not_forgotten(
    mode: Any, fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """The retired file distinguishes a gauge set to zero from one that was never set."""
    mine = provider()
    gauge = mpmetrics.Gauge("level", "Level.", ["kind"], multiprocess_mode=mode, provider=mine)
    gauge.labels("unset")

    fork(gauge.labels("zero").set, 0).result()

    for _ in range(2):
        values = {name: value for name, value in scrape(store_dir).items() if name.startswith("level{")}
        if mode == "sum":
            values.pop("level{kind=unset}", None)
        assert [0.0] == list(values.values())
        assert "kind=zero" in next(iter(values))


def test_fractional_sums_neither_drift_nor_dip(fork: Fork, provider: MakeProvider, peek: Peek) -> None:
    """After each of many folds of fractions, the total is still the exact sum, rounded once."""
    mine = provider()
    path = str(mine.epoch.path)
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    sizes = mpmetrics.Summary("sizes", "Sizes.", provider=mine)
    rng = random.Random(7)
    parts = []
    for _ in range(40):
        part = rng.random() * 10.0 ** rng.randint(-6, 6)
        parts.append(part)

        def write(part: float = part) -> None:
            hits.inc(part)
            sizes.observe(part)

        fork(write).result()
        before = peek(path)
        assert math.fsum(parts) == before["hits_total"] == before["sizes_sum"]
        assert 1 == fold(path)
        after = peek(path)
        assert math.fsum(parts) == after["hits_total"] == after["sizes_sum"]

    naive = 0.0
    for part in parts:
        naive += part
    assert math.fsum(parts) != naive  # the control: with these numbers a plain sum is inexact


def test_a_fold_leaves_unreadable_files_alone(
    heap_of_dead: Callable[[int], str], slabs: Callable[[str], list[str]], peek: Peek
) -> None:
    """An unreadable dead slab stays where it is; the others are folded."""
    path = heap_of_dead(2)
    stranger = "slab-9"
    with open(os.path.join(path, stranger), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"not a slab")

    assert 2 == fold(path)

    assert [stranger] == slabs(path)
    assert expected(2) == figures(peek(path))


def test_a_retired_file_that_is_damaged_is_not_overwritten(heap_of_dead: Callable[[int], str], peek: Peek) -> None:
    """While the retired file is unreadable, nothing is folded: the dead slabs stay and count."""
    path = heap_of_dead(2)
    with open(os.path.join(path, "retired"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"damaged")

    with pytest.raises(mpmetrics.FormatError, match="retired"):
        fold(path)

    assert 2 == len(dead_names(path))
    assert expected(2) == figures(peek(path))


# Merging and folding, compared with one account of all operations.

Make = Callable[[mpmetrics.Provider], Any]
FAMILIES: dict[str, tuple[str, str, Make]] = {
    "counter": ("counter", "", lambda p: mpmetrics.Counter("counter", "", provider=p)),
    "updown": ("updowncounter", "sum", lambda p: mpmetrics.UpDownCounter("updown", "", provider=p)),
    "liveupdown": (
        "updowncounter",
        "livesum",
        lambda p: mpmetrics.UpDownCounter("liveupdown", "", multiprocess_mode="livesum", provider=p),
    ),
    "histogram": ("histogram", "", lambda p: mpmetrics.Histogram("histogram", "", buckets=(0, 2), provider=p)),
    "summary": ("summary", "", lambda p: mpmetrics.Summary("summary", "", provider=p)),
    **{
        f"gauge_{mode}": (
            "gauge",
            mode,
            lambda p, mode=mode: mpmetrics.Gauge(f"gauge_{mode}", "", multiprocess_mode=mode, provider=p),
        )
        for mode in MODES
    },
}
NAMES = list(FAMILIES)


class World:
    """A store whose providers stand for processes, and a plain account of all their operations."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
        self.epoch = Store(f"{self.home}/store").begin()
        self.path = self.epoch.path
        self.live: list[SimpleNamespace] = []
        self.born = 0
        self.log: list[tuple[SimpleNamespace, str, float]] = []

    def close(self) -> None:
        """Close the providers and remove the store."""
        for process in self.live:
            process.provider.memory.close()
        self.epoch.close()
        shutil.rmtree(self.home)

    def start(self) -> None:
        """Start a process; it has the smallest free ordinal."""
        provider = mpmetrics.Provider(f"{self.home}/store")
        metrics = {name: make(provider) for name, (_, _, make) in FAMILIES.items()}
        provider.memory.lease()
        self.born += 1
        self.live.append(
            SimpleNamespace(number=self.born, ordinal=provider.memory.ordinal, provider=provider, metrics=metrics)
        )

    def write(self, which: int, number: int, value: float) -> None:
        """One operation in one process."""
        name = NAMES[number]
        process, kind = self.live[which % len(self.live)], FAMILIES[name][0]
        metric = process.metrics[name]
        if kind == "counter":
            metric.inc(abs(value))
        elif kind == "gauge":
            metric.set(value)
        elif kind == "updowncounter":
            metric.inc(value)
        else:
            metric.observe(value)
        self.log.append((process, name, value))

    def kill(self, which: int) -> None:
        """Let one process die: its lease is released."""
        process = self.live.pop(which % len(self.live))
        process.provider.memory._leased.release()

    def fold(self, most: int) -> None:
        """Fold up to ``most`` dead slabs."""
        fold(self.path, most=most)

    def shown(self) -> dict[str, dict[tuple[str, Any], float]]:
        """The merged values, without creation times."""
        reader = EpochReader(self.path)
        readings = merge(reader.snapshot())
        found = {
            reading.name: {(s.suffix, s.labels): s.value for s in reading.samples if s.suffix != "_created"}
            for reading in readings
        }
        reader.close()
        return {name: found.get(name, {}) for name in NAMES}

    def oracle(self) -> dict[str, dict[tuple[str, Any], float]]:
        """The values by the account of all operations."""
        return {name: dict(self._account(name)) for name in NAMES}

    def _account(self, name: str) -> Iterator[tuple[tuple[str, Any], float]]:
        kind, mode, _ = FAMILIES[name]
        done = [(process, value) for process, which, value in self.log if which == name]
        if mode.startswith("live"):
            done = [(process, value) for process, value in done if process in self.live]
        values = [value for _, value in done]
        mode = mode.removeprefix("live")
        if kind == "counter":
            yield ("_total", ()), math.fsum(map(abs, values))
        elif kind == "updowncounter":
            yield ("", ()), math.fsum(values)
        elif kind == "histogram":
            for bound, text in zip((0, 2, math.inf), ("0.0", "2.0", "+Inf"), strict=True):
                yield ("_bucket", (("le", text),)), float(sum(value <= bound for value in values))
            yield ("_count", ()), float(len(values))
            yield ("_sum", ()), math.fsum(values)
        elif kind == "summary":
            yield ("_count", ()), float(len(values))
            yield ("_sum", ()), math.fsum(values)
        else:
            last = {process.number: (process, value) for process, value in done}.values()
            if mode == "all":
                for process, value in sorted(last, key=lambda pair: pair[0].number):
                    yield ("", (("worker", str(process.ordinal)),)), value
            elif mode == "sum":
                yield ("", ()), math.fsum(value for _, value in last)
            elif values and mode == "mostrecent":
                yield ("", ()), values[-1]
            elif values:
                yield ("", ()), (min if mode == "min" else max)(value for _, value in last)


def quarters() -> st.SearchStrategy[float]:
    """Numbers whose sums need no rounding, so the order of addition does not matter."""
    return st.integers(-4000, 4000).map(lambda number: number / 4)


WRITE = st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, len(NAMES) - 1), quarters())
EVENTS = st.lists(
    st.one_of(
        st.just(("start",)),
        st.tuples(st.just("kill"), st.integers(0, 7)),
        st.tuples(st.just("fold"), st.integers(1, 3)),
        WRITE,
        WRITE,
        WRITE,
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_merging_any_split_of_the_work_equals_one_process(events: list[tuple[Any, ...]]) -> None:
    """Operations spread over living, dead and folded processes give the same values as one account of them."""
    world = World()
    try:
        world.start()
        for name, *arguments in events:
            if name == "start" or world.live:
                getattr(world, name)(*arguments)
        assert world.oracle() == world.shown()
    finally:
        world.close()


def test_the_oracle_notices_a_fold_that_loses_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the comparison detects a fold that forgets gauges of mode ``all``."""
    world = World()
    world.start()
    world.write(0, NAMES.index("gauge_all"), 3.0)
    world.kill(0)
    assert world.oracle() == world.shown()

    monkeypatch.setattr(retire_module._ShapeWriter, "_add_levels", lambda _: None)
    world.fold(9)

    assert world.oracle() != world.shown()
    world.close()


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [({"a": 1e16, "b": 1.0, "c": 1.0}, 1.0, 1e16 + 2), ({"a": math.inf, "b": -math.inf, "c": 1.0}, 1.0, math.nan)],
    ids=["rounding", "infinities"],
)
def test_series_beyond_the_cap_of_a_fold_have_an_exact_sum(
    provider: MakeProvider,
    fork: Fork,
    peek: Peek,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, float],
    second: float,
    total: float,
) -> None:
    """Series that a fold adds to the overflow series lose nothing to rounding, whatever their values."""
    monkeypatch.setattr(retire_module, "MOST_ROWS", 1)
    mine = provider()
    jobs = mpmetrics.UpDownCounter("jobs", "Jobs.", ["code"], provider=mine)
    path = str(mine.epoch.path)
    for amounts in (first, {"d": second}):
        fork(lambda amounts=amounts: [jobs.labels(code).inc(amount) for code, amount in amounts.items()]).result()
        fold(path)

    found = peek(path)
    assert {"jobs{code=c}", "jobs{otel_metric_overflow=true}"} == {name for name in found if name.startswith("jobs")}
    assert pytest.approx(total, abs=0.0, rel=0.0, nan_ok=True) == found["jobs{otel_metric_overflow=true}"]
