"""Moments between two steps: what happens when something comes in between, each forced."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import provider as provider_module
from mpmetrics.errors import StoreError, StoreUnavailableError
from mpmetrics.storage import directory as directory_module
from mpmetrics.storage import format as fmt
from mpmetrics.storage.slab import Slab

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeProvider = Callable[..., mpmetrics.Provider]
    Fork = Callable[..., Any]
    Scrape = Callable[..., dict[str, float]]


def test_a_removal_just_before_a_slab_is_linked_is_seen(
    provider: MakeProvider,
    fork: Fork,
    gate: Callable[..., Any],
    store_dir: str,
    scrape: Scrape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A series that is removed while a slab is being made takes no value with it into its slots' next use."""
    monkeypatch.setattr(directory_module, "REUSE_AT", 1)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())
    hits.labels("first").inc()
    about_to_link, go_on = gate(), gate()

    def write() -> None:
        held = hits.labels("old")
        init = Slab.__init__

        def pause(self: Slab, path: str, **options: Any) -> None:
            about_to_link.open()
            go_on.wait()
            init(self, path, **options)

        Slab.__init__ = pause  # type: ignore[method-assign]
        held.inc(1000)
        held.inc(1000)

    child = fork(write)
    about_to_link.wait()
    hits.remove("old")
    hits.labels("new").inc()
    go_on.open()
    child.result()

    values = scrape(store_dir)
    assert 1 == values["hits_total{code=new}"]
    assert "hits_total{code=old}" not in values


def test_a_removal_that_is_cut_short_removes_what_it_could_and_says_so(
    provider: MakeProvider, store_dir: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full in the middle of a removal, everybody is told what went, and the next is another one."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    for number in range(1500):
        hits.labels(str(number)).inc()
    directory = mine.memory.directory
    assert directory is not None
    append = directory_module.SeriesDirectory._append
    done = []

    def fail_second(self: Any, kind: int, body: list[Any]) -> None:
        if kind == fmt.REMOVED:
            done.append(body)
            if len(done) == 2:
                raise StoreUnavailableError("no room")
        append(self, kind, body)

    before = directory.generation
    with monkeypatch.context() as patch:
        patch.setattr(directory_module.SeriesDirectory, "_append", fail_second)
        with pytest.raises(StoreError):
            hits.clear()
    assert mine.memory.removals.is_due
    assert before < directory.generation
    hits.labels("0").inc()
    assert directory.generation == directory.seen
    values = scrape(store_dir)
    assert [1, 1, 1] == [values[f"hits_total{{code={code}}}"] for code in ("0", "1000", "1499")]
    assert 501 == sum(name.startswith("hits_total") for name in values)
    before = directory.generation
    hits.clear()
    assert before < directory.generation
    assert not [name for name in scrape(store_dir) if name.startswith("hits_total")]


def test_the_first_write_of_a_series_in_used_slots_counts(
    provider: MakeProvider, store_dir: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that were freed before this process had a slab lose nothing of the series that get them next."""
    monkeypatch.setattr(directory_module, "REUSE_AT", 1)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider())
    for number in range(80):
        hits.labels(f"old-{number}")
    hits.clear()
    for number in range(80):
        hits.labels(f"new-{number}").inc(5)

    values = scrape(store_dir)
    assert {5.0} == {values[f"hits_total{{code=new-{number}}}"] for number in range(80)}


def test_an_append_lock_that_an_exception_left_taken_is_taken_back(provider: MakeProvider) -> None:
    """An exception between taking the lock and using it costs a wait, once, and then the lock is there again."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    directory = mine.memory.directory
    assert directory is not None
    taker = threading.Thread(target=lambda: directory.lock.acquire(1.0))
    taker.start()
    taker.join()

    hits.labels("200").inc()
    deadline = time.monotonic() + 10
    while list(mine.memory.private_values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [] == list(mine.memory.private_values())


def test_scrapes_beside_a_storm_of_removals_have_the_rest(
    provider: MakeProvider, fork: Fork, gate: Callable[..., Any], store_dir: str, scrape: Scrape
) -> None:
    """While series come and go all the time, no scrape misses one that stays."""
    mine = provider()
    stays = mpmetrics.Counter("stays", "Stays.", provider=mine)
    stays.inc(7)
    goes = mpmetrics.Counter("goes", "Goes.", ["code"], provider=mine)
    stop = gate()

    def churn() -> None:
        while not stop.is_open:
            goes.labels("one").inc()
            goes.remove("one")

    child = fork(churn)
    collector = mpmetrics.Collector(store_dir)
    seen = {scrape(collector).get("stays_total") for _ in range(300)}
    stop.open()
    child.result()
    assert {7.0} == seen


@pytest.mark.parametrize("writes", [False, True], ids=["holds-an-older-series", "writes-an-older-series"])
def test_an_idle_process_keeps_no_slots_from_others(
    writes: bool,  # noqa: FBT001 (the case)
    provider: MakeProvider,
    fork: Fork,
    gate: Callable[..., Any],
) -> None:
    """A process with a slab that never looks at labels again does not make the files grow while others come and go."""
    mine = provider()
    plain = mpmetrics.Counter("plain", "Plain.", provider=mine)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    ready, stop = gate(), gate()

    def idle() -> None:
        plain.inc()
        ready.open()
        while not stop.is_open:
            if writes:
                plain.inc()
            time.sleep(0.01)

    child = fork(idle)
    ready.wait()
    for number in range(2000):
        hits.labels(f"session-{number}").inc()
        hits.remove(f"session-{number}")
    directory = mine.memory.directory
    assert directory is not None
    stop.open()
    child.result()
    assert directory.words[fmt.NEXT_SLOT] < 3 * directory_module.REUSE_AT


def test_a_conflict_never_comes_out_of_labels(provider: MakeProvider, store_dir: str, fork: Fork) -> None:
    """A metric that turns out to be another one in the store counts privately; requests go on."""
    mine = mpmetrics.Provider.deferred()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)

    def declare() -> None:
        mpmetrics.Gauge("hits", "Hits.", ["code"], provider=mpmetrics.Provider(store_dir))

    fork(declare).result()
    store = provider()
    assert store.epoch is not None
    with pytest.raises(mpmetrics.ConflictError):
        mine.attach(store.epoch)

    hits.labels("200").inc()
    assert [[1.0]] == [value.words for value in mine.memory.private_values()]


def test_a_second_store_is_refused(provider: MakeProvider, tmp_path: Any) -> None:
    """A provider counts in one store; another one raises, and the first goes on."""
    mine = provider()
    other = mpmetrics.Provider(tmp_path / "other")
    assert other.epoch is not None
    with pytest.raises(StoreError):
        mine.attach(other.epoch)


def test_a_fork_while_the_default_provider_is_made(fork: Fork) -> None:
    """A child that is forked while another thread makes the default provider makes its own and does not hang."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(dict[str, str]):
        def get(self, *_: object) -> Any:
            inside.set()
            go_on.wait(30)

    mpmetrics.set_provider(None)
    thread = threading.Thread(target=mpmetrics.get_provider, args=(Slow(),))
    thread.start()
    assert inside.wait(30)
    try:
        child = fork(lambda: mpmetrics.get_provider({}) is not None)
        assert child.result()
    finally:
        go_on.set()
        thread.join()
        mpmetrics.set_provider(None)
    assert provider_module._default.provider is None


def test_a_stopped_folder_stops_no_scrape(
    provider: MakeProvider, fork: Fork, gate: Callable[..., Any], scrape: Scrape
) -> None:
    """A process that is stopped while it holds the fold lock delays no scrape, and none is lost from the totals."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    hits.inc()
    fork(lambda: hits.inc(10)).result()
    assert mine.epoch is not None
    path = mine.epoch.path
    held = gate()

    def hold() -> None:
        from mpmetrics.storage.exclusive import mutex  # noqa: PLC0415 (in the child alone)

        with mutex(f"{path}/fold.lock", 5.0):
            held.open()
            signal.pause()

    child = fork(hold)
    held.wait()
    os.kill(child.pid, signal.SIGSTOP)
    assert 11 == scrape(mine)["hits_total"]
    assert 1 == scrape(mine)["mpmetrics_processes{state=dead}"]
