"""A retired file that somebody removes: what the dead had counted is shown as before, and put back.

Where that cannot be done without counting something twice, it is said for as long as it is missing.
"""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.snapshot import EpochReader
from mpmetrics.errors import LockTimeoutError
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage import keeper as keeper_module
from mpmetrics.storage.fold import fold, put_back
from mpmetrics.storage.keeper import Keeper
from mpmetrics.storage.retired import Retired, load_retired, new_birth, retired_identity, write_retired
from mpmetrics.storage.store import Store
from mpmetrics.storage.survey import list_slabs

if TYPE_CHECKING:
    from collections.abc import Callable


class Server:
    """A counter in a store, which the dead count up to 3, and a collector that has seen that."""

    def __init__(self, provider: mpmetrics.Provider, fork: Callable[..., Any], gate: Callable[[], Any]) -> None:
        self.gate = gate
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        self.fork = fork
        assert provider.epoch is not None
        self.path = provider.epoch.path
        self.retired = Path(self.path, "retired")
        self.provider = provider
        self.collector = mpmetrics.Collector(provider)
        for _ in range(3):
            self.die()
        assert (3.0, 0.0) == self.shown()

    def die(self) -> None:
        """Have another process count one, and end."""
        self.fork(self.hits.labels("dead").inc).result()

    def live(self) -> Any:
        """Have another process count one, and live on."""
        ready, leave = self.gate(), self.gate()

        def work() -> None:
            self.hits.labels("dead").inc()
            ready.open()
            leave.wait()

        child = self.fork(work)
        ready.wait()
        return child

    def shown(self, collector: mpmetrics.Collector | None = None) -> tuple[float, float]:
        """The counter, and how many files could not be read."""
        readings = {reading.name: reading for reading in (collector or self.collector).readings()}
        total = sum(sample.value for sample in readings["hits"].samples if sample.suffix == "_total")
        return total, readings["mpmetrics_unreadable_files"].samples[0].value

    def anew(self) -> tuple[float, float]:
        """What a collector shows that remembers nothing."""
        return self.shown(mpmetrics.Collector(os.path.dirname(self.path)))  # noqa: PTH120


@pytest.fixture
def server(
    provider: Callable[[], mpmetrics.Provider],
    fork: Callable[..., Any],
    gate: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    """A server of which three workers died; only those fold who are told to."""
    monkeypatch.setattr("mpmetrics.storage.segments.FOLD_AT", 1000)
    return Server(provider(), fork, gate)


def test_the_collector_puts_it_back(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is missing, for it or for others; it goes on counting, and says it once."""
    for dead in (3.0, 4.0, 5.0):
        server.retired.unlink()
        with caplog.at_level(logging.WARNING, "mpmetrics"):
            assert (dead, 0.0) == server.shown()
        assert (dead, 0.0) == server.anew()
        server.die()
        assert (dead + 1, 0.0) == server.shown()
    assert [f"{server.retired} was removed; it is put back as it was read last"] == caplog.messages


def test_without_that_it_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control; who has read it goes on showing it even so, and says that it is not there."""
    monkeypatch.setattr("mpmetrics.storage.keeper.put_back", lambda *_: False)
    server.retired.unlink()
    assert (3.0, 1.0) == server.shown()
    assert (0.0, 0.0) == server.anew()


def test_slabs_that_are_still_there_count_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder was killed before it unlinked what it had folded: the file that is put back names these slabs."""
    monkeypatch.setattr(fold_module, "_unlink", lambda *_: {})
    server.die()
    assert (4.0, 0.0) == server.shown()
    monkeypatch.undo()
    assert [name for name in os.listdir(server.path) if name.startswith("slab-")]
    server.retired.unlink()
    assert (4.0, 0.0) == server.shown() == server.anew()


@pytest.mark.parametrize("more", [1, 3, 4])
def test_another_folder_was_first(server: Server, more: int, caplog: pytest.LogCaptureFixture) -> None:
    """What it began is added to what there was, whichever of them has been folded more often; and again."""
    for turn in (1, 2):
        with caplog.at_level(logging.WARNING, "mpmetrics"):
            server.retired.unlink()
            for _ in range(more):
                server.die()
                assert 1 == fold(server.path, timeout=5.0)
            assert (3 + turn * more, 0.0) == server.shown() == server.anew()
            assert 3 + turn * more == load_retired(server.path).folded
    assert [f"{server.retired} was removed; it is put back as it was read last"] == caplog.messages


def test_another_folder_is_first_between_two_looks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes when the keeper has seen that it is there, and its own fold begins another: that is made good."""
    server.die()

    def fold_after_all(path: str, **options: Any) -> int:
        server.retired.unlink()
        return fold(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "fold", fold_after_all)
        assert (1.0, 1.0) == server.shown()
    assert (4.0, 0.0) == server.shown() == server.anew()


@pytest.mark.parametrize("is_seen", [True, False], ids=["", "control"])
def test_who_does_not_fold_says_that_it_is_gone(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, is_seen: bool
) -> None:
    """A file that does not come from the one that was read, with more in it by now; until all is there again."""
    if not is_seen:
        monkeypatch.setattr(Retired, "covers", lambda *_: True)
    keeper = Keeper()
    keeper.fold(server.path)
    reader = EpochReader(server.path)
    assert {} == reader.snapshot().unreadable
    server.retired.unlink()
    for _ in range(5):
        server.die()
        fold(server.path, timeout=5.0)
        assert is_seen == ("retired" in reader.snapshot().unreadable)
    assert is_seen == keeper.fold(server.path)
    assert {} == reader.snapshot().unreadable
    reader.close()


def test_an_older_one_was_put_back(server: Server) -> None:
    """By one who had seen less: what is missing is said for good, by the collector and by its keeper alone."""
    older = Keeper()
    older.fold(server.path)
    server.die()
    assert (4.0, 0.0) == server.shown()
    server.retired.unlink()
    assert older.fold(server.path)
    for total in (3.0, 4.0, 5.0):
        assert (total, 1.0) == server.shown()
        server.collector.close()
        assert (total, 1.0) == server.shown()
        assert (total, 0.0) == server.anew()  # who has not seen it cannot know
        server.die()
    server.retired.unlink()
    assert (6.0, 1.0) == server.shown()


@pytest.mark.parametrize("is_unlinked", [True, False])
@pytest.mark.parametrize("is_compared", [True, False], ids=["", "control"])
def test_a_slab_that_is_in_both_counts_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, is_unlinked: bool, is_compared: bool
) -> None:
    """A folder is killed before it unlinks what it has folded, and another one begins anew with that: it is said."""
    if not is_compared:
        monkeypatch.setattr(keeper_module, "put_back", without_conditions)
    server.die()
    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "_unlink", lambda *_: {})
        assert (4.0, 0.0) == server.shown()
        server.retired.unlink()
        if not is_unlinked:
            assert 1 == fold(server.path, timeout=5.0)
    if is_unlinked:
        assert 1 == fold(server.path, timeout=5.0)
    assert (1.0 if is_compared else 5.0, 1.0) == server.shown()  # of 4
    if is_compared:
        assert (1.0, 1.0) == server.shown()
        assert (1.0, 0.0) == server.anew()


@pytest.mark.parametrize("is_compared", [True, False], ids=["", "control"])
def test_a_slab_that_is_in_two_that_come_back_counts_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, is_compared: bool
) -> None:
    """Two remember files with the same slab in them, of which neither names it in the end."""
    if not is_compared:
        monkeypatch.setattr(keeper_module, "put_back", without_conditions)
    one, other = Keeper(), Keeper()
    server.die()
    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "_unlink", lambda *_: {})
        one.fold(server.path)
    server.retired.unlink()
    other.fold(server.path)
    server.retired.unlink()
    server.die()
    assert one.fold(server.path) != is_compared
    other.fold(server.path)
    total, _ = server.anew()
    assert total == (2.0 if is_compared else 6.0)  # of 5 in all
    assert one.lacks(server.path) == is_compared


@pytest.mark.parametrize("is_asked", [True, False], ids=["", "control"])
def test_a_slab_that_goes_while_the_keeper_looks_counts_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, is_asked: bool
) -> None:
    """The file was read, and when the slabs are listed, it is gone, and they are in another one."""
    server.die()
    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "_unlink", lambda *_: {})
        fold(server.path)
    keeper = Keeper()

    def list_late(path: str) -> Any:
        server.retired.unlink()
        assert 1 == fold(path)
        return list_slabs(path)

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "list_slabs", list_late)
        if not is_asked:
            patch.setattr(keeper_module, "is_same", lambda file, _: file.fileno() >= 0)
        patch.setattr(keeper_module, "fold", lambda *_, **__: 0)
        keeper.fold(server.path)
    server.die()
    assert 1 == fold(server.path)
    assert keeper.fold(server.path) != is_asked
    total, _ = server.anew()
    assert total == (2.0 if is_asked else 6.0)  # of 5 in all


def test_slabs_that_others_unlink_later_do_not_keep_it_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder was killed before it unlinked them, and the keeper has seen both: they are there, and they are not."""
    keeper = Keeper()
    server.die()
    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "_unlink", lambda *_: {})
        keeper.fold(server.path)
    assert 0 == fold(server.path)
    assert not [name for name in os.listdir(server.path) if name.startswith("slab-")]
    keeper.fold(server.path)
    server.retired.unlink()
    assert keeper.fold(server.path)
    assert (4.0, 0.0) == server.anew()


def test_two_put_it_back_at_the_same_moment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one finds it there, and nothing is missing; nor does it take the lock where that is seen at once."""
    keeper = Keeper()
    keeper.fold(server.path)
    kept = load_retired(server.path)
    server.retired.unlink()
    mutex = fold_module.mutex

    def late(path: str, timeout: float) -> Any:
        monkeypatch.setattr(fold_module, "mutex", mutex)
        assert keeper.fold(server.path)
        return mutex(path, timeout)

    monkeypatch.setattr(fold_module, "mutex", late)
    assert not put_back(server.path, kept, (), None)
    with mutex(os.path.join(server.path, "fold.lock"), 1.0):  # noqa: PTH118
        assert not put_back(server.path, kept, (), None)
    assert (3.0, 0.0) == server.anew()


def test_what_only_the_keeper_has_read_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that folds before its first scrape, and that finds no room to put the file back."""
    server.collector = mpmetrics.Collector(os.path.dirname(server.path))  # noqa: PTH120
    server.collector.fold()
    server.retired.unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "write_retired", full)
        assert 1.0 == server.shown()[1]
    assert (3.0, 0.0) == server.shown()


def without_conditions(path: str, kept: Retired, _left: object, owner: Any) -> bool:
    """For controls: put back what was kept beside whatever there is."""
    return put_back(path, replace(kept, slabs=set(), births=new_birth()), (), owner)


def test_a_file_that_goes_between_two_looks_is_not_taken_for_empty(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper sees that there is another file, and finds none: it goes on remembering what it has read."""
    keeper = Keeper()
    keeper.fold(server.path)
    write_retired(server.path, load_retired(server.path), None)

    def look(path: str) -> tuple[int, int]:
        identity = retired_identity(path)
        server.retired.unlink(missing_ok=True)
        return identity

    with monkeypatch.context() as patch:
        patch.setattr(keeper_module, "retired_identity", look)
        keeper._look()
    assert keeper.fold(server.path)
    assert (3.0, 0.0) == server.anew()


def test_while_it_cannot_be_put_back_nothing_is_folded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has the fold lock, and gives it back at this moment: no new file is begun."""
    server.die()
    server.retired.unlink()
    taken = []

    def busy(path: str, timeout: float) -> Any:
        taken.append(path)
        if len(taken) == 1:
            raise LockTimeoutError(f"{path} is held")
        return fold_module_mutex(path, timeout)

    fold_module_mutex = fold_module.mutex
    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "mutex", busy)
        assert (4.0, 1.0) == server.shown()
    assert 1 == len(taken)
    assert not server.retired.exists()
    assert (4.0, 0.0) == server.shown() == server.anew()


def test_nothing_is_put_into_an_epoch_that_nobody_is_in(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever removes it finds what there was; the collector shows what it has read, and says that it is gone."""
    server.collector = mpmetrics.Collector(os.path.dirname(server.path))  # noqa: PTH120
    assert (3.0, 0.0) == server.shown()
    server.provider.shutdown()
    server.retired.unlink()
    before = sorted(os.listdir(server.path))
    with caplog.at_level(logging.WARNING, "mpmetrics"):
        for _ in range(2):
            assert (3.0, 1.0) == server.shown()
    assert before == sorted(os.listdir(server.path))
    assert any("nobody is in this epoch any more" in message for message in caplog.messages)
    Store(os.path.dirname(server.path)).begin()  # noqa: PTH120
    assert not os.path.exists(server.path)  # noqa: PTH110


def test_a_living_epoch_without_its_lease_gets_it_back(server: Server) -> None:
    """A cleaner has removed that, too; but a worker is there."""
    child = server.live()
    assert (4.0, 0.0) == server.shown()
    server.retired.unlink()
    Path(server.path, "lease").unlink()
    assert (4.0, 0.0) == server.shown() == server.anew()
    child.stop()


def test_beside_damaged_records_it_is_not_added_to_another(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What it holds in their series would be lost; with whole records again, it is all there."""
    mpmetrics.Counter("other", "Other.", provider=server.provider).inc()
    server.retired.unlink()
    server.die()
    assert 1 == fold(server.path, timeout=5.0)
    series = Path(server.path, "series")
    whole = series.read_bytes()
    at = whole.index(b'"other"')
    with series.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
    with caplog.at_level(logging.WARNING, "mpmetrics"):
        assert (1.0, 1.0) == server.shown()
    assert any("beside damaged records" in message for message in caplog.messages)
    with series.open("r+b") as file:
        file.seek(at)
        file.write(whole[at : at + 1])
    assert (4.0, 0.0) == server.shown() == server.anew()


def test_what_was_folded_between_scrapes_is_put_back(server: Server) -> None:
    """A worker that a scrape has shown dies, the collector folds it by itself, and the file goes before the next."""
    for total in (4.0, 5.0):
        child = server.live()
        assert (total, 0.0) == server.shown()
        child.stop()
        server.collector.fold()
        server.retired.unlink()
        assert (total, 0.0) == server.shown() == server.anew()


def test_removed_series_do_not_come_back(server: Server) -> None:
    """A series that was removed since, and one in its place, are as they would be with the file."""
    server.hits.remove("dead")
    server.hits.labels("new").inc()
    server.retired.unlink()
    assert (1.0, 0.0) == server.shown() == server.anew()


def test_killed_before_it_is_in_its_place(server: Server, fork: Callable[..., Any]) -> None:
    """The next one to fold puts it back, and no file is left over."""

    def die() -> None:
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        put_back(server.path, retired, (), None)

    reader = EpochReader(server.path)
    retired = reader.snapshot().retired
    reader.close()
    server.retired.unlink()
    assert -signal.SIGKILL == fork(die).wait()
    assert [name for name in os.listdir(server.path) if name.startswith("new-retired-")]
    assert (3.0, 0.0) == server.shown()
    server.die()
    assert (4.0, 0.0) == server.shown() == server.anew()
    assert not [name for name in os.listdir(server.path) if name.startswith("new-retired-")]
