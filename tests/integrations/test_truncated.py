"""Slabs that another program truncates under a running server end a process at worst, never the server."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

Serve = Callable[..., Any]


def test_truncated_slabs_end_workers_and_not_the_server(serve: Serve) -> None:
    """The scrape skips truncated slabs; workers that touch them, and a collector that dies by SIGBUS, are replaced."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    assert 10 == server.value('hits_total{path="/page"}')
    for slab in (server.home / "store").glob("epoch-*/slab-*"):
        os.truncate(slab, 0)
    text = server.scrape()
    assert server.value("mpmetrics_unreadable_files", text) >= 1  # a worker without requests has no slab
    assert 0 == server.value('hits_total{path="/page"}', text)

    answered = 0

    def serves() -> bool:
        nonlocal answered
        try:
            answered += bool(server.get("/page"))
        except (OSError, http.client.HTTPException):  # the worker of this request died
            answered = 0
        return answered >= 10

    server.wait_for(serves)
    server.wait_for(lambda: server.value('hits_total{path="/page"}') >= 10)

    first = server.collector()
    os.kill(first, signal.SIGBUS)  # as if a slab was truncated while the collector reads it
    server.wait_for(lambda: server.collector() not in (None, first))
    server.wait_for(lambda: server.value('hits_total{path="/page"}') >= 10)
    assert "SIGBUS" in Path(server.log).read_text(encoding="utf-8", errors="replace")
