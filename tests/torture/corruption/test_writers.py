"""Processes whose store is damaged while they run: they go on counting, in memory if need be, and never raise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpmetrics
from mpmetrics.registry import Registry
from mpmetrics.storage import format as fmt

InProcess = Callable[..., str]

VALUES = (0, 1, 4096, 1 << 20, 1 << 40, (1 << 53) - 1, 1 << 63, (1 << 64) - 1)


def put(path: str, offset: int, data: bytes) -> None:
    """Overwrite bytes in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def overwrite(data: Callable[[int], bytes]) -> Callable[[str], None]:
    """The whole file other bytes, in place and as long as before: it is mapped."""
    return lambda path: put(path, 0, data(os.path.getsize(path)))


def away(make: Callable[[str], object]) -> Callable[[str], None]:
    """Another thing in the place of the file."""

    def replace(path: str) -> None:
        os.rename(path, path + ".away")
        make(path)

    return replace


DAMAGE: dict[str, Callable[[str], object]] = {
    "zeros": overwrite(bytes),
    "ones": overwrite(lambda size: b"\xff" * size),
    "text": overwrite(lambda size: (b"no store here\n" * size)[:size]),
    "another version": lambda path: put(path, 8, b"\1"),
    "gone": os.unlink,
    "empty in its place": away(lambda path: Path(path).write_bytes(b"")),
    "directory in its place": away(os.mkdir),
    "fifo in its place": away(os.mkfifo),
    "symlink in its place": away(lambda path: os.symlink("/dev/zero", path)),
}
WORDS: dict[str, Callable[[str], object]] = {
    f"{name} {value}": lambda path, at=at, value=value: put(path, 8 * at, value.to_bytes(8, fmt.BYTE_ORDER))
    for name, at in (("generation", fmt.GENERATION), ("successor", fmt.SUCCESSOR))
    for value in VALUES
}
HARMLESS = ("gone", "in its place")
"""Ends of the names of damage to a slab that leaves its owner's map alone."""

CASES = [
    *(("shared", damage) for damage in (*DAMAGE, *WORDS)),
    *(("removals", damage) for damage in DAMAGE),
    *(("slab-0", damage) for damage in DAMAGE if damage.endswith(HARMLESS) or damage == "another version"),
    *((lock, damage) for lock in ("removals.lock", "fold.lock") for damage in ("gone", "text", "ones")),
]


class Application:
    """What a request does with metrics of several kinds, some of them new each time."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        self.sizes = mpmetrics.Histogram("sizes", "Sizes.", ["who"], provider=provider)
        self.level = mpmetrics.Gauge("level", "Level.", ["who"], provider=provider)
        self.build = mpmetrics.Info("build", "Build.", provider=provider)
        self.orders = provider.meter("shop").counter("orders")
        self.registry = Registry("r", provider=provider)
        self.requests = 0

    def serve(self) -> None:
        """One request; removing is what may fail, and says so."""
        self.requests += 1
        for who in ("always", f"new-{os.getpid()}-{self.requests}"):
            self.hits.labels(who).inc()
            self.sizes.labels(who).observe(1)
            self.level.labels(who).set(self.requests)
            self.orders.add(1, {"who": who})
        self.build.info({"request": str(self.requests)})
        self.registry.get_or_register_timer(f"timer-{self.requests}").update(1.0)
        try:
            self.level.remove(f"new-{os.getpid()}-{self.requests}")
        except mpmetrics.StoreError:
            assert f"new-{os.getpid()}-{self.requests}" in {key[0] for key in self.level._children}


def samples(source: Any) -> dict[str, float]:
    """What a collector shows, by name and labels."""
    collector = mpmetrics.Collector(source)
    found = {s.name + str(sorted(s.labels.items())): s.value for f in collector.collect() for s in f.samples}
    collector.close()
    return found


ALWAYS = "hits_total[('who', 'always')]"


@pytest.mark.parametrize(("what", "damage"), CASES)
def test_requests_go_on(what: str, damage: str, tmp_path: Path, in_process: InProcess) -> None:
    """Requests succeed in a running process, its forked child and a later process, and scrapes are answered."""
    directory = str(tmp_path / "store")

    def work() -> None:
        provider = mpmetrics.Provider(directory)
        application = Application(provider)
        for _ in range(3):
            application.serve()
        path = str(provider.epoch.path)  # type: ignore[union-attr]
        mapped = mpmetrics.Collector(directory)
        assert 3 == sum(s.value for f in mapped.collect() for s in f.samples if (s.name, "always") in named(s))
        (DAMAGE | WORDS)[damage](os.path.join(path, what))
        for _ in range(3):
            application.serve()
        assert 6 == sum(s.value for f in mapped.collect() for s in f.samples if (s.name, "always") in named(s))
        shown = samples(directory)
        assert shown.get(ALWAYS) == (None if what == "slab-0" else 6)
        assert shown["mpmetrics_unreadable_files[]"] <= 1
        application.hits.labels("always").inc()

        def child() -> None:
            for _ in range(2):
                application.serve()

        assert "" == in_process(child)

        def later() -> None:
            os.environ["MPMETRICS_DIR"] = directory
            mpmetrics.set_provider(None)
            new = Application(mpmetrics.get_provider())
            for _ in range(2):
                new.serve()
            assert samples(mpmetrics.get_provider())[ALWAYS] >= 2

        assert "" == in_process(later)
        assert len(os.listdir(path)) < 20
        provider.shutdown()

    assert "" == in_process(work, limit=900 << 20)


def named(sample: Any) -> set[tuple[str, str]]:
    """The counter of what is always counted."""
    return {("hits_total", sample.labels.get("who", ""))}


@pytest.mark.parametrize("generation", [(1 << 63) - 1, (1 << 64) - 2, (1 << 64) - 1])
def test_a_generation_past_all_bounds_keeps_series_from_being_removed(
    generation: int, tmp_path: Path, in_process: InProcess
) -> None:
    """``remove`` raises as in a full store, or succeeds; counting and scrapes go on."""
    directory = str(tmp_path / "store")

    def work() -> None:
        provider = mpmetrics.Provider(directory)
        hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        hits.labels("stays").inc()
        path = os.path.join(str(provider.epoch.path), "shared")  # type: ignore[union-attr]
        put(path, 8 * fmt.GENERATION, generation.to_bytes(8, fmt.BYTE_ORDER))
        for number in range(4):
            hits.labels("goes").inc()
            hits.labels(f"new-{number}").inc()
            with pytest.raises(mpmetrics.StoreError, match="shared is damaged"):
                hits.remove("goes")
        shown = samples(directory)
        names = ("stays", "new-0", "new-1", "new-2", "new-3", "goes")
        assert [1, 1, 1, 1, 1, 4] == [shown[f"hits_total[('who', '{who}')]"] for who in names]

    assert "" == in_process(work, limit=900 << 20)


def test_damage_that_looks_like_a_successor_moves_no_guest(tmp_path: Path, in_process: InProcess) -> None:
    """A guest that finds a senseless number of a successor epoch stays in its own."""
    directory = str(tmp_path / "store")

    def work() -> None:
        provider = mpmetrics.Provider(directory)
        hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=provider)
        path = str(provider.epoch.path)  # type: ignore[union-attr]
        put(os.path.join(path, "shared"), 8 * fmt.SUCCESSOR, b"\xff" * 7 + b"\0")
        for number in range(10):
            hits.labels("stays").inc()
            hits.labels(str(number)).inc()
            hits.remove(str(number))
        assert path == str(provider.epoch.path)  # type: ignore[union-attr]
        assert ["slab-0"] == [name for name in os.listdir(path) if name.startswith(("slab", "dead", "idle"))]
        assert 10 == samples(directory)["hits_total[('who', 'stays')]"]

    assert "" == in_process(work)
