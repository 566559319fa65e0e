"""The application that ``latency.py`` loads: a WSGI application that works for about a millisecond a request.

``BENCH_INSTRUMENTED`` has it count and time its requests, ``BENCH_SERIES`` have so many more series in each worker.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

IS_INSTRUMENTED = os.environ.get("BENCH_INSTRUMENTED") == "1"
SERIES = int(os.environ.get("BENCH_SERIES", "0"))
ORDERS = [{"order": number, "items": list(range(12)), "total": number * 1.25} for number in range(60)]

if IS_INSTRUMENTED:
    import mpmetrics

    REQUESTS = mpmetrics.Counter("app_requests", "Requests served.", ["method", "code"])
    TOOK = mpmetrics.Histogram("app_request_seconds", "Time to answer a request.", ["method"])
    MANY = mpmetrics.Counter("app_paths", "Requests by path.", ["path"], max_series=2_000_000)
    for number in range(SERIES):
        MANY.labels(f"/orders/{number}").inc()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """Answer with some JSON."""
    start = time.perf_counter()
    body = json.dumps([json.loads(json.dumps(order)) for order in ORDERS]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    if IS_INSTRUMENTED:
        REQUESTS.labels(environ["REQUEST_METHOD"], "200").inc()
        TOOK.labels(environ["REQUEST_METHOD"]).observe(time.perf_counter() - start)
    return [body]
