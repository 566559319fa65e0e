"""Addresses of the endpoint: which texts are addresses, and how each kind listens."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpmetrics.http.address import DEFAULT_BIND, Address, parse

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464),
        ("localhost:0", "localhost", 0),
        ("  example.org:80\n", "example.org", 80),
        ("[::1]:9464", "::1", 9464),
        ("[::]:65535", "::", 65535),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        (":9464", "0.0.0.0", 9464),  # noqa: S104 (the text means all interfaces)
        ("0.0.0.0:9464", "0.0.0.0", 9464),  # noqa: S104 (the text means all interfaces)
    ],
)
def test_host_and_port(text: str, host: str, port: int) -> None:
    """`host:port` parses, with brackets around an IPv6 address; no host means all interfaces."""
    assert Address(host, port) == parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:80", "unix:/run/metrics.sock"])
def test_str_of_an_address_parses_to_it(text: str) -> None:
    """`str()` of an address returns the text that it was parsed from."""
    assert text == str(parse(text))


def test_unix_path() -> None:
    """`unix:` and an absolute path parse to a Unix socket."""
    assert Address(path="/run/a b:1.sock") == parse("unix:/run/a b:1.sock")


def test_default_is_local() -> None:
    """The default address is on the loopback interface."""
    assert Address("127.0.0.1", 9464) == parse(DEFAULT_BIND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "9464",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:+1",
        "localhost:1.5",
        "localhost:65536",
        "localhost:99999999999999999999",
        "::1",
        "::1:9464",
        "[::1]",
        "[::1",
        "[::1:80",
        "http://localhost:9464",
        "unix:",
        "unix:run/metrics.sock",
        "unix",
        "localhost:\u0661\u0662",
        "[]:80",
    ],
)
def test_bad_address_is_refused(text: str) -> None:
    """Any other text raises a ValueError that quotes it."""
    with pytest.raises(ValueError, match="address") as raised:
        parse(text)

    assert repr(text) in str(raised.value)


def test_url_is_what_a_scraper_needs() -> None:
    """`url` is the address in the form a scraper's configuration needs."""
    assert "http://[::1]:80/metrics" == parse("[::1]:80").url
    assert "unix:/a" in parse("unix:/a").url


@pytest.fixture
def path() -> Iterator[str]:
    """A path short enough for a Unix socket."""
    folder = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/tmp")
    yield str(Path(folder) / "socket")
    shutil.rmtree(folder)


def test_listens_on_a_free_port() -> None:
    """Port 0 listens on a free port; the socket is not inheritable, and a port in use raises OSError."""
    with parse("127.0.0.1:0").listen() as listener:
        host, port = listener.getsockname()
        assert not os.get_inheritable(listener.fileno())
        with socket.create_connection((host, port)):
            pass
        with pytest.raises(OSError, match="in use"):
            parse(f"127.0.0.1:{port}").listen()


def test_unix_socket_is_private(path: str) -> None:
    """Only the owner can open a Unix socket; while it listens, its address is in use."""
    with parse(f"unix:{path}").listen():
        assert 0o600 == stat.S_IMODE(Path(path).stat().st_mode)
        with pytest.raises(OSError, match="in use"):
            parse(f"unix:{path}").listen()


def test_stale_unix_socket_is_replaced(path: str) -> None:
    """`listen()` replaces a Unix socket that no process listens on, but not a file that is no socket."""
    parse(f"unix:{path}").listen().close()
    parse(f"unix:{path}").listen().close()

    Path(path).unlink()
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="in use"):
        parse(f"unix:{path}").listen()
    assert "precious" == Path(path).read_text()
