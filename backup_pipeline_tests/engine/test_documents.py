"""A document is read back as it was written, or not at all."""

from collections.abc import Iterator

import pytest

from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.model import Manifest
from backup_pipeline.engine.names import BackupName
from backup_pipeline.errors import VerificationFailed
from backup_pipeline_tests.made_backups import DATABASE, NOW, manifest_of

DOCUMENT = manifest_of(BackupName.of(DATABASE, NOW), NOW, b"dump", b"archive")
TEXT = to_json(DOCUMENT)


def flipped() -> Iterator[bytes]:
    for at in range(len(TEXT)):
        for bit in range(8):
            damaged = bytearray(TEXT)
            damaged[at] ^= 1 << bit
            yield bytes(damaged)


def test_it_is_read_back_as_it_was_written() -> None:
    assert from_json(Manifest, TEXT, "it") == DOCUMENT


def test_no_bit_can_flip_unseen() -> None:
    for damaged in flipped():
        with pytest.raises(VerificationFailed):
            from_json(Manifest, damaged, "it")


def test_no_byte_can_be_missing_at_the_end() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(VerificationFailed):
            from_json(Manifest, TEXT[:length], "it")


def test_who_takes_out_the_digest_may_mend_it_by_hand() -> None:
    begun, _, _ = TEXT.rpartition(b',\n "sha256"')
    mended = begun.replace(b'"pg_dump_version": "18.1"', b'"pg_dump_version": "18.2"') + b"\n}\n"
    assert from_json(Manifest, mended, "it").pg_dump_version == "18.2"
