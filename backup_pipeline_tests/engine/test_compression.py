"""A member is one gzip member as RFC 1952 has it, and reading it back misses nothing."""

import gzip
import hashlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup_pipeline.engine.compression import MemberWriter, decompress
from backup_pipeline.errors import VerificationFailed


def member_of(raw: bytes, level: int = 1) -> bytes:
    writer = MemberWriter(level)
    stored = writer.compress(raw) + writer.finish()
    assert (writer.raw_length, writer.length) == (len(raw), len(stored))
    assert writer.sha256 == hashlib.sha256(stored).hexdigest()
    return stored


def inflated(stored: bytes, raw_length: int, size: int = 1 << 20) -> bytes:
    chunks = (stored[i : i + size] for i in range(0, len(stored), size))
    return b"".join(decompress(chunks, raw_length))


@given(st.binary(max_size=5000), st.integers(0, 3), st.integers(1, 500))
def test_what_goes_in_comes_out(raw: bytes, level: int, size: int) -> None:
    assert inflated(member_of(raw, level), len(raw), size) == raw


def test_any_gzip_reads_concatenated_members() -> None:
    members = [b"SELECT 1;\n" * 1000, b"", b"SELECT 2;\n"]
    stored = b"".join(member_of(raw) for raw in members)
    assert gzip.decompress(stored) == b"".join(members)


def test_output_that_outgrows_a_piece_is_not_lost() -> None:
    raw = bytes(50_000_000)
    assert inflated(member_of(raw), len(raw)) == raw


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_never_passes(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # not a secret
    raw = chance.randbytes(2000) * 3
    stored = bytearray(member_of(raw))
    stored[chance.randrange(10, len(stored))] ^= 1 << chance.randrange(8)
    try:
        assert inflated(bytes(stored), len(raw)) == raw
    except VerificationFailed:
        return
    pytest.fail("a damaged member was read as if it were whole")


@pytest.mark.parametrize("kept", [0, 1, 10, 100, -9, -8, -1])
def test_a_cut_member_never_passes(kept: int) -> None:
    raw = random.Random(1).randbytes(1000)  # noqa: S311  # not a secret
    with pytest.raises(VerificationFailed, match="cut"):
        inflated(member_of(raw)[:kept], len(raw))


@pytest.mark.parametrize("behind", [b"\0", b"x", member_of(b"another member")])
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_bytes_behind_a_member_never_pass(behind: bytes, size: int) -> None:
    with pytest.raises(VerificationFailed, match="behind"):
        inflated(member_of(b"abc") + behind, 3, size)


def test_another_length_never_passes() -> None:
    with pytest.raises(VerificationFailed, match="3 bytes were inflated where 4"):
        inflated(member_of(b"abc"), 4)


def test_a_bomb_stops_at_the_recorded_length() -> None:
    bomb = gzip.compress(bytes(300_000_000), 9)
    pieces = decompress(iter([bomb]), 1000)
    with pytest.raises(VerificationFailed, match="more than the 1000 bytes"):
        list(pieces)


def test_what_is_not_gzip_is_damaged() -> None:
    with pytest.raises(VerificationFailed, match="damaged"):
        inflated(zlib.compress(b"zlib is not gzip"), 16)
