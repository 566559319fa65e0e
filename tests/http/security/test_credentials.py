"""Credentials of a request: how they are checked, the files they come from, and how these files are read again."""

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
    """The password's hash in the form of `htpasswd -B`."""
    return "$2y$" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()[4:]


def basic(name: str, password: str) -> str:
    """The Authorization header of a name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Checks:
    """A password check that passes if the password equals the hash; it records its arguments."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def __call__(self, password: bytes, held: bytes) -> bool:
        """Check."""
        self.asked.append((password, held))
        return password == held


# The header of a request.


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
def test_a_whole_token_passes(header: str | None, *, expected: bool) -> None:
    """Each token of the file passes; any other header does not."""
    credentials = Credentials({}, [TOKEN.encode(), OTHER.encode()])
    assert expected is credentials.glance(header) is credentials.verify(header)
    assert (("WWW-Authenticate", 'Bearer realm="metrics"'),) == credentials.refusal.headers[1:]


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is compared with every token, as digests of equal length, whichever token matches."""
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


def test_a_right_password_is_checked_once() -> None:
    """A right password is checked once and then found by its digest; a wrong one is checked each time."""
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


def test_unknown_names_cost_as_much_as_known_ones() -> None:
    """An unknown name is checked against the most expensive hash, and fails even if the password fits that hash."""
    checks = Checks()
    cheap, dear = b"$2y$04$cheap", b"$2y$12$dear"
    credentials = Credentials({"ann": cheap, "bob": dear}, [], checks)
    assert [False, False] == [credentials.verify(basic(name, "x")) for name in ("ann", "nobody")]
    assert [(b"x", cheap), (b"x", dear)] == checks.asked
    assert credentials.verify(basic("nobody", dear.decode())) is False
    assert credentials.verify(basic("bob", dear.decode())) is True


@pytest.mark.parametrize("password", ["a" * 73, "abc\0", "\0", "é" * 37])
def test_passwords_that_bcrypt_would_cut_are_refused(password: str) -> None:
    """A password over 72 bytes or with a null byte fails, after a check that costs as much as any other."""
    checks = Checks()
    credentials = Credentials({"ann": b"-"}, [], checks)
    assert credentials.verify(basic("ann", password)) is False
    assert 1 == len(checks.asked)
    whole = "a" * 72
    assert Credentials({"ann": hashed(whole).encode()}, [], bcrypt.checkpw).verify(basic("ann", whole)) is True


def test_verified_passwords_are_bounded() -> None:
    """The cache of verified passwords has an upper limit."""
    credentials = Credentials({str(name): b"x" for name in range(1000)}, [], Checks())
    assert all(credentials.verify(basic(str(name), "x")) for name in range(1000))
    assert len(credentials._verified) <= 128


@given(header=st.text() | st.builds(lambda raw: "Basic " + base64.b64encode(raw).decode(), st.binary()))
def test_any_other_header_is_refused(header: str) -> None:
    """Any header without good credentials is refused; none raises."""
    credentials = Credentials({"ann": b"$2y$04$"}, [TOKEN.encode()], lambda _password, _held: False)
    assert credentials.glance(header) in (False, None)
    assert credentials.verify(header) is False


# The files.


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file and move it into place, like careful programs do."""

    def write(name: str, content: str | bytes, mode: int = 0o600) -> str:
        path, fresh = tmp_path / name, tmp_path / f"{name}.new"
        fresh.write_bytes(content if isinstance(content, bytes) else content.encode())
        fresh.chmod(mode)
        fresh.replace(path)
        return str(path)

    return write


def test_users_file_of_htpasswd_is_read(write: Callable[..., str]) -> None:
    """The users file is read as `htpasswd -B` writes it: UTF-8 names, all bcrypt variants, comments and empty lines."""
    made = hashed("sesame")
    path = write("users", f"# scrapers\n\nann:{made}\r\nbjörn:$2b${made[4:]}\nc:$2a${made[4:]}")
    credentials = load_credentials(path, None)
    assert all(credentials.verify(basic(name, "sesame")) for name in ("ann", "björn", "c"))
    assert not any(credentials.verify(basic(name, "other")) for name in ("ann", "björn", "c", "d", ""))
    assert [("WWW-Authenticate", 'Basic realm="metrics", charset="UTF-8"')] == [*credentials.refusal.headers[1:]]


def test_users_and_tokens_both_pass(write: Callable[..., str]) -> None:
    """With users and tokens, a request needs one of them, and a refusal names both schemes."""
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
    """An empty or malformed file raises an error that names the file and the remedy, and quotes no secret."""
    path = write("bad", content)
    cert, key = certificates.server()
    given: dict[str, str] = {"tls_cert": cert, "tls_key": key} if field == "tls_client_ca" else {}
    with pytest.raises(SecurityError, match=f"(?s){path}.*{says}") as caught:
        Protection(Security(**given | {field: path}))
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, (MpmetricsError, ValueError))


@pytest.mark.parametrize("field", ["tls_cert", "tls_key", "tls_client_ca", "users_file", "token_file"])
@pytest.mark.parametrize("kind", ["missing", "directory", "pipe"])
def test_a_path_without_a_regular_file_is_refused(tmp_path: Path, certificates: Any, field: str, kind: str) -> None:
    """A missing file, a directory or a pipe (reading would block) raises, and leaks no descriptor."""
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


def test_key_must_match_the_certificate(certificates: Any) -> None:
    """A key of another certificate raises; one file may hold both certificate and key."""
    cert, key = certificates.server()
    _, other = certificates.server("other")
    with pytest.raises(SecurityError, match=rf"{cert}.*{other}.*key"):
        Protection(Security(tls_cert=cert, tls_key=other))
    both = certificates._write("both.pem", Path(cert).read_bytes() + Path(key).read_bytes())
    assert Protection(Security(tls_cert=both)).is_tls
    with pytest.raises(SecurityError, match="PEM"):
        Protection(Security(tls_cert=cert))


def test_key_with_a_passphrase_is_refused(certificates: Any) -> None:
    """A key with a passphrase raises; the server never prompts at a terminal."""
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
    """A `security` of another type raises, because it would protect nothing."""
    with pytest.raises(TypeError, match=r"security is a mpmetrics\.Security"):
        start_http_server(0, source=Provider(), security=wrong)


@pytest.mark.parametrize("field", ["tls_key", "tls_client_ca"])
def test_tls_without_a_certificate_is_refused(field: str) -> None:
    """A key or a client authority without tls_cert raises; otherwise the endpoint would run without TLS."""
    with pytest.raises(SecurityError, match=f"{field} '/a' .* tls_cert"):
        Security(**{field: "/a"})


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages in the log."""
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("mode", "said"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o602, 1)])
def test_secrets_that_others_can_read_are_logged(
    write: Callable[..., str], certificates: Any, caplog: pytest.LogCaptureFixture, mode: int, said: int
) -> None:
    """For each secret file that all users can read or write, the log says which chmod closes it."""
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


def test_users_file_without_bcrypt_is_refused(write: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A users file without bcrypt installed raises an error that names the extra to install; tokens need no bcrypt."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(SecurityError, match=r"mpmetrics-toolkit\[auth\]"):
        load_credentials(write("users", f"ann:{hashed('x')}"), None)
    assert load_credentials(None, write("token", OTHER)).glance(f"Bearer {OTHER}")


def test_environment_names_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable names a file; an empty variable names none. Relative names are resolved once, at the call."""
    monkeypatch.chdir(tmp_path)
    environ = {"MPMETRICS_TLS_CERT": "c", "MPMETRICS_TLS_KEY": "/k", "MPMETRICS_TLS_CLIENT_CA": ""}
    environ |= {"MPMETRICS_USERS_FILE": "u", "MPMETRICS_TOKEN_FILE": "t"}
    read = Security.from_environ(environ)
    assert Security(tls_cert=f"{tmp_path}/c", tls_key="/k", users_file=tmp_path / "u", token_file="t") == read
    monkeypatch.chdir("/")
    assert f"{tmp_path}/c" == read.tls_cert
    assert Security() == Security.from_environ({})


# Files that are read again.


class Clock:
    """A clock that a test moves by hand."""

    now = 0.0

    def __call__(self) -> float:
        """The current time."""
        return self.now


class Made:
    """Reads the file's content; raises if the content says "broken" or `error` is set."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> str:
        """Read the file."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        content = Path(self.path).read_text(encoding="utf-8")
        if "broken" in content:
            raise SecurityError(f"{self.path} is {content}")
        return content


def test_changed_files_are_read_again(write: Callable[..., str], tmp_path: Path) -> None:
    """A file is checked at most once a second, and read only if it was replaced or rewritten, also behind a link."""
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
def test_broken_files_leave_the_last_value(
    write: Callable[..., str], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """If a file cannot be read, the last value stays, the error is logged once, and each check tries again."""
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
def test_an_open_secret_is_logged_once_per_change(
    write: Callable[..., str], caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """An open secret is logged once, however often files are read again, and once more when it changes."""

    def said() -> int:
        """Count the lines about open files since the last call."""
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


def test_first_read_of_a_broken_file_raises(write: Callable[..., str]) -> None:
    """The first read of a broken file raises, because no earlier value exists."""
    with pytest.raises(SecurityError, match="broken"):
        Reloaded([], Made(write("a", "broken")))


def test_change_during_a_read_is_noticed(write: Callable[..., str]) -> None:
    """A file that changes while it is read is read again at the next check."""
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
