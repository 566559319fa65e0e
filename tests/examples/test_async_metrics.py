"""The examples of observable instruments do what their pages say."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]

ROOT = Path(__file__).parents[2]
SCOPE = 'otel_scope_name="examples.async_metrics.demo",otel_scope_version="1.0"'


def free_port() -> int:
    """Return a port at which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(port: int, path: str, body: str | None = None) -> tuple[int, str]:
    """Return status and text of a request: GET, or POST if it has a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def wait_until_answered(port: int, path: str) -> None:
    """Wait until a server answers there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            assert 200 == request(port, path)[0]
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start programs, which end with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **env: str) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MPMETRICS_")}
        environ |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env}
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("plain", [False, True])
def test_demo(start: Start, *, plain: bool) -> None:
    """Two scrapes both show 10, 20 and 30, with the names of the options, and the callback ran twice."""
    demo = start("examples.async_metrics.demo", "--port", "0", *(["--plain"] if plain else []))
    assert demo.stdout is not None
    port = int(re.search(r":(\d+)/metrics", demo.stdout.readline())[1])  # type: ignore[index]
    unit, total = ("", "") if plain else ("_percent", "_total")
    expected = [
        f"# HELP demo_observable_counter{unit}{total} A total that only grows",
        f"# TYPE demo_observable_counter{unit}{total} counter",
        f"demo_observable_counter{unit}{total}{{{SCOPE}}} 10.0",
        f"# HELP demo_observable_gauge{unit} A value of the moment",
        f"# TYPE demo_observable_gauge{unit} gauge",
        f"demo_observable_gauge{unit}{{{SCOPE}}} 30.0",
        f"# HELP demo_observable_up_down_counter{unit} A total that goes up and down",
        f"# TYPE demo_observable_up_down_counter{unit} gauge",
        f"demo_observable_up_down_counter{unit}{{{SCOPE}}} 20.0",
    ]
    for _ in range(2):
        status, text = request(port, "/metrics")

        assert 200 == status
        assert expected == [line for line in text.splitlines() if "demo_" in line]
        assert "the callback runs\n" == demo.stdout.readline()


@pytest.mark.parametrize("how", ["callbacks", "preload"])
def test_mails(start: Start, tmp_path: Path, how: str) -> None:
    """Each scrape shows the queue in the database once for all workers, and a value of each worker."""
    port, metrics_port = free_port(), free_port()
    command = ["gunicorn", "--no-control-socket", "-b", f"127.0.0.1:{port}"]
    if how == "callbacks":
        command += ["-c", str(ROOT / "examples/async_metrics/conf.py")]
    else:
        command += ["-c", "python:gunicorn_conf", "-w", "2", "--preload"]
    start(
        *command,
        "examples.async_metrics.app:app",
        MAIL_DB=str(tmp_path / "mails.sqlite3"),
        MPMETRICS_BIND=f"127.0.0.1:{metrics_port}",
        MPMETRICS_DIR=str(tmp_path / "store"),
    )
    wait_until_answered(port, "/")
    wait_until_answered(metrics_port, "/metrics")
    scope = '{otel_scope_name="examples.async_metrics",otel_scope_version="1.0"}'

    def scrape() -> dict[str, float]:
        lines = [line for line in request(metrics_port, "/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    assert 0.0 == scrape()[f"mail_queue_depth{scope}"]
    assert f"mail_queue_age_seconds{scope}" not in scrape()
    for name in ("anna", "bert", "cleo"):
        assert (202, "queued\n") == request(port, "/mails", f"{name}@example.org")
    assert (200, "sent\n") == request(port, "/send", "")

    deadline = time.monotonic() + 20
    while (shown := scrape()) and 2 > sum(name.startswith("mail_worker_peak_memory_bytes{") for name in shown):
        assert time.monotonic() < deadline  # until the second worker has started, too
        time.sleep(0.05)
    assert 2.0 == shown[f"mail_queue_depth{scope}"]
    assert 1.0 == shown[f"mail_sent_total{scope}"]
    assert 0.0 <= shown[f"mail_queue_age_seconds{scope}"] < 60.0
    served = {name: value for name, value in shown.items() if name.startswith("mpmetrics_callback_served")}
    assert {1.0} == set(served.values())
