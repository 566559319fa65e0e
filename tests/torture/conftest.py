"""Counts what these tests tried and what was lost by it, and prints it as a table at the end of a run.

A line of the table is a file of tests, named by the first line of its docstring. A test that tries one thing many times
says so with ``tally``; one that does not has tried one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Tally = Callable[..., None]

HERE = os.path.dirname(__file__) + os.sep
KEY = "torture"


@pytest.fixture
def torture_seconds() -> float | None:
    """How long a test without an end of its own is to go on: MPMETRICS_TORTURE_SECONDS; None for its short form."""
    text = os.environ.get("MPMETRICS_TORTURE_SECONDS", "")
    return float(text) if text else None


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Note how often something was tried, and how much was lost of what had to be kept."""

    def note(tried: int, *, lost: float = 0) -> None:
        record_property(KEY, (tried, lost))

    return note


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Have each report of a test in this folder say which line of the table it belongs to."""
    if call.when == "setup" and str(item.path).startswith(HERE):
        module = getattr(item, "module", None)
        title = (getattr(module, "__doc__", None) or item.path.stem).strip().splitlines()[0]
        item.user_properties.append((f"{KEY} title", title))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    lines: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0])
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", [])
            titles = [value for name, value in properties if name == f"{KEY} title"]
            if not titles or (report.when != "call" and outcome in ("passed", "skipped")):
                continue
            notes = [value for name, value in properties if name == KEY]
            line = lines[titles[0]]
            line[0] += 1
            line[1] += sum(tried for tried, _ in notes) if notes else 1
            line[2] += sum(lost for _, lost in notes)
            line[3] += outcome in ("failed", "error")
    if lines:
        terminalreporter.section("what was tried, how often, and what was lost")
        width = max(map(len, lines))
        terminalreporter.write_line(f"{'':{width}} {'tests':>7} {'tried':>10} {'lost':>7} {'failed':>7}")
        for title, figures in sorted(lines.items()):
            terminalreporter.write_line(f"{title:{width}} " + " ".join(f"{n:>{w},g}" for n, w in zip(figures, (7, 10, 7, 7), strict=True)))
        total = [sum(column) for column in zip(*lines.values(), strict=True)]
        terminalreporter.write_line(f"{'all':{width}} " + " ".join(f"{n:>{w},g}" for n, w in zip(total, (7, 10, 7, 7), strict=True)))
