"""Providers on private memory and on a store, child processes, and what a provider shows, for all tests."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import pickle
import random
import select
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import traceback
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from mpmetrics import Collector, Counter, Enum, Gauge, Histogram, Info, Provider, Summary, UpDownCounter, _cells

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import trustme

# How long an example takes says how busy the machine is; what hangs, the time limit of the test ends.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# In CPython 3.12 a trace function gets no instructions unless a frame asked for them before `sys.settrace` was called.
# From 3.13 on it gets none in the first call of a function unless it sets `f_trace` before `f_trace_opcodes`; so the
# trace functions of all tests do that.
sys._getframe().f_trace_opcodes = True

PATIENCE = 150.0 + 2 * float(os.environ.get("MPMETRICS_TORTURE_SECONDS") or 0)
"""Seconds after which a child hangs; never a measure of speed."""

ANSWERS = float(os.environ.get("MPMETRICS_PATIENCE", "150"))
"""Seconds in which a process must answer."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Child:
    """A forked process that does some work, reports it, and then waits to be ended or killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        done, done_in = os.pipe()
        hold, self._hold = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._hold)
                try:
                    work()
                except BaseException:  # noqa: BLE001 (told to the parent or the test)
                    os.write(done_in, traceback.format_exc().encode())
                    os._exit(1)
                os.write(done_in, b"ok")
                os.read(hold, 1)
            finally:
                os._exit(0)
        os.close(done_in)
        os.close(hold)
        with os.fdopen(done, "rb") as report:
            said = os.read(report.fileno(), 1 << 16)
        self._alive = True
        if said != b"ok":
            self.kill()
            pytest.fail(f"the child failed:\n{said.decode()}")

    def _reap(self) -> None:
        if self._alive:
            self._alive = False
            os.close(self._hold)
            os.waitpid(self.pid, 0)

    def end(self) -> None:
        """Let it exit."""
        self._reap()

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._alive:
            os.kill(self.pid, signal.SIGKILL)
        self._reap()


def _ready(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


class Forked:
    """A forked child that runs one function and hands its result back; it leaves without any clean-up."""

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._reader, writer = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._reader)
                outcome: tuple[bool, object]
                try:
                    outcome = (True, function(*arguments))
                except BaseException:  # noqa: BLE001 (reported to the parent, which fails)
                    outcome = (False, traceback.format_exc())
                with os.fdopen(writer, "wb") as stream:
                    pickle.dump(outcome, stream)
            finally:
                os._exit(0)
        os.close(writer)

    def result(self, seconds: float = ANSWERS) -> Any:
        """What the function returned, in so many seconds; fails with its traceback when it raised."""
        if not _ready(self._reader, seconds):
            pytest.fail("the child gives no answer")
        reader, self._reader = self._reader, -1
        with os.fdopen(reader, "rb") as stream:
            done, value = pickle.load(stream)  # noqa: S301 (our own child's)
        assert done, value
        self.wait()
        return value

    def wait(self) -> int:
        """Its exit code; that of a signal is negative."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def stop(self, number: int = signal.SIGKILL) -> int:
        """Send it a signal that ends it; returns its exit code."""
        if self._status is None:
            os.kill(self.pid, number)
        return self.wait()

    def close(self) -> None:
        """End it, if it has not."""
        self.stop()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


class Gate:
    """Processes wait at it until it is opened, or for one another."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def open(self, count: int = 1) -> None:
        """Let ``count`` waiters through."""
        os.write(self._writer, b"." * count)

    def wait(self, count: int = 1) -> None:
        """Wait for ``count`` openings."""
        for _ in range(count):
            assert _ready(self._reader, ANSWERS), "the gate was not opened"
            os.read(self._reader, 1)

    @property
    def is_open(self) -> bool:
        """Whether it was opened; takes nothing away."""
        return _ready(self._reader, 0)

    def close(self) -> None:
        """Close its pipe, if it is open."""
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1


class Certificates:
    """Certificates for 127.0.0.1 and for clients in the directory ``home``, and what an authority needs to trust."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.authority = self._new()
        self.stranger = self._new()
        """An authority that no server trusts."""
        self.ca = self._write("ca.pem", self.authority.cert_pem.bytes())

    @staticmethod
    def _new() -> trustme.CA:
        import trustme  # noqa: PLC0415 (it takes a while, which few tests need)

        return trustme.CA()

    def _write(self, name: str, content: bytes) -> str:
        path = self.home / name
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)

    def server(self, name: str = "server", authority: trustme.CA | None = None) -> tuple[str, str]:
        """Paths of a certificate and its key, written anew; each time another one."""
        made = (authority or self.authority).issue_cert("127.0.0.1")
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        return self._write(f"{name}.pem", chain), self._write(f"{name}.key", made.private_key_pem.bytes())

    def context(self, client: trustme.CA | None = None) -> ssl.SSLContext:
        """How a client trusts the authority; with ``client``, it has a certificate of that one."""
        context = ssl.create_default_context(cafile=self.ca)
        if client is not None:
            client.issue_cert("scraper@example.org").configure_cert(context)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Certificates in the test's directory."""
    return Certificates(tmp_path)


def find_free_port() -> int:
    """A port on which no process listens, and which the system gives to no client or server that asks for any port."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = random.SystemRandom()  # the test runner seeds the other one in all its workers alike
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            port = chance.randrange(max(1024, lowest - 20_000), lowest)
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Finds ports of 127.0.0.1 on which no process listens."""
    return find_free_port


@pytest.fixture
def store_directory() -> Iterator[str]:
    """A store's directory on tmpfs, not yet a store."""
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["private", "store"])
def provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    """A provider on private memory, and one on a store."""
    made = Provider() if request.param == "private" else Provider(request.getfixturevalue("store_directory"))
    yield made
    made.shutdown()


@pytest.fixture
def shared(store_directory: str) -> Iterator[Provider]:
    """A provider on a store."""
    made = Provider(store_directory)
    yield made
    made.shutdown()


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], object]], Child]]:
    """Start a forked process; those that still run at the end of the test are killed."""
    started: list[Child] = []

    def start(work: Callable[[], object]) -> Child:
        made = Child(work)
        started.append(made)
        return made

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def fork() -> Iterator[Callable[..., Forked]]:
    """Runs a function in a forked child; those that are left over are killed."""
    children: list[Forked] = []

    def start(function: Callable[..., object], *arguments: object) -> Forked:
        children.append(Forked(function, arguments))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def gate() -> Iterator[Callable[[], Gate]]:
    """Makes gates."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate())
        return gates[-1]

    yield make
    for each in gates:
        each.close()


@pytest.fixture
def in_child(fork: Callable[..., Forked]) -> Callable[..., Any]:
    """Runs a function in a forked child and returns its result; one that hangs is ended, says where, and fails."""

    def watched(function: Callable[..., object], arguments: tuple[object, ...]) -> object:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
        return function(*arguments)

    def run(function: Callable[..., object], *arguments: object) -> Any:
        return fork(watched, function, arguments).result(PATIENCE + 5)

    return run


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def shown() -> Callable[[Any], Samples]:
    """What a source shows: its samples by name and sorted labels, without creation times and the collector's own."""

    def read(source: Any) -> Samples:
        collector = source if isinstance(source, Collector) else Collector(source)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in collector.collect()
            if not family.name.startswith("mpmetrics_")
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    return read


@pytest.fixture
def sums() -> Callable[[Any], dict[str, float]]:
    """What a source shows, all series of a name added up, the collector's own, too."""

    def add(source: Any) -> dict[str, float]:
        collector = source if isinstance(source, Collector) else Collector(source)
        found: dict[str, float] = {}
        for family in collector.collect():
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    return add


def pytest_xdist_auto_num_workers() -> int:
    """With ``-n auto``, two workers a processor: half of the time a test waits for processes that it started."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_report_header() -> str:
    """Which of the two cores is tested."""
    return f"core: {_cells.TWIN} ({_cells.WHY})"


def pytest_configure() -> None:
    """With MPMETRICS_REQUIRE_EXT, as for the installation, end at once where the compiled core should be and is not."""
    asked = {name: os.environ.get(f"MPMETRICS_{name}_EXT", "") not in ("", "0") for name in ("REQUIRE", "DISABLE")}
    if asked["REQUIRE"] and not asked["DISABLE"] and _cells.TWIN != "compiled":
        raise pytest.UsageError(
            f"the compiled core was to be tested, but {_cells.WHY}; install a C compiler and then again:"
            " MPMETRICS_REQUIRE_EXT=1 pip install --editable ."
        )


# A table of what the tests in the directory ``torture`` tried, how often, and what was lost. A line stands for a file,
# whose docstring begins with it. A test that tries one thing many times reports that with ``tally``; the others count
# as one try. This conftest prints the table, since a parallel run reads the one of ``torture`` in its workers only.

TORTURE = Path(__file__).parent / "torture"
TITLE = "line of the table"
HEADS = ("tests", "skipped", "tried", "lost", "failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the line of the table into each report of a torture test; a test that lost something has failed."""
    if call.when == "setup" and TORTURE in item.path.parents:
        module = getattr(item, "module", None)
        title = (getattr(module, "__doc__", None) or item.path.stem).strip().splitlines()[0]
        item.user_properties.append((TITLE, title))
    report = yield
    lost = sum(float(value) for name, value in item.user_properties if name == "lost")
    if call.when == "call" and report.passed and lost > 0:
        report.outcome, report.longrepr = "failed", f"{lost:g} were lost of what had to be kept"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Fail a test that leaves an exception which the interpreter takes for one that is still being handled.

    A trace function that raises while an ``except`` clause ends does that. The exception would be the context of all
    exceptions of later tests, and keep the frames of this test alive.
    """
    before = sys.exc_info()[1]
    yield
    assert sys.exc_info()[1] is before, "the test leaves an exception that is still being handled"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    lines: dict[str, list[float]] = defaultdict(lambda: [0] * len(HEADS))
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", [])
            titles = [value for name, value in properties if name == TITLE]
            if not titles or (report.when != "call" and outcome == "passed"):
                continue
            tried, lost = ([value for name, value in properties if name == what] for what in ("tried", "lost"))
            line = lines[titles[0]]
            is_skipped = outcome == "skipped"
            line[0] += 1
            line[1] += is_skipped
            line[2] += 0 if is_skipped else sum(tried) if tried else 1
            line[3] += sum(lost)
            line[4] += outcome in ("failed", "error")
    if not lines:
        return
    lines["all"] = [sum(column) for column in zip(*lines.values(), strict=True)]
    width = max(map(len, lines))
    terminalreporter.section("what was tried, how often, and what was lost")
    terminalreporter.write_line(" ".join((" " * width, *(f"{head:>9}" for head in HEADS))))
    for title, figures in lines.items():
        terminalreporter.write_line(" ".join((f"{title:{width}}", *(f"{figure:>9,g}" for figure in figures))))


@pytest.fixture
def shop() -> Callable[[Provider], None]:
    """Fill a provider with a metric of every kind, with well-chosen names, and fixed values."""

    def fill(provider: Provider) -> None:
        requests = Counter("shop_requests", "Requests served.", ["method", "code"], provider=provider)
        requests.labels("GET", 200).inc(3)
        requests.labels("POST", 500).inc(0.5)
        Counter("shop_sent_bytes", 'Bytes sent, of which\nmost are \\ and ".', unit="bytes", provider=provider).inc(
            1e21
        )
        Counter("shop_refunds", "Never happened.", provider=provider)
        Counter("shop_visits", "No series yet.", ["page"], provider=provider)
        Gauge("shop_temperature_celsius", "By worker.", unit="celsius", provider=provider).set(-40.25)
        Gauge("shop_largest", "Merged.", ["kind"], multiprocess_mode="max", provider=provider).labels("inf").set(
            math.inf
        )
        Gauge("shop_last", "Merged.", multiprocess_mode="mostrecent", provider=provider).set(math.nan)
        Gauge("shop_unset", "Never set.", multiprocess_mode="min", provider=provider)
        UpDownCounter("shop_carts", "Carts open.", provider=provider).dec(2)
        latency = Histogram("shop_latency_seconds", "Latency.", ["path"], buckets=(0.1, 1, 1e6), provider=provider)
        for value in (0.05, 0.5, 0.5, 2e6):
            latency.labels("/pay").observe(value)
        latency.labels("/").observe(1)
        Summary("shop_basket_items", "Items a basket.", provider=provider).observe(7)
        Info("shop_build", "What runs.", provider=provider).info({"version": "1.2.3", "branch": 'a"b'})
        Enum("shop_door", "The door.", ["side"], states=["open", "shut"], provider=provider).labels("front").state(
            "shut"
        )
        odd = Counter("shop_odd", "Odd label values.", ["value"], provider=provider)
        for value in (
            "",
            " ",
            'quo"te',
            "back\\slash",
            "new\nline",
            "\\n",
            "tab\t",
            "é",
            "\N{SNAKE}",
            '{a="b"} 1',
            "# EOF",
        ):
            odd.labels(value).inc()

    return fill
