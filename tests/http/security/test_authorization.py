"""What a guarded handler's requests are to each other, by what those who sent them are known as."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from mpmetrics.http.messages import Request, Response, plain
from mpmetrics.http.security.authorization import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmetrics.http.security.credentials import Credentials


class Handler:
    """Answers everything alike."""

    def immediate(self, request: Request) -> None:
        """Never at once."""

    def kind(self, request: Request) -> str:  # noqa: ARG002
        """All together."""
        return "together"

    def __call__(self, requests: Sequence[Request]) -> Response:  # noqa: ARG002
        """The same to everybody."""
        return plain(200)


class Glance:
    """Credentials that know somebody, or do not, or would have to check a password."""

    def __init__(self, *, known: bool | None) -> None:
        self._known = known

    def glance(self, _authorization: str | None) -> bool | None:
        """Always the same."""
        return self._known


@pytest.mark.parametrize("known", [None, False])
def test_only_those_who_are_known_are_answered_together(*, known: bool | None) -> None:
    """Others by themselves, since only then credentials are looked at again: they may have changed since a glance."""
    held = [Glance(known=True)]
    guard = Guard(Handler(), lambda: cast("Credentials", held[0]))
    request = Request("GET", "/metrics", "", {})
    assert guard.kind(request) == guard.kind(request)
    held[0] = Glance(known=known)
    assert guard.kind(request) != guard.kind(request)
