"""Processes whose store is damaged under them: they count on, in private where they have to, and never raise."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.registry import Registry
from mpmetrics.storage import format as fmt
from mpmetrics.storage.directory import SeriesDirectory

InProcess = Callable[..., str]

WORDS = {
    "committed": fmt.COMMITTED,
    "generation": fmt.GENERATION,
    "superseded": fmt.SUPERSEDED,
    "slots": fmt.NEXT_SLOT,
    "families": fmt.NEXT_FAMILY,
    "serials": fmt.NEXT_SERIAL,
}
VALUES = (0, 1, 4095, 4096, 4104, 1 << 20, 1 << 26, 1 << 40, (1 << 53) - 1, 1 << 53, 1 << 63, (1 << 64) - 1)


def put(path: str, offset: int, data: bytes) -> None:
    """Overwrite bytes in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def overwrite(data: Callable[[int], bytes]) -> Callable[[str], None]:
    """The whole file other bytes, in place and as long as before: it is mapped."""
    return lambda path: put(path, 0, data(os.path.getsize(path)))


def away(make: Callable[[str], object]) -> Callable[[str], None]:
    """Another thing in the place of the file."""

    def replace(path: str) -> None:
        os.rename(path, path + ".away")
        make(path)

    return replace


DAMAGE: dict[str, Callable[[str], object]] = {
    "zeros": overwrite(bytes),
    "ones": overwrite(lambda size: b"\xff" * size),
    "text": overwrite(lambda size: (b"no series here\n" * size)[:size]),
    "zeros behind the head": lambda path: put(path, 4096, bytes(os.path.getsize(path) - 4096)),
    "ones behind the head": lambda path: put(path, 4096, b"\xff" * (os.path.getsize(path) - 4096)),
    "another version": lambda path: put(path, 8, b"\2"),
    "no records": lambda path: os.truncate(path, 4096),
    "half a record": lambda path: os.truncate(path, os.path.getsize(path) - 9),
    "gone": os.unlink,
    "empty in its place": away(lambda path: Path(path).write_bytes(b"")),
    "directory in its place": away(os.mkdir),
    "fifo in its place": away(os.mkfifo),
    "symlink in its place": away(lambda path: os.symlink("/dev/zero", path)),
    **{
        f"{name} {value}": lambda path, at=at, value=value: put(path, 8 * at, value.to_bytes(8, fmt.BYTE_ORDER))
        for name, at in WORDS.items()
        for value in VALUES
    },
}


class Application:
    """What a request does with metrics of several kinds, some of them new each time."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        self.sizes = mpmetrics.Histogram("sizes", "Sizes.", ["who"], provider=provider)
        self.level = mpmetrics.Gauge("level", "Level.", ["who"], provider=provider)
        self.build = mpmetrics.Info("build", "Build.", provider=provider)
        self.orders = provider.meter("shop").counter("orders")
        self.registry = Registry("r", provider=provider)
        self.requests = 0

    def serve(self) -> None:
        """One request."""
        self.requests += 1
        for who in ("always", f"new-{os.getpid()}-{self.requests}"):
            self.hits.labels(who).inc()
            self.sizes.labels(who).observe(1)
            self.level.labels(who).set(self.requests)
            self.orders.add(1, {"who": who})
        self.build.info({"request": str(self.requests)})
        self.registry.get_or_register_timer(f"timer-{self.requests}").update(1.0)


def samples(source: Any) -> dict[str, float]:
    """What a collector shows, by name and labels."""
    collector = mpmetrics.Collector(source)
    found = {s.name + str(sorted(s.labels.items())): s.value for f in collector.collect() for s in f.samples}
    collector.close()
    return found


@pytest.mark.parametrize("damage", DAMAGE)
def test_requests_go_on(damage: str, tmp_path: Path, in_process: InProcess) -> None:
    """In a process that was there, in its forked child, and in one that comes later; and a scrape is answered."""
    directory = str(tmp_path / "store")

    def work() -> None:
        provider = mpmetrics.Provider(directory)
        application = Application(provider)
        for _ in range(3):
            application.serve()
        path = os.path.join(str(provider.epoch.path), "series")  # type: ignore[union-attr]
        DAMAGE[damage](path)
        for _ in range(3):
            application.serve()
        own = samples(provider)  # with what is private
        is_readable = damage.startswith(tuple(WORDS)) or damage == "half a record"
        assert own.get("hits_total[('who', 'always')]") == (
            6 if is_readable else own.get("hits_total[('who', 'always')]")
        )
        shown = samples(directory)
        assert "mpmetrics_unreadable_files[]" in shown
        application.hits.labels("always").inc()

        def child() -> None:
            for _ in range(2):
                application.serve()

        assert "" == in_process(child)

        def later() -> None:
            os.environ["MPMETRICS_DIR"] = directory
            mpmetrics.set_provider(None)
            new = Application(mpmetrics.get_provider())
            for _ in range(2):
                new.serve()
            assert samples(mpmetrics.get_provider())["hits_total[('who', 'always')]"] >= 2

        assert "" == in_process(later)
        provider.shutdown()

    assert "" == in_process(work, limit=900 << 20)


@pytest.mark.parametrize("word", [1 << 24, 1 << 40, (1 << 64) - 1])
def test_a_word_that_says_how_many_slots_there_are_takes_no_memory(
    word: int, tmp_path: Path, in_process: InProcess
) -> None:
    """Damaged, it neither grows the slabs nor spoils the records: new series stay private, and show as drops."""
    directory = str(tmp_path / "store")

    def work() -> None:
        provider = mpmetrics.Provider(directory)
        hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        hits.labels("before").inc()
        path = str(provider.epoch.path)  # type: ignore[union-attr]
        put(os.path.join(path, "series"), 8 * fmt.NEXT_SLOT, word.to_bytes(8, fmt.BYTE_ORDER))
        hits.labels("after").inc()
        hits.labels("before").inc()
        shown = samples(directory)
        assert 2 == shown["hits_total[('who', 'before')]"]
        assert "hits_total[('who', 'after')]" not in shown
        assert (0, 1) == (shown["mpmetrics_damaged_records[]"], shown["mpmetrics_drops_total[]"])
        assert shown["mpmetrics_store_bytes[]"] < 1 << 20
        assert 1 == samples(provider)["hits_total[('who', 'after')]"]

    assert "" == in_process(work, limit=400 << 20)


def test_without_the_look_at_that_word_a_slab_grows_without_bound(
    tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a slab of 128 MB for one counter."""
    monkeypatch.setattr(fmt, "check_next", lambda word, known, *_: max(word, known))
    monkeypatch.setattr(fmt, "MAX_GAP", 1 << 45)
    with pytest.raises(AssertionError):
        test_a_word_that_says_how_many_slots_there_are_takes_no_memory(1 << 24, tmp_path, in_process)


def test_an_end_that_was_moved_back_overwrites_nothing(
    tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes later sees the records behind it and keeps its series; all that was there is shown, and the damage."""
    directory = str(tmp_path / "store")
    provider = mpmetrics.Provider(directory)
    path = os.path.join(str(provider.epoch.path), "series")  # type: ignore[union-attr]
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
    ends = []
    for number in range(5):
        hits.labels(str(number)).inc()
        ends.append(struct.unpack("=Q", Path(path).read_bytes()[32:40])[0])
    put(path, 32, struct.pack("=Q", ends[0]))
    whole = Path(path).read_bytes()

    def later() -> None:
        try:
            late = mpmetrics.Provider(directory)
        except mpmetrics.FormatError:
            return
        mpmetrics.Counter("hits", "Hits.", ["who"], provider=late).labels("late").inc()
        raise AssertionError("it appended")

    assert "" == in_process(later)
    hits.labels("mine").inc()
    assert whole[4096:] == Path(path).read_bytes()[4096:]
    shown = samples(directory)
    assert [1.0] * 5 == [shown[f"hits_total[('who', '{number}')]"] for number in range(5)]
    assert 1 == shown["mpmetrics_damaged_records[]"], mpmetrics.Collector(directory).snapshot().catalog.problems
    monkeypatch.setattr("mpmetrics.storage.records.check_end", lambda *_: None)  # the control
    assert "it appended" in in_process(later)
    provider.shutdown()


def test_a_process_never_commits_what_it_would_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that makes no sense, of whatever bug, stays uncommitted; the control commits it."""
    provider = mpmetrics.Provider(tmp_path / "store")
    directory = provider.memory.directory
    assert directory is not None
    with directory, pytest.raises(mpmetrics.FormatError):
        directory._append(fmt.SERIES, [77, ["x"], 5, 1, 0.0, 0, 5])
    assert 0 == samples(tmp_path / "store")["mpmetrics_damaged_records[]"]
    monkeypatch.setattr("mpmetrics.storage.catalog.Catalog.take", lambda *_: None)
    with directory:
        directory._append(fmt.SERIES, [77, ["x"], 5, 1, 0.0, 0, 5])
    monkeypatch.undo()
    assert 1 == samples(tmp_path / "store")["mpmetrics_damaged_records[]"]
    provider.shutdown()


def test_a_full_series_directory_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the size that readers believe, series stay private; what is there goes on."""
    provider = mpmetrics.Provider(tmp_path / "store")
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
    hits.labels("before").inc()
    path = os.path.join(str(provider.epoch.path), "series")  # type: ignore[union-attr]
    monkeypatch.setattr(fmt, "MAX_SERIES_FILE", os.path.getsize(path) + 8)
    hits.labels("after").inc()
    hits.labels("before").inc()
    shown = samples(tmp_path / "store")
    assert (2, 1) == (shown["hits_total[('who', 'before')]"], shown["mpmetrics_drops_total[]"])
    assert "hits_total[('who', 'after')]" not in shown
    assert 1 == samples(provider)["hits_total[('who', 'after')]"]
    monkeypatch.undo()
    provider.force_flush()
    assert 1 == samples(tmp_path / "store")["hits_total[('who', 'after')]"]
    provider.shutdown()


def test_compaction_gives_no_slot_out_twice_where_records_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers that a damaged record gave out stay given out, though it does not come along."""
    provider = mpmetrics.Provider(tmp_path / "store")
    path = os.path.join(str(provider.epoch.path), "series")  # type: ignore[union-attr]
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
    for number in range(5):
        hits.labels(str(number)).inc()
    next_slot = struct.unpack("=Q", Path(path).read_bytes()[56:64])[0]
    put(path, os.path.getsize(path) - 20, b"\xff" * 8)
    late = mpmetrics.Provider(tmp_path / "store")
    directory = late.memory.directory
    assert directory is not None
    with directory:
        directory._compact()
        assert 4 == len(directory.catalog.by_slot)
        assert next_slot <= directory._allocate(1)
        assert directory.catalog.next_slot < next_slot  # the control: the records alone would give it out again
    assert isinstance(directory, SeriesDirectory)
    monkeypatch.undo()
    late.shutdown()
    provider.shutdown()
