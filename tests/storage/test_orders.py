"""The order of looks and stores that readers rely on: each interleaving that would hurt without it, and a control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch import EpochReader
from mpmetrics.collector.merge import merge
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.shapes import Shapes

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
