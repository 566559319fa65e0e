"""The scrape endpoint behind other servers: what slow and silent clients cost it, and how a scrape fares beside them.

    pip install uvicorn hypercorn waitress
    python benchmarks/endpoint_servers.py            # a table, after less than three minutes

Each server answers scrapes of 6 MB in a process of its own, on the loopback interface: our own server, and the others
with `make_asgi_app` or `make_wsgi_app`; as they come, and with a limit of 64 connections where they have one. Beside it
are 600 clients that ask at once and read 1 KiB every 0.5 s, or 500 that connect and send nothing; all of them connect
again when they are dropped. One scraper asks again and again; a scrape that takes more than 5 s has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = 6.0
PATIENCE = 5.0
CROWDS = {"slow readers": 600, "silent": 500}
SERVERS = ["mpmetrics", "uvicorn", "uvicorn, 64", "hypercorn", "waitress", "waitress, 64"]
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def serve(name: str, directory: str, port: int) -> None:
    """Be one of the servers."""
    import mpmetrics  # noqa: PLC0415 (only the servers' processes need it)

    provider = mpmetrics.Provider(directory)
    for number in range(20):
        orders = mpmetrics.Counter(f"orders{number}", "Orders.", ["country", "kind"], provider=provider)
        for country in range(300):
            orders.labels(f"country-{country}", "kind" * 250).inc(country)
    server, _, limit = name.partition(", ")
    if server == "mpmetrics":
        mpmetrics.start_http_server(port, source=provider)
        time.sleep(3600)
    elif server == "uvicorn":
        import uvicorn  # noqa: PLC0415

        app: Any = mpmetrics.make_asgi_app(provider)
        cap = int(limit) if limit else None
        uvicorn.run(app, port=port, log_level="critical", limit_concurrency=cap)
    elif server == "hypercorn":
        import hypercorn.asyncio  # noqa: PLC0415

        config = hypercorn.Config()
        config.bind = [f"127.0.0.1:{port}"]
        app = mpmetrics.make_asgi_app(provider)
        asyncio.run(hypercorn.asyncio.serve(app, config))
    else:
        import waitress  # noqa: PLC0415

        options = {"connection_limit": int(limit)} if limit else {}
        waitress.serve(mpmetrics.make_wsgi_app(provider), host="127.0.0.1", port=port, **options)


async def disturb(port: int, *, asks: bool) -> None:
    """A client that reads slowly, or one that says nothing, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setblocking(False)  # noqa: FBT003 (its only parameter)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            if asks:
                await loop.sock_sendall(sock, REQUEST)
            while await loop.sock_recv(sock, 1024):  # noqa: ASYNC110 (slowly is the point)
                await asyncio.sleep(0.5)
        await asyncio.sleep(0.25)


async def crowd(port: int, name: str) -> None:
    """A process full of such clients."""
    await asyncio.gather(*(disturb(port, asks=name == "slow readers") for _ in range(CROWDS[name])))


def scrape(port: int) -> float | None:
    """Seconds that a scrape takes; None when it fails."""
    start = time.monotonic()
    size = 0
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(REQUEST)
            while data := sock.recv(1 << 20):
                size += len(data)
                sock.settimeout(max(0.001, start + PATIENCE - time.monotonic()))
    except OSError:
        return None
    return time.monotonic() - start if size > 6_000_000 else None


def memory(process: subprocess.Popen[bytes], what: str) -> int:
    """MiB that a process uses (`VmRSS`) or has used at most (`VmHWM`)."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) // 1024


def measure(name: str, crowd_name: str) -> str:
    """A row of the table."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    directory = tempfile.mkdtemp(dir="/dev/shm")
    script = [sys.executable, __file__]
    server = subprocess.Popen([*script, "serve", name, directory, str(port)], stderr=subprocess.DEVNULL)
    clients = None
    try:
        deadline = time.monotonic() + 30
        while (alone := scrape(port)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        alone = scrape(port)
        before = memory(server, "VmRSS")
        clients = subprocess.Popen([*script, "crowd", crowd_name, str(port)], stderr=subprocess.DEVNULL)
        time.sleep(2.0)
        took: list[float | None] = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            took.append(scrape(port))
            time.sleep(0.1)
        good = [seconds for seconds in took if seconds is not None]
        times = f"{statistics.median(good):.2f} | {max(good):.2f}" if good else "- | -"
        ratio = f"{len(good)} of {len(took)}"
        return f"| {name} | {crowd_name} | {alone or 0:.3f} | {ratio} | {times} | {memory(server, 'VmHWM') - before} |"
    finally:
        for process in (clients, server):
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(directory)


def main(arguments: list[str]) -> None:
    """Measure, or be one of the processes that this needs."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 4096, hard))
    if arguments[:1] == ["serve"]:
        serve(arguments[1], arguments[2], int(arguments[3]))
    elif arguments[:1] == ["crowd"]:
        asyncio.run(crowd(int(arguments[2]), arguments[1]))
    else:
        print("| server | beside | alone, s | scrapes that succeed | median, s | slowest, s | memory, MiB more |")
        print("|---|---|---|---|---|---|---|")
        for crowd_name in CROWDS:
            for name in arguments or SERVERS:
                print(measure(name, crowd_name), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    main(sys.argv[1:])
