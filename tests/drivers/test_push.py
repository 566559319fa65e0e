"""PushgatewayDriver and TextfileDriver: what they send parses, and an outage loses only the values in between."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from mpmetrics.drivers import PrometheusDriver, PushgatewayDriver, TextfileDriver
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpmetrics import Provider


@pytest.fixture
def registry(provider: Provider) -> Registry:
    """A registry with a counter."""
    registry = Registry("test", provider=provider)
    registry.get_or_register_counter("it").inc(3)
    registry.get_or_register_timer("took").update(0.5)
    return registry


def total(body: bytes) -> float:
    """Return the value of the counter in what arrived."""
    values = {s.name: s.value for family in text_string_to_metric_families(body.decode()) for s in family.samples}
    return values["it_total"]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_push(gateway: Any, registry: Registry) -> None:
    """A push replaces what the gateway has for job and instance, and is deleted when the driver stops."""
    driver = PushgatewayDriver(registry, gateway.address, "shop", grouping_key={"zone": "a"})
    driver.once()
    driver.stop()

    (put, delete) = gateway.requests
    path = f"/metrics/job/shop/instance/{socket.gethostname()}/zone/a"
    assert ("PUT", path) == put[:2]
    assert 3 == total(put[2])
    assert ("DELETE", path) == delete[:2]


def test_another_instance_and_no_deletion(gateway: Any, registry: Registry) -> None:
    """The grouping key overrides the instance, and delete_on_stop=False keeps the push."""
    driver = PushgatewayDriver(
        PrometheusDriver(registry, 1), gateway.address, "shop", grouping_key={"instance": "i"}, delete_on_stop=False
    )
    driver.once()
    driver.stop()

    assert [("PUT", "/metrics/job/shop/instance/i")] == [request[:2] for request in gateway.requests]


def test_another_handler(registry: Registry) -> None:
    """A handler gets what would be sent by HTTP."""
    sent = []

    def handler(**request: Any) -> Callable[[], None]:
        return lambda: sent.append((request["method"], request["url"], request["data"]))

    driver = PushgatewayDriver(registry, "gateway:9091", "shop", grouping_key={"instance": "i"}, handler=handler)
    driver.once()
    driver.stop()

    url = "http://gateway:9091/metrics/job/shop/instance/i"
    assert [("PUT", url), ("DELETE", url)] == [(method, where) for method, where, _ in sent]
    assert 3 == total(sent[0][2])


def test_a_forked_child_deletes_nothing(
    gateway: Any, registry: Registry, child: Callable[[Callable[[], object]], Any]
) -> None:
    """When a forked child stops the driver, the push of its parent stays."""
    driver = PushgatewayDriver(registry, gateway.address, "shop")
    driver.once()
    child(driver.stop).end()
    assert ["PUT"] == [request[0] for request in gateway.requests]
    driver.stop()

    assert ["PUT", "DELETE"] == [request[0] for request in gateway.requests]


def test_other_sources(gateway: Any) -> None:
    """The metrics of a CollectorRegistry can be pushed."""
    target = CollectorRegistry()
    Counter("it", "…", registry=target).inc(9)
    PushgatewayDriver(target, gateway.address, "shop").once()

    assert 9 == total(gateway.requests[0][2])


def test_an_outage(gateway: Any, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged once, counted and retried; afterwards the totals include those of the outage."""
    caplog.set_level(logging.INFO)
    counter = registry.get_or_register_counter("it")
    port = gateway.server_port
    driver = PushgatewayDriver(registry, gateway.address, "shop", interval=0.05)
    driver.start()
    wait_until(lambda: gateway.requests)
    gateway.close()
    wait_until(lambda: driver.failures >= 2)
    counter.inc(4)
    back = type(gateway)(port)
    try:
        wait_until(lambda: back.requests)
        driver.stop()
        assert 7 == total(back.requests[0][2])
        assert "DELETE" == back.requests[-1][0]
    finally:
        back.close()

    said = [record.message for record in caplog.records if "PushgatewayDriver" in record.message]
    assert 1 == sum("is tried again" in message for message in said)
    assert 1 == sum("works again" in message for message in said)


def test_a_refusal_is_a_failure(gateway: Any, registry: Registry) -> None:
    """A status other than success raises, closes the connection, and is counted as a failure in the background."""
    gateway.status = 500
    driver = PushgatewayDriver(registry, gateway.address, "shop", interval=60)
    with pytest.raises(HTTPError, match="500") as refusal:
        driver.once()
    assert refusal.value.closed
    driver.start()
    wait_until(lambda: driver.failures)
    driver.stop()
    assert 2 == driver.failures  # the push, and the deletion at the end


def test_a_gateway_that_hangs_does_not_block_stop(registry: Registry) -> None:
    """stop() returns after its timeout although a push hangs."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        driver = PushgatewayDriver(registry, f"127.0.0.1:{deaf.getsockname()[1]}", "shop", timeout=30)
        driver.start()
        wait_until(lambda: driver._is_out)
        start = time.monotonic()
        driver.stop(0.2)
        assert time.monotonic() - start < 10


def test_a_file(tmp_path: Path, registry: Registry) -> None:
    """The file is replaced atomically, and removed by stop()."""
    path = tmp_path / "shop.prom"
    driver = TextfileDriver(registry, path, interval=0.02)
    driver.start()
    wait_until(path.exists)
    registry.get_or_register_counter("it").inc()
    wait_until(lambda: total(path.read_bytes()) == 4)
    driver.stop()

    assert [] == os.listdir(tmp_path)


def test_a_file_that_cannot_be_written(tmp_path: Path, registry: Registry) -> None:
    """A file that cannot be written is counted as a failure and tried again until it can."""
    path = tmp_path / "not yet" / "shop.prom"
    driver = TextfileDriver(registry, path, interval=0.02, delete_on_stop=False)
    with pytest.raises(FileNotFoundError):
        driver.once()
    driver.start()
    wait_until(lambda: driver.failures)
    path.parent.mkdir()
    wait_until(path.exists)
    driver.stop()

    assert 3 == total(path.read_bytes())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: PushgatewayDriver(None, "", "shop"), ValueError, "gateway"),
        (lambda: PushgatewayDriver(None, "a:1", ""), ValueError, "job"),
        (lambda: PushgatewayDriver(None, "a:1", "shop", interval=0), ValueError, "above 0, not 0"),
        (lambda: PushgatewayDriver(None, "a:1", "shop", timeout=-1), ValueError, "-1"),
        (lambda: PushgatewayDriver("x", "a:1", "shop"), TypeError, "'x'"),  # type: ignore[arg-type]
        (lambda: TextfileDriver(None, "/tmp/shop.txt"), ValueError, "shop.txt"),
        (lambda: TextfileDriver(None, "/tmp/shop.prom", interval=0), ValueError, "above 0"),
    ],
)
def test_bad_input(make: Callable[[], object], error: type[Exception], words: str) -> None:
    """Bad arguments raise an error at construction that names the value."""
    with pytest.raises(error, match=words):
        make()
