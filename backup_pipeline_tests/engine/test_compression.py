"""A member is one gzip member or zstd frame, and reading it back misses nothing."""

import gzip
import hashlib
import random
import shutil
import subprocess
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.engine.compression import MemberWriter, decompress
from backup_pipeline.engine.model import Codec
from backup_pipeline.errors import VerificationFailed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHECKSUM_FLAG = 4
"""Of a zstd frame's descriptor, its fifth byte (RFC 8878, section 3.1.1.1.1)."""

each_codec = pytest.mark.parametrize("codec", list(Codec))


def member_of(raw: bytes, codec: Codec = Codec.GZIP, level: int | None = None) -> bytes:
    writer = MemberWriter(codec, level)
    stored = writer.compress(raw) + writer.finish()
    assert (writer.raw_length, writer.length) == (len(raw), len(stored))
    assert writer.sha256 == hashlib.sha256(stored).hexdigest()
    return stored


def inflated(stored: bytes, raw_length: int, codec: Codec, size: int = 1 << 20) -> bytes:
    chunks = (stored[i : i + size] for i in range(0, len(stored), size))
    return b"".join(decompress(chunks, raw_length, codec))


codecs_and_levels = st.sampled_from(
    # zstd's slowest levels take a quarter of a second for any input.
    [(Codec.GZIP, level) for level in Codec.GZIP.levels] + [(Codec.ZSTD, n) for n in (1, 2, 3, 6)]
)


@given(st.binary(max_size=5000), codecs_and_levels, st.integers(1, 500))
def test_what_goes_in_comes_out(raw: bytes, how: tuple[Codec, int], size: int) -> None:
    assert inflated(member_of(raw, *how), len(raw), how[0], size) == raw


@each_codec
def test_the_smallest_level_is_read_back(codec: Codec) -> None:
    """A frame asks for memory by its level, and reading allows for so much."""
    raw = random.Random(1).randbytes(1000) * 3  # noqa: S311  # not a secret
    assert inflated(member_of(raw, codec, codec.levels[-1]), len(raw), codec) == raw


@each_codec
def test_the_libraries_read_concatenated_members(codec: Codec) -> None:
    members = [b"SELECT 1;\n" * 1000, b"", b"SELECT 2;\n"]
    stored = b"".join(member_of(raw, codec) for raw in members)
    read = gzip.decompress if codec is Codec.GZIP else zstd.decompress
    assert read(stored) == b"".join(members)


@each_codec
def test_the_programs_read_concatenated_members(codec: Codec) -> None:
    if not shutil.which(codec):
        pytest.skip(f"there is no program {codec}")
    members = [b"SELECT 1;\n" * 1000, b"", b"SELECT 2;\n"]
    stored = b"".join(member_of(raw, codec) for raw in members)
    for options, expected in (("-dc", b"".join(members)), ("-tq", b"")):
        done = subprocess.run([codec, options], input=stored, capture_output=True, check=True)
        assert done.stdout == expected


def test_every_frame_has_a_checksum_of_its_content() -> None:
    for level in (1, 3, 19):
        assert member_of(b"abc", Codec.ZSTD, level)[4] & CHECKSUM_FLAG


@each_codec
def test_output_that_outgrows_a_piece_is_not_lost(codec: Codec) -> None:
    raw = bytes(50_000_000)
    assert inflated(member_of(raw, codec), len(raw), codec) == raw


@each_codec
@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_never_passes(codec: Codec, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # not a secret
    raw = chance.randbytes(2000) * 3
    stored = bytearray(member_of(raw, codec))
    # Before that stands what says nothing of the content, such as a time.
    header = 10 if codec is Codec.GZIP else 6
    stored[chance.randrange(header, len(stored))] ^= 1 << chance.randrange(8)
    try:
        assert inflated(bytes(stored), len(raw), codec) == raw
    except VerificationFailed:
        return
    pytest.fail("a damaged member was read as if it were whole")


@each_codec
@pytest.mark.parametrize("kept", [0, 1, 10, 100, -9, -8, -4, -1])
def test_a_cut_member_never_passes(codec: Codec, kept: int) -> None:
    raw = random.Random(1).randbytes(1000)  # noqa: S311  # not a secret
    with pytest.raises(VerificationFailed, match="cut"):
        inflated(member_of(raw, codec)[:kept], len(raw), codec)


@each_codec
@pytest.mark.parametrize("behind", [b"\0", b"x", None], ids=["zero", "letter", "member"])
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_bytes_behind_a_member_never_pass(codec: Codec, behind: bytes | None, size: int) -> None:
    more = member_of(b"another member", codec) if behind is None else behind
    with pytest.raises(VerificationFailed, match="behind"):
        inflated(member_of(b"abc", codec) + more, 3, codec, size)


@each_codec
def test_another_length_never_passes(codec: Codec) -> None:
    with pytest.raises(VerificationFailed, match="3 bytes were inflated where 4"):
        inflated(member_of(b"abc", codec), 4, codec)


@each_codec
def test_a_bomb_stops_at_the_recorded_length(codec: Codec) -> None:
    bomb = (
        gzip.compress(bytes(300_000_000), 9)
        if codec is Codec.GZIP
        else zstd.compress(bytes(300_000_000))
    )
    tracemalloc.start()
    try:
        with pytest.raises(VerificationFailed, match="more than the 1000 bytes"):
            list(decompress(iter([bomb]), 1000, codec))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_frame_that_asks_for_much_memory_is_refused() -> None:
    asked = zstd.CompressionParameter
    greedy = zstd.compress(bytes(1 << 25), options={asked.window_log: 24})
    with pytest.raises(VerificationFailed, match=r"damaged: .*memory"):
        inflated(greedy, 1 << 25, Codec.ZSTD)


@each_codec
def test_what_is_of_another_kind_is_damaged(codec: Codec) -> None:
    with pytest.raises(VerificationFailed, match="damaged"):
        inflated(zlib.compress(b"zlib is neither of them"), 23, codec)
