"""Members, made and read: gzip's by ISA-L, at several times zlib's speed, and zstd's frames.

The libraries let go of Python's lock, so each thread has a core.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol

from isal import igzip_lib, isal_zlib

from backup_pipeline.engine.model import Codec
from backup_pipeline.errors import VerificationFailed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_WBITS = 31  # zlib.h: 15 for the window and 16 for the gzip header and trailer
_CHUNK = 1 << 18
# The stub has an instance.
_IsalError: type[Exception] = igzip_lib.error  # type: ignore[assignment]
# Logarithms of the memory that a frame may ask for: what level 19 does, and what the program zstd
# reads without being told, for frames of others.
_WINDOW, _WINDOW_OF_OTHERS = 23, 27


class MemberWriter:
    """Compresses one gzip member or zstd frame and keeps what the manifest says of it."""

    def __init__(self, codec: Codec = Codec.GZIP, level: int | None = None) -> None:
        self.raw_length = 0
        self.length = 0
        self._hash = hashlib.sha256()
        self._compressor = _compressor(codec, codec.default_level if level is None else level)

    def compress(self, data: bytes) -> bytes:
        """The next compressed bytes, perhaps none yet."""
        self.raw_length += len(data)
        return self._count(self._compressor.compress(data))

    def finish(self) -> bytes:
        """The last compressed bytes, the checksum of the raw ones among them."""
        return self._count(self._compressor.flush())

    @property
    def sha256(self) -> str:
        """Of all compressed bytes so far."""
        return self._hash.hexdigest()

    def _count(self, compressed: bytes) -> bytes:
        self.length += len(compressed)
        self._hash.update(compressed)
        return compressed


def decompress(
    chunks: Iterable[bytes], raw_length: int, codec: Codec, *, several: bool = False
) -> Iterator[bytes]:
    """The raw bytes of exactly one gzip member or zstd frame, in pieces of 256 KiB at most.

    With `several` there may be more of them, one after the other (RFC 1952, section 2.2; RFC 8878,
    section 3).
    Raises `VerificationFailed` when it is damaged, cut, followed by anything, or not of
    `raw_length`; nothing beyond that length is ever inflated, so a bomb stops there.
    """
    seen = 0
    for raw in inflate(chunks, raw_length, codec, several=several):
        seen += len(raw)
        yield raw
    if seen != raw_length:
        raise VerificationFailed(f"{seen} bytes were inflated where {raw_length} were dumped")


def inflate(chunks: Iterable[bytes], most: int, codec: Codec, *, several: bool) -> Iterator[bytes]:
    """As `decompress`, where only the `most` is known that there can be."""
    member, seen = _decompressor(codec, several=several), 0
    for chunk in chunks:
        pending = chunk
        while pending or not (member.eof or member.needs_input):
            if member.eof:
                if not several:
                    raise VerificationFailed(
                        f"there are bytes behind the end of the {codec} stream"
                    )
                member = _decompressor(codec, several=several)
            try:
                raw = member.decompress(pending, _CHUNK)
            except (_IsalError, zstd.ZstdError) as error:
                raise VerificationFailed(f"the {codec} stream is damaged: {error}") from error
            pending = member.unused_data if member.eof else b""
            seen += len(raw)
            if seen > most:
                raise VerificationFailed(
                    f"the {codec} stream holds more than the {most} bytes that were dumped"
                )
            if raw:
                yield raw
    if not member.eof:
        raise VerificationFailed(f"the {codec} stream is cut")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Decompressor(Protocol):
    """The interface that the standard library's bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _compressor(codec: Codec, level: int) -> _Compressor:
    if codec is Codec.GZIP:
        return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP_WBITS)
    asked = zstd.CompressionParameter
    return zstd.ZstdCompressor(options={asked.compression_level: level, asked.checksum_flag: 1})


def _decompressor(codec: Codec, *, several: bool) -> _Decompressor:
    if codec is Codec.GZIP:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    window = _WINDOW_OF_OTHERS if several else _WINDOW
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
