"""A retired file that somebody removes: what the dead had counted is shown as before, and put back."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.snapshot import EpochReader
from mpmetrics.storage import fold as fold_module
from mpmetrics.storage.fold import fold, put_back
from mpmetrics.storage.retired import load_retired, write_retired

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
    provider: Callable[[], mpmetrics.Provider], fork: Callable[..., Any], gate: Callable[[], Any]
) -> Server:
    """A server of which three workers died."""
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


def test_another_folder_was_first(server: Server) -> None:
    """What there was is gone then, and said for good: a file that is there is never replaced by an older one."""
    server.die()
    server.retired.unlink()
    assert 1 == fold(server.path, timeout=5.0)
    assert (1.0, 1.0) == server.shown()
    server.die()
    assert (2.0, 1.0) == server.shown()


@pytest.mark.parametrize("more", [1, 3, 4])
def test_another_folder_was_first_with_as_many_folds(
    server: Server, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that it began is told from the one before, which was of the first fold, too."""
    monkeypatch.setattr("mpmetrics.storage.segments.FOLD_AT", 1000)  # else those who are to die do it
    server.collector = mpmetrics.Collector(os.path.dirname(server.path))  # noqa: PTH120
    assert (3.0, 0.0) == server.shown()
    whole = load_retired(server.path)
    whole.incarnation = 1
    write_retired(server.path, whole, None)
    server.collector = mpmetrics.Collector(os.path.dirname(server.path))  # noqa: PTH120
    assert (3.0, 0.0) == server.shown()
    server.retired.unlink()
    for _ in range(more):
        server.die()
    assert more == fold(server.path, timeout=5.0)
    assert (more, 1.0) == server.shown()


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
        put_back(server.path, retired, None)

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
