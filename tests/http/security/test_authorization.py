"""Requests whose credentials change before they reach the handler, and where passwords are checked."""

from __future__ import annotations

from typing import cast

import pytest

from mpmetrics.http.messages import Request, Response, plain
from mpmetrics.http.security.authorization import Authorization
from mpmetrics.http.security.credentials import Credentials


class Handler:
    """Answers every request with 200."""

    def immediate(self, request: Request) -> None:
        """Answer nothing at once."""

    def __call__(self, request: Request) -> Response:  # noqa: ARG002
        """Answer 200."""
        return plain(200)


@pytest.mark.parametrize(("later", "status"), [(b"another-good-token", 401), (b"0123456789abcdef", 200)])
def test_a_request_is_checked_again_on_its_thread(later: bytes, status: int) -> None:
    """A request that passed on the event loop is checked again on its thread, because the files may have changed."""
    held = [Credentials({}, [b"0123456789abcdef"])]
    authorization = Authorization(Handler(), lambda: held[0])
    request = Request("GET", "/metrics", "", {"authorization": "Bearer 0123456789abcdef"})
    assert authorization.immediate(request) is None
    held[0] = Credentials({}, [later])
    assert status == authorization(request).status


def test_a_password_is_checked_on_a_thread() -> None:
    """The event loop neither checks an unverified password nor passes or refuses it; the request's thread checks it."""
    checks: list[bytes] = []

    def check(password: bytes, _hash: bytes) -> bool:
        checks.append(password)
        return password == b"sesame"

    credentials = Credentials({"ann": b"$2b$04$"}, [], check)
    authorization = Authorization(Handler(), lambda: credentials)
    right, wrong = (Request("GET", "/metrics", "", {"authorization": f"Basic {shown}"}) for shown in _SHOWN)
    assert [None, None] == [authorization.immediate(request) for request in (right, wrong)]
    assert [] == checks
    assert [200, 401] == [authorization(request).status for request in (right, wrong)]
    assert [b"sesame", b"simsim"] == checks
    assert 200 == authorization(cast("Request", right)).status
    assert [b"sesame", b"simsim"] == checks


_SHOWN = ("YW5uOnNlc2FtZQ==", "YW5uOnNpbXNpbQ==")
