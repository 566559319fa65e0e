"""Fixtures of the writer tests: both twins, and an owner for their processes whose slab is in memory."""

from __future__ import annotations

import ctypes
import math
import os
import struct
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mpmetrics._cells import children, labelled, maps, process, pure, sketch, slab
from mpmetrics._cells.arithmetic import distribution_sum
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

try:
    from mpmetrics._cells import compiled
except ImportError:
    compiled = None  # type: ignore[assignment]

PURE = SimpleNamespace(
    name="pure",
    Children=children.Children,
    CounterCell=pure.CounterCell,
    DistributionCell=pure.DistributionCell,
    GaugeCell=pure.GaugeCell,
    Labelled=labelled.Labelled,
    Map=maps.Map,
    Process=process.Process,
    RecentCell=pure.RecentCell,
    SketchCell=sketch.SketchCell,
    Slab=slab.Slab,
    new_token=maps.new_token,
    without_gc=pure.without_gc,
)
COMPILED = None
if compiled is not None:
    COMPILED = SimpleNamespace(
        name="compiled", **{name: getattr(compiled, name) for name in vars(PURE) if name != "name"}
    )

BOUNDS = (1.0, 2.0, math.inf)
WIDTHS = {
    "CounterCell": 1,
    "GaugeCell": 1,
    "RecentCell": 4,
    "DistributionCell": 2 + len(BOUNDS),
    "SketchCell": 12 + sketch.LAYOUTS["value"].size,
}
LIBC = ctypes.PyDLL(None)  # keeps the GIL at a fork; else the child could wait for ever for another thread's GIL


class Series(NamedTuple):
    """A SERIES record without an END."""

    family: int
    width: int
    created: float
    generation: int
    key: tuple[str, ...] | None


class Owner:
    """The owner of a process of ``twin``. Its slab is in memory, has ``room`` bytes for records, and grows on demand.

    With ``descriptor`` the slab is that file. ``calls`` lists the calls of the cells.
    """

    widths = WIDTHS

    def __init__(self, twin: Any, *, room: int = fmt.PAGE, descriptor: int = -1) -> None:
        self.twin = twin
        self.room = room
        self.descriptor = descriptor
        self.process = twin.Process(self)
        self.process.clock = lambda: 1.5
        self.map: Any = None
        self.waiting: list[Any] = []
        self.metrics: list[Any] = []
        self.calls: list[str] = []

    def begin(self, counting: bool) -> None:  # noqa: FBT001 (called from C)
        """Make a slab."""
        self.calls.append("begin")
        held = self.process
        if not held.token or held.begun != held.token:
            self.renew()
        if counting:
            held.counting = held.token

    def renew(self) -> None:
        """Begin anew: another slab and token."""
        self.renew_slab()
        self.process.token = self.twin.new_token()
        self.process.begun = self.process.token

    def renew_slab(self) -> None:
        """Continue with another slab."""
        self.map = self.twin.Map(self.descriptor, fmt.SLAB_SIZE, write=True)
        head = memoryview(self.map).cast("Q")
        head[fmt.WORDS_END] = fmt.FIRST_WORDS_END
        head[fmt.ROOM] = self.room
        self.process.slab = self.twin.Slab(self.map)

    def fill(self) -> None:
        """Make a slab that cannot grow and has no room for a sketch."""
        self.begin(counting=True)
        self.process.slab.attach_file(("/nowhere", 0, 0, 0), "slab-0", 0, 0, False)

    def give_room(self) -> None:
        """Give the slab room without growth."""
        self.head[fmt.WORDS_END] = self.head[fmt.ROOM + (self.head[fmt.FLIPS] & 1)] = 1 << 20

    def catch_up(self) -> None:
        """Note the generation; there is nothing to remove."""
        self.calls.append("catch_up")
        self.process.seen = self.process.generation

    def declare_in(self, metric: Any) -> None:
        """Give the metric a number."""
        self.calls.append("declare_in")
        if metric not in self.metrics:
            self.metrics.append(metric)
        metric.number = self.metrics.index(metric)
        metric.stamp = self.process.token

    def grow(self, words: int, size: int) -> bool:
        """Make room, unless the store is full."""
        self.calls.append("grow")
        try:
            return bool(self.process.slab.grow(words, size))
        except OSError:
            return False

    def overflow(self, metric: Any) -> Any:
        """The overflow series."""
        self.calls.append("overflow")
        return metric.make(None)

    def move_later(self, cell: Any) -> None:
        """Remember the waiting cell."""
        self.calls.append("move_later")
        self.waiting.append(cell)

    def metric(self, kind: str = "CounterCell", *, limit: int = 10_000, budget: int = 1 << 20) -> Any:
        """A metric whose cells are of this kind."""
        family = SimpleNamespace(name="it", labels=("a",), is_open=False, bounds=BOUNDS, mode="value")
        cell_type = getattr(self.twin, kind)
        return self.twin.Children(self.process, family, cell_type, width=self.widths[kind], limit=limit, budget=budget)

    def cells(self) -> tuple[Any, Any, Any]:
        """A counter, a gauge and a distribution, of three metrics."""
        kinds = ("CounterCell", "GaugeCell", "DistributionCell")
        counter, gauge, sizes = (self.metric(kind).make(("x",)) for kind in kinds)
        return counter, gauge, sizes

    def latest(self, first: int) -> tuple[float, int]:
        """Value and time of the copy that counts, of a RecentCell."""
        words, times = self.words, self.head
        one, two = times[first + 1], times[first + 3]
        return (words[first], one) if one >= two else (words[first + 2], two)

    def watch(self) -> memoryview:
        """Watch a page whose word 3 is the generation; returns its words."""
        page = _shared_page(self.twin)
        self.process.watch(page, 3)
        return memoryview(page).cast("Q")

    @property
    def words(self) -> memoryview:
        """The words of the slab, by number."""
        return memoryview(self.map).cast("d")

    @property
    def head(self) -> memoryview:
        """The words of the slab as u64."""
        return memoryview(self.map).cast("Q")

    def series(self) -> dict[int, Series]:
        """The series that a reader finds in the slab, by first word."""
        return live_series(memoryview(self.map))

    def keys(self, metric: Any) -> list[Any]:
        """The keys of a metric that a reader finds."""
        number = self.metrics.index(metric)
        return [series.key for series in self.series().values() if series.family == number]


def _shared_page(twin: Any) -> Any:
    descriptor = os.memfd_create("page")
    os.ftruncate(descriptor, fmt.PAGE)
    page = twin.Map(descriptor, fmt.PAGE, write=True)
    os.close(descriptor)
    return page


def committed(data: memoryview) -> bytes:
    """The records of a slab."""
    head = data[: fmt.PAGE].cast("Q")
    area = head[fmt.FLIPS] & 1
    start = fmt.AREA_0 + area * fmt.AREA_SIZE
    return data[start : start + head[fmt.COMMITTED + area]].tobytes()


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kinds and bodies of records; fails unless all are valid and without gaps."""
    at = 0
    while at < len(data):
        magic, length, checksum, kind = fmt.RECORD_HEAD.unpack_from(data, at)
        body = data[at + fmt.RECORD_HEAD.size :][:length]
        assert (fmt.RECORD_MAGIC, length, checksum) == (magic, len(body), zlib.crc32(body, kind))
        yield kind, body
        at += fmt.RECORD_HEAD.size + length + -length % fmt.WORD
    assert at == len(data)


def live_series(data: memoryview) -> dict[int, Series]:
    """The series without an END, by first word; fails if two overlap."""
    found: dict[int, Series] = {}
    for kind, body in records(committed(data)):
        if kind == fmt.END:
            del found[struct.unpack("=Q", body)[0]]
        elif kind == fmt.SERIES:
            family, width, first, created, generation = struct.unpack_from("=IIQdQ", body)
            assert first not in found
            found[first] = Series(family, width, created, generation, _key(body[32:]))
    ends = fmt.FIRST_WORD
    for first in sorted(found):
        assert first >= ends
        ends = first + found[first].width
    assert not found or ends * fmt.WORD <= data[: fmt.PAGE].cast("Q")[fmt.WORDS_END]
    return found


def _key(texts: bytes) -> tuple[str, ...] | None:
    (count,) = struct.unpack_from("=H", texts)
    if count == fmt.OVERFLOW:
        return None
    lengths: Sequence[int] = struct.unpack_from(f"={count}H", texts, 2)
    at, key = 2 + 2 * count, []
    for length in lengths:
        key.append(texts[at : at + length].decode())
        at += length
    assert at == len(texts)
    return tuple(key)


@pytest.fixture(params=["pure", "compiled"])
def twin(request: pytest.FixtureRequest) -> Any:
    """The functions and classes of one twin."""
    if request.param == "pure":
        return PURE
    if COMPILED is None:
        pytest.skip("the extension was not built")
    return COMPILED


@pytest.fixture
def twins() -> tuple[Any, Any]:
    """Both twins."""
    if COMPILED is None:
        pytest.skip("the extension was not built")
    return PURE, COMPILED


@pytest.fixture
def pure_twin() -> Any:
    """The twin in Python."""
    return PURE


@pytest.fixture
def owner(twin: Any) -> Owner:
    """The owner of a process of this twin."""
    return Owner(twin)


@pytest.fixture
def owners() -> Callable[..., Owner]:
    """Makes the owner of a process of a twin."""
    return Owner


@pytest.fixture
def series_in() -> Callable[[memoryview], dict[int, Series]]:
    """What a reader finds in a slab, by first word."""
    return live_series


@pytest.fixture
def distribution() -> Callable[[Any], tuple[float, ...]]:
    """Sum and buckets as a reader reads them."""
    return lambda words: (distribution_sum(words), *words[2:])


@pytest.fixture
def forked() -> Callable[..., int]:
    """Calls a function in a forked child, by default without Python's fork hooks; returns the exit code."""

    def run(act: Callable[[], Any], fork: Callable[[], int] = LIBC.fork) -> int:
        pid = fork()
        if not pid:
            code = 99
            try:
                code = int(act() or 0)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run
