"""The end of a process, several interpreters in one process, and greenlets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage.locks import DirectoryMutex, Mutex

if TYPE_CHECKING:
    from collections.abc import Callable

    Sums = Callable[[Any], dict[str, float]]


ATEXIT = """
    import atexit
    late = []
    atexit.register(lambda: [act() for act in late])   # runs after all that is registered below
    import os
    import mpmetrics
    provider = mpmetrics.get_provider()
    if {blocked}:  # no slab can be made
        os.rename(provider.epoch.path, provider.epoch.path + "-away")
    hits = mpmetrics.Counter("hits", "Hits.", ["when"])
    took = mpmetrics.Histogram("took", "Took.", ["when"], buckets=(1, 2))

    def count(when):
        hits.labels(when).inc()
        took.labels(when).observe(1.5)

    late.append(lambda: count("late"))
    if {blocked}:  # there is room again only after the last regular attempt
        atexit.register(os.rename, provider.epoch.path + "-away", provider.epoch.path)
    if not {blocked}:
        atexit.register(count, "early")
    count("now")
    if {blocked}:
        atexit.register(count, "early")
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["store", "values wait"])
def test_what_atexit_functions_count_is_counted(
    sums: Sums, script: Callable[..., str], store_directory: str, *, blocked: bool
) -> None:
    """Counts of atexit functions, registered before or after the import, reach the store, also when values wait."""
    script(textwrap.dedent(ATEXIT).format(blocked=blocked), fails=blocked)

    values = sums(store_directory)
    assert (3, 3, 4.5) == (values["hits_total"], values["took_count"], values["took_sum"])


def test_without_a_last_attempt_of_its_own_the_latest_would_be_lost(
    sums: Sums, script: Callable[..., str], store_directory: str
) -> None:
    """The control: without an attempt at the very end, the last counts stay private."""
    forgetful = """
        from mpmetrics.storage.waiting import WaitingRoom
        WaitingRoom._end = lambda room: room._attempt()
    """
    script(textwrap.dedent(forgetful) + textwrap.dedent(ATEXIT).format(blocked=True), fails=True)

    assert "hits_total" not in sums(store_directory)


DAEMONS = """
    import os, threading, time
    import mpmetrics
    hits = mpmetrics.Counter("hits", "Hits.", ["who"])
    took = mpmetrics.Histogram("took", "Took.", buckets=(1, 2))
    collector = mpmetrics.Collector(mpmetrics.get_provider())
    begun = threading.Barrier(6)

    def work(number):
        series = hits.labels(str(number))
        begun.wait()
        which = 0
        while True:
            series.inc()
            took.observe(1.5)
            hits.labels(f"{number}-{which % 500}").inc()
            which += 1

    def scrape():
        begun.wait()
        while True:
            collector.render()

    for number in range(4):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    threading.Thread(target=scrape, daemon=True).start()
    begun.wait()
    time.sleep(0.2)
    print(mpmetrics.Collector(os.environ["MPMETRICS_DIR"]) and 0)
"""


def test_daemon_threads_at_the_end_neither_crash_nor_tear(
    sums: Sums, script: Callable[..., str], store_directory: str
) -> None:
    """An interpreter that ends while daemon threads count and scrape exits cleanly and leaves whole distributions."""
    for _ in range(3):
        script(textwrap.dedent(DAEMONS))

    values = sums(store_directory)
    assert values["hits_total"] > 100
    assert values["took_sum"] == 1.5 * values["took_count"]
    assert 0 <= values["hits_total"] - 2 * values["took_count"] + 12
    assert abs(values["hits_total"] - 2 * values["took_count"]) <= 12  # an operation of each thread is cut off


INTERPRETERS = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    import mpmetrics, mpmetrics._cells
    hits = mpmetrics.Counter("hits", "Hits.", ["who"])
    hits.labels("main").inc()
    work = '''if 1:
        import mpmetrics
        hits = mpmetrics.Counter("hits", "Hits.", ["who"])
        for _ in range(1000):
            hits.labels("other").inc()
        mpmetrics.Histogram("took", "Took.", buckets=(1, 2)).observe(1.5)
        mpmetrics.Collector(mpmetrics.get_provider()).render()
    '''
    for _ in range(3):
        other = interpreters.create({arguments})
        try:
            failed = interpreters.run_string(other, work)
        except Exception as error:
            failed = error
        print(failed)
        interpreters.destroy(other)
    hits.labels("main").inc()
"""


# Python 3.13 changed how the interpreter that shares its lock with the others is asked for.
LEGACY = "'legacy'" if sys.version_info >= (3, 13) else "isolated=False"


@pytest.mark.parametrize("arguments", ["", LEGACY], ids=["isolated", "legacy"])
def test_interpreters_within_the_process_count_exactly(
    sums: Sums, arguments: str, script: Callable[..., str], store_directory: str
) -> None:
    """Each interpreter of a process has a slab of its own and counts exactly."""
    said = script(textwrap.dedent(INTERPRETERS).format(arguments=arguments))

    assert said.split() == ["None"] * 3
    values = sums(store_directory)
    assert (3002, 3) == (values["hits_total"], values["took_count"])


GEVENT = """
    {before}
    import mpmetrics, threading, time
    from mpmetrics.registry import Registry
    {after}
    import gevent
    provider = mpmetrics.get_provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["who"])
    gone = mpmetrics.Counter("gone", "Come and go.", ["who"])
    took = mpmetrics.Histogram("took", "Took.", buckets=(1, 2))
    timer = Registry("kit").get_or_register_timer("timer")
    collector = mpmetrics.Collector(provider)
    mpmetrics.get_meter("kit").observable_gauge("depth", callback=lambda o: (time.sleep(0.002), o.observe(1))[1])
    mpmetrics.Gauge("entries", "Entries.").set_function(lambda: time.sleep(0.002) or 3)

    def remove(who):
        while True:
            try:
                return gone.remove(who)
            except mpmetrics.StoreError:  # held up
                gevent.sleep(0.01)

    def work(number):
        for which in range(40):
            hits.labels(f"{{number}}-{{which}}").inc()
            gone.labels(number).inc()
            took.observe(1.5)
            timer.update(1)
            if which % 20 == 0:
                made = mpmetrics.Counter(f"made_{{number}}_{{which}}", "Made.")
                made.inc()
                collector.render()
                remove(number)
            gevent.sleep(0)

    import fcntl, os
    locks = [os.open(f"{{provider.epoch.path}}/{{name}}.lock", os.O_RDWR) for name in ("removals", "fold")]

    def hold():     # as another process would: greenlets that remove and fold wait for it, and others come in between
        for _ in range({holds}):
            try:
                for lock in locks:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gevent.sleep(0.7)
            except BlockingIOError:
                gevent.sleep(0.001)
            for lock in locks:
                fcntl.flock(lock, fcntl.LOCK_UN)
            gevent.sleep(0.01)

    jobs = [gevent.spawn(hold), *(gevent.spawn(work, number) for number in range(20))]
    gevent.joinall(jobs, timeout=100, raise_error=True)
    assert all(job.ready() for job in jobs), "a greenlet hangs"
    if {is_idle}:
        print("idle", flush=True)
        gevent.sleep(1000)
"""

PATCH = "from gevent import monkey; monkey.patch_all()"
BEFORE, AFTER = {"before": PATCH, "after": ""}, {"before": "import logging, os", "after": PATCH}


def check_greenlets(values: dict[str, float]) -> None:
    """Fail unless all that the greenlets counted is there, and what they removed is not."""
    assert (800, 800, 1200) == (values["hits_total"], values["took_count"], values["took_sum"])
    assert 20 * 19 == values["gone_total"]  # since the removal after the 21st
    assert 40 == sum(value for name, value in values.items() if name.startswith("made_") and name.endswith("_total"))


@pytest.mark.parametrize("patch", [BEFORE, AFTER], ids=["patched before", "patched after"])
@pytest.mark.parametrize("holds", [0, 2], ids=["free", "held up"])
def test_gevent_greenlets_that_switch_within_callbacks_and_waits_are_exact(
    sums: Sums, patch: dict[str, str], holds: int, script: Callable[..., str], store_directory: str
) -> None:
    """Totals are exact of greenlets that count, declare, remove and scrape, and switch in callbacks and waits."""
    pytest.importorskip("gevent")
    said = script(textwrap.dedent(GEVENT).format(**patch, holds=holds, is_idle=False), fails=bool(holds))

    assert "Traceback" not in said, said
    check_greenlets(sums(store_directory))


@pytest.mark.parametrize("patch", [BEFORE, AFTER], ids=["patched before", "patched after"])
def test_an_idle_gevent_worker_keeps_nothing_locked(sums: Sums, patch: dict[str, str], store_directory: str) -> None:
    """An idle worker's greenlets hold no lock: other processes remove, fold, make series and scrape at once."""
    pytest.importorskip("gevent")
    text = textwrap.dedent(GEVENT).format(**patch, holds=1, is_idle=True)
    environ = os.environ | {"MPMETRICS_DIR": store_directory}
    with subprocess.Popen([sys.executable, "-c", text], env=environ, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert "idle\n" == worker.stdout.readline()
            mine = mpmetrics.Provider(store_directory)
            assert mine.epoch is not None
            locks = sorted(Path(mine.epoch.path).glob("*.lock"))
            for lock in locks:
                with Mutex(str(lock), 0.0):
                    pass
            with DirectoryMutex(mine.epoch.path, 0.0):
                pass
            check_greenlets(sums(store_directory))
            gone = mpmetrics.Counter("gone", "Come and go.", ["who"], provider=mine)
            gone.clear()
            gone.labels("new").inc()
            values = sums(store_directory)
            mine.shutdown()
        finally:
            worker.kill()

    assert {"fold.lock", "removals.lock"} <= {lock.name for lock in locks}
    assert (800, 1) == (values["hits_total"], values["gone_total"])
