"""A retired file that somebody removes under collectors that are killed, or have seen different states of it."""

from __future__ import annotations

import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.snapshot import EpochReader
from mpmetrics.registry import Registry
from mpmetrics.storage.fold import fold
from mpmetrics.storage.keeper import Keeper
from mpmetrics.storage.retired import load_retired, read_retired

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Child = Callable[..., Any]
    Sums = Callable[[Any], dict[str, float]]

STEPS = {str(Path(mpmetrics.__file__).parent / "storage" / name) for name in ("keeper.py", "fold.py", "retired.py")}


class Used:
    """Metrics that merge in different ways, of processes that come and go."""

    def __init__(self, provider: mpmetrics.Provider, child: Child) -> None:
        of: dict[str, Any] = {"provider": provider}
        self.path = str(provider.epoch.path)  # type: ignore[union-attr]
        self.store = str(Path(self.path).parent)
        self.retired = Path(self.path, "retired")
        self._child = child
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], **of)
        self.level = mpmetrics.UpDownCounter("level", "Level.", **of)
        self.added = mpmetrics.Gauge("added", "Added.", multiprocess_mode="sum", **of)
        self.most = mpmetrics.Gauge("most", "Most.", multiprocess_mode="max", **of)
        self.latest = mpmetrics.Gauge("latest", "Latest.", multiprocess_mode="mostrecent", **of)
        self.each = mpmetrics.Gauge("each", "Each.", multiprocess_mode="all", **of)
        self.took = mpmetrics.Histogram("took", "Took.", ["who"], buckets=(1, 2), **of)
        self.size = mpmetrics.Summary("size", "Size.", **of)
        self.timer = Registry("kit", provider=provider).get_or_register_timer("timer")
        self.count = 0

    def use(self) -> None:
        """Count one of each."""
        self.hits.labels("all").inc()
        self.level.inc()
        self.added.inc()
        self.most.set(self.count)
        self.latest.set(self.count)
        self.each.set(7)
        self.took.labels("all").observe(1.5)
        self.size.observe(1.5)
        self.timer.update(1.5)

    def die(self) -> None:
        """A worker that counts and dies."""
        self.count += 1
        self._child(self.use).kill()


@pytest.fixture
def used(shared: mpmetrics.Provider, child: Child, monkeypatch: pytest.MonkeyPatch) -> Used:
    """Such metrics in a store of their own, in which only those fold who are told to."""
    monkeypatch.setattr("mpmetrics.storage.segments.FOLD_AT", 1000)
    return Used(shared, child)


@pytest.fixture
def count_of(sums: Sums) -> Callable[[Any], float]:
    """How often a source says that each metric was used, which is the same for all."""

    def look(source: Any) -> float:
        values = sums(source)
        (count,) = {values.get(name, 0.0) for name in ("hits_total", "level", "added", "took_count", "size_count")}
        return count

    return look


def content_of(used: Used) -> bytes:
    """The bytes of the retired file, but for the births, which say that it is another one."""
    return replace(load_retired(used.path), births={}).encode()


def test_what_is_put_back_is_the_same_for_each_kind_of_metric(sums: Sums, used: Used) -> None:
    """Byte for byte, as often as it goes, and at once when the collector looks by itself."""
    collector = mpmetrics.Collector(used.store)
    for turn in range(5):
        used.die()
        used.die()
        before, content = sums(collector), content_of(used)
        used.retired.unlink()
        if turn % 2:
            collector.fold()
            assert content == content_of(used)
        for values in (sums(collector), sums(used.store)):
            mine = {name: value for name, value in values.items() if "scrape" not in name}
            assert mine == {name: before[name] for name in mine}
        assert content == content_of(used)
        assert (used.count, used.count, used.count, 7) == tuple(
            before[name] for name in ("hits_total", "most", "latest", "each")
        )


def test_what_is_added_to_another_one_is_the_same_for_each_kind_of_metric(
    sums: Sums, count_of: Callable[..., Any], used: Used
) -> None:
    """Another folder was first: all metrics are as if the file had never been gone, with two gauges of one worker."""
    collector = mpmetrics.Collector(used.store)
    for turn in range(5):
        for _ in range(turn + 1):
            used.die()
        sums(collector)
        used.retired.unlink()
        for _ in range(3):
            used.die()
            assert 1 == fold(used.path)
        for source in (collector, used.store):
            values = sums(source)
            assert used.count == count_of(source)
            assert (used.count, used.count, 7) == (values["most"], values["latest"], values["each"])
            assert 1.5 * used.count == pytest.approx(values["timer_sum"] if "timer_sum" in values else 1.5 * used.count)
        assert used.count == load_retired(used.path).folded
    assert 0 == sums(collector)["mpmetrics_unreadable_files"]


def test_where_it_cannot_be_put_back_it_is_shown_and_said(
    sums: Sums, count_of: Callable[..., Any], used: Used, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is no room for it, the collector that has read it shows what it held."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert 1 == count_of(collector)
    used.retired.unlink()
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("mpmetrics.storage.fold.write_retired", full)
        used.die()
        for _ in range(3):
            assert 2 == count_of(collector)
            assert 1 == sums(collector)["mpmetrics_unreadable_files"]
    assert 2 == count_of(collector) == count_of(used.store)
    assert 0 == sums(collector)["mpmetrics_unreadable_files"]


@pytest.mark.parametrize("is_said", [True, False], ids=["", "control"])
def test_several_who_remember_never_show_too_much(
    count_of: Callable[..., Any],
    sums: Sums,
    used: Used,
    tally: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_said: bool,
) -> None:
    """Collectors that have read files of different age, and folds and removals in any order: at most the truth.

    Who shows less than it once did, or than the file held that it read last, says so.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    collectors = [mpmetrics.Collector(used.store) for _ in range(3)]
    shown = [0.0] * len(collectors)
    tried = unsaid = 0
    if not is_said:
        monkeypatch.setattr(EpochReader, "_take_retired", take_whatever_there_is)
        monkeypatch.setattr(Keeper, "lacks", lambda *_: False)
    for turn in range(150 if is_said else 1500):
        what = chance.choice(["die", "die", "remove", "fold", "look", "look", "house"])
        number = chance.randrange(len(collectors))
        if what == "die":
            used.die()
        elif what == "remove":
            tried += used.retired.exists()
            used.retired.unlink(missing_ok=True)
        elif what == "fold":
            fold(used.path)
        elif what == "house":
            collectors[number].fold()
        else:
            values = sums(collectors[number])
            count = values.get("hits_total", 0.0)
            assert count <= used.count, (seed, turn)
            is_less = count < shown[number]
            shown[number] = max(count, shown[number])
            unsaid += is_less and not values["mpmetrics_unreadable_files"]
            if is_said:
                assert not unsaid, (seed, turn)
            elif unsaid:
                break
    for collector in (*collectors, used.store):
        assert count_of(collector) <= used.count, seed
    assert bool(unsaid) != is_said
    tally(tried)


def take_whatever_there_is(reader: EpochReader) -> None:
    """For controls: believe each retired file that is there."""
    reader._retired, reader._retired_file = read_retired(reader.path)
    reader._births = {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("others", [0, 1])
def test_killed_at_any_line_the_next_one_puts_it_back(
    count_of: Callable[..., Any], used: Used, others: int, tally: Callable[..., None]
) -> None:
    """Of two who remember it one is killed while it puts the file back and folds: exact, once, and nothing is left.

    The same where ``others`` died since and were folded into another file.
    """
    keeper = Keeper()
    used.die()
    keeper.fold(used.path)
    at, is_killed = -1, True
    while is_killed:
        at += 1
        used.retired.unlink()
        for _ in range(others):
            used.die()
            fold(used.path)
        used.die()
        pid = os.fork()
        if not pid:
            try:
                kill_at(at)
                keeper.fold(used.path)
            finally:
                sys.settrace(None)
                os._exit(0)
        is_killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        keeper.fold(used.path)
        assert used.count == count_of(used.store), at
        left = [each.name for each in Path(used.path).iterdir() if each.name.startswith(("new-", "slab-"))]
        assert [] == left, at
    tally(at)
    assert at > 50


def kill_at(line: int) -> None:
    """End this process before so many lines of what folds and puts back are run."""
    left = line

    def step(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        # What loops over all there is counts as one line.
        is_loop = frame.f_code.co_name in {"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}
        return step if frame.f_code.co_filename in STEPS and not is_loop else None

    sys.settrace(enter)
