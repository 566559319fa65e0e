"""The end of a process, other interpreters within it, and greenlets: programs of their own."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Sums = Callable[[Any], dict[str, float]]


ATEXIT = """
    import atexit
    late = []
    atexit.register(lambda: [act() for act in late])   # runs after all that is registered below
    import fcntl, os
    import mpmetrics
    hits = mpmetrics.Counter("hits", "Hits.", ["when"])
    took = mpmetrics.Histogram("took", "Took.", ["when"], buckets=(1, 2))
    provider = mpmetrics.get_provider()

    def count(when):
        hits.labels(when).inc()
        took.labels(when).observe(1.5)

    late.append(lambda: count("now"))
    if not {blocked}:
        atexit.register(count, "early")
    if {blocked}:
        lock = os.open(provider.epoch.path + "/series.lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        atexit.register(os.close, lock)    # the lock is to be had only after the last regular attempt
    count("now")
    if {blocked}:
        atexit.register(count, "early")
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["store", "values wait"])
def test_what_atexit_functions_count_is_counted(
    sums: Sums, script: Callable[..., str], store_directory: str, *, blocked: bool
) -> None:
    """Registered before the import and after it, with the store at hand and with values that wait for it."""
    script(textwrap.dedent(ATEXIT).format(blocked=blocked), fails=blocked)

    values = sums(store_directory)
    assert (3, 3, 4.5) == (values["hits_total"], values["took_count"], values["took_sum"])


def test_without_a_last_attempt_of_its_own_the_latest_would_be_lost(
    sums: Sums, script: Callable[..., str], store_directory: str
) -> None:
    """The control: where nobody notices that the process ends, what comes after the last attempt stays private."""
    forgetful = """
        from mpmetrics.storage.retry import Retry
        Retry._end = Retry.now
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
    """An interpreter that ends while daemon threads count and scrape ends well, and leaves whole distributions."""
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


@pytest.mark.parametrize("arguments", ["", "isolated=False"], ids=["isolated", "legacy"])
def test_interpreters_within_the_process_count_exactly(
    sums: Sums, arguments: str, script: Callable[..., str], store_directory: str
) -> None:
    """Each interpreter of a process is as a process of its own: with a slab of its own, and exactly counted."""
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
    took = mpmetrics.Histogram("took", "Took.", buckets=(1, 2))
    timer = Registry("kit").get_or_register_timer("timer")
    collector = mpmetrics.Collector(provider)
    mpmetrics.get_meter("kit").observable_gauge("depth", callback=lambda o: (time.sleep(0.002), o.observe(1))[1])
    mpmetrics.Gauge("entries", "Entries.").set_function(lambda: time.sleep(0.002) or 3)

    def work(number):
        for which in range(40):
            hits.labels(f"{{number}}-{{which}}").inc()
            took.observe(1.5)
            timer.update(1)
            if which % 20 == 0:
                made = mpmetrics.Counter(f"made_{{number}}_{{which}}", "Made.")
                made.inc()
                collector.render()
            gevent.sleep(0)

    import fcntl, os
    lock = os.open(provider.epoch.path + "/series.lock", os.O_RDWR)

    def hold():     # as another process would: greenlets wait for it, and others come in between
        for _ in range({holds}):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                gevent.sleep(0.001)
                continue
            gevent.sleep(0.7)
            fcntl.flock(lock, fcntl.LOCK_UN)
            gevent.sleep(0.01)

    jobs = [gevent.spawn(hold), *(gevent.spawn(work, number) for number in range(20))]
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert all(job.ready() for job in jobs), "a greenlet hangs"
    provider.force_flush()
    while list(provider.memory.private_values()):
        provider.force_flush()
        gevent.sleep(0.01)
"""

PATCH = "from gevent import monkey; monkey.patch_all()"


@pytest.mark.parametrize(
    ("before", "after"), [(PATCH, ""), ("import logging, os", PATCH)], ids=["patched before", "patched after"]
)
@pytest.mark.parametrize("holds", [0, 2], ids=["free", "held up"])
def test_greenlets_that_switch_within_callbacks_and_waits_are_exact(
    sums: Sums, before: str, after: str, holds: int, script: Callable[..., str], store_directory: str
) -> None:
    """Twenty greenlets count, declare and scrape, switch in callbacks and in waits for the store: none hangs."""
    pytest.importorskip("gevent")
    said = script(textwrap.dedent(GEVENT).format(before=before, after=after, holds=holds), fails=bool(holds))

    assert "Traceback" not in said, said
    values = sums(store_directory)
    assert (800, 800, 1200) == (values["hits_total"], values["took_count"], values["took_sum"])
    assert 40 == sum(value for name, value in values.items() if name.startswith("made_") and name.endswith("_total"))
