"""A short check of an installed wheel, without pytest: `python -I smoke.py compiled|pure`.

It imports the package, counts in this process and in forked children, scrapes the sum through `start_http_server`, and
runs the two commands. An assertion that fails, or a wrong core, ends it with status 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import mpmetrics
from mpmetrics import _cells

ROOT = Path(__file__).resolve().parents[2]
CHILDREN = 3


def scrape_of_counts(directory: str) -> str:
    """Count in a store from this process and its children, and return the lines of the counter in a scrape."""
    provider = mpmetrics.Provider(directory)
    requests = mpmetrics.Counter("requests", "Requests.", ["code"], provider=provider)
    requests.labels("200").inc()
    children = []
    for number in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            requests.labels("200").inc(number + 1)
            os._exit(0)
        children.append(pid)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert 0 == status, status
    server = mpmetrics.start_http_server(0, source=provider)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
    finally:
        server.close()
    return "\n".join(line for line in text.splitlines() if line.startswith("requests_total"))


def main(core: str) -> None:
    """Check the installed package, which has to have this core."""
    package = Path(mpmetrics.__file__).resolve().parent
    assert not package.is_relative_to(ROOT / "mpmetrics"), f"{package} is the checkout, not the installed wheel"
    assert core == _cells.TWIN, f"the core is {_cells.TWIN}: {_cells.WHY}"
    assert (package / "py.typed").exists()
    with tempfile.TemporaryDirectory() as directory:
        total = 1 + sum(range(1, CHILDREN + 1))
        assert f'requests_total{{code="200"}} {total}.0' == scrape_of_counts(directory)
        for command in [sys.executable, "-I", "-m", "mpmetrics"], [str(Path(sys.executable).with_name("mpmetrics"))]:
            done = subprocess.run([*command, "check", directory], capture_output=True, text=True, check=False)
            assert f"core: {core} (" in done.stdout, done.stdout + done.stderr
            assert 0 == done.returncode, done.stdout + done.stderr
    print(f"{package}: {core} core, counts and scrapes are right")  # noqa: T201 (a program's result)


if __name__ == "__main__":
    main(*sys.argv[1:])
