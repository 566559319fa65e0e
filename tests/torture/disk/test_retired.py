"""A retired file that is removed: the collector writes it again from its map, once, or reports what is missing."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.registry import Registry
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import TryLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Child = Callable[..., Any]
    Sums = Callable[[Any], dict[str, float]]

STEPS = {str(Path(mpmetrics.__file__).parent / "storage" / name) for name in ("fold.py", "retire.py", "descriptor.py")}


class Used:
    """Metrics that merge in different ways, of processes that come and go."""

    def __init__(self, provider: mpmetrics.Provider, child: Child, sums: Sums) -> None:
        of: dict[str, Any] = {"provider": provider}
        self.path = str(provider.epoch.path)  # type: ignore[union-attr]
        self.store = str(Path(self.path).parent)
        self.retired = Path(self.path, "retired")
        self._child = child
        self._sums = sums
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
        """Start a worker that counts, and kill it."""
        self.count += 1
        self._child(self.use).kill()

    def shown(self, source: Any = None) -> tuple[float, ...]:
        """How often a source, by default a new collector, says that each was used; the last value; what is missing."""
        values = self._sums(self.store if source is None else source)
        names = ("hits_total", "level", "added", "took_count", "size_count")
        (count,) = {values.get(name, 0.0) for name in names}
        assert values.get("took_sum", 0.0) == values.get("size_sum", 0.0) == 1.5 * count
        assert values.get("most", 0.0) == values.get("latest", 0.0)
        assert values.get("each", 7.0) == 7
        return count, values.get("latest", 0.0), values["mpmetrics_unreadable_files"]

    @property
    def content(self) -> tuple[bytes, bytes]:
        """The words and records of the retired file, but for the names of slabs, which are last."""
        with self.retired.open("rb") as file:
            words = file.read(8192)[4096:]
            file.seek(fmt.AREA_0)
            return words, file.read().partition(fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, 16, 0, 0)[:8])[0]


@pytest.fixture
def used(shared: mpmetrics.Provider, child: Child, sums: Sums) -> Used:
    """Such metrics in a store of their own."""
    return Used(shared, child, sums)


def test_the_collector_writes_the_retired_file_again(used: Used, caplog: pytest.LogCaptureFixture) -> None:
    """The next collection writes the same bytes again, each time the file goes, and logs it."""
    collector = mpmetrics.Collector(used.store)
    for turn in range(5):
        used.die()
        used.die()
        expected = (used.count, used.count, 0)
        assert expected == used.shown(collector)
        before = used.content
        used.retired.unlink()
        if turn % 2:
            used.die()
            expected = (used.count, used.count, 0)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mpmetrics"):
            assert expected == used.shown(collector) == used.shown() == used.shown(collector)
        assert turn % 2 or before == used.content
        assert [f"{used.retired} was removed; it was written again as it was last read"] == caplog.messages


def test_a_retired_file_that_is_not_written_again_is_lost(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: only a collector that read the file still shows it, and reports that it is not there."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    monkeypatch.setattr("mpmetrics.collector.collection.fold", lambda path, **_: fold(path))
    used.retired.unlink()
    assert (1, 1, 1) == used.shown(collector)
    assert (0, 0, 0) == used.shown()


def test_slabs_that_are_still_there_count_once(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is written again names the slabs that a killed folding process did not unlink."""
    collector = mpmetrics.Collector(used.store)
    with monkeypatch.context() as patch:
        patch.setattr(fold_module._Fold, "_unlink", lambda *_: False)
        for _ in range(3):
            used.die()
            assert (used.count, used.count, 0) == used.shown(collector)
        assert [name for name in os.listdir(used.path) if name.startswith(("dead-", "slab-"))]
        used.retired.unlink()
        assert (3, 3, 0) == used.shown(collector) == used.shown()
    used.retired.unlink()
    assert (3, 3, 0) == used.shown(collector) == used.shown()
    assert [] == [name for name in os.listdir(used.path) if name.startswith(("dead-", "slab-"))]


@pytest.mark.parametrize("more", [1, 2, 5])
def test_counts_missing_after_a_fold_from_nothing_are_reported(used: Used, more: int) -> None:
    """After a fold from nothing, no slab counts twice, and collectors that knew the old file report what is missing."""
    collector = mpmetrics.Collector(used.store)
    for _ in range(3):
        used.die()
    assert (3, 3, 0) == used.shown(collector)
    used.retired.unlink()
    for _ in range(more):
        used.die()
        assert 1 == fold(used.path)
    for _ in range(2):
        assert (more, used.count, 1) == used.shown(collector)
    assert (more, used.count, 0) == used.shown()


def test_an_older_retired_file_that_comes_back_is_reported(used: Used) -> None:
    """After an older file comes back, as from a backup, collectors that knew the newer one report what is missing."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    Path(used.path, "backup").hardlink_to(used.retired)
    used.die()
    assert (2, 2, 0) == used.shown(collector)
    Path(used.path, "backup").rename(used.retired)
    assert (1, 1, 1) == used.shown(collector)
    used.die()
    assert (2, 3, 1) == used.shown(collector)


def test_a_retired_file_that_cannot_be_written_is_still_shown(used: Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is no room for the file, the collector that read it shows its content, and nothing is folded."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    used.retired.unlink()
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("mpmetrics.storage.fold.write_all", full)
        used.die()
        for _ in range(3):
            assert (2, 2, 1) == used.shown(collector)
        assert not [name for name in os.listdir(used.path) if name.startswith("new-")]
    assert (2, 2, 0) == used.shown(collector) == used.shown()


def test_nothing_is_written_into_an_epoch_that_is_being_removed(used: Used) -> None:
    """A collector writes nothing into an epoch whose lease is held by the process that removes the epoch."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    lease = Path(used.path, "lease")
    lease.rename(lease.with_name("away"))  # held by this process
    lease.touch()
    used.retired.unlink()
    with TryLock(str(lease)) as is_sole:
        assert is_sole
        assert (1, 1, 1) == used.shown(collector)
    lease.unlink()
    assert (1, 1, 1) == used.shown(collector)
    assert not used.retired.exists()
    lease.with_name("away").rename(lease)
    assert (1, 1, 0) == used.shown(collector) == used.shown()


def test_removed_series_do_not_come_back(used: Used) -> None:
    """A removal after the collector read the file also ends the series in the file that is written again."""
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    used.hits.remove("all")
    used.retired.unlink()
    for source in (collector, used.store, collector):
        values = used._sums(source)
        assert (0, 1, 0) == (values.get("hits_total", 0), values["level"], values["mpmetrics_unreadable_files"])


@pytest.mark.parametrize("is_said", [True, False], ids=["", "control"])
def test_several_collectors_never_show_too_much(
    sums: Sums, used: Used, tally: Callable[..., None], monkeypatch: pytest.MonkeyPatch, *, is_said: bool
) -> None:
    """Collectors that read retired files of different age never show more than was counted, whatever is removed.

    A collector that shows less than before reports that something is missing.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    collectors = [mpmetrics.Collector(used.store) for _ in range(3)]
    shown = [0.0] * len(collectors)
    tried = unsaid = 0
    if not is_said:
        monkeypatch.setattr("mpmetrics.collector.epoch_reader.EpochReader._compare", lambda *_: None)
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
        assert used.shown(collector)[0] <= used.count, seed
    assert bool(unsaid) != is_said
    tally(tried)


def test_after_a_kill_at_any_line_the_file_is_written_again(used: Used, tally: Callable[..., None]) -> None:
    """A process that is killed while it writes the file again and folds leaves exact totals and no other files.

    The short form tries every fourth line, others each time.
    """
    collector = mpmetrics.Collector(used.store)
    used.die()
    assert (1, 1, 0) == used.shown(collector)
    known = collector._reader.retired  # type: ignore[union-attr]
    step = 1 if os.environ.get("MPMETRICS_TORTURE_SECONDS") else 4
    at, is_killed, killed = random.randrange(step) - step, True, 0
    while is_killed:
        at += step
        used.retired.unlink()
        used.die()
        pid = os.fork()
        if not pid:
            try:
                kill_at(at)
                fold(used.path, retired=known)
            finally:
                sys.settrace(None)
                os._exit(0)
        is_killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        killed += is_killed
        assert (used.count, used.count, 0) == used.shown(collector) == used.shown(), at
        left = [each.name for each in Path(used.path).iterdir() if each.name.startswith(("new-", "slab-", "dead-"))]
        assert [] == left, at
        known = collector._reader.retired  # type: ignore[union-attr]
    tally(killed)
    assert at > 50


def kill_at(line: int) -> None:
    """End this process once so many different lines of what folds were run, before the next one."""
    seen: set[tuple[str, int]] = set()

    def step(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) > line:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        return step if frame.f_code.co_filename in STEPS else None

    sys.settrace(enter)
