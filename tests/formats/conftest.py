"""promtool, for the tests here."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def lint() -> Callable[[bytes], str]:
    """What `promtool check metrics` has to say about a scrape in the text format; nothing is good."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")

    def check(body: bytes) -> str:
        done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=50, check=False)
        said = (done.stdout + done.stderr).decode()
        assert bool(said) == bool(done.returncode)
        return said

    return check
