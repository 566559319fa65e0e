"""Coverage-guided fuzz of everything that reads a store: `python tests/torture/fuzz_store.py [libFuzzer options]`.

Needs atheris (the extra `fuzz`). An input is a target, by its first byte, and bytes: raw ones in the place of a file,
or bodies of records that get right checksums. Whatever is in them, a scrape has to be made, Prometheus' parser has to
take it, and no exception, endless loop or heap of memory may come of it. Ends by itself with `-max_total_time=60`; what
it found is kept in the directory that is given as an argument, if one is. Given files, it tries these.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import zlib
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(include=["mpmetrics.storage", "mpmetrics.collector", "mpmetrics.formats.text"]):
    from mpmetrics.collector.epoch_reader import EpochReader
    from mpmetrics.collector.merge import merge
    from mpmetrics.formats.text import render_openmetrics, render_text
    from mpmetrics.storage import format as fmt
    from mpmetrics.storage.fold import fold

from prometheus_client.parser import text_string_to_metric_families

import mpmetrics

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = (fmt.FAMILY, fmt.SERIES, fmt.END, fmt.FOLDED, fmt.REMOVE)
SEPARATOR = b"\nMORE\n"
WORDS = (
    *("counter", "updowncounter", "gauge", "histogram", "summary", "info", "enum", "sketch", "duration", "value"),
    *("all", "liveall", "min", "max", "sum", "livesum", "mostrecent", "host", "worker", "cumulative", "delta", "timer"),
    *("registry/timer/r/x", "\\xed\\xa0\\x80", "\\xff\\xff", "\\x00\\x02", "\\x01\\x00", "KRPM", "\\x0aMORE\\x0a"),
)
"""What an input may well have more of."""


def in_child(work: Callable[[], object]) -> None:
    """Do it in a process that is dead afterwards."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def fill(provider: mpmetrics.Provider) -> None:
    """Count and set metrics of every kind."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider)
    for code in ("200", "404"):
        hits.labels(code).inc()
    hits.remove("404")
    for mode in ("all", "max", "mostrecent"):
        mpmetrics.Gauge(f"level_{mode}", "Level.", multiprocess_mode=mode, provider=provider).set(1)
    mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 10), provider=provider).observe(5)
    mpmetrics.Summary("waits", "Waits.", provider=provider).observe(5)
    mpmetrics.Info("build", "Build.", provider=provider).info({"version": "1"})
    mpmetrics.Enum("door", "Door.", states=["open", "shut"], provider=provider).state("shut")
    provider.meter("m").counter("metered", unit="By").add(1, {"a": "b"})


def extents(where: str) -> list[tuple[int, bytes]]:
    """What is in a sparse file: offsets and bytes."""
    found, offset = [], 0
    with open(where, "rb") as file:
        while True:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # a hole up to the end
                return found
            end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            found.append((offset, os.pread(file.fileno(), end - offset, offset)))
            offset = end


def word(data: bytes, number: int) -> int:
    """A word of a head."""
    return int.from_bytes(data[8 * number : 8 * number + 8], fmt.BYTE_ORDER)


class Harness:
    """The store, and what its files were: by name their sizes, and what is where in them."""

    def __init__(self, base: str) -> None:
        self._provider = mpmetrics.Provider(os.path.join(base, "store"))
        self.path = str(self._provider.epoch.path)  # type: ignore[union-attr]
        in_child(lambda: fill(self._provider))
        assert fold(self.path) == 1
        in_child(lambda: mpmetrics.Counter("hits", "Hits.", ["code"], provider=self._provider).labels("200").inc())
        (self.slab,) = (name for name in os.listdir(self.path) if name.startswith("slab-"))
        self.names = (self.slab, "retired", "removals", "shared")
        self.whole = {name: (os.path.getsize(self._where(name)), extents(self._where(name))) for name in self.names}

    def _where(self, name: str) -> str:
        return os.path.join(self.path, name)

    def restore(self, name: str) -> None:
        """Another file in the place of one, as that was at first."""
        size, parts = self.whole[name]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._where(name))
        with open(self._where(name), "wb") as file:
            file.truncate(size)
            for offset, data in parts:
                os.pwrite(file.fileno(), data, offset)

    def put(self, name: str, offset: int, data: bytes) -> None:
        """Overwrite bytes of a file."""
        with open(self._where(name), "r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def _records(self, name: str) -> bytes:
        parts = dict(self.whole[name][1])
        return parts[0] if name == "removals" else parts[fmt.AREA_0][: word(parts[0], fmt.COMMITTED)]

    def seeds(self) -> list[bytes]:
        """Inputs to begin with: heads and records as they are, and the bodies of records."""
        found = [bytes([at]) + dict(self.whole[name][1])[0][:256] for at, name in enumerate(self.names)]
        found += [bytes([4 + at]) + self._records(name) for at, name in enumerate(self.names[:2])]
        for at, name in enumerate(self.names[:3]):
            data, start = self._records(name), 0
            while start < len(data):
                _, length, _, kind = fmt.RECORD_HEAD.unpack_from(data, start)
                body = data[start + fmt.RECORD_HEAD.size :][:length]
                found.append(bytes([6 + 5 * at + KINDS.index(kind)]) + body)
                start += fmt.RECORD_HEAD.size + length + -length % 8
        return found

    def damage(self, data: bytes) -> str:
        """Make of an input what it says; returns the name of the file that is another now."""
        target, rest = data[0] % 21, data[1:]
        if target < 4:  # the beginning of a file
            name = self.names[target]
            self.put(name, 0, rest)
        elif target < 6:  # its records
            name = self.names[target - 4]
            self.put(name, fmt.AREA_0, rest)
        else:  # more records with right checksums
            name = self.names[(target - 6) // 5]
            self._append(name, KINDS[(target - 6) % 5], rest)
        return name

    def _append(self, name: str, kind: int, rest: bytes) -> None:
        records = b""
        for body in rest.split(SEPARATOR)[:50]:
            head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
            records += head + body + b"\0" * (-len(body) % 8)
        before = self._records(name)
        end = (len(before) + len(records)).to_bytes(8, fmt.BYTE_ORDER)
        if name == "removals":
            self.put(name, len(before), records)
            self.put("shared", 8 * fmt.GENERATION, (1 << 32).to_bytes(8, fmt.BYTE_ORDER))
            return
        self.put(name, fmt.AREA_0 + len(before), records)
        self.put(name, 8 * fmt.ROOM, end)
        self.put(name, 8 * fmt.COMMITTED, end)

    def one(self, data: bytes) -> None:
        """Try one input."""
        if not data:
            return
        self.damage(data)
        reader = EpochReader(self.path)
        try:
            for _ in range(2):
                snapshot = reader.snapshot()
                readings = merge(snapshot)
                text = render_text(readings).decode()
                render_openmetrics(readings)
            for family in text_string_to_metric_families(text):
                assert family.name
            with contextlib.suppress(mpmetrics.StoreError, OSError):
                fold(self.path, at_least=0)
        finally:
            reader.close()
            for name in self.names:
                self.restore(name)


def fuzz(base: str) -> None:
    """Fuzz until told to end, which ends the process."""
    harness = Harness(base)
    arguments = list(sys.argv)
    given = [argument for argument in arguments[1:] if not argument.startswith("-")]
    corpus = given[0] if given and not os.path.isfile(given[0]) else None
    if not given:
        corpus = os.path.join(base, "corpus")
        arguments.append(corpus)
    if corpus is not None:
        os.makedirs(corpus, exist_ok=True)
        for number, seed in enumerate(harness.seeds()):
            with open(os.path.join(corpus, f"seed-{number}"), "wb") as file:
                file.write(seed)
    words = os.path.join(base, "words")
    with open(words, "w", encoding="ascii") as file:
        file.writelines(f'"{word}"\n' for word in WORDS)
    options = [
        f"-artifact_prefix={corpus or base}/",
        f"-dict={words}",
        "-max_len=16384",
        "-timeout=20",
        "-rss_limit_mb=1500",
    ]
    atheris.Setup([arguments[0], *options, *arguments[1:]], harness.one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a process of its own: the fuzzer ends without any clean-up."""
    base = tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm")
    try:
        pid = os.fork()
        if not pid:
            fuzz(base)
            os._exit(0)
        with contextlib.suppress(KeyboardInterrupt):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
