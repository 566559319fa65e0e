"""Credentials: users with hashed passwords, and bearer tokens (RFC 7617, RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from typing import TYPE_CHECKING

from mpmetrics.errors import SecurityError
from mpmetrics.http.messages import Response, plain
from mpmetrics.http.security.files import read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Credentials", "load_credentials"]

_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}\Z")
_COSTS = range(4, 17)
"""Allowed costs of a bcrypt hash, as powers of two: 16 takes seconds, 31 would take days."""

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{16,4096}=*\Z")
_LONGEST_PASSWORD = 72
"""Bytes; bcrypt ignores the rest."""

_REMEMBERED = 128
"""Verified passwords whose digests are kept, so that not each scrape costs a password check."""


class Credentials:
    """The valid values of an ``Authorization`` header. Any thread may use it.

    ``users``: names to bcrypt hashes. ``tokens``: bearer tokens. ``check`` compares a password and a hash. Only
    digests of passwords that clients sent are kept, under a key that never leaves this object.
    """

    def __init__(
        self,
        users: Mapping[str, bytes],
        tokens: Sequence[bytes],
        check: Callable[[bytes, bytes], bool] = lambda _password, _hash: False,
    ) -> None:
        self._users = dict(users)
        self._check = check
        self._key = os.urandom(32)
        self._tokens = [self._digest(token) for token in tokens]
        self._verified: dict[bytes, None] = {}
        # An unknown name is checked against the most expensive hash, so that it takes as long as a known name.
        self._decoy = max(self._users.values(), key=lambda known: known[4:6], default=b"")
        challenges = []
        if users:
            challenges.append(("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"'))
        if tokens:
            challenges.append(("WWW-Authenticate", 'Bearer realm="metrics"'))
        self.refusal: Response = plain(401, *challenges)

    def glance(self, authorization: str | None) -> bool | None:
        """Return whether the header is valid; None if only :meth:`verify` can tell, which takes long."""
        scheme, shown = _parse(authorization)
        if scheme == "bearer" and self._tokens:
            digest = self._digest(shown)
            # Compare all tokens, so that the time does not tell which one was nearly right.
            return sum(hmac.compare_digest(digest, token) for token in self._tokens) > 0
        if scheme == "basic" and self._users and b":" in shown:
            return True if self._digest(shown) in self._verified else None
        return False

    def verify(self, authorization: str | None) -> bool:
        """Return whether the header is valid. A password check takes as long as the cost of its hash demands."""
        known = self.glance(authorization)
        if known is not None:
            return known
        _, shown = _parse(authorization)
        name, _, password = shown.partition(b":")
        # bcrypt would cut a password at a null byte and at its limit.
        usable = len(password) <= _LONGEST_PASSWORD and b"\0" not in password
        held = self._users.get(name.decode("utf-8", "surrogateescape"))
        fits = self._check(password if usable else b"-", self._decoy if held is None else held)
        if not fits or held is None or not usable:
            return False
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[self._digest(shown)] = None
        return True

    def _digest(self, shown: bytes) -> bytes:
        return hashlib.blake2b(shown, key=self._key, digest_size=32).digest()


def _parse(authorization: str | None) -> tuple[str, bytes]:
    """Return the scheme and the credentials: the token, or name and password."""
    scheme, _, rest = (authorization or "").strip().partition(" ")
    scheme, raw = scheme.lower(), rest.strip().encode("latin-1", "replace")
    if scheme != "basic":
        return scheme, raw
    try:
        return scheme, base64.b64decode(raw, validate=True)
    except binascii.Error:
        return scheme, b""


def load_credentials(users_file: str | None, token_file: str | None) -> Credentials:
    """Read the credentials in these files. SecurityError if a file is invalid."""
    if users_file is None:
        return Credentials({}, _tokens(token_file) if token_file is not None else [])
    check = _bcrypt()
    users = _users(users_file)
    return Credentials(users, _tokens(token_file) if token_file is not None else [], check)


def _bcrypt() -> Callable[[bytes, bytes], bool]:
    try:
        import bcrypt  # noqa: PLC0415 (needed for passwords only)
    except ImportError as error:
        msg = 'passwords need the bcrypt library: pip install "mpmetrics-toolkit[auth]"'
        raise SecurityError(msg) from error
    return bcrypt.checkpw


def _users(path: str) -> dict[str, bytes]:
    what = "users file"
    users: dict[str, bytes] = {}
    for number, line in _lines(path, what):
        name, colon, held = line.decode("utf-8", "surrogateescape").partition(":")
        found = _HASH.match(held)
        # The message does not contain the line, which may hold a password.
        if not colon or not name or not found or int(found[1]) not in _COSTS or not _is_utf8(name):
            msg = (
                f"{what} {path!r}, line {number}: expected name:hash with a bcrypt hash of cost {_COSTS[0]} to"
                f" {_COSTS[-1]}, as written by: htpasswd -B -C 10 {path} NAME"
            )
            raise SecurityError(msg)
        if name in users:
            msg = f"{what} {path!r}, line {number}: the name {name!r} is in it twice"
            raise SecurityError(msg)
        users[name] = held.encode("ascii")
    return users


def _tokens(path: str) -> list[bytes]:
    what = "token file"
    tokens = []
    for number, line in _lines(path, what):
        if not _TOKEN.match(line):
            msg = (
                f"{what} {path!r}, line {number}: expected a token of 16 or more letters, digits and -._~+/, as"
                f" written by: openssl rand -hex 32"
            )
            raise SecurityError(msg)
        tokens.append(line)
    return tokens


def _lines(path: str, what: str) -> list[tuple[int, bytes]]:
    """Return the lines that are neither empty nor comments, at least one, with their numbers."""
    content = read(path, what)
    stripped = ((number, line.strip()) for number, line in enumerate(content.split(b"\n"), 1))
    lines = [(number, line) for number, line in stripped if line and not line.startswith(b"#")]
    if not lines:
        msg = f"{what} {path!r} contains only comments"
        raise SecurityError(msg)
    return lines


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
