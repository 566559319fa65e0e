"""Figures of the processes: CPU, memory, descriptors, garbage collection. Asked of each worker when somebody looks.

The names are those of prometheus_client, which dashboards know. What is a total adds up over all workers, the dead
included, so that it never decreases; all else is a series for each living worker.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import threading
import time
from typing import TYPE_CHECKING

from mpmetrics.provider import get_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpmetrics.callbacks.observer import InstrumentObserver
    from mpmetrics.provider import Provider

__all__ = ["observe_process"]

SCOPE = "mpmetrics.instrumentation.process"
_CPU = "process.cpu"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RSS, _VSIZE, _START = 21, 20, 19
"""Fields of ``/proc/PID/stat`` behind the name (proc(5)): they come after the two that are cut off here."""


def observe_process(provider: Provider | None = None) -> None:
    """Have each process of ``provider``, the default one unless given, tell its figures; again does nothing new.

    Those of the kernel come from ``/proc``; where there is none, they are absent.
    """
    provider = provider or get_provider()
    if any(callback.name == _CPU for callback in provider.callbacks):
        return  # observed twice, totals would add up twice
    meter = provider.meter(SCOPE)
    gauges: dict[str, tuple[str, str, Callable[[], float]]] = {
        "process.resident.memory": ("Resident memory.", "By", lambda: float(_stat()[_RSS]) * _PAGE),
        "process.virtual.memory": ("Virtual memory.", "By", lambda: float(_stat()[_VSIZE])),
        "process.start.time": ("Start of the process, as a Unix time.", "s", _started),
        "process.open.fds": ("Open file descriptors.", "", lambda: len(os.listdir("/proc/self/fd")) - 1),
        "process.max.fds": ("Most file descriptors that may be open.", "", _most_descriptors),
        "process.threads": ("Threads of the interpreter.", "", threading.active_count),
    }
    for name, (text, unit, function) in gauges.items():
        meter.observable_gauge(name, text, unit, callback=_telling(function), scope="worker")
    meter.observable_counter(_CPU, "User and system CPU time of all workers.", "s", callback=_cpu, scope="worker")
    for what in ("collections", "collected", "uncollectable"):
        name = "python.gc.collections" if what == "collections" else f"python.gc.objects.{what}"
        text = f"Garbage collection by generation: {what}."
        meter.observable_counter(name, text, callback=_collector(what), scope="worker")
    python = {"implementation": platform.python_implementation(), "version": platform.python_version()}
    meter.observable_gauge(
        "python.info", "The interpreter.", callback=lambda observer: observer.observe(1, python), scope="worker",
        multiprocess_mode="livemax",
    )  # fmt: skip


def _telling(function: Callable[[], float]) -> Callable[[InstrumentObserver], None]:
    def observe(observer: InstrumentObserver) -> None:
        try:
            observer.observe(function())
        except OSError:
            return  # no /proc here

    return observe


def _stat() -> list[str]:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _started() -> float:
    """The kernel tells it in ticks since the machine was started."""
    since_boot = float(_stat()[_START]) / _TICKS
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def _most_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _cpu(observer: InstrumentObserver) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    observer.observe(usage.ru_utime + usage.ru_stime)


def _collector(what: str) -> Callable[[InstrumentObserver], Iterator[object]]:
    def observe(_observer: InstrumentObserver) -> Iterator[object]:
        for generation, figures in enumerate(gc.get_stats()):
            yield figures[what], {"generation": generation}

    return observe
