"""Compressed text is what it was, whatever the text before; and what did not change is not compressed again."""

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
    """Lines as they are exposed, of some series with values of their own."""
    return [b'hits_total{path="/%d",code="200"} %r\n' % (at, (values or {}).get(at, 1.0)) for at in range(count)]


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many chunks were compressed since the last call."""
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
def test_what_is_packed_is_what_comes_out(rounds: list[list[tuple[int, int, bytes]]], size: int) -> None:
    """Lines that are cut out, come in, grow, or are no lines at all: each text comes out as it went in."""
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
def test_odd_texts(text: bytes) -> None:
    """Nothing, no lines, nothing but lines; after themselves and after others."""
    packer = Packer()
    for each in (text, text, b"other 1\n" * 10_000, text):
        assert gzip.decompress(packer.pack(each)) == each


def test_only_what_changed_is_compressed(compressed: Callable[[], int]) -> None:
    """A value that is longer than before costs one chunk, not all that are behind it; so does a series that comes."""
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


def test_chunks_do_not_grow_for_ever() -> None:
    """Series that come in one place make more chunks, not a large one."""
    packer = Packer()
    text = lines()
    for number in range(40):
        text[500:500] = lines(count=100 + number)
        whole = b"".join(text)
        assert gzip.decompress(packer.pack(whole)) == whole
    assert max(len(chunk.text) for chunk in packer._chunks) < 3 * compress._CHUNK


def test_threads_pack_at_once() -> None:
    """Each gets its own text, whatever the others left."""
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
