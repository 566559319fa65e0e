"""Process metrics: a series for each living worker, and totals that outlive dead ones."""

from __future__ import annotations

import gc
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Provider
from mpmetrics.instrumentation import observe_process
from mpmetrics.serving.worker_socket import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[[Callable[[], object]], Any]

NAMES = {
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
    "process_threads",
    "process_cpu_seconds_total",
    "python_gc_collections_total",
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_info",
}


def figures(source: Any) -> dict[str, dict[str, float]]:
    """Return values by name and labels, without the labels of the scope."""
    found: dict[str, dict[str, float]] = {}
    for line in Collector(source, worker_timeout=5).render()[1].decode().splitlines():
        if match := re.match(r'((?:process|python)_\w+)\{otel_scope_name="[\w.]+",?(.*)\} (\S+)$', line):
            found.setdefault(match[1], {})[match[2]] = float(match[3])
        elif match := re.match(r'((?:process|python)_\w+)\{(.*),otel_scope_name="[\w.]+"(.*)\} (\S+)$', line):
            found.setdefault(match[1], {})[match[2] + match[3]] = float(match[4])
    return found


def test_one_process(provider: Provider) -> None:
    """All process metrics have the names that dashboards know, and plausible values, also if observed twice."""
    observe_process(provider)
    observe_process(provider)
    before = time.process_time()
    shown = figures(provider)
    after = time.process_time()

    assert NAMES == shown.keys()
    worker = 'worker="0"'
    assert before <= shown["process_cpu_seconds_total"][""] <= after + 0.05
    assert time.time() - 7200 < shown["process_start_time_seconds"][worker] < time.time()
    assert 1e6 < shown["process_resident_memory_bytes"][worker] < shown["process_virtual_memory_bytes"][worker]
    assert 3 <= shown["process_open_fds"][worker] <= shown["process_max_fds"][worker]
    assert len(gc.get_stats()) == len(shown["python_gc_collections_total"])
    assert [1.0] == list(shown["python_info"].values())


def test_many_processes(shared: Provider, child: Start) -> None:
    """Each living worker has a series; the CPU time of all workers never decreases, also when one is killed."""
    observe_process(shared)

    def work() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    assert shared.epoch is not None
    children = [child(work) for _ in range(2)]
    deadline = time.monotonic() + 20
    while len(list_workers(shared.epoch.path)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = figures(shared)
    children[0].kill()
    after = figures(shared)

    assert (3, 2) == (len(before["process_resident_memory_bytes"]), len(after["process_resident_memory_bytes"]))
    assert time.process_time() + 0.35 < before["process_cpu_seconds_total"][""]
    assert before["process_cpu_seconds_total"][""] <= after["process_cpu_seconds_total"][""]


@pytest.mark.parametrize("times", [1, 2])
def test_under_gunicorn(times: int) -> None:
    """install() registers them once, however often gunicorn reads the configuration."""
    provider = Provider()
    for _ in range(times):
        observe_process(provider)

    assert 1 == len(list(provider.callbacks))
