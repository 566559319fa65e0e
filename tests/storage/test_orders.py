"""The order of looks and stores that readers rely on: each interleaving that would hurt without it, and a control."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import removals as removals_module
from mpmetrics.storage import slab as slab_module
from mpmetrics.storage.fold import fold
from mpmetrics.storage.memory import Memory
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.removals import Removals
from mpmetrics.storage.shapes import Shapes
from mpmetrics.storage.shared import Shared

MakeProvider = Callable[[], mpmetrics.Provider]
Interfere = Callable[[], object]


def shown(path: str) -> dict[str, float]:
    """What a new reader shows of the counter, by label value."""
    reader = EpochReader(path)
    found = {}
    for reading in merge(reader.snapshot()):
        found.update({dict(labels)["code"]: value for suffix, labels, value in reading.samples if suffix == "_total"})
    reader.close()
    return found


@pytest.fixture
def hits(provider: MakeProvider) -> mpmetrics.Counter:
    """A counter in a store."""
    return mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has something happen once between two steps of reading a slab; a step may be left out."""

    def set_up(interfere: Interfere, *, looks_again: bool) -> None:
        pending = iter([interfere])

        def read(self: SlabReader, declare: Any) -> bool:
            self.source.limit(self._size)
            self._parse(declare)
            for act in pending:
                act()
            self.source.load()
            if looks_again:
                self._parse(declare)
            return True

        monkeypatch.setattr(SlabReader, "read", read)

    yield set_up
    monkeypatch.undo()


@pytest.mark.parametrize("looks_again", [True, False], ids=["", "control"])
def test_words_that_change_hands_while_they_are_read(
    hits: mpmetrics.Counter,
    between: Callable[..., None],
    looks_again: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A series ends after its record was read, and its words are another's when they are copied: neither is shown.

    Without the second look at the records the one that ended has the other one's value.
    """
    path = str(hits._provider.epoch.path)
    hits.labels("old").inc(1)

    def reuse() -> None:
        hits.remove("old")
        place = hits.labels("new").place
        hits.labels("new").inc(1_000_000)
        assert place == 512

    # Removals are another protection of the same series: it is the owner's reuse that is looked at here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shapes, "apply", lambda *_: None)
        between(reuse, looks_again=looks_again)
        found = shown(path)

    assert ({} if looks_again else {"old": 1_000_000.0}) == {key: value for key, value in found.items() if value}


def test_a_series_that_comes_while_words_are_read_is_shown_by_the_next_reading(
    hits: mpmetrics.Counter, between: Callable[..., None]
) -> None:
    """It is left out of this one, whole: never shown with less than it had when it was first shown."""
    path = str(hits._provider.epoch.path)
    hits.labels("first").inc(1)

    def come() -> None:
        for number in range(600):  # beyond the words that were there
            hits.labels(f"late-{number}").inc(5)

    between(come, looks_again=True)
    assert {"first": 1.0} == shown(path)
    assert {"first": 1.0} | {f"late-{number}": 5.0 for number in range(600)} == shown(path)


@pytest.mark.parametrize("looks_after", [True, False], ids=["", "control"])
def test_removals_are_looked_at_after_the_slabs(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    looks_after: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A series is removed right after a reader has read it: it is not shown, though its owner has not noticed yet."""
    mine = hits._provider
    hits.labels("old").inc(7)
    other = mpmetrics.Provider(mine.directory)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    read_slabs, known = EpochReader._read_slabs, EpochReader._known_removals

    def read_and_remove(self: EpochReader, snapshot: Any, folder: int) -> bool:
        if not looks_after:
            self._read_shared(snapshot)
            before = known(self, snapshot)
            monkeypatch.setattr(EpochReader, "_known_removals", lambda *_: before)
        is_complete = read_slabs(self, snapshot, folder)
        same.remove("old")
        return is_complete

    monkeypatch.setattr(EpochReader, "_read_slabs", read_and_remove)

    assert ({} if looks_after else {"old": 7.0}) == shown(str(mine.epoch.path))
    other.shutdown()


@pytest.mark.parametrize("reads_again", [True, False], ids=["", "control"])
def test_records_that_move_to_where_the_file_had_no_bytes(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    reads_again: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """An owner flips for the first time while its slab is read: the other area is behind the file's end as it was."""
    hits.labels("kept").inc(3)
    memory = hits._provider.memory
    head = memoryview(memory._leased.map).cast("Q")
    read, parse, moved = SlabReader.read, SlabReader._parse, []

    def flip() -> None:
        while not head[fmt.FLIPS]:
            hits.labels("passing")
            memory.forget(memory.find("hits").family, ("passing",))

    def parse_and_flip(self: SlabReader, declare: Any) -> None:
        parse(self, declare)
        if not moved:
            moved.append(flip())

    monkeypatch.setattr(SlabReader, "_parse", parse_and_flip)
    if not reads_again:
        monkeypatch.setattr(SlabReader, "read", lambda self, declare: read(self, declare) or True)

    found = {code: value for code, value in shown(str(hits._provider.epoch.path)).items() if value}
    assert ({"kept": 3.0} if reads_again else {}) == found


@pytest.mark.parametrize("reads_after", [True, False], ids=["", "control"])
def test_a_folder_reads_removals_after_the_slabs(
    hits: mpmetrics.Counter,
    fork: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    reads_after: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A series is removed and made anew before the slabs are read: the old value does not come back with the new one.

    What they are folded into has the generation of the new one, so no reader could tell them apart any more.
    """
    path = str(hits._provider.epoch.path)
    fork(lambda: hits.labels("old").inc(5)).result()
    sweep = fold_module._Fold._sweep

    def sweep_and_remove(self: Any) -> None:
        sweep(self)
        if not reads_after:
            self._removals.read()
            self._removals.read = lambda: None
        hits.remove("old")
        fork(lambda: hits.labels("old").inc(7)).result()

    monkeypatch.setattr(fold_module._Fold, "_sweep", sweep_and_remove)
    assert 2 == fold(path)

    assert {"old": 7.0 if reads_after else 12.0} == shown(path)


@pytest.mark.parametrize("loads_before", [True, False], ids=["", "control"])
def test_an_owner_loads_the_generation_before_it_reads_the_removals(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    loads_before: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A removal that comes behind what it has read is noticed at its next look, and not passed over for good."""
    mine = hits._provider
    other = mpmetrics.Provider(mine.directory)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    hits.labels("early").inc(5)
    hits.labels("late").inc(5)
    after, pending = Removals.after, iter(["late"])

    def read_and_remove(self: Removals, *given: Any) -> Any:
        found = after(self, *given)
        for code in pending if self is mine.epoch.removals else ():
            same.remove(code)
        return found

    def notice_late(self: Memory) -> None:
        for removal in self.epoch.removals.after(self.process.seen, self.process.generation, self._children):
            self._apply(removal)
        self.process.seen = self.process.generation

    if not loads_before:
        monkeypatch.setattr(Memory, "notice", notice_late)
    monkeypatch.setattr(Removals, "after", read_and_remove)
    same.remove("early")
    hits.labels("other")
    hits.labels("late").inc(7)

    assert ({"late": 7.0} if loads_before else {}) == {
        code: value for code, value in shown(str(mine.epoch.path)).items() if value
    }
    other.shutdown()


@pytest.mark.parametrize("keeps_later", [True, False], ids=["", "control"])
def test_a_removal_while_the_list_is_shortened_stays_in_it(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    keeps_later: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """It comes after the folder has seen which removals are needed, and is needed: an idle process has the series."""
    mine = hits._provider
    idle = mpmetrics.Provider(mine.directory)
    mpmetrics.Counter("hits", "Hits.", ["code"], provider=idle).labels("held").inc(5)
    hits.remove("nothing")
    shorten = Removals.shorten

    def remove_and_shorten(self: Removals, needed: Any) -> None:
        hits.remove("held")
        if not keeps_later:
            self.read()
        shorten(self, needed)

    monkeypatch.setattr(Removals, "shorten", remove_and_shorten)
    monkeypatch.setattr(fold_module, "SHORTEN_AT", 1)
    fold(str(mine.epoch.path))

    assert ({} if keeps_later else {"held": 5.0}) == shown(str(mine.epoch.path))
    idle.shutdown()


@pytest.mark.parametrize("is_locked", [True, False], ids=["", "control"])
def test_a_folder_unlinks_no_newcomers_name(
    hits: mpmetrics.Counter,
    fork: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    is_locked: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A newcomer wants the ordinal of a dead process right before the folder unlinks that name: it gets another one."""
    path = str(hits._provider.epoch.path)
    fork(lambda: hits.labels("dead").inc(5)).result()
    unlink, newcomers = fold_module.os.unlink, []

    def come_and_unlink(name: str, **named: Any) -> None:
        if name == "slab-0" and not newcomers:
            newcomers.append(mpmetrics.Provider(hits._provider.directory))
            mpmetrics.Counter("hits", "Hits.", ["code"], provider=newcomers[0]).labels("new").inc(7)
        unlink(name, **named)

    monkeypatch.setattr(fold_module.os, "unlink", come_and_unlink)
    if not is_locked:
        monkeypatch.setattr(fold_module, "DirectoryMutex", lambda *_, **__: contextlib.nullcontext())
    assert 1 == fold(path)
    monkeypatch.undo()

    assert {"dead": 5.0} | ({"new": 7.0} if is_locked else {}) == shown(path)
    newcomers[0].shutdown()


@pytest.mark.parametrize("is_first", [True, False], ids=["", "control"])
def test_a_removal_is_in_the_list_before_its_generation_says_so(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    is_first: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """An owner looks the moment that the generation moves: it finds the removal, and does not pass it over for good."""
    mine = hits._provider
    other = mpmetrics.Provider(mine.directory)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    hits.labels("old").inc(5)
    store, late = Shared._store, []

    def store_and_look(self: Shared, word: int, value: bytes) -> None:
        store(self, word, value)
        hits.labels("look")
        with open(f"{mine.epoch.path}/removals", "r+b") as file:  # noqa: PTH123
            for data, offset in late:
                os.pwrite(file.fileno(), data, offset)

    monkeypatch.setattr(Shared, "_store", store_and_look)
    if not is_first:
        monkeypatch.setattr(removals_module, "write_all", lambda _, data, offset: late.append((data, offset)))
    same.remove("old")
    hits.labels("old").inc(7)

    assert {"look": 0.0} | ({"old": 7.0} if is_first else {}) == shown(str(mine.epoch.path))
    other.shutdown()


@pytest.mark.parametrize("looks", [True, False], ids=["", "control"])
def test_a_value_that_moves_into_the_store_while_it_is_read_counts_once(
    provider: MakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    looks: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """It was found waiting, and then in the slab: the reading is made again."""
    mine = provider()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(slab_module, "make_slab", full)
        mpmetrics.Counter("hits", "Hits.", provider=mine).inc(5)
    read_slabs, moves = EpochReader._read_slabs, mine.memory.moves

    def move_and_read(self: EpochReader, *given: Any) -> bool:
        mine.force_flush()
        if not looks:
            mine.memory.moves = moves
        return read_slabs(self, *given)

    monkeypatch.setattr(EpochReader, "_read_slabs", move_and_read)

    assert (5 if looks else 10) == mpmetrics.Collector(mine).value("hits_total")
