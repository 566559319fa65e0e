"""Tests of the test plumbing: a run that lost an operation, or that tests another core than required, must fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

LOSES = '''
"""Counts."""
def test_that_keeps(tally):
    tally(5)

def test_that_loses(tally):
    tally(7, lost=2)

def test_that_fails_anyway(tally):
    tally(1, lost=1)
    assert False, "for another reason"
'''


@pytest.mark.parametrize("arguments", [[], ["-n", "1"]], ids=["alone", "in a worker"])
def test_what_is_lost_fails_the_run(tmp_path: Path, arguments: list[str]) -> None:
    """A test fails if its tally has losses, although it asserts nothing; a test that fails anyway fails once."""
    torture = tmp_path / "torture"
    torture.mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path)
    shutil.copy(TESTS / "torture" / "conftest.py", torture)
    (torture / "test_counts.py").write_text(LOSES)
    command = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", *arguments]
    done = subprocess.run([*command, str(torture)], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert 1 == done.returncode, done.stdout
    assert "2 were lost of what had to be kept" in done.stdout
    assert "for another reason" in done.stdout
    assert ["3", "0", "13", "3", "2"] == re.findall(r"^Counts\. +(.*)$", done.stdout, re.MULTILINE)[0].split()


COLLECT = """
import sys, pytest
if {is_missing}:
    sys.modules["mpmetrics._cells._native"] = None
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", {tests!r}]))
"""


@pytest.mark.parametrize(
    ("is_missing", "required", "disabled", "status"),
    [
        (True, "1", "0", pytest.ExitCode.USAGE_ERROR),
        (True, "1", "1", pytest.ExitCode.OK),
        (True, "", "", pytest.ExitCode.OK),
        (False, "1", "0", pytest.ExitCode.OK),
    ],
)
def test_a_core_that_was_not_built_fails_the_run(
    required: str, disabled: str, status: pytest.ExitCode, *, is_missing: bool
) -> None:
    """A run that requires the compiled core fails without it, unless the run tests the pure core."""
    if not is_missing:
        pytest.importorskip("mpmetrics._cells._native")
    environ = os.environ | {"MPMETRICS_REQUIRE_EXT": required, "MPMETRICS_DISABLE_EXT": disabled}
    code = COLLECT.format(is_missing=is_missing, tests=str(TESTS / "names"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ, cwd=TESTS.parent
    )

    assert status == done.returncode, done.stdout + done.stderr
    assert (status != pytest.ExitCode.OK) == ("the compiled core was to be tested" in done.stderr)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(("seconds", "limit"), [("1.5", "315"), ("600", "6300")])
def test_torture_takes_any_number_of_seconds(seconds: str, limit: str) -> None:
    """``make torture SECONDS=n`` accepts fractions, and the time limit of a test grows with n."""
    command = ["make", "--no-print-directory", "-n", "torture", f"SECONDS={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)

    assert 0 == done.returncode, done.stderr
    assert f"MPMETRICS_TORTURE_SECONDS={seconds} " in done.stdout
    assert f" -o timeout={limit} " in done.stdout
