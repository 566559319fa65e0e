"""Figures of the processes: CPU, memory, descriptors, garbage collection. Asked of each worker when somebody looks.

The names are those of prometheus_client, which dashboards know. What is a total adds up over all workers, the dead
included, so that it never decreases; all else is a series for each living worker.
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
"""Fields of ``/proc/PID/stat`` behind the name (proc(5)): they come after the two that are cut off here."""


def observe_process(provider: Provider | None = None) -> None:
    """Have each process of ``provider``, the default one unless given, tell its figures; again does nothing new.

    Those of the kernel come from ``/proc``; where there is none, they are absent.
    """
    provider = provider or get_provider()
    if any(callback.module == __name__ for callback in provider.callbacks):
        return  # observed twice, totals would add up twice
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
            with contextlib.suppress(OSError):  # no /proc here
                observer.observe(gauge, function())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        observer.observe(cpu, usage.ru_utime + usage.ru_stime)
        for generation, figures in enumerate(gc.get_stats()):
            for what, counter in garbage.items():
                observer.observe(counter, figures[what], {"generation": generation})
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
    """The kernel tells it in ticks since the machine was started; asked once, so that it is the same each time."""
    since_boot = float(_stat()[_START]) / _TICKS
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def _descriptors() -> float:
    return len(os.listdir("/proc/self/fd")) - 1  # but for the one that lists them


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
