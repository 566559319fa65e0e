"""Directories, pipes, links, sockets and other things in the place of a file of the store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold

Differ = Callable[[dict[str, float], dict[str, float]], set[str]]

SLABS = ("retired", "live", "dead")
DATA = (*SLABS, "shared", "removals")
LOCKS = ("lease", "fold.lock", "removals.lock", "server", "../lock")
GONE = {"hits_total[('code', 'gone')]"}
"""What a removal removed, and nothing else."""


def words_swapped(whole: bytes) -> bytes:
    """As a machine of the other byte order would write it."""
    return whole[:8] + b"".join(whole[at : at + 8][::-1] for at in range(8, len(whole) - 7, 8))


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "text": lambda _: b"#!/bin/sh\necho hello\n" * 999,
    "zeros": lambda whole: bytes(len(whole)),
    "ones": lambda whole: b"\xff" * max(len(whole), 9000),
    "a magic and no more": lambda whole: whole[:8],
    "a head and zeros": lambda whole: whole[:60].ljust(len(whole), b"\0"),
    "other byte order": words_swapped,
    **{
        f"version {version}": lambda whole, version=version: whole[:8] + version.to_bytes(4, "little") + whole[12:]
        for version in (0, 1, 3, 1 << 31, (1 << 32) - 1)
    },
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


def check(store: Any, differ: Differ, what: str) -> None:
    """Check both collectors: the new one shows all but this file, the old one what it knew, and both count the file."""
    values, figures = store.fresh()
    is_damaged = what == "removals" and figures["damaged_records[]"]
    assert 1 == figures["unreadable_files[]"] + is_damaged
    assert set(GONE if what not in SLABS else ()) == differ(store.without.get(what, store.whole), values)
    values, figures = store.early.values()
    if what in SLABS:
        # What it has mapped it goes on showing, as of a file that a cleaner removed.
        assert differ(store.whole, values) <= differ(store.whole, store.without[what])
    else:
        assert set() == differ(store.whole, values)
    assert figures["unreadable_files[]"] in (0, 1, 2)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("what", DATA)
def test_other_content(what: str, content: str, store: Any, differ: Differ, caplog: pytest.LogCaptureFixture) -> None:
    """A file of other bytes, another version or another byte order is skipped, counted and named."""
    whole = store.read(what, 0, 8192)
    is_removals = what == "removals" and (
        content in ("nothing", "zeros", "a magic and no more") or "version" in content
    )
    if is_removals or (what not in SLABS and content == "a head and zeros"):
        return  # that may well be one
    store.replace(what, lambda where: Path(where).write_bytes(CONTENTS[content](whole)))
    check(store, differ, what)
    assert store.where(what) in caplog.text
    store.put_back(what)
    if what == "shared":
        return  # all processes map it, and none checks its head again

    # The very file, under the open collector's map, as large as before.
    store.patch(what, 0, CONTENTS[content](whole)[:8192].ljust(8192, b"\0"))
    _, figures = store.fresh()
    assert 1 == figures["unreadable_files[]"] + min(1.0, figures["damaged_records[]"])
    store.early.values()
    store.restore(what)
    for values, figures in (store.fresh(), store.early.values()):
        assert (set(), 0) == (differ(store.whole, values), figures["unreadable_files[]"])


@pytest.mark.parametrize("other", [*DATA, "lease"])
@pytest.mark.parametrize("what", SLABS)
def test_another_kind_of_file_under_this_name(what: str, other: str, store: Any, differ: Differ) -> None:
    """A file under another file's name is not taken for that file, and no slab counts twice."""
    if what == other:
        return
    store.replace(what, lambda where: os.link(store.where(other), where))
    if {what, other} == {"live", "dead"}:  # one slab under two names
        values, figures = store.fresh()
        changed = {name for name in differ(store.without[what], values) if not name.startswith(("all", "live"))}
        assert (set(), 0) == (changed, figures["unreadable_files[]"])
        return
    check(store, differ, what)


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_slab_under_a_second_name_does_not_count_twice(store: Any, differ: Differ, *, is_copy: bool) -> None:
    """A slab's identity tells a link or a copy of it. The control: a copy with another identity counts."""
    second = os.path.join(store.path, "dead-1-1")
    if is_copy:
        subprocess.run(["/bin/cp", "--sparse=always", store.where("dead"), second], check=True)
    else:
        os.link(store.where("dead"), second)
    for values, _ in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
    store.let_fold()
    once = store.fresh()[0]
    assert {"all[('worker', '1'), ('x', 'y')]"} >= differ(store.whole, once)
    if is_copy:
        head = fmt.pack_slab(b"another of these", 1, 1.0)
        os.unlink(second) if os.path.exists(second) else None
        store.restore("retired")
        subprocess.run(["/bin/cp", "--sparse=always", store.where("live"), second], check=True)
        with open(second, "r+b") as file:
            file.write(head)
        assert set() != differ(store.whole, store.fresh()[0])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", DATA)
def test_something_that_is_no_file(what: str, place: str, store: Any, differ: Differ) -> None:
    """A directory, a pipe or a symbolic link, even one to the right file, is refused, and no scrape waits for it."""
    store.replace(what, PLACES[place])
    check(store, differ, what)
    store.put_back(what)
    assert set() == differ(store.whole, store.fresh()[0])


@pytest.mark.parametrize("what", DATA)
def test_a_socket(what: str, store: Any, differ: Differ, put_socket: Callable[[str], None]) -> None:
    """A socket in the place of a file is refused, too."""
    store.replace(what, put_socket)
    check(store, differ, what)


@pytest.mark.parametrize("place", [*PLACES, "text", "missing"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_that_is_something_else(lock: str, place: str, store: Any, differ: Differ) -> None:
    """The content of a lock file does not matter, and no scrape fails whatever takes its place."""
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
@pytest.mark.parametrize(
    "name", ["ask-3-" + "ab" * 16, "new-retired-x", "new-removals-x", "new-slab-x", "new-ask-x", "dead-1-1"]
)
def test_a_left_over_that_is_something_else_keeps_no_process_from_folding(
    name: str, place: str, store: Any, differ: Differ
) -> None:
    """Whatever has the name of a socket or of an unfinished file, the dead are folded and the scrape is whole."""
    PLACES[place](os.path.join(store.path, name))
    store.let_fold()

    values, figures = store.fresh()

    expected = {key for key in differ(store.whole, values) if key.startswith("live")}
    assert expected == differ(store.whole, values)
    assert not os.path.exists(store.where("dead"))
    assert 2 == figures["folds_total[]"]


def test_a_folded_slab_that_cannot_be_removed_does_not_count_again(
    store: Any, differ: Differ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retired file keeps a folded slab in its list as long as the slab's file exists, through later folds."""
    unlink = os.unlink

    def refuse(path: str, **named: Any) -> None:
        if path == store.names["dead"]:
            raise PermissionError(path)
        unlink(path, **named)

    store.let_fold()
    monkeypatch.setattr(os, "unlink", refuse)
    assert 1 == fold(store.path)
    before = store.fresh()[0]
    for _ in range(2):
        assert 0 == fold(store.path, at_least=0)

    assert os.path.exists(store.where("dead"))
    assert set() == differ(before, store.fresh()[0])
    monkeypatch.undo()
    fold(store.path, at_least=0)
    assert not os.path.exists(store.where("dead"))
    assert set() == differ(before, store.fresh()[0])


def test_a_mark_alone_makes_no_slab_folded(store: Any, differ: Differ) -> None:
    """A slab that is marked as folded, but that the retired file does not name, counts."""
    for what in ("live", "dead"):
        store.put_word(what, fmt.RETIRED, 1)
    for values, _ in (store.fresh(), store.early.values()):
        assert set() == differ(store.whole, values)
    store.let_fold()
    values, figures = store.fresh()
    assert {name for name in differ(store.whole, values) if not name.startswith("live")} == set()
    assert 2 == figures["folds_total[]"]


@pytest.mark.parametrize("what", ["live", "dead"])
def test_a_file_that_is_truncated_while_it_is_mapped(what: str, store: Any, differ: Differ) -> None:
    """A file that is cut between scrapes is left out until it is whole: sizes are checked before words are touched."""
    for length in (0, 1, 4095, 4096, 8192, fmt.AREA_0):
        store.early.values()
        os.truncate(store.where(what), length)
        values, figures = store.early.values()
        assert 1 == figures["unreadable_files[]"]
        assert set() == differ(store.without[what], values)
        store.restore(what)
        store.early.values()
        assert set() == differ(store.whole, store.early.values()[0])


TOUCH = """
import tempfile
from mpmetrics._cells import Map
with tempfile.TemporaryFile() as file:
    file.truncate(1 << 16)
    words = memoryview(Map(file.fileno(), 1 << 16))
    assert words[0] == 0
    file.truncate(0)
    words[0]
"""


def test_without_the_look_at_the_size_a_truncated_map_ends_the_process() -> None:
    """The control, and the limit: a file that is cut while it is being read ends the reading process."""
    done = subprocess.run([sys.executable, "-c", TOUCH], capture_output=True, check=False, timeout=100)
    assert done.returncode in (-7, 1 if b"AddressSanitizer" in done.stderr else -7)


def test_no_descriptors_are_left_open(store: Any) -> None:
    """Scrapes of files that are something else leave no descriptor open."""
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
    """The scrape does not wait, reports the worker as late, and shows all other metrics."""
    provider = mpmetrics.Provider(tmp_path / "store")
    try:
        mpmetrics.Counter("hits", "Hits.", provider=provider).inc()
        slab = provider.memory.slab_name
        assert slab is not None
        where = os.path.join(provider.epoch.path, f"ask-{slab.ordinal}-{slab.identity}")  # type: ignore[union-attr]
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
        assert time.monotonic() - start < 60  # a wait for the socket would not end
    finally:
        provider.shutdown()
