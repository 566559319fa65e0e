"""What was said last is what shows, whatever becomes of the wall clock: set back, or another one in a namespace."""

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
    """A metric of each kind of which the latest value counts."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self._level = mpmetrics.Gauge("level", "L.", multiprocess_mode="mostrecent", provider=provider)
        self._live = mpmetrics.Gauge("live", "L.", multiprocess_mode="livemostrecent", provider=provider)
        self._mood = mpmetrics.Enum("mood", "M.", states=["0", "1", "2"], provider=provider)
        self._build = mpmetrics.Info("build", "B.", provider=provider)

    def say(self, number: int) -> None:
        """Have all of them say this number."""
        self._level.set(number)
        self._live.set(number)
        self._mood.state(str(number % 3))
        self._build.info({"number": str(number)})


def said(shown: dict[Any, float]) -> tuple[float, float, str, str]:
    """What they say."""
    (mood,) = [labels[0][1] for (name, labels), value in shown.items() if name == "mood" and value]
    (build,) = [labels[0][1] for name, labels in shown if name == "build_info"]
    return shown["level", ()], shown["live", ()], mood, build


def expected(number: int) -> tuple[float, float, str, str]:
    """What they should say."""
    return float(number), float(number), str(number % 3), str(number)


class Wall:
    """A wall clock that is set back an hour with each look."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """The time."""
        self.now -= 3600.0
        return self.now


def test_a_wall_clock_that_is_set_back_freezes_nothing(
    store_directory: str, child: Callable[..., Any], shown: Shown
) -> None:
    """Values that are set after each step back show, in one process and in another, live, dead and folded."""
    wall = Wall()
    mine = mpmetrics.Provider(store_directory, clock=wall)
    recent = Recent(mine)
    for number in range(3):
        recent.say(number)
        assert expected(number) == said(shown(store_directory))
    for number in (3, 5):
        other = child(lambda number=number: Recent(mpmetrics.Provider(store_directory, clock=wall)).say(number))  # type: ignore[misc]
        assert expected(number) == said(shown(store_directory))
        recent.say(number + 1)
        assert expected(number + 1) == said(shown(store_directory))
        other.kill()
        assert expected(number + 1) == said(shown(store_directory))
    mine.shutdown()


def test_the_kernels_own_clock_is_asked_for_no_order(
    store_directory: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a clock that is given: what Python calls the time may stand still or run backwards."""
    wall = Wall()
    monkeypatch.setattr(time, "time", wall)
    mine = mpmetrics.Provider(store_directory)
    recent = Recent(mine)
    for number in range(5):
        recent.say(number)

    assert expected(4) == said(shown(store_directory))
    mine.shutdown()


def test_values_of_one_moment_follow_each_other(store_directory: str, shown: Shown) -> None:
    """A writer that is quicker than the clock's resolution is right all the same: its next time is a later one."""
    mine = mpmetrics.Provider(store_directory)
    recent = Recent(mine)
    for number in range(2000):
        recent.say(number)

    assert expected(1999) == said(shown(store_directory))
    mine.shutdown()


SAY = """
    import sys
    sys.path.insert(0, {here!r})
    import mpmetrics
    from test_clocks import Recent
    from mpmetrics.storage import owner
    if {is_naive}:
        owner.time_offset = lambda: 0
    Recent(mpmetrics.Provider(sys.argv[1])).say(int(sys.argv[2]))
    import os
    os._exit(0)
"""


def say(store: str, number: int, *prefix: str, is_naive: bool = False) -> None:
    """Have a process of its own say it."""
    code = textwrap.dedent(SAY).format(here=str(__file__).rpartition("/")[0], is_naive=is_naive)
    subprocess.run([*prefix, sys.executable, "-c", code, store, str(number)], check=True, timeout=50)


AHEAD = ("unshare", "-T", "--monotonic", "100000")
"""In a time namespace, such as a restored container has, where the monotonic clock is a day ahead."""


def has_time_namespaces() -> bool:
    """Whether we may make one."""
    if shutil.which("unshare") is None:
        return False
    return not subprocess.run([*AHEAD, "true"], capture_output=True, check=False).returncode


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_process_in_a_time_namespace_is_not_ahead(store_directory: str, shown: Shown, *, is_naive: bool) -> None:
    """What others say after it shows; if times were not those of the machine, it would have the last word for a day."""
    if not has_time_namespaces():
        pytest.skip("no time namespace can be made here")
    keeper = mpmetrics.Provider(store_directory)
    say(store_directory, 3, *AHEAD, is_naive=is_naive)
    say(store_directory, 4)
    values = shown(store_directory)
    keeper.shutdown()

    assert (3.0 if is_naive else 4.0) == values["level", ()]
