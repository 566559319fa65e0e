"""Something else in the place of a file of the store: every kind of file, and everything that can have its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.storage import format as fmt
from mpmetrics.storage import reader
from mpmetrics.storage.fold import fold

Differ = Callable[[dict[str, float], dict[str, float]], set[str]]
InProcess = Callable[..., str]

DATA = ("series", "retired", "live", "dead")
LOCKS = ("lease", "series.lock", "fold.lock", "../lock")
VERSIONS = (0, 2, 1 << 31, (1 << 32) - 1)


def newer(version: int) -> Callable[[bytes], bytes]:
    """The file as another release might write it."""
    return lambda whole: whole[:8] + version.to_bytes(4, fmt.BYTE_ORDER) + whole[12:]


def swapped(whole: bytes) -> bytes:
    """As a machine of the other byte order would write it."""
    words = [whole[at : at + 8][::-1] for at in range(0, len(whole) - 7, 8)]
    return whole[:8] + b"".join(words[1:])


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "text": lambda _: b"#!/bin/sh\necho hello\n" * 999,
    "zeros": lambda whole: bytes(len(whole)),
    "ones": lambda whole: b"\xff" * len(whole),
    "a magic and no more": lambda whole: whole[:8],
    "a head and zeros": lambda whole: whole[:64].ljust(len(whole), b"\0"),
    "other byte order": swapped,
    "twice": lambda whole: whole + whole,
    **{f"version {version}": newer(version) for version in VERSIONS},
}


def directory(where: str) -> None:
    """A directory with something in it."""
    Path(where, "more").mkdir(parents=True)


PLACES: dict[str, Callable[[str], object]] = {
    "directory": directory,
    "fifo": os.mkfifo,
    "symlink to itself": lambda where: os.symlink(where, where),
    "symlink to nowhere": lambda where: os.symlink("/nonexistent/at/all", where),
    "symlink to zeros without end": lambda where: os.symlink("/dev/zero", where),
    "symlink to the file": lambda where: os.symlink(where + ".away", where),
}


def check(store: Any, differ: Differ, what: str, *, is_gone: bool) -> None:
    """What both collectors show with a file that is none; ``is_gone``: the early one cannot have it either."""
    values, figures = store.fresh()
    assert 1 == figures["unreadable_files[]"] + (figures["damaged_records[]"] if what == "series" else 0)
    expected = {} if what == "series" else store.without[what]
    assert set() == differ(expected, values)
    values, figures = store.early.values()
    if is_gone:
        assert differ(store.whole, values) in (set(), differ(store.whole, expected))
    assert figures["unreadable_files[]"] in (0, 1)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("what", DATA)
def test_other_content(what: str, content: str, store: Any, differ: Differ, caplog: pytest.LogCaptureFixture) -> None:
    """A file of other bytes, another version or another byte order is skipped, counted and named."""
    store.replace(what, lambda where: Path(where).write_bytes(CONTENTS[content](store.files[what])))
    if content == "twice" and what != "retired":  # what stands behind the end of a slab is growth that was cut short
        values, figures = store.fresh()
        # Nobody holds the lock of the new file, so the live one's owner is dead.
        assert what == "live" or set() == differ(store.whole, values)
        assert {name for name in differ(store.whole, values) if not name.startswith("live")} == set()
        assert (what == "series") == (figures["damaged_records[]"] > 0)
        return
    check(store, differ, what, is_gone=True)
    assert store.where(what) in caplog.text
    store.put_back(what)

    store.write(what, CONTENTS[content](store.files[what]))  # the very file, under the open collector's map
    values, figures = store.fresh()
    assert 1 == figures["unreadable_files[]"] + (figures["damaged_records[]"] if what == "series" else 0)
    store.early.values()
    store.restore(what)
    values, figures = store.fresh()
    assert (set(), 0) == (differ(store.whole, values), figures["unreadable_files[]"])
    store.early.values()
    assert set() == differ(store.whole, store.early.values()[0])


@pytest.mark.parametrize(
    ("what", "other"), [(what, other) for what in DATA for other in (*DATA, "lease") if what != other]
)
def test_another_kind_of_file_under_this_name(what: str, other: str, store: Any, differ: Differ) -> None:
    """Another file of the store in the place of one: it is not taken for it, and a slab does not count twice."""
    data = store.files.get(other, b"")
    store.replace(what, lambda where: Path(where).write_bytes(data))
    check(store, differ, what, is_gone=True)


def test_a_slab_under_a_second_name_does_not_count_twice(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a slab is refused: its name is not that of its head. The control counts it."""
    copy = os.path.join(store.path, "slab-7-" + "ab" * 16)
    shutil.copyfile(store.where("live"), copy)

    values, figures = store.fresh()
    assert (set(), 1) == (differ(store.whole, values), figures["unreadable_files[]"])

    monkeypatch.setattr(reader, "slab_name", lambda *_: os.path.basename(copy))
    os.unlink(store.where("dead"))
    os.rename(store.where("live"), store.where("live") + ".away")
    assert set() != differ(store.whole, store.fresh()[0])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", DATA)
def test_something_that_is_no_file(what: str, place: str, store: Any, differ: Differ) -> None:
    """A directory, a pipe, a symbolic link, even one to the very file: refused, without waiting for anybody."""
    store.replace(what, PLACES[place])
    check(store, differ, what, is_gone=True)
    store.put_back(what)
    assert set() == differ(store.whole, store.fresh()[0])


@pytest.mark.parametrize("what", DATA)
def test_a_socket(what: str, store: Any, differ: Differ, put_socket: Callable[[str], None]) -> None:
    """A socket in the place of a file."""
    store.replace(what, put_socket)
    check(store, differ, what, is_gone=True)


@pytest.mark.parametrize("place", [*PLACES, "text", "missing"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_that_is_something_else(lock: str, place: str, store: Any, differ: Differ) -> None:
    """What is in a lock's file does not matter, and what stands in its place takes no scrape down."""
    make = PLACES.get(place)
    if place == "text":
        make = lambda where: Path(where).write_bytes(b"not a lock " * 999)  # noqa: E731
    if lock == "fold.lock":
        store.hold(store.names["dead"])  # it lives: else it would be folded, where that can be done
        store.let_fold()
    store.replace(lock, make or (lambda _: None))

    for values, figures in (store.fresh(), store.early.values()):
        assert 0 == figures["unreadable_files[]"]
        changed = {name for name in differ(store.whole, values) if not name.startswith("live")}
        assert set() == changed


@pytest.mark.parametrize("place", ["directory", "fifo", "symlink to nowhere", "symlink to zeros without end"])
@pytest.mark.parametrize("name", ["ask-3-" + "ab" * 16, "new-retired-x", "new-slab-x", "new-series-x", "new-ask-x"])
def test_a_left_over_that_is_something_else_keeps_nobody_from_folding(
    name: str, place: str, store: Any, differ: Differ
) -> None:
    """Whatever has the name of a socket or of an unfinished file: the dead are folded, and the scrape is whole."""
    PLACES[place](os.path.join(store.path, name))
    store.let_fold()

    values, figures = store.fresh()

    expected = {key for key in differ(store.whole, values) if key.startswith(("all", "live"))}
    assert expected == differ(store.whole, values)
    assert not os.path.exists(store.where("dead"))
    assert 2 == figures["folds_total[]"]


def test_a_folded_slab_that_cannot_be_removed_does_not_count_again(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is there the retired file has it in its list, however often others are folded."""
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == store.where("dead"):
            raise PermissionError(path)
        unlink(path)

    store.let_fold()
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        fold(store.path)
    before = store.fresh()[0]
    for _ in range(2):
        with pytest.raises(PermissionError):  # said each time, once all that can be folded is
            fold(store.path, at_least=0)

    assert os.path.exists(store.where("dead"))
    assert set() == differ(before, store.fresh()[0])


def test_damaged_records_keep_the_dead_where_they_are(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is damaged is not folded away: a collector that knows the series from before goes on showing all of it.

    Until the dead are many; as the control shows, their share of the damaged series ends there, and nothing else.
    """
    (record,) = [record for record in store.records if record.family == "hits" and record.key == ("404",)]
    store.patch("series", record.start + 20, b"\xff")
    store.let_fold()

    values, figures = store.fresh()

    assert store.samples_of(record) == differ(store.whole, values)
    assert 1 == figures["damaged_records[]"]
    assert os.path.exists(store.where("dead"))
    assert set() == differ(store.whole, store.early.values()[0])

    monkeypatch.setattr("mpmetrics.storage.fold.DAMAGED_AT", 1)
    values, _ = store.early.values()
    assert not os.path.exists(store.where("dead"))
    changed = {name for name in differ(store.whole, values) if not name.startswith(("all", "live"))}
    assert store.samples_of(record) == changed


@pytest.mark.parametrize("what", ["series", "live"])
def test_a_file_that_is_truncated_while_it_is_mapped(what: str, store: Any, differ: Differ) -> None:
    """Between two scrapes: sizes are looked at before the words are touched. Whole again, it is read again."""
    for length in (0, 1, 4095, 4096):
        store.early.values()
        os.truncate(store.where(what), length)
        values, figures = store.early.values()
        assert 1 == figures["unreadable_files[]"] + min(1.0, figures["damaged_records[]"])
        assert what == "series" or set() == differ(store.without[what], values)
        store.restore(what)
        store.early.values()
        assert set() == differ(store.whole, store.early.values()[0])


TOUCH = """
import mmap, os, sys, tempfile
from mpmetrics._cells import load
from array import array
with tempfile.TemporaryFile() as file:
    file.truncate(1 << 16)
    words = memoryview(mmap.mmap(file.fileno(), 1 << 16, prot=mmap.PROT_READ)).cast("d")
    file.truncate(0)
    load(words, 8192, array("q"))
"""


def test_without_the_look_at_the_size_a_truncated_map_ends_the_process() -> None:
    """The control, and the limit: what is cut short between that look and the end of the reading is fatal."""
    done = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, check=False, timeout=50)
    assert done.returncode in (-7, 1 if b"AddressSanitizer" in done.stderr else -7)


def test_no_descriptors_are_left_open(store: Any) -> None:
    """However often files are found to be something else."""
    store.replace("retired", os.mkfifo)
    store.replace("dead", directory)
    store.write("live", b"")
    store.early.values()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.early.values()
        store.fresh()
    assert before >= len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("place", ["text", "directory", "symlink to nowhere", "fifo"])
def test_a_worker_whose_socket_is_something_else_is_said_to_be_late(place: str, tmp_path: Path) -> None:
    """Its callbacks are not run, which shows; the scrape does not wait, and the rest is there."""
    provider = mpmetrics.Provider(tmp_path / "store")
    try:
        mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
        name = provider.memory.segments.slab_name.file.replace("slab-", "ask-")  # type: ignore[union-attr]
        where = os.path.join(provider.epoch.path, name)  # type: ignore[union-attr]
        if place == "text":
            Path(where).write_text("hello", encoding="utf-8")
        else:
            PLACES[place](where)
        start = time.monotonic()
        collector = mpmetrics.Collector(str(tmp_path / "store"))
        body = collector.render()[1].decode()
        collector.close()
        assert "\nhits_total 1.0\n" in body
        assert place == "symlink to nowhere" or '\nmpmetrics_late_workers{worker="0"} 1.0\n' in body
        assert time.monotonic() - start < 20
    finally:
        provider.shutdown()
