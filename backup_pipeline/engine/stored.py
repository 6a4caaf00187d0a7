"""A stored backup: the one place from which its bytes are read, and decrypted if need be."""

import hashlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from functools import cached_property

from backup_pipeline.engine.age import CHUNK, SEALED, Identity, Payload, decrypted
from backup_pipeline.engine.compression import decompress
from backup_pipeline.engine.documents import from_json
from backup_pipeline.engine.model import (
    Codec,
    Contents,
    Encryption,
    GlobalsScript,
    Manifest,
    Piece,
    SchemaArchive,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.script import CLOSING_LINE_OF_GLOBALS, ScriptReader, Tail
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.errors import NoIdentity, NotFound, ObjectMissing, VerificationFailed

_GLOBALS = "the script of the globals"
_MOST_HEADER = 1 << 16
"""Bytes, enough for hundreds of recipients: a forged manifest must not have more read."""


class StoredBackup:
    """What is in the bucket of a backup with this manifest.

    Several threads can read it; what is encrypted only where one of the `identities` is right.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        manifest: Manifest,
        identities: Sequence[Identity] = (),
    ) -> None:
        self._store = store
        self._keys = keys
        self._name = BackupName.parse(manifest.name)
        self.manifest = manifest
        self._identities = _fitting(manifest.encryption, identities)

    @property
    def is_readable(self) -> bool:
        """Whether it is not encrypted, or can be decrypted."""
        return self.manifest.encryption is None or bool(self._identities)

    def require_identity(self) -> None:
        """Raise `NoIdentity` where it takes a key that is not here."""
        encryption = self.manifest.encryption
        if encryption and not self._identities:
            raise NoIdentity(
                f"{self._name} is encrypted for {' and '.join(encryption.recipients)}, "
                "and no identity of these is here"
            )

    @cached_property
    def info(self) -> ObjectInfo:
        """The dump object; raises `VerificationFailed` where it is missing or of another size."""
        try:
            info = self._store.head(self._keys.of(self._name, self.manifest.kind))
        except ObjectMissing as error:
            raise _missing(error) from error
        if info.size != self.manifest.length:
            raise VerificationFailed(
                f"the object has {info.size} bytes where the backup had {self.manifest.length}"
            )
        return info

    def read_stored(self, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of the object; raises as `ObjectStore.read`."""
        return self._store.read(self.info.key, offset, length, etag=self.info.etag)

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of the dump, compressed as they are.

        Raises `VerificationFailed` before anything is given of a chunk that was tampered with.
        """
        if self.manifest.encryption is None:
            return self.read_stored(offset, length)
        return self._decrypted(self.manifest.encryption, offset, length)

    def authenticated(self, piece: Piece, stored: Iterator[bytes]) -> Iterator[bytes]:
        """What is in the stored bytes of a piece, decrypted; raises as `read`."""
        encryption = self.manifest.encryption
        assert encryption
        before = encryption.header if piece.offset == 0 else 0
        first, odd = divmod(piece.offset + before - encryption.header, SEALED)
        if odd or self._payload.length != sum(member.length for member in self.manifest.members):
            raise VerificationFailed("its chunks are not where the manifest has them")
        return self._payload.opened(_behind(before, stored), first)

    def archive(self) -> bytes:
        """The schema archive; raises `VerificationFailed` where it is not what was stored."""
        archive = self.stored_archive()
        return decrypted(archive, self._identities) if self.manifest.encryption else archive

    def stored_archive(self) -> bytes:
        """The schema archive as it is stored; raises as `archive`."""
        expected = self.manifest.schema_archive
        assert expected
        return self._whole(self.manifest.archive_kind, "the schema archive", expected)

    def globals(self) -> bytes:
        """The script of the globals, for psql.

        Raises `NotFound` where there is none, `NoIdentity`, and `VerificationFailed` where it is
        not what was stored, or not what pg_dumpall writes.
        """
        expected = self.manifest.globals_script
        if expected is None:
            raise NotFound(
                f"the backup {self._name} has no roles and other globals",
                hint="A backup has them that is made with BACKUP_GLOBALS or --globals; "
                "`backup-pipeline show` tells whether one has.",
            )
        self.require_identity()
        stored = self.stored_globals()
        try:
            script = decrypted(stored, self._identities) if self.manifest.encryption else stored
            sql = b"".join(decompress([script], expected.raw_length, Codec.GZIP))
            _require_closed(sql)
        except VerificationFailed as error:
            raise VerificationFailed(f"{_GLOBALS}: {error.message}") from error
        return sql

    def stored_globals(self) -> bytes:
        """The script of the globals as it is stored; raises as `globals`."""
        expected = self.manifest.globals_script
        assert expected
        return self._whole(self.manifest.globals_kind, _GLOBALS, expected)

    def _whole(self, kind: Kind, what: str, expected: SchemaArchive | GlobalsScript) -> bytes:
        """All of an object beside the dump, as it is stored."""
        key = self._keys.of(self._name, kind)
        try:
            stored = self._store.head(key)
            if stored.size != expected.length:
                raise VerificationFailed(
                    f"{what} has {stored.size} bytes where the backup had {expected.length}"
                )
            body = b"".join(self._store.read(key, etag=stored.etag))
        except ObjectMissing as error:
            raise _missing(error) from error
        if hashlib.sha256(body).hexdigest() != expected.sha256:
            raise VerificationFailed(f"{what} is not the one that was stored")
        return body

    def contents(self) -> Contents:
        """What a restored database has to hold, digests included; raises `VerificationFailed`."""
        encryption = self.manifest.encryption
        if encryption is None:
            return self.manifest.contents
        try:
            file = b64decode(encryption.contents, validate=True)
        except ValueError as error:
            raise VerificationFailed("the encrypted contents are damaged") from error
        return from_json(Contents, decrypted(file, self._identities), "the encrypted contents")

    def _decrypted(self, encryption: Encryption, offset: int, length: int) -> Iterator[bytes]:
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        begin = encryption.header + first * SEALED
        end = min(encryption.header + (last + 1) * SEALED, self.info.size)
        before, left = offset - first * CHUNK, length
        for chunk in self._payload.opened(self.read_stored(begin, end - begin), first):
            taken = chunk[before : before + left]
            before, left = 0, left - len(taken)
            yield taken

    @cached_property
    def _payload(self) -> Payload:
        encryption = self.manifest.encryption
        assert encryption
        if encryption.header > _MOST_HEADER:
            raise VerificationFailed(f"no header of a file of age has {encryption.header} bytes")
        header = b"".join(self.read_stored(0, encryption.header))
        return Payload(header, self.info.size, self._identities)


def _require_closed(sql: bytes) -> None:
    """Raise `VerificationFailed` unless a script is whole, and has psql do nothing of its own."""
    tail, reader = Tail(CLOSING_LINE_OF_GLOBALS), ScriptReader()
    tail.feed(sql)
    if not tail.closed:
        raise VerificationFailed("pg_dumpall's closing line is missing")
    for _ in (*reader.feed(sql), *reader.close()):
        pass  # a command of psql's own, of which pg_dumpall writes none, is an error of the reader


def _behind(length: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[length:]
        length = max(0, length - len(chunk))


def _fitting(encryption: Encryption | None, identities: Sequence[Identity]) -> tuple[Identity, ...]:
    recipients = encryption.recipients if encryption else ()
    return tuple(each for each in identities if str(each.recipient) in recipients)


def _missing(error: ObjectMissing) -> VerificationFailed:
    return VerificationFailed(
        f"an object of the backup is missing or was replaced: {error.message}"
    )
