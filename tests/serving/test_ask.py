"""The protocol between collectors and workers: whatever either side receives, the next collector is answered."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Gauge, Provider
from mpmetrics.serving.worker_socket import list_workers
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Scrape = Callable[[Any], dict[str, float]]
    Start = Callable[[Callable[[], object]], Any]
    Listening = Callable[[Provider], None]
    WaitUntil = Callable[[Callable[[], object]], None]

LATE = "mpmetrics_late_workers"
FAKE = f"ask-7-{'0' * 32}"


def epoch(provider: Provider) -> Path:
    """Return the directory of the provider's epoch."""
    assert provider.epoch is not None
    return Path(provider.epoch.path)


def socket_of(provider: Provider) -> str:
    """Return the path of the only socket."""
    (worker,) = list_workers(str(epoch(provider)))
    return str(epoch(provider) / worker.file)


def late(shown: dict[str, float]) -> set[str]:
    """Return the series of the workers that a scrape names as late."""
    return {name for name in shown if name.startswith(LATE)}


@pytest.fixture
def worker(shared: Provider, child: Start, listening: Listening, tmp_path: Path) -> Path:
    """A worker whose callback observes how often it ran; each run adds a line to the file."""
    notes = tmp_path / "runs"
    notes.touch()

    def work() -> None:
        def observe(observer: Any) -> None:
            with notes.open("a") as file:
                file.write("run\n")
            observer.observe(len(notes.read_text().splitlines()))

        shared.meter("test").observable_up_down_counter("runs", callback=observe, scope="worker")
        listening(shared)

    child(work)
    return notes


@contextlib.contextmanager
def in_place_of_a_worker(path: Path, speak: Callable[[socket.socket], object]) -> Iterator[None]:
    """Listen at a worker's socket; call ``speak`` with the first connection, and close that when it returns."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / FAKE))
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                speak(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


def test_a_request_and_its_answer(shared: Provider, worker: Path) -> None:
    """A request and its answer are a line each; the answer has the first words of the series to show."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_of(shared))
        client.sendall(b'{"seconds": 5, "max_age": 0}\n')
        with client.makefile() as answer:
            said = json.loads(answer.readline())
            rest = answer.read()

    assert ["shown"] == list(said)
    assert 1 == len(said["shown"])
    assert "" == rest
    assert ["run"] == worker.read_text().splitlines()


NUMBERS = [
    ("NaN", "0"),
    ("Infinity", "0"),
    ("-1", "0"),
    ("1e308", "-1e308"),
    ("5", "NaN"),
    ("1" + "0" * 400, "0"),
    ("null", "0"),
    ("[]", "{}"),
]


@pytest.mark.parametrize(("seconds", "max_age"), NUMBERS, ids=lambda text: text[:9])
def test_a_request_with_invalid_numbers(
    seconds: str,
    max_age: str,
    shared: Provider,
    worker: Path,
    collector: Collector,
    wait_until: WaitUntil,
    scrape: Scrape,
) -> None:
    """A request with invalid numbers ends its own connection; the next collector is answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_of(shared))
        client.sendall(f'{{"seconds": {seconds}, "max_age": {max_age}}}\n'.encode())
        client.recv(1 << 16)  # until it has answered or hung up
    # A run that had no time may still be in progress; it is not started a second time meanwhile.
    wait_until(lambda: "runs" in (shown := scrape(collector)) and not late(shown))

    assert worker.read_text()


NESTED = b"[" * 4000 + b"\n"


@pytest.mark.parametrize("request_", [b"", b'{"seconds": 5', b"x" * 4000, NESTED, b"x" * (1 << 20)], ids=range(5))
def test_connections_without_a_request(
    request_: bytes, shared: Provider, worker: Path, collector: Collector, scrape: Scrape
) -> None:
    """A client that hangs up after nothing, half a request or too much runs no callback and blocks no collector."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_of(shared))
        with contextlib.suppress(ConnectionError):  # the worker hangs up on the long one
            client.sendall(request_)
    shown = scrape(collector)

    assert 1.0 == shown["runs"]
    assert not late(shown)
    assert ["run"] == worker.read_text().splitlines()


def test_a_client_that_says_nothing(shared: Provider, worker: Path, collector: Collector, scrape: Scrape) -> None:
    """A client that connects and sends nothing is dropped after a second; collectors behind it are answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_of(shared))
        shown = scrape(collector)

    assert 1.0 == shown["runs"]
    assert not late(shown)
    assert ["run"] == worker.read_text().splitlines()


def test_a_client_that_sends_slowly(shared: Provider, worker: Path, collector: Collector, scrape: Scrape) -> None:
    """A request that arrives byte by byte has one second in all, not for each byte."""
    enough = threading.Event()

    def drip(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not enough.wait(0.1):
                client.sendall(b" ")

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_of(shared))
        thread = threading.Thread(target=drip, args=(client,))
        thread.start()
        try:
            shown = scrape(collector)
        finally:
            enough.set()
            thread.join()

    assert not late(shown)
    assert 1.0 == shown["runs"]
    assert ["run"] == worker.read_text().splitlines()


ANSWERS = {
    "hangs up": b"",
    "half": b'{"shown": [1',
    "no number": b'{"shown": [null]}\n',
    "infinite": b'{"shown": [1e999]}\n',
    "not a number": b'{"shown": [NaN]}\n',
    "nested": b"[" * 100_000 + b"\n",
    "binary": b"\xff\xfe\x00\n",
    "negative": b'{"shown": [-1, 1000000000000000000000]}\n',
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_invalid_answers(answer: bytes, shared: Provider, worker: Path, collector: Collector, scrape: Scrape) -> None:
    """Whatever another program answers in a worker's place, the scrape has the values of the other workers."""
    with in_place_of_a_worker(epoch(shared), lambda connection: connection.sendall(answer)):
        shown = scrape(collector)

    assert 1.0 == shown["runs"]
    assert ["run"] == worker.read_text().splitlines()


def test_an_answer_without_an_end(shared: Provider, worker: Path, scrape: Scrape) -> None:
    """A worker whose answer never ends is late; the collector spends bounded time and memory on it."""

    def talk(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * 65_536)

    assert shared.directory is not None
    with in_place_of_a_worker(epoch(shared), talk):
        shown = scrape(Collector(shared.directory, worker_timeout=1))

    assert {f'{LATE}{{worker="7"}}'} == late(shown)
    assert 1.0 == shown["runs"]
    assert ["run"] == worker.read_text().splitlines()


def test_a_worker_that_never_accepts(shared: Provider, worker: Path, scrape: Scrape) -> None:
    """A worker whose backlog is full is late in each scrape, and the others are asked."""
    assert shared.directory is not None
    collector = Collector(shared.directory, worker_timeout=1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(epoch(shared) / FAKE))
        listener.listen(0)
        shown = [scrape(collector) for _ in range(4)]

    assert [{f'{LATE}{{worker="7"}}'}] * 4 == [late(each) for each in shown]
    assert [1.0, 2.0, 3.0, 4.0] == [each["runs"] for each in shown]
    assert 4 == len(worker.read_text().splitlines())


def make_file(path: Path) -> None:
    """Put a file that is no socket there."""
    path.write_text("x")


def make_directory(path: Path) -> None:
    """Put a directory there, which cannot be unlinked."""
    path.mkdir()


def make_link(path: Path) -> None:
    """Put a dangling link there."""
    path.symlink_to(path.parent / "nowhere")


def make_socket(path: Path) -> None:
    """Put a socket there at which no process listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [make_file, make_directory, make_link, make_socket, os.mkfifo])
def test_socket_names_without_a_worker(
    make: Callable[[Path], None], shared: Provider, worker: Path, collector: Collector, scrape: Scrape
) -> None:
    """A file with a socket's name but without a worker makes no late worker; each scrape is complete."""
    make(epoch(shared) / FAKE)
    shown = [scrape(collector) for _ in range(2)]

    assert [1.0, 2.0] == [each["runs"] for each in shown]
    assert [set(), set()] == [late(each) for each in shown]
    assert 2 == len(worker.read_text().splitlines())


def test_the_socket_of_a_dead_process(
    shared: Provider, worker: Path, collector: Collector, scrape: Scrape, listening: Listening
) -> None:
    """The socket of a dead process is recognized and removed, although another process has its ordinal now."""
    shared.meter("test").observable_gauge("mine", callback=lambda observer: observer.observe(1), scope="worker")
    listening(shared)
    own = shared.memory.slab_name
    assert own is not None
    before = epoch(shared) / f"ask-{own.ordinal}-{'0' * 32}"
    make_socket(before)
    shown = scrape(collector)

    assert not late(shown)
    assert not before.exists()
    assert 1.0 == shown["runs"]
    assert worker.read_text()


def test_a_worker_follows_into_another_epoch(
    shared: Provider, worker: Path, collector: Collector, scrape: Scrape, wait_until: WaitUntil
) -> None:
    """A guest moves to the epoch that a server begins in its store, and answers collectors there."""
    assert 1.0 == scrape(collector)["runs"]
    old = epoch(shared)
    assert shared.directory is not None
    server = Store(shared.directory).begin()
    wait_until(lambda: list_workers(server.path))

    assert 2.0 == scrape(collector)["runs"]
    assert [] == list_workers(str(old))
    assert 2 == len(worker.read_text().splitlines())
    server.close()


def test_nothing_is_left_open(shared: Provider, worker: Path, collector: Collector, scrape: Scrape) -> None:
    """Scrapes, with late workers and without, leave no descriptor open in the collector."""
    scrape(collector)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(epoch(shared) / FAKE))
        listener.listen(0)
        impatient = Collector(str(shared.directory), worker_timeout=0.1)
        scrape(impatient)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            scrape(impatient)
        after = len(os.listdir("/proc/self/fd"))

    assert after <= before
    assert worker.read_text()


def test_shut_down(shared: Provider, collector: Collector, scrape: Scrape, wait_until: WaitUntil) -> None:
    """After a shutdown, a process no longer listens, and its thread ends."""
    before = set(threading.enumerate())
    Gauge("g", "", provider=shared).set_function(lambda: 1)
    path = str(epoch(shared))
    wait_until(lambda: list_workers(path))
    assert {"mpmetrics-agent"} == {thread.name for thread in set(threading.enumerate()) - before}
    shared.shutdown()

    assert [] == list_workers(path)
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert not late(scrape(collector))
