"""promtool, and a set of metrics of every kind, for the tests here."""

from __future__ import annotations

import math
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpmetrics.provider import Provider


@pytest.fixture
def lint() -> Callable[[bytes], str]:
    """What `promtool check metrics` has to say about a scrape in the text format; nothing is good."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")

    def check(body: bytes) -> str:
        done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=50, check=False)
        said = (done.stdout + done.stderr).decode()
        assert bool(said) == bool(done.returncode)
        return said

    return check


@pytest.fixture
def shop() -> Callable[[Provider], None]:
    """Fill a provider with a metric of every kind, with well-chosen names, and fixed values."""

    def fill(provider: Provider) -> None:
        requests = Counter("shop_requests", "Requests served.", ["method", "code"], provider=provider)
        requests.labels("GET", 200).inc(3)
        requests.labels("POST", 500).inc(0.5)
        Counter("shop_sent_bytes", 'Bytes sent, of which\nmost are \\ and ".', unit="bytes", provider=provider).inc(
            1e21
        )
        Counter("shop_refunds", "Never happened.", provider=provider)
        Counter("shop_visits", "No series yet.", ["page"], provider=provider)
        Gauge("shop_temperature_celsius", "By worker.", unit="celsius", provider=provider).set(-40.25)
        Gauge("shop_largest", "Merged.", ["kind"], multiprocess_mode="max", provider=provider).labels("inf").set(
            math.inf
        )
        Gauge("shop_last", "Merged.", multiprocess_mode="mostrecent", provider=provider).set(math.nan)
        Gauge("shop_unset", "Never set.", multiprocess_mode="min", provider=provider)
        UpDownCounter("shop_carts", "Carts open.", provider=provider).dec(2)
        latency = Histogram("shop_latency_seconds", "Latency.", ["path"], buckets=(0.1, 1, 1e6), provider=provider)
        for value in (0.05, 0.5, 0.5, 2e6):
            latency.labels("/pay").observe(value)
        latency.labels("/").observe(1)
        Summary("shop_basket_items", "Items a basket.", provider=provider).observe(7)
        Info("shop_build", "What runs.", provider=provider).info({"version": "1.2.3", "branch": 'a"b'})
        Enum("shop_door", "The door.", ["side"], states=["open", "shut"], provider=provider).labels("front").state(
            "shut"
        )
        odd = Counter("shop_odd", "Odd label values.", ["value"], provider=provider)
        for value in (
            "",
            " ",
            'quo"te',
            "back\\slash",
            "new\nline",
            "\\n",
            "tab\t",
            "é",
            "\N{SNAKE}",
            '{a="b"} 1',
            "# EOF",
        ):
            odd.labels(value).inc()

    return fill
