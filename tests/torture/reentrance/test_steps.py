"""One operation interrupted by others before each of its steps in turn."""

from __future__ import annotations

import contextlib
import dis
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import turns
from mpmetrics._cells import TWIN
from mpmetrics.log_once import LogOnceUnlocked
from mpmetrics.names.declared import Declared

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

HERE = os.path.dirname(mpmetrics.__file__)  # noqa: PTH120 (as frames have it)
LIBRARIES = (HERE, "filelock", __file__)

AFTER = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
"""Behind these instructions the interpreter lets threads and signal handlers in, and collects where objects are built.

The twin in Python relies on that: what has to be one step is a line of code without any of them.
"""


class Steps:
    """Runs an action and calls ``interrupt`` before one of the bytecodes that it carries out in this library."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        self._interrupt = interrupt
        self._left = -1
        self._before: tuple[object, str] = (None, "")
        self._codes: dict[object, bytes] = {}
        self.taken = 0

    def run(self, action: Callable[[], object], at: int) -> None:
        """Run ``action``, interrupted at step number ``at``."""
        self._left = at
        self.taken = 0
        sys.settrace(self._enter)
        try:
            action()
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        if not any(part in frame.f_code.co_filename for part in LIBRARIES):
            return None
        frame.f_trace = self._step
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _is_open(self, frame: FrameType) -> bool:
        """Whether something may come in before this instruction; in the twin in C, which has no such lines, always."""
        if TWIN == "compiled":
            return True
        code = self._codes.get(frame.f_code) or self._codes.setdefault(frame.f_code, frame.f_code.co_code)
        before, self._before = self._before, (frame, dis.opname[code[frame.f_lasti]])
        return before[0] is not frame or before[1] in AFTER or self._before[1].startswith("BUILD_")

    def _step(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode" and self._is_open(frame):
            self.taken += 1
            if self._left >= 0:
                self._left -= 1
                if self._left < 0:
                    sys.settrace(None)  # what interrupts is not interrupted itself
                    self._interrupt()
                    sys.settrace(self._enter)
        return self._step


def new_series(used: Any, number: int) -> None:
    """The first use of a series of a counter."""
    used.by_code.labels(f"series-{number}").inc(0)


def new_distribution(used: Any, number: int) -> None:
    """That of a histogram, which has several words."""
    used.took.labels(f"series-{number}")


def new_attributes(used: Any, number: int) -> None:
    """That of an instrument of a meter."""
    used.paid.add(0, {"status": f"status-{number}"})


def new_metric(used: Any, number: int) -> None:
    """The declaration of a metric."""
    mpmetrics.Gauge(f"gauge_{number}", "Made.", provider=used.provider).set(1)


def new_timer(used: Any, number: int) -> None:
    """The registration of a timer."""
    used.registry.get_or_register_timer(f"made-{number}").update(1)


def removal(used: Any, number: int) -> None:
    """A series that comes and goes."""
    used.churn(f"series-{number}")


def new_info(used: Any, number: int) -> None:
    """Pairs that take the place of others."""
    used.build.info({"version": "1", "number": str(number % 3)})


def one_use(used: Any, _number: int) -> None:
    """Everything once, by ways that are fast where they are compiled."""
    used.use("own")
    used.uses += 1


def scrape(used: Any, _number: int) -> None:
    """A scrape."""
    used.collector.render()


def own_scrape(used: Any, _number: int) -> None:
    """A scrape of the process itself."""
    used.own_collector.render()


OPERATIONS = [
    new_series,
    new_distribution,
    new_attributes,
    new_metric,
    new_timer,
    removal,
    new_info,
    one_use,
    scrape,
    own_scrape,
]

TRIES = 60 * max(1, int(float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "1"))))
"""Steps at which an operation is interrupted, spread over all it has."""


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_is_interrupted_at_any_step_is_exact(
    operation: Callable[[Any, int], None],
    kit: Any,
    in_child: Callable[..., Any],
    store_directory: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Totals are exact after an interruption that uses all instruments, removes a series and scrapes; none waits."""
    monkeypatch.setattr(turns, "PATIENCE", 60.0)  # a wait for what was interrupted would not end

    def act() -> tuple[int, dict[str, float], dict[str, float]]:
        used = kit(mpmetrics.Provider(store_directory))
        used.collector = mpmetrics.Collector(store_directory)
        used.own_collector = mpmetrics.Collector(used.provider)
        used.use("first")
        used.uses = 1

        def interrupt() -> None:
            used.uses += 1
            used.use(f"interrupting-{used.uses}")
            used.churn(f"interrupting-{used.uses}")
            used.own_collector.render()
            used.collector.render()

        steps = Steps(interrupt)
        steps.run(lambda: operation(used, 0), -1)
        total = steps.taken
        for number in range(TRIES):
            # A step that grows by a prime's share: all parts of the operation, and each time other steps of them.
            steps.run(lambda: operation(used, number + 1), number * total // TRIES + number % 7)  # noqa: B023
        used.provider.force_flush()
        return total, used.expected(used.uses), used.counted(store_directory)

    total, expected, counted = in_child(act)

    assert total > 10  # a first use is one call, where it is compiled
    assert expected == counted


class Forgetful:
    """A re-entrant lock with the name of its owner on a slip beside it, which is written in a step of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = self._depth = 0
        self.waits = 0

    def __enter__(self) -> None:
        if not self._is_owned():
            if not self._lock.acquire(timeout=0.01):
                self.waits += 1
            self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            with contextlib.suppress(RuntimeError):  # a thread whose wait ran out gave it back
                self._lock.release()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()


def test_a_lock_that_does_not_know_its_owner_would_be_waited_for(
    in_child: Callable[..., Any], store_directory: str, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a lock that stores its owner in a second step makes an interrupting signal handler wait."""

    def act() -> int:
        used = kit(mpmetrics.Provider(store_directory))
        forgetful = Forgetful()
        monkeypatch.setattr(LogOnceUnlocked, "lock", forgetful)

        def interrupt() -> None:
            mpmetrics.Counter("interrupting", "Declared in between.", provider=used.provider)

        steps = Steps(interrupt)
        steps.run(lambda: new_metric(used, 0), -1)
        for number in range(steps.taken):
            steps.run(lambda: new_metric(used, number + 1), number)  # noqa: B023
        return forgetful.waits

    assert in_child(act) > 0


def test_two_kinds_of_one_name_never_share_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A declaration that comes between the check and the claim of a name is noticed."""
    mine = mpmetrics.Provider()
    check = Declared.check

    def late(self: Declared, family: Any) -> Any:
        found = check(self, family)
        monkeypatch.setattr(Declared, "check", check)
        mpmetrics.Gauge("thing", "A gauge.", multiprocess_mode="mostrecent", provider=mine)
        return found

    monkeypatch.setattr(Declared, "check", late)
    with pytest.raises(mpmetrics.ConflictError, match="thing"):
        mpmetrics.Gauge("thing", "A gauge.", multiprocess_mode="max", provider=mine)
