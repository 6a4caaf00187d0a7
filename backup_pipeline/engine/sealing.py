"""Sealing: encrypt a dump on its way into the store, so that this machine can't read it again."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace

from backup_pipeline.engine.age import SEALED, Encryptor, Recipient, encrypted
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.members import Sink
from backup_pipeline.engine.model import Contents, Encryption, Member, Piece

PIECE = 256 * SEALED
"""Bytes of which there is an SHA-256, whole chunks of them, so that a piece can be read by itself:
enough to be worth a request, and few enough to divide the work."""


class Sealing:
    """What is written here goes on encrypted; the keys to it are kept nowhere."""

    def __init__(self, sink: Sink, recipients: Sequence[Recipient]) -> None:
        self._sink = sink
        self._recipients = recipients
        self._encryptor = Encryptor(recipients)
        self._pieces: list[Piece] = []
        self._offset = self._length = 0
        self._digest = hashlib.sha256()
        self._room = len(self._encryptor.header) + PIECE
        self._put(self._encryptor.header)

    def write(self, data: bytes) -> None:
        """Append bytes of the dump."""
        self._put(self._encryptor.encrypt(data))

    def close(self, contents: Contents) -> Encryption:
        """Write the end; gives what the manifest says of it all."""
        self._put(self._encryptor.finish())
        self._end_piece()
        return Encryption(
            recipients=tuple(map(str, self._recipients)),
            header=len(self._encryptor.header),
            pieces=tuple(self._pieces),
            contents=b64encode(encrypted(to_json(contents), self._recipients)).decode(),
        )

    def _put(self, sealed: bytes) -> None:
        self._sink.write(sealed)
        left = memoryview(sealed)
        while left:
            taken = left[: self._room]
            self._digest.update(taken)
            self._length += len(taken)
            self._room -= len(taken)
            left = left[len(taken) :]
            if not self._room:
                self._end_piece()

    def _end_piece(self) -> None:
        if self._length:
            self._pieces.append(Piece(self._offset, self._length, self._digest.hexdigest()))
            self._offset += self._length
            self._length, self._digest, self._room = 0, hashlib.sha256(), PIECE


def without_digests(
    members: Sequence[Member], contents: Contents
) -> tuple[tuple[Member, ...], Contents]:
    """What may be read by whoever can't decrypt the rest."""
    return (
        tuple(replace(member, sha256=None) for member in members),
        replace(
            contents,
            tables=tuple(replace(table, digest=None) for table in contents.tables),
            large_objects=None,
        ),
    )
