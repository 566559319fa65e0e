"""A crowd of hostile clients: `python crowd.py PORT CA-FILE-OR-EMPTY '{"idle": 500, ...}'`.

A process of its own, so that what it costs is not the scraper's. It says "ready" once as many of the first kind have
come as were asked for, goes on until its standard input ends, and then says how often each kind came, as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import resource
import socket
import ssl
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MIB = 1024 * 1024


# The attackers: each one is a connection, from its first byte to its end.

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def say(line: Line, data: bytes, seconds: float = 1.0) -> None:
    """Send, and take what comes, until the server closes or for so long."""
    line[1].write(data)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await line[1].drain()
            while await line[0].read(MIB):
                pass


async def idle(line: Line) -> None:
    """Say nothing."""
    await line[0].read(1)


async def drip(line: Line) -> None:
    """A byte a second, of a head that has no end."""
    while not line[1].is_closing():
        line[1].write(b"G")
        await line[1].drain()
        if line[0].at_eof():
            return
        await asyncio.sleep(1.0)


async def huge_head(line: Line) -> None:
    """A head of a mebibyte, in one line or in many."""
    many = random.random() < 0.5
    filler = b"X-A: " + (b"x" * 90 + b"\r\nX-A: ") * (MIB // 100) if many else b"X-A: " + b"x" * MIB
    await say(line, b"GET /metrics HTTP/1.1\r\nHost: h\r\n" + filler)


BAD = [
    b"nonsense\r\n\r\n",
    b"\0" * 1000,
    b"GET /metrics HTTP/9.9\r\nHost: h\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000,
    b"POST /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffffff\r\n" + b"x" * 100_000,
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"GET /metrics\r\nHost: h\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nX: \r\n \r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nX-Prometheus-Scrape-Timeout-Seconds: 0.000001\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nX-Prometheus-Scrape-Timeout-Seconds: 1e308\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: " + b"text/plain;q=" + b"0." + b"1" * 5000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: " + b"*/*;" * 4000 + b"\r\n\r\n",
]


async def bad_request(line: Line) -> None:
    """What is no request, or not one that anybody needs."""
    await say(line, random.choice(BAD), 0.3)


TRICKS = [
    "/../../etc/passwd",
    "/..%2f..%2f",
    "/%00",
    "/" + "a/" * 7000,
    "/metrics/..",
    "//metrics",
    "/%ff%fe",
    "/?" + "&" * 9000,
]
TRICKS += [
    "/metrics?" + "name[]=x&" * 1500,
    "/metrics?name[]=" + "%5b" * 4000,
    "http://[::1",
    "http://a@b:99999/x",
    "/metrics%0d%0aX:1",
]


async def path_trick(line: Line) -> None:
    """Paths that lead elsewhere, or nowhere."""
    await say(line, f"GET {random.choice(TRICKS)} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), 0.3)


async def pipeline(line: Line) -> None:
    """As many requests as there is room for, and no look at the answers."""
    path = random.choice([b"/-/healthy", b"/metrics", b"/nowhere"])
    line[1].write(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path * 1000)
    await asyncio.sleep(1.0)


CODINGS = [
    b"gzip," * 3000,
    b"gzip;q=1" + b";q=1" * 3000,
    b"gzip;q=0." + b"0" * 12_000 + b"1",
    b",".join(b"gzip;q=%d.%d" % (number % 2, number) for number in range(1000)),
    b"*," * 6000,
    b"gzip, deflate, br, zstd, compress, " * 400,
    b'"' * 12_000,
]


async def coding_bomb(line: Line) -> None:
    """Lists of codings that would cost more to read than to answer."""
    head = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAccept-Encoding: " + random.choice(CODINGS)
    await say(line, head + b"\r\n\r\n", 1.0)


async def guess(line: Line) -> None:
    """A wrong password, another one each time."""
    shown = base64.b64encode(b"ann:" + random.randbytes(9).hex().encode())
    await say(line, b"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Basic " + shown + b"\r\n\r\n", 0.5)


KINDS: dict[str, Callable[[Line], Awaitable[None]]] = {
    kind.__name__: kind for kind in (idle, drip, huge_head, bad_request, path_trick, pipeline, coding_bomb, guess)
}


# The readers: they ask for much, and take little of it at a time.

ALL = "/metrics"


def picked() -> str:
    """Some of the metrics, in a choice that nobody else has."""
    return "/metrics?" + "&".join(f"name[]=orders{number}" for number in random.sample(range(20), 19))


READERS: dict[str, tuple[Callable[[], str], int, float]] = {
    "deaf": (lambda: ALL, 1, 0.5),
    "sip": (lambda: ALL, 16 * 1024, 0.5),
    "picky": (picked, 1024, 0.5),
}
"""What they ask for, the bytes they take at a time, and the seconds in between."""


async def read(port: int, name: str) -> None:
    """Ask, and read as slowly as that."""
    path, size, pause = READERS[name]
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, f"GET {path()} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        while await loop.sock_recv(sock, size):  # noqa: ASYNC110 (slowly is the point)
            await asyncio.sleep(pause)


async def attack(port: int, name: str, context: ssl.SSLContext | None, visits: dict[str, int]) -> None:
    """Come back for ever."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            # Whoever does not get as far as a TLS connection has been there, too.
            visits[name] += 1
            if name in READERS:
                await read(port, name)
            else:
                await meet(port, name, context)
        await asyncio.sleep(0.2 + 0.2 * random.random())


async def meet(port: int, name: str, context: ssl.SSLContext | None) -> None:
    """Connect, and be one of those."""
    host = None if context is None else "127.0.0.1"
    line = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    try:
        await KINDS[name](line)
    finally:
        line[1].transport.abort()


async def main(port: int, ca: str, counts: dict[str, int]) -> None:
    """Attack until nobody listens to us any more."""
    context = ssl.create_default_context(cafile=ca) if ca else None
    visits = dict.fromkeys(counts, 0)
    tasks = []
    for name, count in counts.items():
        for number in range(count):
            # Of those that say nothing, every other one does not even shake hands.
            is_mute = name in ("idle", "drip") and number % 2 == 0
            tasks.append(asyncio.create_task(attack(port, name, None if is_mute else context, visits)))
    first = next(iter(counts))
    while visits[first] < counts[first]:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.05)
    print("ready", flush=True)  # noqa: T201 (to the test)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(visits), flush=True)  # noqa: T201 (to the test)
    os._exit(0)  # no good-byes


if __name__ == "__main__":
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
