"""uWSGI forks without Python's hooks, unless an option says otherwise: totals are exact with and without it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpmetrics

if TYPE_CHECKING:
    from collections.abc import Callable

UWSGI = Path(sys.executable).with_name("uwsgi")
APPLICATION = """
import mpmetrics

HITS = mpmetrics.Counter("hits", "Requests served.")
PATHS = mpmetrics.Counter("paths", "Requests by path.", ["path"])
HITS.inc(0)

def application(environ, start_response):
    HITS.inc()
    PATHS.labels(environ["PATH_INFO"]).inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""

pytestmark = pytest.mark.skipif(not UWSGI.exists(), reason="needs uwsgi: pip install pyuwsgi")


no_hooks = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="uWSGI 2.0.30 calls the hooks without their lock, and its workers end"
)


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--py-call-osafterfork"], marks=no_hooks),
        ["--lazy-apps"],
        ["--enable-threads", "--threads", "2"],
    ],
    ids=["plain", "hooks", "lazy", "threads"],
)
def test_uwsgi_counts_exactly(
    options: list[str], tmp_path: Path, port: int, wait_for: Callable[..., object], request: pytest.FixtureRequest
) -> None:
    """400 requests on four workers are all counted; after a HUP, which restarts the application, so are 100 more."""
    (tmp_path / "app.py").write_text(APPLICATION)
    store = str(tmp_path / "store")
    # After a HUP the wheel's uWSGI runs the interpreter that the virtual environment was made with.
    path = os.pathsep.join((str(Path(__file__).parents[2]), sysconfig.get_path("platlib")))
    environ = {**os.environ, "MPMETRICS_DIR": store, "PYTHONPATH": path}
    command = [str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "4", "--module", "app"]
    command += ["--need-app", "--die-on-term", *options]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)
    request.addfinalizer(server.kill)

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return bytes(response.read())

    wait_for(lambda: get("/"), what=f"uwsgi: {(tmp_path / 'log').read_text()}")
    for number in range(400):
        get(f"/{number % 7}")
    collector = mpmetrics.Collector(store)
    # On a busy machine, uWSGI may also answer requests whose sender has stopped waiting for it to start.
    first, *paths = [collector.value("paths_total", {"path": f"/{path}"}) or 0 for path in ("", *range(7))]
    assert first >= 1
    assert [400 + first, 400] == [collector.value("hits_total"), sum(paths)]
    server.send_signal(signal.SIGHUP)
    time.sleep(1)
    wait_for(lambda: get("/"), what="uwsgi after HUP")
    for _ in range(100):
        get("/late")

    assert 100 == mpmetrics.Collector(store).value("paths_total", {"path": "/late"})
    server.send_signal(signal.SIGTERM)
    server.wait(20)
    assert re.search(r"spawned uWSGI worker 4", (tmp_path / "log").read_text())
