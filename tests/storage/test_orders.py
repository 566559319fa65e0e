"""The order of loads and stores that readers rely on: each harmful interleaving, with a control."""

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
    """The counter's values in a new reader, by label value."""
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
    """Calls a function once between two steps of reading a slab; can leave out the second step."""

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
    """A series ends after its record was read, and its words belong to another when they are copied: neither is shown.

    Without the second parse of the records, the ended series has the other one's value.
    """
    path = str(hits._provider.epoch.path)
    hits.labels("old").inc(1)

    def reuse() -> None:
        hits.remove("old")
        place = hits.labels("new").place
        hits.labels("new").inc(1_000_000)
        assert place == 512

    # Removals protect the same series in another way; this test is about the reuse of words by their owner.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shapes, "apply", lambda *_: None)
        between(reuse, looks_again=looks_again)
        found = shown(path)

    assert ({} if looks_again else {"old": 1_000_000.0}) == {key: value for key, value in found.items() if value}


def test_a_series_that_comes_while_words_are_read_is_shown_by_the_next_reading(
    hits: mpmetrics.Counter, between: Callable[..., None]
) -> None:
    """A series that begins during a reading is left out of it, so no series is ever shown with a part of its value."""
    path = str(hits._provider.epoch.path)
    hits.labels("first").inc(1)

    def come() -> None:
        for number in range(600):  # more than the present words
            hits.labels(f"late-{number}").inc(5)

    between(come, looks_again=True)
    assert {"first": 1.0} == shown(path)
    assert {"first": 1.0} | {f"late-{number}": 5.0 for number in range(600)} == shown(path)


@pytest.mark.parametrize("looks_after", [True, False], ids=["", "control"])
def test_a_reader_reads_removals_after_the_slabs(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    looks_after: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A series removed right after a reader has read it is not shown, even if its owner has not noticed."""
    mine = hits._provider
    hits.labels("old").inc(7)
    other = mpmetrics.Provider(mine.directory)
    same = mpmetrics.Counter("hits", "Hits.", ["code"], provider=other)
    read_slabs, known = EpochReader._read_slabs, EpochReader._known_removals

    def read_and_remove(self: EpochReader, snapshot: Any, dir_fd: int) -> bool:
        if not looks_after:
            self._read_shared(snapshot)
            before = known(self, snapshot)
            monkeypatch.setattr(EpochReader, "_known_removals", lambda *_: before)
        is_complete = read_slabs(self, snapshot, dir_fd)
        same.remove("old")
        return is_complete

    monkeypatch.setattr(EpochReader, "_read_slabs", read_and_remove)

    assert ({} if looks_after else {"old": 7.0}) == shown(str(mine.epoch.path))
    other.shutdown()


@pytest.mark.parametrize("reads_again", [True, False], ids=["", "control"])
def test_a_flip_beyond_the_known_size_of_the_file_is_read_again(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    reads_again: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """An owner flips while its slab is read, to an area beyond the file's size at the last check: all is shown."""
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
def test_a_fold_reads_removals_after_the_slabs(
    hits: mpmetrics.Counter,
    fork: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    reads_after: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A series is removed and made anew before a fold reads the slabs: its old value does not come back.

    The folded series would have the generation of the new one, so no reader could separate the two.
    """
    path = str(hits._provider.epoch.path)
    fork(lambda: hits.labels("old").inc(5)).result()
    clean = fold_module._Fold._remove_leftovers

    def clean_and_remove(self: Any) -> None:
        clean(self)
        if not reads_after:
            self._removals.read()
            self._removals.read = lambda: None
        hits.remove("old")
        fork(lambda: hits.labels("old").inc(7)).result()

    monkeypatch.setattr(fold_module._Fold, "_remove_leftovers", clean_and_remove)
    assert 2 == fold(path)

    assert {"old": 7.0 if reads_after else 12.0} == shown(path)


@pytest.mark.parametrize("loads_before", [True, False], ids=["", "control"])
def test_an_owner_loads_the_generation_before_it_reads_the_removals(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    loads_before: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """An owner that misses a removal committed after its reading finds it at its next look-up."""
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

    def catch_up_late(self: Memory) -> None:
        for removal in self.epoch.removals.after(self.process.seen, self.process.generation, self._children):
            self._apply(removal)
        self.process.seen = self.process.generation

    if not loads_before:
        monkeypatch.setattr(Memory, "catch_up", catch_up_late)
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
    """A removal made after a fold has checked which removals are needed stays: an idle process still has the series."""
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
def test_a_fold_does_not_unlink_a_new_process(
    hits: mpmetrics.Counter,
    fork: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    is_locked: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """A new process that claims an ordinal right before a fold unlinks the dead slab of that name gets another one."""
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
def test_a_removal_is_in_the_list_before_its_generation_is_stored(
    hits: mpmetrics.Counter,
    monkeypatch: pytest.MonkeyPatch,
    is_first: bool,  # noqa: FBT001 (whether the protection is in place)
) -> None:
    """An owner that looks as soon as the generation changes finds the removal's record."""
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
    """A reader finds a value waiting and then in the slab: it reads again, and the value counts once."""
    mine = provider()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(slab_module, "make_slab", full)
        mpmetrics.Counter("hits", "Hits.", provider=mine).inc(5)
    read_slabs, moves = EpochReader._read_slabs, mine.memory.moved_count

    def move_and_read(self: EpochReader, *given: Any) -> bool:
        mine.force_flush()
        if not looks:
            mine.memory.moved_count = moves
        return read_slabs(self, *given)

    monkeypatch.setattr(EpochReader, "_read_slabs", move_and_read)

    assert (5 if looks else 10) == mpmetrics.Collector(mine).value("hits_total")
