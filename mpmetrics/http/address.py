"""Addresses to listen on: ``host:port``, ``[ipv6]:port`` and ``unix:/path``."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["DEFAULT_BIND", "Address", "parse"]

DEFAULT_BIND = "127.0.0.1:9464"
_BACKLOG = 2048
"""Connections that wait to be accepted. Past that the system drops a client's first packet, which costs it a second."""


@dataclass(frozen=True)
class Address:
    """Where to listen: a path for a unix socket, else host and port."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        return self.url_of("http")

    def url_of(self, scheme: str) -> str:
        """The URL with another scheme."""
        return f"{self} (path /metrics)" if self.path else f"{scheme}://{self}/metrics"

    def listen(self) -> socket.socket:
        """Return a listening socket that executed programs do not inherit. OSError if the address cannot be had.

        A Unix socket is accessible to its owner alone. It replaces the socket that a dead process left at its path; one
        that a process listens on is an address in use.
        """
        if self.path:
            return self._listen_unix()
        (family, _, _, _, where), *_ = self._look_up()
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def _look_up(self) -> list[Any]:
        return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    def resolved(self) -> Address:
        """Return it with a numeric host, so that listening needs no name server. ValueError if it has none."""
        if self.path:
            return self
        try:
            (_, _, _, _, where), *_ = self._look_up()
        except (OSError, UnicodeError) as error:
            msg = f"address {self}: the host cannot be resolved: {error}"
            raise ValueError(msg) from error
        return replace(self, host=str(where[0]))

    def _listen_unix(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.path).st_mode) and not self._is_answered():
                os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            os.chmod(self.path, 0o600)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def _is_answered(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(self.path)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
        return True


def parse(text: str) -> Address:
    """Parse an address; ValueError names a text that is none. Port 0 means any free port."""
    text = text.strip()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            msg = f"address {text!r}: the path of a Unix socket must be absolute, as in unix:/run/metrics.sock"
            raise ValueError(msg)
        return Address(path=path)
    if "//" in text:
        msg = f"address {text!r}: give it without a scheme and path, as in {DEFAULT_BIND}"
        raise ValueError(msg)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and host != "[]":
        host = host[1:-1]
    elif ":" in host:
        msg = f"address {text!r}: put an IPv6 address in brackets, as in [::1]:9464"
        raise ValueError(msg)
    if not colon or host == "[]" or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        msg = f"address {text!r}: expected host:port, [ipv6]:port or unix:/path, such as {DEFAULT_BIND}"
        raise ValueError(msg)
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 (":9464" means all interfaces)
