"""The series directory: commits, damage, conflicts, a lock that is not to be had, and compaction."""

from __future__ import annotations

import fcntl
import inspect
import logging
import os
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics._cells import pure
from mpmetrics.storage import directory as directory_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage import segments
from mpmetrics.storage.locks import AppendLock
from mpmetrics.storage.reader import SeriesReader
from mpmetrics.storage.records import decode_records, encode_record
from mpmetrics.storage.retry import Retry
from mpmetrics.storage.store import Store

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]
Scrape = Callable[..., dict[str, float]]


def epoch_of(provider: mpmetrics.Provider) -> Path:
    """The directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def series_in(path: Path) -> tuple[set[str], int]:
    """The label values that a fresh reader finds, and how many records were damaged."""
    reader = SeriesReader(str(path))
    reader.sync()
    reader.close()
    found = {key[0] for members in reader.catalog.series.values() for key in members if key}
    return found, reader.catalog.damaged


def word(path: Path, number: int) -> int:
    """A word of the series file's head."""
    return int(struct.unpack_from("=Q", (path / "series").read_bytes(), number * fmt.WORD)[0])


def put(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file in place, as damage would."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def records(path: Path) -> list[tuple[int, int, int, Any]]:
    """Start, end, kind and body of each record of a sound series file."""
    data = (path / "series").read_bytes()[fmt.SERIES_HEAD_SIZE : word(path, fmt.COMMITTED)]
    found, start = [], fmt.SERIES_HEAD_SIZE
    for end, kind, body in decode_records(data):
        found.append((start, fmt.SERIES_HEAD_SIZE + end, kind, body))
        start = fmt.SERIES_HEAD_SIZE + end
    return found


def test_a_series_is_seen_by_a_reader_as_soon_as_it_is_made(provider: MakeProvider) -> None:
    """A reader that is kept open takes in what was committed since it last looked."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    reader = SeriesReader(str(epoch_of(mine)))
    reader.sync()
    before = len(reader.catalog.by_slot)

    hits.labels("200")
    reader.sync()

    assert (0, 1) == (before, len(reader.catalog.by_slot))
    reader.close()


def test_what_was_not_committed_is_overwritten(provider: MakeProvider, store_dir: str, scrape: Scrape) -> None:
    """Bytes past the commit, left by a writer that was killed, are no record; the next one takes their place."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("200").inc()
    committed = word(path, fmt.COMMITTED)
    half = encode_record(fmt.SERIES, [0, ["ghost"], 1, 1, 1.0])
    put(path / "series", committed, half)
    assert ({"200"}, 0) == series_in(path)

    hits.labels("4").inc()
    values = scrape(store_dir)

    assert ({"200", "4"}, 0) == series_in(path)
    assert [1, 1] == [values[f"hits_total{{code={code}}}"] for code in ("200", "4")]
    assert 0 == values["mpmetrics_damaged_records"]


def test_the_commit_is_what_makes_a_record(provider: MakeProvider) -> None:
    """The control of the one above: the same bytes are a record as soon as the commit lies behind them."""
    mine = provider()
    path = epoch_of(mine)
    mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine).labels("200").inc()
    committed = word(path, fmt.COMMITTED)
    half = encode_record(fmt.SERIES, [0, ["ghost"], 1, 1, 1.0, 0, 2])
    put(path / "series", committed, half)
    put(path / "series", fmt.COMMITTED * fmt.WORD, struct.pack("=Q", committed + len(half)))

    assert ({"200", "ghost"}, 0) == series_in(path)


def test_each_damaged_byte_of_a_record_costs_that_record_alone(provider: MakeProvider) -> None:
    """Whichever byte of a record in the middle is flipped, the ones before and behind it are read."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    names = {"first", "second", "third", "fourth", "fifth"}
    for name in ("first", "second", "third", "fourth", "fifth"):
        hits.labels(name).inc()
    start, end = next((start, end) for start, end, _, body in records(path) if body[1] == ["third"])
    sound = (path / "series").read_bytes()
    length = fmt.RECORD_HEAD.unpack_from(sound, start)[1]

    for offset in range(start, end):
        for flip in (0x01, 0x80, 0xFF):
            put(path / "series", offset, bytes([sound[offset] ^ flip]))
            is_padding = offset >= start + fmt.RECORD_HEAD.size + length
            expected = (names, 0) if is_padding else (names - {"third"}, 1)
            assert expected == series_in(path), f"byte {offset - start} flipped by {flip:#x}"
        put(path / "series", offset, sound[offset : offset + 1])

    assert (names, 0) == series_in(path)


def test_a_series_whose_record_was_damaged_is_made_anew_by_the_next_process(
    provider: MakeProvider, store_dir: str, fork: Fork, scrape: Scrape
) -> None:
    """A process that comes after the damage gives the series other slots; the damage is shown in the scrape."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    for name in ("first", "second", "third"):
        hits.labels(name).inc()
    start = next(start for start, _, _, body in records(path) if body[1] == ["second"])
    put(path / "series", start + 20, b"\xff")

    def write() -> None:
        later = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mpmetrics.Provider(store_dir))
        for name in ("first", "second", "third"):
            later.labels(name).inc(10)

    fork(write).result()
    values = scrape(store_dir)

    assert (11, 10, 11) == tuple(values[f"hits_total{{code={name}}}"] for name in ("first", "second", "third"))
    assert 1 == values["mpmetrics_damaged_records"]


def test_a_damaged_last_record_does_not_mix_its_values_into_another_series(
    provider: MakeProvider, store_dir: str, fork: Fork, scrape: Scrape
) -> None:
    """The slots of a series whose record was lost are not given to another one while its writers live."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("first").inc()
    hits.labels("lost").inc(1000)
    start = next(start for start, _, _, body in records(path) if body[1] == ["lost"])
    put(path / "series", start + 20, b"\xff")

    def write() -> None:
        later = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mpmetrics.Provider(store_dir))
        later.labels("fresh").inc(10)

    fork(write).result()
    hits.labels("lost").inc(1000)
    values = scrape(store_dir)

    assert 1 == values["hits_total{code=first}"]
    assert 10 == values["hits_total{code=fresh}"]


def test_a_damaged_last_family_does_not_give_its_number_to_another_one(
    provider: MakeProvider, store_dir: str, fork: Fork, scrape: Scrape
) -> None:
    """The number of a family whose record was lost is not given to another one while processes use it."""
    mine = provider()
    path = epoch_of(mine)
    lost = mpmetrics.Counter("lost", "Lost.", ["code"], provider=mine)
    start = next(start for start, _, _, body in records(path) if body[1]["name"] == "lost")
    put(path / "series", start + 20, b"\xff")

    def write() -> None:
        theirs = mpmetrics.Provider(store_dir)
        mpmetrics.Counter("fresh", "Fresh.", ["code"], provider=theirs).labels("200").inc(10)

    fork(write).result()
    lost.labels("200").inc(1000)
    lost.labels("404").inc(1000)
    values = scrape(store_dir)

    fresh = {name: value for name, value in values.items() if name.startswith("fresh_total")}
    assert {"fresh_total{code=200}": 10.0} == fresh


def test_processes_agree_on_the_slots_of_series_that_they_make_at_once(
    provider: MakeProvider, store_dir: str, fork: Fork, gate: Callable[..., Any], scrape: Scrape
) -> None:
    """Four processes make the same 300 series in different orders, each counting one: every total is four."""
    mine, begin = provider(), gate()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)

    def write(step: int) -> None:
        begin.wait()
        for number in range(300):
            hits.labels(str(number * step % 300)).inc()

    children = [fork(write, step) for step in (1, 7, 11, 299)]
    begin.open(4)
    for child in children:
        child.result()

    values = scrape(store_dir)
    assert {4.0} == {values[f"hits_total{{code={number}}}"] for number in range(300)}
    assert 0 == values["mpmetrics_damaged_records"]


CONFLICTS: list[Callable[[mpmetrics.Provider], object]] = [
    lambda theirs: mpmetrics.Gauge("thing", "Another kind.", ["a"], provider=theirs),
    lambda theirs: mpmetrics.Histogram("thing", "Other labels.", ["b"], provider=theirs),
    lambda theirs: mpmetrics.Histogram("thing", "Other buckets.", ["a"], buckets=(1, 2, 4), provider=theirs),
    lambda theirs: mpmetrics.Gauge("thing_sum", "A name that the histogram exposes.", provider=theirs),
]


@pytest.mark.parametrize("declare", CONFLICTS)
def test_the_process_that_comes_second_is_told_of_a_conflict(
    declare: Callable[[mpmetrics.Provider], object], provider: MakeProvider, store_dir: str, fork: Fork
) -> None:
    """A metric that is another one in another process: an error that names both places, and nothing is changed."""
    mine = provider()
    path = epoch_of(mine)
    mpmetrics.Histogram("thing", "Things.", ["a"], buckets=(1, 2, 3), provider=mine)
    first_line = 'origin":"' + __file__
    before = (path / "series").read_bytes()

    def second() -> str:
        theirs = mpmetrics.Provider(store_dir)
        with pytest.raises(mpmetrics.ConflictError) as caught:
            declare(theirs)
        assert [] == theirs.memory.families()
        return str(caught.value)

    message = fork(second).result()

    assert first_line.encode() in before
    assert 2 == message.count(f"{__file__}:")
    assert before == (path / "series").read_bytes()
    assert isinstance(mpmetrics.ConflictError("x"), ValueError)


def test_a_conflict_at_attachment_leaves_the_other_metrics_attached(
    provider: MakeProvider, store_dir: str, scrape: Scrape
) -> None:
    """Of metrics that waited for their store, the one that is another there is named; the others' values move in."""
    mine = provider()
    mpmetrics.Gauge("thing", "Things.", provider=mine)
    late = mpmetrics.Provider.deferred()
    mpmetrics.Counter("thing", "Counted.", provider=late).inc(7)
    mpmetrics.Counter("other", "Others.", provider=late).inc(3)

    with pytest.raises(mpmetrics.ConflictError, match="thing"):
        late.attach(Store(store_dir).join())

    values = scrape(store_dir)
    assert 3 == values["other_total"]
    assert "thing_total" not in values
    late.shutdown()


@pytest.fixture
def locked(fork: Fork, gate: Callable[..., Any]) -> Callable[[Path], Any]:
    """Starts a process that takes the append lock and is then stopped."""

    def start(path: Path) -> Any:
        taken = gate()

        def hold() -> None:
            with (path / "series.lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                taken.open()
                time.sleep(60)

        holder = fork(hold)
        taken.wait()
        os.kill(holder.pid, signal.SIGSTOP)
        return holder

    return start


def test_nobody_waits_for_a_stopped_process_and_nothing_is_lost(
    provider: MakeProvider,
    store_dir: str,
    locked: Callable[[Path], Any],
    scrape: Scrape,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the append lock held by a stopped process new series count privately, and move in once it is let go."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    sizes = mpmetrics.Histogram("sizes", "Sizes.", ["code"], buckets=(1, 2), provider=mine)
    level = mpmetrics.Gauge("level", "Level.", ["code"], multiprocess_mode="max", provider=mine)
    hits.labels("old").inc()
    holder = locked(epoch_of(mine))

    begin = time.monotonic()
    with caplog.at_level(logging.WARNING, "mpmetrics"):
        hits.labels("old").inc()
        for _ in range(3):
            hits.labels("new").inc()
            sizes.labels("new").observe(1.5)
            level.labels("new").set(-4)
    assert time.monotonic() - begin < 20  # not for ever: a few bounded waits
    meanwhile, own = scrape(store_dir), scrape(mine)
    holder.stop()
    hits.labels("new").inc()
    mine.force_flush()
    values = scrape(store_dir)

    assert (2, None) == (meanwhile["hits_total{code=old}"], meanwhile.get("hits_total{code=new}"))
    assert 1 <= meanwhile["mpmetrics_drops_total"]
    assert (2, 3, 4.5, -4) == tuple(
        own[name] for name in ("hits_total{code=old}", "hits_total{code=new}", "sizes_sum{code=new}", "level{code=new}")
    )
    assert (2, 4, 4.5, 3, -4) == tuple(
        values[name]
        for name in (
            "hits_total{code=old}",
            "hits_total{code=new}",
            "sizes_sum{code=new}",
            "sizes_count{code=new}",
            "level{code=new}",
        )
    )
    assert values == values | {name: value for name, value in scrape(mine).items() if name.startswith("hits")}
    assert [] == list(mine.memory.private_values())
    assert len(caplog.records) <= 3  # one a cause, not one an operation


def pause_at(line: str, reached: threading.Event, go: threading.Event) -> Callable[..., Any]:
    """A trace function that waits before a line of the append lock's ``acquire``."""
    lines, first = inspect.getsourcelines(AppendLock.acquire)
    number = first + next(at for at, text in enumerate(lines) if text.strip().startswith(line))

    def trace(frame: Any, event: str, _: object) -> Any:
        if event == "line" and frame.f_code is AppendLock.acquire.__code__ and frame.f_lineno == number:
            reached.set()
            go.wait(10)
        return trace

    return trace


@pytest.mark.parametrize("line", ["self._user = user", "taken = self._flock(timeout)", "return taken"])
def test_a_lock_that_is_being_taken_is_not_taken_for_abandoned(fast_dir: Path, line: str) -> None:
    """A thread that the scheduler leaves in the middle of taking the lock has it, whoever comes meanwhile."""
    lock = AppendLock(str(fast_dir / "lock"), lambda: 0)
    reached, go, done = threading.Event(), threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def slow() -> None:
        sys.settrace(pause_at(line, reached, go))
        try:
            assert lock.acquire(1.0)
            sys.settrace(None)
            lock.release()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            failed.append(error)
        done.set()

    thread = threading.Thread(target=slow)
    thread.start()
    assert reached.wait(10)
    assert not lock.acquire(0.0)
    assert not lock.acquire(0.0)
    go.set()
    assert done.wait(10)
    thread.join()

    assert [] == failed
    assert lock.acquire(0.0)
    lock.release()
    lock.close()


def test_a_lock_that_was_abandoned_is_made_anew(fast_dir: Path) -> None:
    """What a signal handler's exception left taken is free again, even while a thread waits to move values in."""
    lock = AppendLock(str(fast_dir / "lock"), lambda: 0)
    gone = threading.Thread(target=lock.acquire, args=(0.0,))
    gone.start()
    gone.join()
    asleep, end = threading.Event(), threading.Event()

    def is_needed() -> bool:
        asleep.set()
        return not end.is_set()

    retry = Retry(pure.Guard(), lambda _: None, is_needed)
    retry.wanted()
    asleep.wait(10)

    assert not lock.acquire(0.05)
    assert lock.acquire(1.0)
    lock.release()
    end.set()
    lock.close()


def test_a_first_write_does_not_wait_for_a_stopped_process(
    provider: MakeProvider,
    store_dir: str,
    locked: Callable[[Path], Any],
    scrape: Scrape,
) -> None:
    """A process that cannot link its slab counts privately, and its words move into the slab later."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    holder = locked(epoch_of(mine))

    hits.inc(5)
    meanwhile = scrape(store_dir)
    holder.stop()
    hits.inc()
    mine.force_flush()
    hits.inc()

    assert 0 == meanwhile["hits_total"]
    assert 1 <= meanwhile["mpmetrics_drops_total"]
    assert 7 == scrape(store_dir)["hits_total"]


def test_threads_lose_nothing_while_the_first_write_waits_long(
    provider: MakeProvider,
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slab that takes long to lease: threads that write meanwhile lose nothing, and lease no other."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    inside = threading.Event()
    make = segments.Slab
    made = []

    def slow(*arguments: Any, **named: Any) -> Any:
        inside.set()
        time.sleep(0.3)
        made.append(make(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(segments, "Slab", slow)

    def write() -> None:
        assert inside.wait(30)
        for _ in range(500):
            hits.inc()
            time.sleep(0.001)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    hits.inc()
    for thread in threads:
        thread.join()

    assert 1501 == scrape(store_dir)["hits_total"]
    assert 1 == len(made)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compacts as soon as a handful of records are of no use."""
    monkeypatch.setattr(directory_module, "COMPACT_AT", 6)


def churn(hits: mpmetrics.Counter, name: str) -> None:
    """Make and remove series until the file is compacted."""
    for number in range(8):
        hits.labels(f"{name}-{number}").inc()
    for number in range(8):
        hits.remove(f"{name}-{number}")


@pytest.mark.usefixtures("eager")
def test_other_processes_notice_a_compaction(
    provider: MakeProvider, store_dir: str, fork: Fork, gate: Callable[..., Any], scrape: Scrape
) -> None:
    """Writers and readers that hold the old file go on with the new one: no series is lost or made twice."""
    mine = provider()
    path = epoch_of(mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("kept").inc()
    ready, go_on = gate(), gate()

    def write() -> None:
        hits.labels("kept").inc()
        hits.labels("theirs").inc()
        ready.open()
        go_on.wait()
        hits.labels("kept").inc()
        hits.labels("late").inc()

    collector = mpmetrics.Collector(store_dir)
    child = fork(write)
    ready.wait()
    before = scrape(collector)
    inode = (path / "series").stat().st_ino
    churn(hits, "gone")
    go_on.open()
    child.result()
    hits.labels("late").inc()
    hits.labels("kept").inc()
    values = scrape(collector)

    assert inode != (path / "series").stat().st_ino
    assert 1 == before["hits_total{code=theirs}"]
    assert {"kept": 4, "theirs": 1, "late": 2} == {
        name.partition("code=")[2].rstrip("}"): value for name, value in values.items() if name.startswith("hits_total")
    }
    assert values["mpmetrics_series"] == scrape(store_dir)["mpmetrics_series"] == 3


@pytest.mark.usefixtures("eager")
def test_a_compaction_that_finds_no_room_changes_nothing(
    provider: MakeProvider, store_dir: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for a second copy removals go on in the file as it is."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("kept").inc()
    inode = (epoch_of(mine) / "series").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "create_series_file", full)
        churn(hits, "gone")
    assert inode == (epoch_of(mine) / "series").stat().st_ino
    hits.labels("kept").inc()

    assert 2 == scrape(store_dir)["hits_total{code=kept}"]
    assert 1 == scrape(store_dir)["mpmetrics_series"]


def test_a_deleted_store_harms_no_request(provider: MakeProvider, store_dir: str, fork: Fork) -> None:
    """With the store deleted under it a process counts on, makes series, forks, and brings no part of it back."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    hits.labels("old").inc()
    collector = mpmetrics.Collector(store_dir)
    collector.readings()
    shutil.rmtree(store_dir)

    def write() -> None:
        hits.labels("old").inc()
        hits.labels("new").inc()
        hits.labels("new").inc()

    write()
    fork(write).result()
    readings = {reading.name: reading for reading in collector.readings()}

    assert 0 == readings["mpmetrics_store_up"].samples[0].value
    assert not Path(store_dir).exists()
