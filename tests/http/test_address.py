"""Addresses that the endpoint listens on: the good forms and the bad ones."""

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
        (":9464", "0.0.0.0", 9464),  # noqa: S104 (what the text says)
        ("0.0.0.0:9464", "0.0.0.0", 9464),  # noqa: S104 (what the text says)
    ],
)
def test_host_and_port(text: str, host: str, port: int) -> None:
    """host:port, with brackets about an IPv6 address; no host means all interfaces."""
    assert Address(host, port) == parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:80", "unix:/run/metrics.sock"])
def test_str_reads_back(text: str) -> None:
    """An address as written parses to itself."""
    assert text == str(parse(text))


def test_unix() -> None:
    """unix: and an absolute path."""
    assert Address(path="/run/a b:1.sock") == parse("unix:/run/a b:1.sock")


def test_default_is_local() -> None:
    """The default address is of this host alone."""
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
def test_bad_address(text: str) -> None:
    """Anything else is a ValueError that names what was given."""
    with pytest.raises(ValueError, match="address") as raised:
        parse(text)

    assert repr(text) in str(raised.value)


def test_url() -> None:
    """The address as a scraper would be given it."""
    assert "http://[::1]:80/metrics" == parse("[::1]:80").url
    assert "unix:/a" in parse("unix:/a").url


@pytest.fixture
def path() -> Iterator[str]:
    """A path for a socket, short enough for one."""
    folder = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/tmp")
    yield str(Path(folder) / "socket")
    shutil.rmtree(folder)


def test_listens_on_a_free_port() -> None:
    """Port 0 is any free one; the socket is not inherited, and a taken address is an OSError."""
    with parse("127.0.0.1:0").listen() as listener:
        host, port = listener.getsockname()
        assert not os.get_inheritable(listener.fileno())
        with socket.create_connection((host, port)):
            pass
        with pytest.raises(OSError, match="in use"):
            parse(f"127.0.0.1:{port}").listen()


def test_unix_socket_is_private(path: str) -> None:
    """A unix socket is for its owner alone; while it is answered the address is in use."""
    with parse(f"unix:{path}").listen():
        assert 0o600 == stat.S_IMODE(Path(path).stat().st_mode)
        with pytest.raises(OSError, match="in use"):
            parse(f"unix:{path}").listen()


def test_unix_socket_of_the_dead_is_replaced(path: str) -> None:
    """What nobody answers any more is replaced; what is no socket is left alone."""
    parse(f"unix:{path}").listen().close()
    parse(f"unix:{path}").listen().close()

    Path(path).unlink()
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="in use"):
        parse(f"unix:{path}").listen()
    assert "precious" == Path(path).read_text()
