"""The wheel holds both packages whole, their type markers, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mpmetrics", "gunicorn_conf")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIST_INFO = f"mpmetrics_toolkit-{PROJECT['version']}.dist-info"
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "tests", *PACKAGES)

pytestmark = pytest.mark.timeout(600)  # a build takes five seconds of a processor, on a busy machine minutes


def build(source: Path, target: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Build the wheel from a copy of the sources with the setuptools that is here: no network needed."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target)]
    return subprocess.run(
        [*pip, *options, str(source)],
        env={name: value for name, value in os.environ.items() if name != "MPMETRICS_REQUIRE_EXT"} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, as it is built here."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    built = build(source, target)
    assert built.returncode == 0, f"pip could not build the wheel:\n{built.stdout}{built.stderr}"
    [path] = target.iterdir()
    return zipfile.Path(path)


def test_the_extension_is_in_the_wheel(members: set[str]) -> None:
    """A wheel that is built where there is a compiler has the compiled core."""
    if shutil.which(os.environ.get("CC", "gcc")) is None:
        pytest.skip("there is no compiler here")
    assert [name for name in members if name.startswith("mpmetrics/_cells/_native.") and name.endswith(".so")]


def test_without_a_compiler_the_pure_core_is_installed(tmp_path: Path) -> None:
    """A build without a compiler gives a wheel with the Python core alone."""
    (tmp_path / "source").mkdir()
    built = build(tmp_path / "source", tmp_path, CC="no-such-compiler")
    assert built.returncode == 0, built.stderr
    [path] = tmp_path.glob("*.whl")
    names = set(zipfile.Path(path).root.namelist())
    assert "mpmetrics/_cells/pure.py" in names
    assert not [name for name in names if name.endswith(".so")]


def test_a_pure_wheel_is_for_any_machine(tmp_path: Path) -> None:
    """With MPMETRICS_BUILD_PURE=1 the extension is left out, and the wheel's name says that it fits everywhere."""
    (tmp_path / "source").mkdir()
    built = build(tmp_path / "source", tmp_path, MPMETRICS_BUILD_PURE="1")
    assert built.returncode == 0, built.stderr
    [path] = tmp_path.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.Path(path).root.namelist() if name.endswith(".so")]


def test_an_extension_that_is_required(tmp_path: Path) -> None:
    """With MPMETRICS_REQUIRE_EXT=1 a build without a compiler fails and names the compiler."""
    (tmp_path / "source").mkdir()
    built = build(tmp_path / "source", tmp_path, CC="no-such-compiler", MPMETRICS_REQUIRE_EXT="1")
    assert built.returncode != 0
    assert "no-such-compiler" in built.stdout + built.stderr


def test_a_pure_wheel_cannot_require_the_extension(tmp_path: Path) -> None:
    """The two switches contradict each other: the build fails, and names both."""
    (tmp_path / "source").mkdir()
    built = build(tmp_path / "source", tmp_path, MPMETRICS_BUILD_PURE="1", MPMETRICS_REQUIRE_EXT="1")
    assert built.returncode != 0
    assert "MPMETRICS_REQUIRE_EXT and MPMETRICS_BUILD_PURE" in built.stdout + built.stderr


@pytest.fixture(scope="module")
def members(wheel: zipfile.Path) -> set[str]:
    """The names of the files in the wheel."""
    return set(wheel.root.namelist())


def test_each_module_of_the_tree_is_in_the_wheel(members: set[str]) -> None:
    """Each module of the two packages is in the wheel; a directory without `__init__.py` would be missing."""
    tree = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py*")}
    tree = {name for name in tree if name.endswith((".py", ".pyi"))}

    assert tree
    assert tree == {name for name in members if name.endswith((".py", ".pyi"))}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_says_that_it_is_typed(members: set[str], package: str) -> None:
    """Each package has `py.typed`, without which type checkers ignore its annotations."""
    assert f"{package}/py.typed" in members


def test_nothing_but_the_packages_is_in_the_wheel(members: set[str]) -> None:
    """The wheel puts nothing but the two packages and their metadata into site-packages."""
    assert {*PACKAGES, DIST_INFO} == {name.split("/")[0] for name in members}


def test_the_wheel_has_no_sources_of_the_extension(members: set[str]) -> None:
    """An installed package is not compiled again: it holds modules, stubs and type markers."""
    files = {name for name in members if not name.startswith(DIST_INFO)}
    assert {".py", ".pyi", ".so", ".typed", ""} >= {Path(name).suffix for name in files}


def test_the_metadata_says_what_users_need_to_know(wheel: zipfile.Path) -> None:
    """Name, licence and versions come from the project file; the test tools are not required."""
    metadata = BytesParser().parsebytes((wheel / DIST_INFO / "METADATA").read_bytes())
    required = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}

    assert metadata["Name"] == "mpmetrics-toolkit"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"filelock", "gunicorn", "h11", "prometheus-client"} == {line.split(">=")[0] for line in required}
