"""``mpmetrics check`` shows which core is in use, and whether a store can be read."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import mpmetrics
from mpmetrics import _cells

if TYPE_CHECKING:
    from pathlib import Path


def check(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it in a new process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MPMETRICS_")}
    return subprocess.run(
        [sys.executable, "-m", "mpmetrics", "check", *arguments],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_core_in_use() -> None:
    """The compiled core is in use if it was built, the pure one if requested, and the reason is shown."""
    built = check()
    assert 0 == built.returncode, built.stderr
    pytest.importorskip("mpmetrics._cells._native", reason="the extension was not built")
    assert "core: compiled (" in built.stdout
    asked = check(MPMETRICS_DISABLE_EXT="1")
    assert (0, True) == (asked.returncode, "core: pure (MPMETRICS_DISABLE_EXT is set)" in asked.stdout)
    assert "core: compiled (" in check(MPMETRICS_DISABLE_EXT="0").stdout


def test_a_build_for_other_sources_is_not_used(tmp_path: Path) -> None:
    """An extension that was built from other sources is not used; the pure core is."""
    code = (
        "import sys, types\n"
        "other = types.ModuleType('mpmetrics._cells._native')\n"
        "other.CONTRACT, other.__file__ = -1, 'there'\n"
        "sys.modules[other.__name__] = other\n"
        "from mpmetrics import _cells\n"
        "print(_cells.TWIN, _cells.WHY)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "MPMETRICS_DISABLE_EXT"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("pure ")
    assert "there was built from other sources" in done.stdout


def test_the_twins_have_the_same_names() -> None:
    """Both twins have all names that the package exports."""
    compiled = pytest.importorskip("mpmetrics._cells.compiled", reason="the extension was not built")
    assert set(compiled.__all__) <= set(_cells.__all__)
    assert {"LAYOUTS", "RECORD", "TWIN", "WHY", "FamilyRecord", "Layout"} == set(_cells.__all__) - set(compiled.__all__)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A misspelled directory is an error, and the check does not make it."""
    asked = check(str(tmp_path / "typo"))
    assert (1, True) == (asked.returncode, "there is no such directory" in asked.stdout)
    assert [] == list(tmp_path.iterdir())


def test_a_store(store_directory: str) -> None:
    """Output and exit code tell a readable store, one that does not exist, and a damaged one apart."""
    provider = mpmetrics.Provider(store_directory)
    mpmetrics.Counter("c", "", provider=provider).inc()
    assert provider.epoch is not None
    good = check(store_directory)
    assert 0 == good.returncode, good.stdout + good.stderr
    assert 0 == check(MPMETRICS_DIR=store_directory).returncode
    missing = check(store_directory + "/none")
    assert 0 != missing.returncode
    assert "none" in missing.stdout + missing.stderr
    with open(os.path.join(provider.epoch.path, "slab-7"), "wb") as slab:  # noqa: PTH118, PTH123
        slab.write(b"nothing")
    damaged = check(store_directory)
    assert 0 != damaged.returncode
    assert "slab-7" in damaged.stdout + damaged.stderr
    assert "Traceback" not in damaged.stderr
