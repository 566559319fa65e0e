"""The types of the public names, as mypy sees them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed"),
    pytest.mark.timeout(180),  # without a cache mypy reads prometheus_client and the standard library first
]


def check(file: Path, cache: Path) -> str:
    """Return the output of `mypy --strict` for a file."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--no-error-summary", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert "" == done.stderr
    return done.stdout


def test_public_names(tmp_path: Path) -> None:
    """An application that uses the public names as documented passes `mypy --strict`, and gets precise types."""
    assert "" == check(HERE / "api.py", tmp_path)


def test_mistakes(tmp_path: Path) -> None:
    """Mypy reports each mistake on its line, and nothing else."""
    file = HERE / "mistakes.py"
    lines = file.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = {int(number) for number in re.findall(r"mistakes\.py:(\d+): error", check(file, tmp_path))}

    missed = [lines[number - 1] for number in sorted(wrong - found)]
    assert ([], set()) == (missed, found - wrong)
