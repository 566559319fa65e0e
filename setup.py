"""The optional part of the build: the compiled twin of ``mpmetrics._cells``. All else stands in pyproject.toml.

``MPMETRICS_REQUIRE_EXT=1`` makes the installation fail where it cannot be compiled; else the twin in Python is used
there. ``MPMETRICS_BUILD_PURE=1`` leaves it out, which makes a wheel for any Python and machine.
``MPMETRICS_BUILD_FLAGS`` are more options for the compiler and the linker, ``-fsanitize=address`` for instance.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from setuptools import Extension, setup

REQUIRED = os.environ.get("MPMETRICS_REQUIRE_EXT", "") not in ("", "0")
PURE = os.environ.get("MPMETRICS_BUILD_PURE", "") not in ("", "0")
FLAGS = shlex.split(os.environ.get("MPMETRICS_BUILD_FLAGS", ""))
FOLDER = Path("mpmetrics", "_cells", "src")

if REQUIRED and PURE:
    raise SystemExit("MPMETRICS_REQUIRE_EXT and MPMETRICS_BUILD_PURE contradict each other: set one of them")

CORE = Extension(
    "mpmetrics._cells._native",
    sources=sorted(map(str, FOLDER.glob("*.c"))),
    depends=sorted(map(str, FOLDER.glob("*.h"))),
    # Sums are exact only where each operation is rounded by itself.
    extra_compile_args=["-O2", "-ffp-contract=off", "-fvisibility=hidden", *FLAGS],
    # All symbols are looked up when the module is imported, and not within the first request.
    extra_link_args=["-Wl,-z,now", *FLAGS],
    optional=not REQUIRED,
)

setup(ext_modules=[] if PURE else [CORE])
