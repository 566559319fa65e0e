"""A few seconds of coverage-guided fuzzing, where a fuzzer is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpmetrics.names.family import Family

if TYPE_CHECKING:
    from collections.abc import Callable

HARNESS = Path(__file__).parents[1] / "fuzz_store.py"
SECONDS = max(5, int(float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "0"))))

needs_fuzzer = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="atheris is not installed (the extra `fuzz`), or another sanitizer is in charge",
)


@needs_fuzzer
@pytest.mark.timeout(SECONDS + 50)
def test_some_seconds_of_fuzz(record_property: Callable[[str, object], None]) -> None:
    """No input of the fuzzer makes a scrape raise, hang or fill the memory."""
    command = [sys.executable, str(HARNESS), f"-max_total_time={SECONDS}"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS + 45)
    said = done.stderr.decode(errors="replace")
    assert 0 == done.returncode, said[-4000:]
    runs = re.search(r"Done (\d+) runs", said)
    assert runs is not None
    assert int(runs[1]) > 10
    record_property("tried", int(runs[1]))


RUN = """
import runpy, sys
main = runpy.run_path({harness!r}, run_name="harness")["main"]
if {is_broken}:
    from mpmetrics.names.family import Family
    Family.check = lambda self: None
sys.argv = [{harness!r}, {sample!r}]
sys.exit(main())
"""


@needs_fuzzer
def test_without_the_checks_the_harness_fails(tmp_path: Path) -> None:
    """The control: the harness reports a histogram without buckets when the check for it is taken out."""
    body = struct.pack("=IIQ", 50, 0, 1) + Family("fresh", "histogram", "").pack()
    (tmp_path / "sample").write_bytes(b"\6" + body)
    for is_broken in (False, True):
        code = RUN.format(harness=str(HARNESS), is_broken=is_broken, sample=str(tmp_path / "sample"))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=100, cwd=tmp_path)
        said = done.stderr + done.stdout
        assert is_broken == (done.returncode != 0), said
        assert is_broken == (b"IndexError" in said)
