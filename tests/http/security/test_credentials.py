"""What a client shows and what is compared with it; the files that say so; and how these are read again."""

from __future__ import annotations

import base64
import hmac
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmetrics import MpmetricsError, Provider, Security, SecurityError, start_http_server
from mpmetrics.http.security import reloaded
from mpmetrics.http.security.credentials import Credentials, load_credentials
from mpmetrics.http.security.protection import Protection
from mpmetrics.http.security.reloaded import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "0123456789abcdef-._~+/=="
OTHER = "fedcba9876543210"
FIXED = "$2y$04$4epm6UW3/xFK/z0MglgYc.yClVFZ91qc9dmtdq0ECxGdy2xexGNuu"


def hashed(password: str, cost: int = 4) -> str:
    """The password as `htpasswd -B` hashes it."""
    return "$2y$" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()[4:]


def basic(name: str, password: str) -> str:
    """The header of a name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Checks:
    """A password check that says yes when the hash is the password, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def __call__(self, password: bytes, held: bytes) -> bool:
        """Check."""
        self.asked.append((password, held))
        return password == held


# What is shown.


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer   {OTHER} ", True),
        ("Bearer " + TOKEN[:-1], False),
        (f"Bearer {TOKEN}{OTHER}", False),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", False),
        (f"Basic {TOKEN}", False),
        (basic("", TOKEN), False),
        (TOKEN, False),
        ("Bearer", False),
        ("", False),
        (None, False),
    ],
)
def test_tokens(header: str | None, *, expected: bool) -> None:
    """Each of the tokens will do, and nothing but the whole of one of them."""
    credentials = Credentials({}, [TOKEN.encode(), OTHER.encode()])
    assert expected is credentials.glance(header) is credentials.verify(header)
    assert (("WWW-Authenticate", 'Bearer realm="metrics"'),) == credentials.refusal.headers[1:]


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token costs as many comparisons of the same length as the last and as a wrong one."""
    sizes: list[list[int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        sizes[-1] += [len(one), len(other)]
        return original(one, other)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    credentials = Credentials({}, [TOKEN.encode(), OTHER.encode()])
    for shown in (TOKEN, OTHER, "x", TOKEN[:-1]):
        sizes.append([])
        credentials.glance(f"Bearer {shown}")
    assert [[32] * 4] * 4 == sizes


def test_a_password_is_checked_once() -> None:
    """A right one is known from then on, by its digest; a wrong one costs a check each time."""
    checks = Checks()
    credentials = Credentials({"ann": b"right"}, [], checks)
    header = basic("ann", "right")
    assert credentials.glance(header) is None
    assert [True, True] == [credentials.verify(header) for _ in range(2)]
    assert credentials.glance(header) is True
    assert [(b"right", b"right")] == checks.asked
    assert [False, False] == [credentials.verify(basic("ann", "wrong")) for _ in range(2)]
    assert credentials.glance(basic("ann", "wrong")) is None
    assert 3 == len(checks.asked)
    known = [*credentials._verified]
    assert 1 == len(known)
    assert b"right" not in known[0]


def test_unknown_names_cost_what_known_ones_do() -> None:
    """A name that is not there is checked against the hash that costs most, and fails even where that fits."""
    checks = Checks()
    cheap, dear = b"$2y$04$cheap", b"$2y$12$dear"
    credentials = Credentials({"ann": cheap, "bob": dear}, [], checks)
    assert [False, False] == [credentials.verify(basic(name, "x")) for name in ("ann", "nobody")]
    assert [(b"x", cheap), (b"x", dear)] == checks.asked
    assert credentials.verify(basic("nobody", dear.decode())) is False
    assert credentials.verify(basic("bob", dear.decode())) is True


@pytest.mark.parametrize("password", ["a" * 73, "abc\0", "\0", "é" * 37])
def test_passwords_that_bcrypt_cannot_tell_apart(password: str) -> None:
    """Beyond 72 bytes, or with a null, a password never fits, and is checked all the same."""
    checks = Checks()
    credentials = Credentials({"ann": b"-"}, [], checks)
    assert credentials.verify(basic("ann", password)) is False
    assert 1 == len(checks.asked)
    whole = "a" * 72
    assert Credentials({"ann": hashed(whole).encode()}, [], bcrypt.checkpw).verify(basic("ann", whole)) is True


def test_verified_passwords_are_bounded() -> None:
    """However many passwords fit, what is remembered of them does not grow."""
    credentials = Credentials({str(name): b"x" for name in range(1000)}, [], Checks())
    assert all(credentials.verify(basic(str(name), "x")) for name in range(1000))
    assert len(credentials._verified) <= 128


@given(header=st.text() | st.builds(lambda raw: "Basic " + base64.b64encode(raw).decode(), st.binary()))
def test_no_header_gets_in_or_fails(header: str) -> None:
    """Whatever is shown is refused, never raised."""
    credentials = Credentials({"ann": b"$2y$04$"}, [TOKEN.encode()], lambda _password, _held: False)
    assert credentials.glance(header) in (False, None)
    assert credentials.verify(header) is False


# The files.


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file, in the place of what was there, as those programs do it that do it well."""

    def write(name: str, content: str | bytes, mode: int = 0o600) -> str:
        path, fresh = tmp_path / name, tmp_path / f"{name}.new"
        fresh.write_bytes(content if isinstance(content, bytes) else content.encode())
        fresh.chmod(mode)
        fresh.replace(path)
        return str(path)

    return write


def test_users_file(write: Callable[..., str]) -> None:
    """The lines of `htpasswd -B`: names in UTF-8, each kind of bcrypt hash, remarks and empty lines between them."""
    made = hashed("sesame")
    path = write("users", f"# scrapers\n\nann:{made}\r\nbjörn:$2b${made[4:]}\nc:$2a${made[4:]}")
    credentials = load_credentials(path, None)
    assert all(credentials.verify(basic(name, "sesame")) for name in ("ann", "björn", "c"))
    assert not any(credentials.verify(basic(name, "other")) for name in ("ann", "björn", "c", "d", ""))
    assert [("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"')] == [*credentials.refusal.headers[1:]]


def test_token_file_beside_users(write: Callable[..., str]) -> None:
    """Where there are both, either will do, and a refusal names both."""
    credentials = load_credentials(write("users", f"ann:{hashed('x')}\n"), write("token", f"{TOKEN}\n{OTHER}\n"))
    assert all(credentials.verify(shown) for shown in (basic("ann", "x"), f"Bearer {TOKEN}", f"Bearer {OTHER}"))
    assert 401 == credentials.refusal.status
    assert ["Basic", "Bearer"] == [value.split()[0] for _, value in credentials.refusal.headers[1:]]


SECRET = "my-secret-word"


@pytest.mark.parametrize(
    ("field", "content", "says"),
    [
        ("users_file", "", "empty"),
        ("users_file", " \n", "empty"),
        ("users_file", "# nobody\n", "contains only comments"),
        ("users_file", f"ann:{SECRET}\n", "line 1.*htpasswd -B"),
        ("users_file", f"ann:{{SHA}}{SECRET}\n", "htpasswd -B"),
        ("users_file", "ann:$apr1$x$y\n", "htpasswd -B"),
        ("users_file", f"{SECRET}\n", "htpasswd -B"),
        ("users_file", ":" + FIXED, "htpasswd -B"),
        ("users_file", b"\xff:" + FIXED.encode(), "htpasswd -B"),
        ("users_file", "ann:" + FIXED[:-1], "htpasswd -B"),
        ("users_file", "ann:" + FIXED.replace("$04$", "$31$"), "of cost 4 to 16"),
        ("users_file", f"ann:{FIXED}\nann:{FIXED}", "line 2.*twice"),
        ("token_file", "\n", "empty"),
        ("token_file", "short", "line 1.*openssl rand -hex 32"),
        ("token_file", f"{OTHER}\nwith a {SECRET}", "line 2.*openssl rand -hex 32"),
        ("token_file", b"\xff" * 20, "openssl rand"),
        ("token_file", b"a" * 5_000_000, "larger than"),
        ("tls_cert", "nonsense", "PEM"),
        ("tls_client_ca", "nonsense", "certificates in PEM"),
        ("tls_client_ca", "", "empty"),
    ],
)
def test_bad_files_are_refused(
    write: Callable[..., str], certificates: Any, field: str, content: str | bytes, says: str
) -> None:
    """One that is empty or malformed raises, naming the file and the way out, and nothing that may be a secret."""
    path = write("bad", content)
    cert, key = certificates.server()
    given: dict[str, str] = {"tls_cert": cert, "tls_key": key} if field == "tls_client_ca" else {}
    with pytest.raises(SecurityError, match=f"(?s){path}.*{says}") as caught:
        Protection(Security(**given | {field: path}))
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, (MpmetricsError, ValueError))


@pytest.mark.parametrize("field", ["tls_cert", "tls_key", "tls_client_ca", "users_file", "token_file"])
@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, certificates: Any, field: str, kind: str) -> None:
    """So is one that is not there, or that would have us wait for ever."""
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    cert, key = certificates.server()
    given = {"tls_cert": cert, "tls_key": key} if field.startswith("tls_") else {}
    with pytest.raises(SecurityError, match=f"{path}.*(No such file|not a regular file|Is a directory)"):
        Protection(Security(**given | {field: str(path)}))
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SecurityError):
        Protection(Security(**given | {field: str(path)}))
    assert opened >= len(os.listdir("/proc/self/fd"))


def test_key_and_certificate_belong_together(certificates: Any) -> None:
    """A key of another certificate is refused; with both in one file, that one will do."""
    cert, key = certificates.server()
    _, other = certificates.server("other")
    with pytest.raises(SecurityError, match=rf"{cert}.*{other}.*key"):
        Protection(Security(tls_cert=cert, tls_key=other))
    both = certificates._write("both.pem", Path(cert).read_bytes() + Path(key).read_bytes())
    assert Protection(Security(tls_cert=both)).is_tls
    with pytest.raises(SecurityError, match="PEM"):
        Protection(Security(tls_cert=cert))


def test_key_with_a_passphrase_asks_nobody(certificates: Any) -> None:
    """Nobody is asked at the terminal of a server."""
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415 (trustme brings it)

    cert, key = certificates.server()
    plain = form.load_pem_private_key(Path(key).read_bytes(), None)
    locked = plain.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"passphrase")
    )
    with pytest.raises(SecurityError, match="passphrase"):
        Protection(Security(tls_cert=cert, tls_key=certificates._write("locked.key", locked)))


@pytest.mark.parametrize("wrong", ["users", {"tls_cert": "a"}, True])
def test_wrong_type_is_refused(wrong: Any) -> None:
    """What is no Security protects nothing, and must not look as if it did."""
    with pytest.raises(TypeError, match=r"security is a mpmetrics\.Security"):
        start_http_server(0, source=Provider(), security=wrong)


@pytest.mark.parametrize("field", ["tls_key", "tls_client_ca"])
def test_certificate_is_missing(field: str) -> None:
    """A key or a client's authority says that TLS is wanted; without a certificate there would be none."""
    with pytest.raises(SecurityError, match=f"{field} '/a' .* tls_cert"):
        Security(**{field: "/a"})


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said in the log."""
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("mode", "said"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_secrets_that_others_may_read_are_said(
    write: Callable[..., str], certificates: Any, caplog: pytest.LogCaptureFixture, mode: int, said: int
) -> None:
    """Users, tokens and keys that are open to everybody draw a line in the log that says what to do."""
    certificate, key = (Path(path) for path in certificates.server())
    ca = write("ca", Path(certificates.ca).read_bytes(), 0o644)
    paths = [write("users", f"ann:{hashed('x')}", mode), write("token", OTHER, mode), str(key)]
    key.chmod(mode)
    certificate.chmod(0o644)
    Protection(Security(tls_cert=certificate, tls_key=key, tls_client_ca=ca, users_file=paths[0], token_file=paths[1]))
    found = {path: text for text in messages(caplog) for path in paths if text.endswith(f"chmod o= {path}")}
    assert set(paths if said else []) == found.keys()
    assert len(found) == len(messages(caplog))

    both = certificate.with_name("both.pem")
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    both.chmod(mode)
    Protection(Security(tls_cert=both))
    assert said == sum(text.endswith(f"chmod o= {both}") for text in messages(caplog))


def test_bcrypt_is_missing(write: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords without the library that checks them are an error that names what to install; tokens need none."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(SecurityError, match=r"mpmetrics-toolkit\[auth\]"):
        load_credentials(write("users", f"ann:{hashed('x')}"), None)
    assert load_credentials(None, write("token", OTHER)).glance(f"Bearer {OTHER}")


def test_environment_names_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable names one; an empty one names none; relative names are those of the directory of now."""
    monkeypatch.chdir(tmp_path)
    environ = {"MPMETRICS_TLS_CERT": "c", "MPMETRICS_TLS_KEY": "/k", "MPMETRICS_TLS_CLIENT_CA": ""}
    environ |= {"MPMETRICS_USERS_FILE": "u", "MPMETRICS_TOKEN_FILE": "t"}
    read = Security.from_environ(environ)
    assert Security(tls_cert=f"{tmp_path}/c", tls_key="/k", users_file=tmp_path / "u", token_file="t") == read
    monkeypatch.chdir("/")
    assert f"{tmp_path}/c" == read.tls_cert
    assert Security() == Security.from_environ({})


# Read again.


class Clock:
    """A clock that stands."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Made:
    """Makes the file's content, unless that is `broken`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> str:
        """Read."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        content = Path(self.path).read_text(encoding="utf-8")
        if "broken" in content:
            raise SecurityError(f"{self.path} is {content}")
        return content


def test_files_are_read_again(write: Callable[..., str], tmp_path: Path) -> None:
    """Looked at once a second at most, and read only when they changed: replaced, rewritten or behind a link."""
    clock, made = Clock(), Made(write("a", "1"))
    link = tmp_path / "link"
    link.symlink_to("a")
    value = Reloaded([str(link)], made, clock)
    assert "1" == value()
    write("a", "2")
    assert "1" == value()
    clock.now += reloaded.LOOK_EVERY
    assert "2" == value()
    (tmp_path / "a").write_text("3")
    os.utime(tmp_path / "a", (1, 1))
    clock.now += reloaded.LOOK_EVERY
    assert "3" == value()
    for _ in range(10):
        clock.now += reloaded.LOOK_EVERY
        assert "3" == value()
    assert 3 == made.calls


@pytest.mark.parametrize("damage", ["broken", "missing", "EMFILE", "bug"])
def test_broken_files_change_nothing(write: Callable[..., str], caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """What was read last stays, it is said once, and tried again until it can be read."""
    clock, made = Clock(), Made(write("a", "1"))
    value = Reloaded([made.path], made, clock)
    if damage == "missing":
        Path(made.path).unlink()
    else:
        write("a", damage)
        made.error = {"EMFILE": OSError(24, "Too many open files"), "bug": KeyError("a")}.get(damage)
    for _ in range(5):
        clock.now += reloaded.LOOK_EVERY
        assert "1" == value()
    assert 6 == made.calls
    assert 1 == len([record for record in caplog.records if record.levelno >= logging.ERROR])
    made.error = None
    write("a", "good")
    clock.now += reloaded.LOOK_EVERY
    assert "good" == value()


@pytest.mark.parametrize("broken", ["a", "b"])
def test_an_open_secret_is_said_once(write: Callable[..., str], caplog: pytest.LogCaptureFixture, broken: str) -> None:
    """However often it is tried again, for its own sake or another file's; and again when it has changed."""

    def said() -> int:
        """How many lines say that a file is open, since the last time."""
        count = sum("chmod o= " in text for text in messages(caplog))
        caplog.clear()
        return count

    clock = Clock()
    made = {name: Made(write(name, "1", 0o644 if name == "a" else 0o600)) for name in ("a", "b")}
    paths = [one.path for one in made.values()]
    value = Reloaded(paths, lambda: [one() for one in made.values()], clock, secrets=paths)
    assert 1 == said()
    write(broken, "broken", 0o644 if broken == "a" else 0o600)
    for _ in range(5):
        clock.now += reloaded.LOOK_EVERY
        assert ["1", "1"] == value()
    assert 6 == made[broken].calls
    assert (broken == "a") == said()
    for name, expected in (("a", 1), ("b", 0)):
        os.utime(made[name].path, (1, 1))
        clock.now += reloaded.LOOK_EVERY
        value()
        assert expected == said()


def test_first_reading_raises(write: Callable[..., str]) -> None:
    """There is nothing yet that could stay in force."""
    with pytest.raises(SecurityError, match="broken"):
        Reloaded([], Made(write("a", "broken")))


def test_change_while_it_is_read_is_noticed(write: Callable[..., str]) -> None:
    """A file that changes between the look at it and the end of its reading is read again at the next look."""
    clock = Clock()
    path = write("a", "1")
    first = Made(path)

    def make() -> str:
        content = first()
        if content == "1":
            write("a", "2")
        return content

    value = Reloaded([path], make, clock)
    assert "1" == value()
    clock.now += reloaded.LOOK_EVERY
    assert "2" == value()
