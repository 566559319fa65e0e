"""Compressed text unpacks to the same text, and unchanged parts are not compressed again."""

from __future__ import annotations

import gzip
import random
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpmetrics.formats import compress
from mpmetrics.formats.compress import Packer

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = 4000


def lines(values: dict[int, float] | None = None, count: int = LINES) -> list[bytes]:
    """Exposition lines of `count` series, with the given values."""
    return [b'hits_total{path="/%d",code="200"} %r\n' % (at, (values or {}).get(at, 1.0)) for at in range(count)]


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The number of chunks compressed since the last call."""
    sizes: list[int] = []
    deflate = compress._deflate

    def count(chunk: memoryview) -> bytes:
        sizes.append(len(chunk))
        return deflate(chunk)

    def told() -> int:
        number = len(sizes)
        sizes.clear()
        return number

    monkeypatch.setattr(compress, "_deflate", count)
    return told


EDITS = st.lists(
    st.tuples(
        st.integers(0, LINES - 1), st.integers(0, 300), st.sampled_from([b"", b"\n", b" ", b"x 1\n", b"\xff" * 50])
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(EDITS, min_size=1, max_size=4), st.sampled_from([1 << 8, 1 << 12, 1 << 15]))
def test_packed_text_unpacks_to_itself(rounds: list[list[tuple[int, int, bytes]]], size: int) -> None:
    """Text unpacks to itself after lines were removed, added or made longer, and after edits that are no lines."""
    packer = Packer()
    text = lines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "_CHUNK", size)
        for edits in rounds:
            for at, gone, come in edits:
                text[at : at + gone] = [come]
            whole = b"".join(text)
            assert gzip.decompress(packer.pack(whole)) == whole


@pytest.mark.parametrize("text", [b"", b"\n", b"a", b"no end", b"a" * 200_000, b"\n" * 200_000])
def test_odd_texts_unpack_to_themselves(text: bytes) -> None:
    """Text without lines, or of empty lines only, unpacks to itself, also after another text."""
    packer = Packer()
    for each in (text, text, b"other 1\n" * 10_000, text):
        assert gzip.decompress(packer.pack(each)) == each


def test_only_changed_chunks_are_compressed(compressed: Callable[[], int]) -> None:
    """A longer value, a new series or a removed one costs one chunk, not all chunks behind it."""
    packer = Packer()
    packer.pack(b"".join(lines()))
    whole = compressed()
    assert whole > 3
    packer.pack(b"".join(lines()))
    assert compressed() == 0
    values: dict[int, float] = {}
    for at in (10, 11, 12, 13):
        values[at] = 1 / 3
        packer.pack(b"".join(lines(values)))
        assert compressed() == 1
    more = lines(values)
    more.insert(2000, b'hits_total{path="/new",code="200"} 1.0\n')
    packer.pack(b"".join(more))
    assert compressed() == 1
    del more[1000]
    packer.pack(b"".join(more))
    assert compressed() == 1


def test_chunks_stay_small() -> None:
    """Series added at one place make more chunks, not a large chunk."""
    packer = Packer()
    text = lines()
    for number in range(40):
        text[500:500] = lines(count=100 + number)
        whole = b"".join(text)
        assert gzip.decompress(packer.pack(whole)) == whole
    assert max(len(chunk.text) for chunk in packer._chunks) < 3 * compress._CHUNK


def test_threads_may_pack_at_the_same_time() -> None:
    """Each thread gets its own text from a shared packer."""
    packer = Packer()
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(30):
            whole = b"".join(
                lines({chance.randrange(LINES): chance.random() for _ in range(5)}, chance.randrange(LINES))
            )
            if gzip.decompress(packer.pack(whole)) != whole:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong
