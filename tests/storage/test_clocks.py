"""The last set value is shown, even if the wall clock is set back or differs in a time namespace."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


class Recent:
    """One metric of each kind whose latest value counts."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self._level = mpmetrics.Gauge("level", "L.", multiprocess_mode="mostrecent", provider=provider)
        self._live = mpmetrics.Gauge("live", "L.", multiprocess_mode="livemostrecent", provider=provider)
        self._mood = mpmetrics.Enum("mood", "M.", states=["0", "1", "2"], provider=provider)
        self._build = mpmetrics.Info("build", "B.", provider=provider)

    def set_all(self, number: int) -> None:
        """Set all metrics to this number."""
        self._level.set(number)
        self._live.set(number)
        self._mood.state(str(number % 3))
        self._build.info({"number": str(number)})


def shown_values(shown: dict[Any, float]) -> tuple[float, float, str, str]:
    """The values shown for all metrics."""
    (mood,) = [labels[0][1] for (name, labels), value in shown.items() if name == "mood" and value]
    (build,) = [labels[0][1] for name, labels in shown if name == "build_info"]
    return shown["level", ()], shown["live", ()], mood, build


def expected(number: int) -> tuple[float, float, str, str]:
    """The values that must be shown."""
    return float(number), float(number), str(number % 3), str(number)


class Wall:
    """A wall clock that goes back an hour with each call."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """The time, an hour earlier than at the last call."""
        self.now -= 3600.0
        return self.now


def test_a_wall_clock_that_is_set_back_freezes_nothing(
    store_directory: str, child: Callable[..., Any], shown: Shown
) -> None:
    """Values set after each step back are shown, from one process or two, alive, dead and folded."""
    wall = Wall()
    mine = mpmetrics.Provider(store_directory, clock=wall)
    recent = Recent(mine)
    for number in range(3):
        recent.set_all(number)
        assert expected(number) == shown_values(shown(store_directory))
    for number in (3, 5):
        other = child(lambda number=number: Recent(mpmetrics.Provider(store_directory, clock=wall)).set_all(number))  # type: ignore[misc]
        assert expected(number) == shown_values(shown(store_directory))
        recent.set_all(number + 1)
        assert expected(number + 1) == shown_values(shown(store_directory))
        other.kill()
        assert expected(number + 1) == shown_values(shown(store_directory))
    mine.shutdown()


def test_the_wall_clock_does_not_decide_the_order(
    store_directory: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default clock, too: ``time.time`` may stand still or run backwards."""
    wall = Wall()
    monkeypatch.setattr(time, "time", wall)
    mine = mpmetrics.Provider(store_directory)
    recent = Recent(mine)
    for number in range(5):
        recent.set_all(number)

    assert expected(4) == shown_values(shown(store_directory))
    mine.shutdown()


def test_values_of_one_moment_follow_each_other(store_directory: str, shown: Shown) -> None:
    """A writer that is faster than the clock's resolution still gives each value a later time."""
    mine = mpmetrics.Provider(store_directory)
    recent = Recent(mine)
    for number in range(2000):
        recent.set_all(number)

    assert expected(1999) == shown_values(shown(store_directory))
    mine.shutdown()


SAY = """
    import sys
    sys.path.insert(0, {here!r})
    import mpmetrics
    from test_clocks import Recent
    from mpmetrics.storage import owner
    if {is_naive}:
        owner.time_offset = lambda: 0
    Recent(mpmetrics.Provider(sys.argv[1])).set_all(int(sys.argv[2]))
    import os
    os._exit(0)
"""


def set_in_process(store: str, number: int, *prefix: str, is_naive: bool = False) -> None:
    """Set the metrics to this number in a process of its own."""
    code = textwrap.dedent(SAY).format(here=str(__file__).rpartition("/")[0], is_naive=is_naive)
    subprocess.run([*prefix, sys.executable, "-c", code, store, str(number)], check=True, timeout=50)


AHEAD = ("unshare", "-T", "--monotonic", "100000")
"""In a time namespace, such as a restored container has, where the monotonic clock is a day ahead."""


def has_time_namespaces() -> bool:
    """Whether this process may create a time namespace."""
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run([*AHEAD, "true"], capture_output=True, check=False).returncode


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_process_in_a_time_namespace_is_not_ahead(store_directory: str, shown: Shown, *, is_naive: bool) -> None:
    """Later values of others replace its value. With times of the namespace (naive) it would win for a day."""
    if not has_time_namespaces():
        pytest.skip("no time namespace can be made here")
    keeper = mpmetrics.Provider(store_directory)
    set_in_process(store_directory, 3, *AHEAD, is_naive=is_naive)
    set_in_process(store_directory, 4)
    values = shown(store_directory)
    keeper.shutdown()

    assert (3.0 if is_naive else 4.0) == values["level", ()]
