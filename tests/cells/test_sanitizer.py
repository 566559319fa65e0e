"""`make asan` really runs the extension under AddressSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpmetrics import _cells


@pytest.mark.skipif("ASAN_IS_THERE" not in os.environ, reason="only where AddressSanitizer is asked for")
def test_the_extension_runs_under_address_sanitizer() -> None:
    """The compiled twin from the sanitizer's build is in use, and a read past the end is detected."""
    from mpmetrics._cells import _native  # type: ignore[attr-defined]  # noqa: PLC0415

    assert "compiled" == _cells.TWIN
    built = Path(_native.__file__)
    assert "asan" in built.parts
    assert b"__asan_init" in built.read_bytes()
    code = "import ctypes; ctypes.string_at(ctypes.create_string_buffer(8), 1 << 16)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 0 != done.returncode
    assert "AddressSanitizer" in done.stderr
