"""One store used by several servers, users and PID namespaces: totals are exact, or the store refuses and says why."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage import format as fmt
from mpmetrics.storage.slab import is_alive, list_slabs
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sums = Callable[[Any], dict[str, float]]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, becomes another user")
NOBODY = 65534

HANGS = 100.0
"""Seconds after which a process hangs; never a measure of speed."""

WORKER = textwrap.dedent(
    """
    import os, sys
    import mpmetrics
    hits = mpmetrics.Counter("hits", "Hits.", ["who"])
    took = mpmetrics.Histogram("took", "Took.", buckets=(1, 2))
    busy = mpmetrics.Gauge("busy", "Busy.", multiprocess_mode="livesum")
    def use():
        for number in range(100):
            hits.labels(f"{sys.argv[1]}-{number}").inc()
            hits.labels("all").inc()
            took.observe(1.5)
        busy.set(1)
    use()
    for _ in range(3):          # workers of its own, which end and are folded by the next scrape
        if not os.fork():
            use()
            os._exit(0)
        os.wait()
    mpmetrics.Collector(mpmetrics.get_provider()).readings()
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    use()
    print("done", flush=True)
    sys.stdin.readline()
    """
)


class Space:
    """A worker in a PID namespace of its own."""

    def __init__(self, name: str, store: str) -> None:
        self.process = subprocess.Popen(
            ["unshare", "-p", "-f", "--mount-proc", "--kill-child", sys.executable, "-c", WORKER, name],
            env=os.environ | {"MPMETRICS_DIR": store},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout
        said = self.process.stdout.readline().strip()
        if not said and "unshare" in (error := self.process.stderr.read() if self.process.stderr else ""):
            pytest.skip(f"no namespace can be made here: {error}")
        return said

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End all of it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(HANGS)  # before its input ends, which would have those within go on
        self.process.communicate(timeout=HANGS)


@pytest.fixture
def space(store_directory: str) -> Iterator[Callable[[str], Space]]:
    """Starts workers in namespaces; they are gone at the end."""
    started: list[Space] = []

    def start(name: str) -> Space:
        started.append(Space(name, store_directory))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@needs_root
def test_two_pid_namespaces_share_a_store_exactly(
    sums: Sums, space: Callable[[str], Space], store_directory: str
) -> None:
    """Workers with the same process id count side by side, and each sees when the other's namespace is killed."""
    mine = mpmetrics.Provider(store_directory)
    spaces = [space("one"), space("two")]
    pids = {each.line() for each in spaces}
    assert {"1"} == pids  # both are the first process of their namespace
    values = sums(store_directory)
    assert (2 * 4 * 200, 2 * 4 * 100, 1.5 * 2 * 4 * 100, 2) == tuple(
        values[name] for name in ("hits_total", "took_count", "took_sum", "busy")
    )
    path = str(mine.epoch.path)  # type: ignore[union-attr]
    assert 2 == len({slab.ordinal for slab in list_slabs(path)}) == len(list_slabs(path))

    spaces[0].kill()
    while sum(is_alive(os.path.join(path, slab.file)) for slab in list_slabs(path)) > 1:  # noqa: PTH118 (as the store)
        time.sleep(0.01)  # the processes within end a moment after the one that made the namespace
    values = sums(store_directory)
    assert (1600, 800, 1) == tuple(values[name] for name in ("hits_total", "took_count", "busy"))
    spaces[1].go_on()
    assert "done" == spaces[1].line()
    values = sums(store_directory)
    assert (1800, 900, 1) == tuple(values[name] for name in ("hits_total", "took_count", "busy"))
    spaces[1].go_on()
    spaces[1].process.wait(HANGS)
    values = sums(store_directory)
    assert (1800, 900, 0, 0) == tuple(
        values[name] for name in ("hits_total", "took_count", "busy", "mpmetrics_unreadable_files")
    )
    assert 8 == values["mpmetrics_folds_total"]
    mine.shutdown()


@needs_root
def test_process_ids_as_identity_would_mix_the_namespaces_up(
    space: Callable[[str], Space], store_directory: str
) -> None:
    """The control: the process ids in the slabs do not tell the workers of two namespaces apart."""
    mine = mpmetrics.Provider(store_directory)
    spaces = [space("one"), space("two")]
    for each in spaces:
        each.line()
    path = Path(str(mine.epoch.path))  # type: ignore[union-attr]
    living = [path / slab.file for slab in list_slabs(str(path)) if is_alive(str(path / slab.file))]
    heads = []
    for slab in living:
        with slab.open("rb") as file:
            heads.append(fmt.check_slab(file.read(fmt.PAGE), slab.name))
    assert [1, 1] == [pid for _, pid, _, _ in heads]
    assert 2 == len({identity for identity, _, _, _ in heads})
    mine.shutdown()


def test_two_servers_in_one_store_count_each_for_itself(
    sums: Sums, store_directory: str, child: Callable[..., Any]
) -> None:
    """The second server begins its own epoch; neither server sees, folds or removes the other's files."""
    masters = [Store(store_directory).begin()]
    first = mpmetrics.Provider(store_directory, epoch=masters[0].number)
    mpmetrics.Counter("hits", "Hits.", provider=first).inc(1)
    masters.append(Store(store_directory).begin())
    second = mpmetrics.Provider(store_directory, epoch=masters[1].number)
    mpmetrics.Counter("hits", "Hits.", provider=second).inc(10)
    # The same name is another kind of metric there, which is no conflict.
    mpmetrics.Counter("kind", "One.", provider=first).inc()
    mpmetrics.Gauge("kind", "Another.", provider=second).set(5)

    def work(provider: mpmetrics.Provider, amount: int) -> Callable[[], None]:
        return lambda: mpmetrics.Counter("hits", "Hits.", provider=provider).inc(amount)

    for _ in range(3):
        child(work(first, 2)).kill()
        child(work(second, 20)).kill()
        assert sums(first)["hits_total"] % 10 == sums(first)["hits_total"]
        sums(second)

    assert (7, 70) == (sums(first)["hits_total"], sums(second)["hits_total"])
    assert 70 == sums(store_directory)["hits_total"]  # the current one
    second.shutdown()
    masters[1].close()
    third = Store(store_directory).begin()
    assert 7 == sums(first)["hits_total"]
    assert masters[0].number < masters[1].number < third.number
    first.shutdown()


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_store_that_is_removed_and_made_anew_is_another_to_every_process(
    readings: Sums, store_directory: str, child: Callable[..., Any], *, is_naive: bool
) -> None:
    """No collector and no process of an old server takes the new store's files for its own.

    In the control, epochs count from one again and directories are known by their names: then they do.
    """
    clock = (lambda: 0.0) if is_naive else time.time
    store = os.path.join(store_directory, "store")  # noqa: PTH118 (as the store)
    old = mpmetrics.Provider(store, clock=clock)
    gone = mpmetrics.Counter("gone", "Of the old one.", ["who"], provider=old)
    collector = mpmetrics.Collector(store)
    gone.labels("x").inc(5)
    assert 5 == readings(collector)["gone_total"]
    shutil.rmtree(store)

    new = mpmetrics.Provider(store, clock=clock)
    if is_naive:
        old_one, new_one = (each.epoch.directory for each in (old, new))  # type: ignore[union-attr]
        object.__setattr__(old_one, "identity", new_one.identity)
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=new)
    hits.labels("x").inc(7)
    wrong = readings(collector) != {"hits_total": 7}
    child(lambda: gone.labels("x").inc(100)).end()
    wrong |= readings(store) != {"hits_total": 7}
    for number in range(5000):
        gone.labels(str(number)).inc()
    with contextlib.nullcontext() if is_naive else pytest.raises(mpmetrics.StoreError):
        gone.clear()
    late = mpmetrics.Provider(store)
    mpmetrics.Counter("hits", "Hits.", ["who"], provider=late).labels("x").inc()
    for source in (store, mpmetrics.Collector(store), collector):
        wrong |= readings(source) != {"hits_total": 8}
    assert is_naive == wrong
    for each in (old, new, late):
        each.shutdown()


@pytest.fixture
def readings(sums: Sums) -> Sums:
    """The metrics' own sums."""
    return lambda source: {
        name: value
        for name, value in sums(source).items()
        if not name.startswith("mpmetrics_") and not name.endswith("_created")
    }


@needs_root
def test_a_second_user_is_refused_and_disturbs_no_process(
    sums: Sums, store_directory: str, child: Callable[..., Any]
) -> None:
    """Another user's server logs whose store it is, goes on without it, and can neither read nor remove its files."""
    Path(store_directory).chmod(0o711)
    store = Path(store_directory, "store")
    mine = mpmetrics.Provider(store)
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    hits.inc()

    def other() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        for attempt in (mpmetrics.Provider, mpmetrics.Collector, lambda path: Store(path).begin()):
            with pytest.raises(mpmetrics.StoreError, match="belongs to user 0"):
                attempt(store)
        with pytest.raises(PermissionError):
            os.listdir(store)
        mpmetrics.set_provider(None)
        os.environ["MPMETRICS_DIR"] = str(store)
        mpmetrics.Counter("others", "Others.").inc()  # stays private
        assert "belongs to user 0" in str(mpmetrics.get_provider().unavailable)

    child(other).end()
    hits.inc()
    assert 2 == sums(store)["hits_total"]
    mine.shutdown()


@needs_root
def test_root_beside_the_owner_counts_exactly_and_leaves_nothing_of_its_own(
    sums: Sums, store_directory: str, child: Callable[..., Any]
) -> None:
    """A root process in another user's store owns only its slab, which the store's owner can read, fold and remove."""
    Path(store_directory).chmod(0o711)
    store = Path(store_directory, "store")
    server = Store(store, owner=(NOBODY, NOBODY)).begin()
    path = Path(server.path)

    def work(user: int) -> Callable[[], None]:
        def act() -> None:
            os.setgid(user)
            os.setuid(user)
            mine = mpmetrics.Provider(store)
            hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=mine)
            for number in range(50):
                hits.labels(f"{user}-{number}").inc()
            sums(mine)

        return act

    keeper = child(work(NOBODY))
    for user in (0, NOBODY, 0, NOBODY):
        child(work(user)).kill()
    values = sums(store)
    assert 250 == values["hits_total"]
    assert 0 == values["mpmetrics_unreadable_files"]
    # The slabs of root's own processes are its own, and all may read them, until the owner folds them.
    entries = {entry: entry.stat() for entry in (store, *store.rglob("*"))}
    assert {0o644} >= {stat.st_mode & 0o777 for stat in entries.values() if stat.st_uid == 0}
    assert all(entry.name.startswith(("slab-", "dead-")) for entry, stat in entries.items() if stat.st_uid == 0)
    child(work(NOBODY)).kill()
    assert {(NOBODY, NOBODY)} == {(entry.stat().st_uid, entry.stat().st_gid) for entry in (path, *path.iterdir())}
    assert 300 == sums(store)["hits_total"]
    keeper.end()
    server.close()
