"""A stand-in for a Pushgateway, on a port of its own."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gateway(ThreadingHTTPServer):
    """Records requests, and answers with ``status``."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.status = 200
        super().__init__(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Close the port: connections are refused from now on."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    server: Gateway

    def do_PUT(self) -> None:
        """Take a push."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, body))
        self.send_response(self.server.status)
        self.end_headers()

    def do_DELETE(self) -> None:
        """Take a deletion."""
        self.do_PUT()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that answers."""
    made = Gateway()
    yield made
    made.close()
