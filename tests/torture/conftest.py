"""Counts what these tests tried and what was lost by it, and prints it as a table at the end of a run.

A line of the table is a file of tests, named by the first line of its docstring. A test that tries one thing many times
says so with ``tally``; one that does not has tried one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Tally = Callable[..., None]

HERE = Path(__file__).parent
TITLE = "line of the table"
HEADS = ("tests", "skipped", "tried", "lost", "failed")


@pytest.fixture
def torture_seconds() -> float | None:
    """How long a test without an end of its own is to go on: MPMETRICS_TORTURE_SECONDS; None for its short form."""
    text = os.environ.get("MPMETRICS_TORTURE_SECONDS", "")
    return float(text) if text else None


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Note how often something was tried, and how much was lost of what had to be kept."""

    def note(tried: int, *, lost: float = 0) -> None:
        record_property("tried", tried)
        record_property("lost", lost)

    return note


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Have each report of a test in this folder say which line of the table it belongs to."""
    if call.when == "setup" and HERE in item.path.parents:
        module = getattr(item, "module", None)
        title = (getattr(module, "__doc__", None) or item.path.stem).strip().splitlines()[0]
        item.user_properties.append((TITLE, title))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    lines: dict[str, list[float]] = defaultdict(lambda: [0] * len(HEADS))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", [])
            titles = [value for name, value in properties if name == TITLE]
            if not titles or (report.when != "call" and outcome == "passed"):
                continue
            tried, lost = ([value for name, value in properties if name == what] for what in ("tried", "lost"))
            line = lines[titles[0]]
            is_skipped = outcome == "skipped"
            line[0] += 1
            line[1] += is_skipped
            line[2] += 0 if is_skipped else sum(tried) if tried else 1
            line[3] += sum(lost)
            line[4] += outcome in ("failed", "error")
    if not lines:
        return
    lines["all"] = [sum(column) for column in zip(*lines.values(), strict=True)]
    width = max(map(len, lines))
    terminalreporter.section("what was tried, how often, and what was lost")
    terminalreporter.write_line(" ".join((" " * width, *(f"{head:>9}" for head in HEADS))))
    for title, figures in lines.items():
        terminalreporter.write_line(" ".join((f"{title:{width}}", *(f"{figure:>9,g}" for figure in figures))))
