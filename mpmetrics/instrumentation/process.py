"""Metrics of the process: CPU, memory, descriptors, garbage collection. Each worker observes them at each collection.

The names are those of prometheus_client, which dashboards know. Totals add up over all workers, dead ones included, so
they never decrease. All other metrics have a series for each living worker.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import platform
import resource
import threading
import time
from typing import TYPE_CHECKING

from mpmetrics.provider import get_provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.callbacks.observer import MeterObserver
    from mpmetrics.provider import Provider

__all__ = ["observe_process"]

SCOPE = "mpmetrics.instrumentation.process"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RSS, _VSIZE, _START = 21, 20, 19
"""Indices of fields of ``/proc/PID/stat`` behind the process's name; proc(5) numbers them 3 higher."""


def observe_process(provider: Provider | None = None) -> None:
    """Observe the metrics of each process of ``provider``, by default the default one. Calling it again does nothing.

    The kernel's numbers come from ``/proc``; without it they are absent.
    """
    provider = provider or get_provider()
    if any(callback.module == __name__ for callback in provider.callbacks):
        return  # a second callback would count the totals twice
    meter = provider.meter(SCOPE)
    gauges = {
        function: meter.observable_gauge(name, text, unit, scope="worker") for name, text, unit, function in _GAUGES
    }
    cpu = meter.observable_counter("process.cpu", "User and system CPU time of all workers.", "s", scope="worker")
    garbage = {
        what: meter.observable_counter(name, f"Garbage collection by generation: {what}.", scope="worker")
        for what, name in _GARBAGE.items()
    }
    info = meter.observable_gauge("python.info", "The interpreter.", scope="worker", multiprocess_mode="livemax")
    python = {"implementation": platform.python_implementation(), "version": platform.python_version()}

    def observe(observer: MeterObserver) -> None:
        for function, gauge in gauges.items():
            with contextlib.suppress(OSError):  # this system has no /proc
                observer.observe(gauge, function())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        observer.observe(cpu, usage.ru_utime + usage.ru_stime)
        for generation, counts in enumerate(gc.get_stats()):
            for what, counter in garbage.items():
                observer.observe(counter, counts[what], {"generation": generation})
        observer.observe(info, 1, python)

    meter.register_callback(observe, *gauges.values(), cpu, *garbage.values(), info)


def _stat() -> list[str]:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _resident() -> float:
    return float(_stat()[_RSS]) * _PAGE


def _virtual() -> float:
    return float(_stat()[_VSIZE])


def _started() -> float:
    return _start_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _start_of(_pid: int) -> float:
    """Return the start of this process. The kernel has it in ticks since boot, so it is computed once a process."""
    since_boot = float(_stat()[_START]) / _TICKS
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def _descriptors() -> float:
    return len(os.listdir("/proc/self/fd")) - 1  # without the descriptor that lists them


def _most_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


_GAUGES: tuple[tuple[str, str, str, Callable[[], float]], ...] = (
    ("process.resident.memory", "Resident memory.", "By", _resident),
    ("process.virtual.memory", "Virtual memory.", "By", _virtual),
    ("process.start.time", "Start of the process, as a Unix time.", "s", _started),
    ("process.open.fds", "Open file descriptors.", "", _descriptors),
    ("process.max.fds", "Most file descriptors that may be open.", "", _most_descriptors),
    ("process.threads", "Threads of the interpreter.", "", threading.active_count),
)
_GARBAGE = {
    "collections": "python.gc.collections",
    "collected": "python.gc.objects.collected",
    "uncollectable": "python.gc.objects.uncollectable",
}
