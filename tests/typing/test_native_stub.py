"""The stub of the compiled module declares what the module has."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
STUB = Path("mpmetrics", "_cells", "_native.pyi")

native = pytest.importorskip("mpmetrics._cells._native")
needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
pytestmark = pytest.mark.timeout(300)  # stubtest keeps no cache: on a busy machine it reads the standard library slowly


def stubtest(directory: Path) -> str:
    """Compare the stub below `directory` with the module below it, and return the report."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "mpmetrics._cells._native"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert "" == done.stderr
    return done.stdout


@needs_mypy
def test_stub_declares_the_names_and_signatures_of_the_module() -> None:
    """Mypy's stubtest finds no name, parameter or default that differs."""
    assert "" == stubtest(ROOT)


@needs_mypy
def test_differences_are_found(tmp_path: Path) -> None:
    """Control: a missing method, a renamed parameter and an invented method are each reported."""
    shutil.copytree(ROOT / "mpmetrics", tmp_path / "mpmetrics", ignore=shutil.ignore_patterns("__pycache__"))
    stub = (ROOT / STUB).read_text(encoding="utf-8")
    changes = {
        "    def flip(self) -> bool: ...\n": "",
        "position: int = 0, width: int = 1": "start: int = 0, width: int = 1",
        "    def claim(self) -> None: ...\n": "    def claim(self) -> None: ...\n    def unclaim(self) -> None: ...\n",
    }
    for declared, wrong in changes.items():
        assert 1 == stub.count(declared)
        stub = stub.replace(declared, wrong)
    (tmp_path / STUB).write_text(stub, encoding="utf-8")

    report = stubtest(tmp_path)
    names = {line.partition(" ")[0].removeprefix("mpmetrics._cells._native.") for line in report.splitlines()}
    assert {"Slab.flip", "sums", "Slab.unclaim"} == names


def functions_of(scope: ModuleType | type) -> dict[str, object]:
    """The functions and methods that are defined in `scope` and its classes, by name."""
    found = {}
    for name, value in vars(scope).items():
        if isinstance(value, type):
            found |= {f"{name}.{method}": function for method, function in functions_of(value).items()}
        elif callable(value) and not name.startswith("__"):
            found[name] = value
    return found


def test_each_function_of_the_module_says_its_signature() -> None:
    """Stubtest does not compare the parameters of a function that has no `__text_signature__`."""
    functions = functions_of(native)
    assert "Source.parse" in functions
    assert [] == [name for name, function in functions.items() if function.__text_signature__ is None]  # type: ignore[attr-defined]
