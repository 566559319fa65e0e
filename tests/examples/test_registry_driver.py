"""The example of the registry's driver does what its page says."""

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

import pytest

ROOT = Path(__file__).parents[2]


def get(port: int, path: str) -> str:
    """Return the text there; wait until a server answers."""
    end = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("style", "lines"),
    [
        ("gauges", ["namespace_subsystem_myTimer_percentile_99_9 1.0", "namespace_subsystem_myCounter_count 50.0"]),
        (
            "native",
            ['namespace_subsystem_myTimer_seconds{quantile="0.5"} 1.0', "namespace_subsystem_myMeter_total 10.0"],
        ),
    ],
)
def test_demo(style: str, lines: list[str]) -> None:
    """The demo serves the three metrics, in both styles, until Ctrl-C."""
    command = [sys.executable, "-W", "error", "-m", "examples.registry_driver.demo", "--port", "0", "--style", style]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        match = re.search(r":(\d+)/", demo.stdout.readline())
        assert match
        shown = get(int(match[1]), "/metrics").splitlines()
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=20)

    assert [] == [line for line in lines if line not in shown]
    assert (0, "") == (demo.returncode, errors)


def test_application(tmp_path: Path) -> None:
    """Under gunicorn, the endpoint and the file show what all workers served."""
    with socket.socket() as one, socket.socket() as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        port, metrics_port = one.getsockname()[1], two.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MPMETRICS_")}
    environ |= {"MPMETRICS_BIND": f"127.0.0.1:{metrics_port}", "TEXTFILE": str(tmp_path / "shop.prom")}
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    command = [gunicorn, "-c", "examples/registry_driver/conf.py", "-b", f"127.0.0.1:{port}", "--no-control-socket"]
    with subprocess.Popen([*command, "examples.registry_driver.app:app"], cwd=ROOT, env=environ) as server:
        try:
            for _ in range(20):
                assert "served\n" == get(port, "/?a=b")
            end = time.monotonic() + 20
            while "shop_served_total 20.0\n" not in get(metrics_port, "/metrics"):
                assert time.monotonic() < end
                time.sleep(0.05)
            shown = get(metrics_port, "/metrics")
            assert 'shop_query_length{quantile="0.5"} 3.0\n' in shown
            assert "shop_request_seconds_count 20.0\n" in shown
            while "shop_served_total 20.0\n" not in (tmp_path / "shop.prom").read_text():
                assert time.monotonic() < end
                time.sleep(0.05)
        finally:
            server.terminate()
            server.wait(20)
