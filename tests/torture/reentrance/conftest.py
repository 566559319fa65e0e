"""An instrument of every kind, interruptions, and programs that must end in time."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

import mpmetrics
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "1"))
"""How long a storm lasts."""

PATIENCE = 150.0 + 2 * SECONDS
"""Seconds after which something hangs; never a measure of speed."""


class Kit:
    """An instrument of every kind; each use of the kit is one use of each of them, exactly."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self.provider = provider
        of = {"provider": provider}
        self.hits = mpmetrics.Counter("hits", "Hits.", **of)
        self.by_code = mpmetrics.Counter("by_code", "Hits by code.", ["code"], **of)
        self.open = mpmetrics.UpDownCounter("open", "Open.", ["kind"], **of)
        self.level = mpmetrics.Gauge("level", "Level.", multiprocess_mode="sum", **of)
        self.latest = mpmetrics.Gauge("latest", "Latest.", ["of"], multiprocess_mode="mostrecent", **of)
        self.took = mpmetrics.Histogram("took", "Took.", ["code"], buckets=(1, 2), **of)
        self.size = mpmetrics.Summary("size", "Size.", **of)
        self.build = mpmetrics.Info("build", "Build.", **of)
        self.mood = mpmetrics.Enum("mood", "Mood.", states=("good", "bad"), **of)
        meter = provider.meter("kit")
        self.paid = meter.counter("paid")
        self.stock = meter.up_down_counter("stock")
        self.heat = meter.gauge("heat", multiprocess_mode="max")
        self.weight = meter.histogram("weight", buckets=(1, 2))
        self.registry = Registry("kit", provider=provider)
        self.timer = self.registry.get_or_register_timer("timer")
        self.meter = self.registry.get_or_register_meter("meter")
        self.scratch = mpmetrics.Counter("scratch", "Comes and goes.", ["number"], **of)

    def use(self, label: str) -> None:
        """Use every instrument once; those with labels with this one, which may be new."""
        self.hits.inc()
        self.by_code.labels(label).inc()
        self.open.labels(label).inc(2)
        self.open.labels(label).dec()
        self.level.inc()
        self.latest.labels(label).set(7)
        self.took.labels(label).observe(1.5)
        self.size.observe(1.5)
        self.build.info({"version": "1"})
        self.mood.state("bad")
        self.paid.inc({"status": label})
        self.stock.add(1, {"place": label})
        self.heat.set(21, {"place": label})
        self.weight.record(1.5, {"place": label})
        self.timer.update(1.5)
        self.meter.mark()

    def churn(self, label: str) -> None:
        """Have a series come and go; the removal may be refused when it interrupts another one."""
        self.scratch.labels(label).inc()
        try:
            self.scratch.remove(label)
            self.scratch.clear()
        except mpmetrics.StoreError:
            pass

    def counted(self, source: Any = None) -> dict[str, float]:
        """How often each instrument was used, by what a scrape shows; what is no count has to be as it should."""
        sums: dict[str, float] = {}
        for family in mpmetrics.Collector(self.provider if source is None else source).collect():
            for sample in family.samples:
                if sample.name in _WEIGHTS and sample.labels.get("le") in {None, "2.0"}:
                    sums[sample.name] = sums.get(sample.name, 0) + sample.value / _WEIGHTS[sample.name]
                elif sample.name == "mood":
                    assert (sample.labels["mood"] == "bad") == sample.value
                elif sample.name in {"latest", "heat"}:
                    assert {"latest": 7, "heat": 21}[sample.name] == sample.value
                elif sample.name == "build_info":
                    assert sample.labels["version"] == "1"
                elif sample.name == "mpmetrics_damaged_records":
                    assert sample.value == 0
        for view in self.registry.read():
            if view.name in {"timer", "meter"}:
                sums[view.name] = view.count
            if view.name == "timer":
                assert view.distribution.sum == pytest.approx(1.5 * view.count)
        return sums

    def expected(self, uses: int) -> dict[str, float]:
        """What :meth:`counted` gives after so many uses."""
        return dict.fromkeys((*_WEIGHTS, "timer", "meter"), float(uses))


_WEIGHTS = {
    "hits_total": 1,
    "by_code_total": 1,
    "open": 1,
    "level": 1,
    "took_count": 1,
    "took_sum": 1.5,
    "took_bucket": 1,
    "size_count": 1,
    "size_sum": 1.5,
    "paid_total": 1,
    "stock": 1,
    "weight_count": 1,
    "weight_sum": 1.5,
    "weight_bucket": 1,
}


class Storm:
    """Calls ``interrupt`` from signal handlers, collections or finalisers, again and again, while it is on.

    A signal comes 50 to 200 us after the last handler has returned: handlers do not pile up, however slow the machine.
    """

    def __init__(self, setting: str, interrupt: Callable[[], object], pause: float = 0.00005) -> None:
        self.setting = setting
        self.interrupt = interrupt
        self._interruptions: list[None] = []
        self.pause = pause
        self._is_on = False

    @property
    def count(self) -> int:
        """How often it did."""
        return len(self._interruptions)

    def _interrupt(self, *_: object) -> None:
        if not self._is_on:
            return
        self._interruptions.append(None)  # in one step: finalisers run in whichever thread drops something
        if self.setting == "finaliser":
            self._is_on = False  # a finaliser's own rubbish does not count
        self.interrupt()
        if self.setting == "signal":
            self._arm()
        self._is_on = True

    def _arm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(self.pause, 4 * self.pause))

    def __enter__(self) -> Self:
        self._is_on = True
        if self.setting == "signal":
            signal.signal(signal.SIGALRM, self._interrupt)
            self._arm()
        else:
            gc.set_threshold(40, 2, 2)
        if self.setting == "collection":
            gc.callbacks.append(self._collected)
        return self

    def _collected(self, phase: str, _: object) -> None:
        if phase == "start":
            self._interrupt()

    def litter(self) -> None:
        """Make garbage in cycles, for the collector to find."""
        if self.setting != "signal":
            for _ in range(3):
                rubbish = _Dying(self._interrupt if self.setting == "finaliser" else int)
                rubbish.me = rubbish

    def __exit__(self, *_: object) -> None:
        self._is_on = False
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        gc.callbacks.clear()
        gc.set_threshold(700, 10, 10)


class _Dying:
    def __init__(self, action: Callable[[], object]) -> None:
        self.me: object = None
        self._action = action

    def __del__(self) -> None:
        self._action()


@pytest.fixture
def kit() -> type[Kit]:
    """The class of kits."""
    return Kit


@pytest.fixture
def storm() -> type[Storm]:
    """The class of storms."""
    return Storm


@pytest.fixture
def seconds() -> float:
    """How long a storm lasts."""
    return SECONDS


@pytest.fixture
def rounds(seconds: float) -> Callable[..., Iterator[int]]:
    """Numbers, for ``seconds`` and, on a busy machine, until what was done is ``enough``; for half a minute at most."""

    def count(enough: Callable[[int], bool], factor: float = 1.0) -> Iterator[int]:
        start = time.monotonic()
        for number in itertools.count():
            passed = time.monotonic() - start
            if passed > factor * seconds and (enough(number) or passed > 30.0):
                return
            yield number

    return count


@pytest.fixture
def script(store_directory: str) -> Callable[..., str]:
    """Runs a program in an interpreter of its own, on the test's store; what it prints, once it ended well in time."""

    def run(text: str, *, fails: bool = False, store: str | None = None) -> str:
        environ = os.environ | {"MPMETRICS_DIR": store_directory if store is None else store}
        begin = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", text],
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert fails or (ended.returncode, ended.stderr) == (0, ""), (ended.stderr, time.monotonic() - begin)
        return ended.stdout + (ended.stderr if fails else "")

    return run
