"""Coverage-guided fuzz of everything that reads a store: `python tests/torture/fuzz_store.py [libFuzzer options]`.

Needs atheris (the extra `fuzz`). An input is a target, by its first byte, and bytes: raw ones in the place of a file,
or bodies of records that get right checksums. Whatever is in them, a scrape has to be made, Prometheus' parser has to
take it, and no exception, endless loop or heap of memory may come of it. Ends by itself with `-max_total_time=60`; what
it found is kept in the folder that is given as an argument, if one is. Given files, it tries these.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import zlib

import atheris

with atheris.instrument_imports(include=["mpmetrics.storage", "mpmetrics.collector", "mpmetrics.exposition.text"]):
    from mpmetrics.collector.merge import merge
    from mpmetrics.collector.snapshot import EpochReader
    from mpmetrics.exposition.text import render_openmetrics, render_text
    from mpmetrics.storage import format as fmt
    from mpmetrics.storage.fold import fold
    from mpmetrics.storage.records import decode_records

from prometheus_client.parser import text_string_to_metric_families

import mpmetrics

KINDS = (fmt.FAMILY, fmt.SERIES, fmt.REMOVED, fmt.FREE)
SEPARATOR = b"\n"
WORDS = (
    *(
        "null",
        "true",
        "1e400",
        "NaN",
        "Infinity",
        "-1",
        "1.5",
        "9007199254740992",
        "18446744073709551616",
        "[[[[",
        "{}",
    ),
    *("counter", "updowncounter", "gauge", "histogram", "summary", "info", "enum", "sketch", "duration", "value"),
    *("all", "liveall", "min", "max", "sum", "livesum", "mostrecent", "inf", "nan", "0x1p0", "host", "worker", "timer"),
    *(
        "\\\\ud800",
        "registry/timer/r/x",
        "labels",
        "bounds",
        "states",
        "mode",
        "role",
        "name",
        "kind",
        "slabs",
        "folded",
        "births",
    ),
)
"""What an input may well have more of."""


def build(directory: str) -> str:
    """A small store, of a process that is dead; its epoch."""
    pid = os.fork()
    if not pid:
        provider = mpmetrics.Provider(directory)
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
        os._exit(0)
    os.waitpid(pid, 0)
    (name,) = (name for name in os.listdir(directory) if name.startswith("epoch-"))
    return os.path.join(directory, name)


class Harness:
    """The store, and what its files were."""

    def __init__(self, base: str) -> None:
        self.path = build(os.path.join(base, "store"))
        assert fold(self.path) == 1
        pid = os.fork()
        if not pid:
            provider = mpmetrics.Provider(os.path.dirname(self.path))
            mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider).labels("200").inc()
            os._exit(0)
        os.waitpid(pid, 0)
        (self.slab,) = (name for name in os.listdir(self.path) if name.startswith("slab-"))
        self.names = ("series", "retired", self.slab)
        self.whole = {name: self._read(name) for name in self.names}

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Another file of these bytes in the place of one."""
        where = os.path.join(self.path, name)
        os.unlink(where)
        with open(where, "wb") as file:
            file.write(data)

    def seeds(self) -> list[bytes]:
        """Inputs to begin with: the files as they are, and the bodies of their records."""
        found = [bytes([at]) + self.whole[name] for at, name in enumerate(self.names)]
        series = self.whole["series"]
        for _, kind, body in decode_records(series[fmt.SERIES_HEAD_SIZE :]):
            found.append(bytes([3 + KINDS.index(kind)]) + json.dumps(body).encode())
        slots, tail = fmt.RETIRED_HEAD.unpack_from(self.whole["retired"])[3:5]
        found.append(b"\7" + self.whole["retired"][-tail:])
        assert slots
        return found

    def damage(self, data: bytes) -> str:
        """Make of an input what it says; returns the name of the file that is another now."""
        target, rest = data[0] % 8, data[1:]
        if target < 3:
            name = self.names[target]
            self.write(name, rest)
            return name
        if target < 7:
            self.write("series", self._with_records(KINDS[target - 3], rest))
            return "series"
        self.write("retired", self._with_tail(rest))
        return "retired"

    def _with_records(self, kind: int, rest: bytes) -> bytes:
        series = bytearray(self.whole["series"])
        for body in rest.split(SEPARATOR)[:50]:
            head = fmt.RECORD_HEAD.pack(fmt.RECORD_MAGIC, len(body), zlib.crc32(body, kind), kind)
            series += head + body + b"\0" * (-len(body) % 8)
        series[32:40] = len(series).to_bytes(8, fmt.BYTE_ORDER)
        return bytes(series)

    def _with_tail(self, tail: bytes) -> bytes:
        whole = self.whole["retired"]
        slots, _, generation, incarnation, _ = fmt.RETIRED_HEAD.unpack_from(whole)[3:]
        body = whole[64 : 64 + 16 * slots] + tail
        numbers = (slots, len(tail), generation, incarnation, zlib.crc32(body))
        head = fmt.RETIRED_HEAD.pack(fmt.RETIRED_MAGIC, fmt.VERSION, fmt.RETIRED_HEAD_SIZE, *numbers)
        return (head + zlib.crc32(head).to_bytes(4, fmt.BYTE_ORDER)).ljust(64, b"\0") + body

    def one(self, data: bytes) -> None:
        """Try one input."""
        if not data:
            return
        name = self.damage(data)
        reader = EpochReader(self.path)
        try:
            for _ in range(2):
                snapshot = reader.snapshot()
                readings = merge(snapshot)
                text = render_text(readings).decode()
                render_openmetrics(readings)
            for family in text_string_to_metric_families(text):
                assert family.name
            try:
                fold(self.path, at_least=0)
            except (mpmetrics.FormatError, OSError):
                assert data[0] % 8 not in range(3, 7)
        finally:
            reader.close()
            for each in {name, "retired", self.slab}:
                if not os.path.exists(os.path.join(self.path, each)) or self._read(each) != self.whole[each]:
                    open(os.path.join(self.path, each), "ab").close()
                    self.write(each, self.whole[each])


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
