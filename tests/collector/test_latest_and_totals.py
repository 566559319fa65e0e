"""Info and enum over processes: what any process set last counts. Totals: dead processes count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics.instruments import Counter, Enum, Histogram, Info, Summary

if TYPE_CHECKING:
    from mpmetrics.provider import Provider

Shown = Callable[[Any], dict[tuple[str, tuple[tuple[str, str], ...]], float]]
Start = Callable[[Callable[[], object]], Any]


def _info(*pairs: tuple[str, str]) -> dict[Any, float]:
    return {("i_info", pairs): 1.0}


@pytest.mark.parametrize("after", ["lives", "killed"])
def test_info_of_another_process(shared: Provider, child: Start, shown: Shown, after: str) -> None:
    """The pairs of another process replace this one's, also after it is killed and folded."""
    info = Info("i", "", provider=shared)
    info.info({"v": "1"})
    other = child(lambda: info.info({"v": "2"}))
    if after == "killed":
        other.kill()
        shown(shared)

    assert _info(("v", "2")) == shown(shared)


@pytest.mark.parametrize("labels", [(), ("x",)])
def test_info_set_again(shared: Provider, child: Start, shown: Shown, labels: tuple[str, ...]) -> None:
    """Pairs that another process has replaced can be set here again."""
    info = Info("i", "", labels, provider=shared)

    def say(pairs: dict[str, str]) -> None:
        (info.labels("a") if labels else info).info(pairs)

    more = tuple((label, "a") for label in labels)
    say({"v": "1"})
    child(lambda: say({"v": "2"}))
    assert _info(("v", "2"), *more) == shown(shared)

    say({"v": "1"})
    assert _info(("v", "1"), *more) == shown(shared)


def test_same_info_of_all_processes(shared: Provider, child: Start, shown: Shown) -> None:
    """Workers that set the same pairs make one series, while they live and later."""
    info = Info("i", "", provider=shared)
    children = [child(lambda: info.info({"v": "1"})) for _ in range(3)]
    assert _info(("v", "1")) == shown(shared)

    for one in children:
        one.kill()
    assert _info(("v", "1")) == shown(shared)


def test_enum_of_another_process(shared: Provider, child: Start, shown: Shown) -> None:
    """The state that any process set last is shown, also after that process is dead."""
    task = Enum("e", "", states=["on", "off", "gone"], provider=shared)

    def state() -> str:
        (found,) = [dict(labels)["e"] for (_, labels), value in shown(shared).items() if value]
        return found

    assert "on" == state()
    task.state("off")
    other = child(lambda: task.state("gone"))
    assert "gone" == state()
    other.kill()
    assert "gone" == state()
    assert "gone" == state()
    task.state("on")
    assert "on" == state()


def test_totals_of_the_dead_stay(shared: Provider, child: Start, shown: Shown) -> None:
    """Counters, histograms and summaries add up over processes, before and after these are killed and folded."""
    counter = Counter("c", "", ["x"], provider=shared)
    histogram = Histogram("h", "", buckets=[1, 2], provider=shared)
    summary = Summary("s", "", provider=shared)

    def work() -> None:
        counter.labels("1").inc(0.1)
        histogram.observe(1.5)
        summary.observe(0.1)

    work()
    children = [child(work) for _ in range(4)]
    expected = {
        ("c_total", (("x", "1"),)): 0.5,
        ("h_bucket", (("le", "1.0"),)): 0.0,
        ("h_bucket", (("le", "2.0"),)): 5.0,
        ("h_bucket", (("le", "+Inf"),)): 5.0,
        ("h_count", ()): 5.0,
        ("h_sum", ()): 7.5,
        ("s_count", ()): 5.0,
        ("s_sum", ()): 0.5,
    }
    assert expected == shown(shared)
    for one in children:
        one.kill()
        assert expected == shown(shared)
        assert expected == shown(shared)
    work()
    assert expected != shown(shared), "another observation shows"


def test_removal_reaches_all_processes(shared: Provider, child: Start, stepwise: Any, shown: Shown) -> None:
    """A series that one process removes is gone in all; a process that had it makes a new one at zero."""
    counter = Counter("c", "", ["x"], provider=shared)

    def work() -> Any:
        for _ in range(2):
            counter.labels("1").inc(5)
            yield

    other = stepwise(work())
    counter.labels("1").inc()
    child(lambda: counter.remove("1")).kill()
    assert {} == shown(shared)

    other.step()
    assert {("c_total", (("x", "1"),)): 5.0} == shown(shared)
    counter.labels("1").inc()
    assert {("c_total", (("x", "1"),)): 6.0} == shown(shared)
