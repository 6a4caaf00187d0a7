"""The catalog's index: a cache of manifests and evidence in one object, and never the truth.

An entry holds only while the ETags of both its documents are the ones that a listing shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import AwareDatetime, NonNegativeInt

from backup_pipeline.engine.documents import from_json, to_json
from backup_pipeline.engine.model import Act, Codec, Evidence, EvidenceEntry, Globals, Manifest
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import StoreError, VerificationFailed


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalog needs of a backup's manifest and evidence."""

    manifest_etag: str
    evidence_etag: str | None
    taken_at: AwareDatetime
    length: NonNegativeInt
    raw_length: NonNegativeInt
    tables: NonNegativeInt
    rows: NonNegativeInt
    duration: float
    server_version: str
    archived: bool
    """Whether there has to be a schema archive."""
    verdicts: tuple[EvidenceEntry, ...]
    """The newest verification and drill of each object that had the dump's key, oldest first."""
    damage: str | None = None
    """Why the evidence can't be read."""
    codec: Codec = Codec.GZIP
    encrypted: bool = False
    globals: Globals = Globals.NONE

    @classmethod
    def of(
        cls, etags: tuple[str, str | None], manifest: Manifest, evidence: Evidence | str
    ) -> Self:
        """The entry for a manifest and its evidence, or the reason why that can't be read."""
        verdicts, damage = (
            ((), evidence) if isinstance(evidence, str) else (_verdicts(evidence), None)
        )
        return cls(
            manifest_etag=etags[0],
            evidence_etag=etags[1],
            taken_at=manifest.source.snapshot_at,
            length=manifest.length,
            raw_length=manifest.raw_length,
            tables=len(manifest.tables),
            rows=manifest.rows,
            duration=manifest.duration,
            server_version=manifest.source.server_version,
            archived=manifest.schema_archive is not None,
            verdicts=verdicts,
            damage=damage,
            codec=manifest.codec,
            encrypted=manifest.encryption is not None,
            globals=manifest.globals,
        )


@dataclass(frozen=True, slots=True)
class _Index:
    version: Literal[1]
    entries: dict[str, Entry]


def read_index(store: ObjectStore, keys: Keys) -> dict[str, Entry]:
    """Entries by backup name; none when there is no index or it can't be read.

    Whatever ails the store will show again where the documents themselves are read.
    """
    try:
        return from_json(_Index, b"".join(store.read(keys.index)), keys.index).entries
    except (StoreError, VerificationFailed):
        return {}


def write_index(store: ObjectStore, keys: Keys, entries: Mapping[str, Entry]) -> None:
    """Replace the index."""
    store.put(keys.index, to_json(_Index(1, dict(entries))), overwrite=True)


def _verdicts(evidence: Evidence) -> tuple[EvidenceEntry, ...]:
    newest: dict[tuple[str, Act], EvidenceEntry] = {}
    for entry in evidence.entries:
        if entry.act is not Act.EXPIRE:
            newest.pop((entry.etag, entry.act), None)
            newest[entry.etag, entry.act] = entry
    return tuple(newest.values())
