"""An example ends cleanly by Ctrl-C at any moment, from its first line of output to its last step."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import os, pkgutil, runpy, signal, sys

def interrupted(function):
    def wrapped(*arguments, **named):
        result = function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGINT)
        return result
    return wrapped

program, calls, *sys.argv[1:] = sys.argv[1:]
for call in calls.split():
    where, _, name = call.rpartition(".")
    owner = pkgutil.resolve_name(where)
    setattr(owner, name, interrupted(getattr(owner, name)))
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def run(program: str, calls: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run an example once for each of these ``calls``, and interrupt it right after the call."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MPMETRICS_")}
    environ |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", RUN, program, calls, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, env=environ, cwd=cwd)


@pytest.mark.parametrize(
    ("program", "steps"),
    [
        (
            "examples.registry_driver.demo",
            "mpmetrics.drivers.PrometheusDriver.stop socketserver.BaseServer.shutdown",
        ),
        ("examples.async_metrics.demo", "mpmetrics.endpoint.thread.ServerThread.close"),
    ],
)
def test_a_demo_ends_cleanly(program: str, steps: str, tmp_path: Path) -> None:
    """The demo ends cleanly if it is interrupted while it prints its address, and while it ends."""
    done = run(program, f"builtins.print {steps}", "--port", "0", cwd=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert "/metrics" in done.stdout


@pytest.mark.parametrize("call", ["builtins.print", "subprocess.Popen.__init__"])
def test_the_shop_takes_gunicorn_along(call: str, tmp_path: Path) -> None:
    """The shop, interrupted while it starts gunicorn, says that it was interrupted, and leaves no process behind."""
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        port, metrics_port = (probe.getsockname()[1] for probe in (one, two))
    arguments = ["--port", str(port), "--metrics-port", str(metrics_port)]
    try:
        done = run("examples.shop.run", call, *arguments, cwd=tmp_path)
    finally:
        left = running(f"127.0.0.1:{port}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    assert 130 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert [] == left


def running(word: str) -> list[int]:
    """Return the processes that have this word in their command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # the process has just ended
            continue
        if word.encode() in words:
            found.append(int(path.parent.name))
    return found
