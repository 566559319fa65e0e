"""Runs each library's measurements in a process, and where needed an environment, of its own.

A peer whose tools are not here is left out, and that is said: client_golang needs Debian's golang-go and
golang-github-prometheus-client-golang-dev, prom-client needs npm, Forty-Bot's mpmetrics pip and a C compiler.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
SHARED = Path("/dev/shm")
PROM_CLIENT = "15.1.3"
FORTY_BOT = ("mpmetrics==0.1.0", "prometheus_client==0.16.0")
"""It has the import name of this project, and reaches into a prometheus_client of its time."""

Figures = dict[str, float]


def run(command: list[str], environ: Mapping[str, str] | None = None) -> Figures:
    """What a program says that it measured."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **(environ or {})})
    figures: Figures = json.loads(done.stdout)
    return figures


def subject(row: str, library: str, *arguments: str, pure: bool = False, python: str = sys.executable) -> Figures:
    """Measure a library of Python in a fresh process and an empty directory."""
    directory = tempfile.mkdtemp(prefix="mpmetrics-bench-", dir=SHARED if SHARED.is_dir() else None)
    try:
        command = [python, str(HERE / "subject.py"), row, library, directory, *arguments]
        return run(command, {"MPMETRICS_DISABLE_EXT": "1" if pure else ""})
    finally:
        shutil.rmtree(directory)


def client_golang(folder: Path, series: int) -> Figures:
    """client_golang, of one process; nothing where it cannot be built."""
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    program = folder / "client_golang"
    build = ["go", "build", "-o", str(program), str(HERE / "peers" / "client_golang.go")]
    try:
        subprocess.run(build, env=environ, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return _left_out("client_golang", error)
    return run([str(program), str(series)])


def prom_client(folder: Path, series: int, workers: int) -> Figures:
    """Node's prom-client, merging what workers sent; nothing where it cannot be installed."""
    shutil.copy(HERE / "peers" / "prom_client.js", folder)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"prom-client@{PROM_CLIENT}"]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return _left_out("prom-client", error)
    return run(["node", str(folder / "prom_client.js"), str(series), str(workers)])


def forty_bot(folder: Path) -> str | None:
    """The Python of an environment with Forty-Bot's mpmetrics; None where it cannot be installed."""
    environment = folder / "forty_bot"
    python = environment / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *FORTY_BOT], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        _left_out("Forty-Bot's mpmetrics", error)
        return None
    return str(python)


def _left_out(peer: str, error: Exception) -> Figures:
    detail = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
    print(f"{peer} is left out: {error} {' '.join(detail[-1:])}", file=sys.stderr)
    return {}


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    release = platform.release()
    return f"{model}, {os.cpu_count()} cores, Linux {release}, Python {platform.python_version()}"
