"""What the engine's verbs hand to each other: frozen, typed, and without behaviour of their own.

Sizes are bytes, durations seconds, times aware datetimes in UTC.
Pydantic reads and writes the JSON forms, so a forged or damaged document is refused with a reason.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    NonNegativeInt,
    StringConstraints,
    with_config,
)

from backup_pipeline.engine.names import BackupName, Kind

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_document = with_config(ConfigDict(extra="forbid"))


def _as_text(value: object) -> object:
    """A value of YAML as PostgreSQL writes it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value) if isinstance(value, int | float) else value


class Codec(StrEnum):
    """What compresses a dump."""

    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def kind(self) -> Kind:
        """What the object of a dump is that it compressed."""
        return Kind.DUMP if self is Codec.GZIP else Kind.DUMP_ZSTD

    @property
    def levels(self) -> range:
        """From the fastest to the smallest; gzip's are ISA-L's."""
        return range(4) if self is Codec.GZIP else range(1, 20)

    @property
    def default_level(self) -> int:
        """What is fast enough to keep up with pg_dump."""
        return 1 if self is Codec.GZIP else 3


class Globals(StrEnum):
    """What a backup has of the server's globals: roles, memberships, role settings, tablespaces."""

    NONE = "none"
    WITHOUT_PASSWORDS = "without-passwords"
    WITH_PASSWORDS = "with-passwords"


class Section(StrEnum):
    """What a member of the dump holds, in the order in which members stand in the dump."""

    DROPS = "drops"
    """What `--clean` drops of post-data, which has to go before pre-data's own drops."""
    PRE_DATA = "pre-data"
    DATA = "data"
    POST_DATA = "post-data"


@_document
@dataclass(frozen=True, slots=True, order=True)
class TableRows:
    """How many rows of a table a member holds."""

    schema: str
    table: str
    rows: NonNegativeInt


@_document
@dataclass(frozen=True, slots=True)
class Member:
    """One gzip member (RFC 1952, section 2.2) or zstd frame (RFC 8878) of the dump.

    Its place is that in the object or, where that is encrypted, in what the object becomes when it
    is decrypted.
    """

    section: Section
    offset: NonNegativeInt
    length: NonNegativeInt
    raw_length: NonNegativeInt
    sha256: Sha256 | None
    """Of the compressed bytes; `None` where they are encrypted, since it would tell about them."""
    tables: tuple[TableRows, ...] = ()
    continues: str | None = None
    """The COPY statement of the member before, whose rows go on where this one begins."""
    unfinished: bool = False
    """Whether the rows at its end go on in the next member."""


@_document
@dataclass(frozen=True, slots=True, order=True)
class TableContents:
    """What the snapshot held of a table."""

    schema: str
    table: str
    rows: NonNegativeInt
    digest: str | None = None
    """Of its rows in whatever order, and equal only where they are; `None` where none was taken."""


@_document
@dataclass(frozen=True, slots=True, order=True)
class SequenceValue:
    """Where a sequence stands, as `setval` takes it."""

    schema: str
    sequence: str
    value: int
    called: bool
    """Whether `value` was given out already."""


@_document
@dataclass(frozen=True, slots=True)
class LargeObjects:
    """All large objects together."""

    count: NonNegativeInt
    digest: str
    """Of their OIDs and bytes."""


@_document
@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds: tables, sequences and large objects, each in the order of names.

    Materialized views are not part of it, since a restore refreshes them; nor are the tables of
    extensions, which come with the extension.
    """

    tables: tuple[TableContents, ...]
    sequences: tuple[SequenceValue, ...]
    large_objects: LargeObjects | None
    """`None` where no digests were taken."""


@_document
@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that the dumped database uses."""

    name: str
    version: str


@_document
@dataclass(frozen=True, slots=True)
class Access:
    """A right that a role had on some objects, or a setting, that a dump leaves out."""

    role: str
    right: str
    """`owner`, a privilege such as `SELECT`, one that the role usually has and did not: `no
    EXECUTE`; or `SET`, for what is set for it in the database."""
    objects: tuple[str, ...]
    """As `pg_identify_object` has them: `table public.quotes`; or settings: `work_mem=5MB`."""


@_document
@dataclass(frozen=True, slots=True)
class Source:
    """The dumped database, as its server described it inside the dumped snapshot."""

    database: str
    database_size: NonNegativeInt
    server_version: str
    server_version_num: int
    """As `SHOW server_version_num` has it: 180001 is 18.1."""
    encoding: str
    locale_provider: Literal["libc", "icu", "builtin"]
    collate: str | None
    """`None` where the dump does not tell, as in an adopted one."""
    ctype: str | None
    locale: str | None
    """The locale of provider icu or builtin."""
    extensions: tuple[Extension, ...]
    snapshot_at: AwareDatetime
    """The server's clock when the snapshot was taken."""
    snapshot_lsn: str
    roles: tuple[str, ...] = ()
    """Those that policies and user mappings name: the dump can't be loaded where they lack."""
    access: tuple[Access, ...] = ()
    """Owners, rights and settings: a restore has those of whoever restores."""


@_document
@dataclass(frozen=True, slots=True)
class SchemaArchive:
    """The schema-only archive (`pg_dump -Fc`) that lies beside the dump, as it is stored."""

    length: NonNegativeInt
    sha256: Sha256


@_document
@dataclass(frozen=True, slots=True)
class GlobalsScript:
    """The script of the globals (`pg_dumpall`) that lies beside the dump, as it is stored."""

    length: NonNegativeInt
    raw_length: NonNegativeInt
    """Bytes of SQL in it."""
    sha256: Sha256
    passwords: bool
    """Whether the verifiers of passwords are in it."""


@_document
@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an object, cut wherever it came to be."""

    offset: NonNegativeInt
    length: NonNegativeInt
    sha256: Sha256


@_document
@dataclass(frozen=True, slots=True)
class Encryption:
    """That all but documents are files of age, and what can be proved of the dump without a key."""

    recipients: tuple[str, ...]
    """The public keys: who has the identity of one of them can decrypt."""
    header: NonNegativeInt
    """Bytes of the object before its first chunk."""
    pieces: tuple[Piece, ...]
    """The object, from its first byte to its last."""
    contents: str
    """The contents with their digests, as a file of age in base64: a digest of few rows would tell
    who guesses them that they are right."""


@_document
@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is: written last, deleted first, and never changed."""

    version: Literal[1]
    id: str
    """A UUID of this backup; the dump object carries it as metadata `backup-id`."""
    name: str
    source: Source
    started_at: AwareDatetime
    finished_at: AwareDatetime
    members: tuple[Member, ...]
    contents: Contents
    """What a restored database has to hold."""
    schema_archive: SchemaArchive | None
    pg_dump_version: str
    software_version: str
    adopted: bool = False
    """Somebody else made the dump: one member of members or frames, that holds every section."""
    codec: Codec = Codec.GZIP
    remarks: tuple[str, ...] = ()
    """What people should know of how it was made, a sentence each."""
    encryption: Encryption | None = None
    globals_script: GlobalsScript | None = None

    @property
    def kind(self) -> Kind:
        """What the dump object is."""
        return dump_kind(self.codec, encrypted=self.encryption is not None)

    @property
    def archive_kind(self) -> Kind:
        """What the schema archive is."""
        return archive_kind(encrypted=self.encryption is not None)

    @property
    def globals_kind(self) -> Kind:
        """What the script of the globals is."""
        return globals_kind(encrypted=self.encryption is not None)

    @property
    def globals(self) -> Globals:
        """What it has of the globals."""
        if self.globals_script is None:
            return Globals.NONE
        with_passwords = self.globals_script.passwords
        return Globals.WITH_PASSWORDS if with_passwords else Globals.WITHOUT_PASSWORDS

    @property
    def stretches(self) -> Sequence[Member | Piece]:
        """The dump object from its first byte to its last, in what there is an SHA-256 of."""
        return self.encryption.pieces if self.encryption else self.members

    @property
    def length(self) -> int:
        """Bytes of the dump object."""
        return sum(each.length for each in self.stretches)

    @property
    def raw_length(self) -> int:
        """Bytes of SQL in the dump."""
        return sum(member.raw_length for member in self.members)

    @property
    def tables(self) -> tuple[TableRows, ...]:
        """Every dumped table with its rows, by name."""
        return all_rows(self.members)

    @property
    def rows(self) -> int:
        """Rows in all tables."""
        return sum(table.rows for member in self.members for table in member.tables)

    @property
    def duration(self) -> float:
        """Seconds from the start to the last byte of the dump."""
        return (self.finished_at - self.started_at).total_seconds()


def dump_kind(codec: Codec, *, encrypted: bool) -> Kind:
    """What the object of a dump is."""
    return codec.kind.encrypted if encrypted else codec.kind


def archive_kind(*, encrypted: bool) -> Kind:
    """What the object of a schema archive is."""
    return Kind.SCHEMA.encrypted if encrypted else Kind.SCHEMA


def globals_kind(*, encrypted: bool) -> Kind:
    """What the object of the globals is."""
    return Kind.GLOBALS.encrypted if encrypted else Kind.GLOBALS


def all_rows(members: Iterable[Member]) -> tuple[TableRows, ...]:
    """The rows of each table in all of the members together, by name."""
    rows: dict[tuple[str, str], int] = {}
    for member in members:
        for each in member.tables:
            key = (each.schema, each.table)
            rows[key] = rows.get(key, 0) + each.rows
    return tuple(TableRows(*key, rows[key]) for key in sorted(rows))


class Act(StrEnum):
    """What was done to a backup and left an entry in its evidence."""

    VERIFY = "verify"
    DRILL = "drill"
    EXPIRE = "expire"


@_document
@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """One verification or drill, and what came of it."""

    act: Act
    at: AwareDatetime
    passed: bool
    etag: str
    """Of the dump object that was looked at; another object under its key voids the entry."""
    findings: tuple[str, ...]
    """What is wrong, a sentence each; empty when it passed."""
    read_bytes: NonNegativeInt
    rows: NonNegativeInt
    seconds: float
    recovery_seconds: float | None = None
    """Of a drill: from the first byte to a loaded database, which is what a restore takes."""
    opened: bool = True
    """Whether the SQL was read; if not, the stored bytes are the right ones, and no more is known
    without a key."""


@_document
@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was ever proved or disproved of a backup, oldest first."""

    version: Literal[1]
    name: str
    entries: tuple[EvidenceEntry, ...] = ()


@_document
@dataclass(frozen=True, slots=True)
class Invariant:
    """What the owner knows of a database: a query whose only value is always the same."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,100}$")]
    query: str
    expected: Annotated[str, BeforeValidator(_as_text)]
    """The value as psql shows it."""


@_document
@dataclass(frozen=True, slots=True)
class Pin:
    """Somebody's wish that a backup stays, whatever retention says."""

    version: Literal[1]
    name: str
    at: AwareDatetime
    reason: str
    """Empty where none was given."""


class State(StrEnum):
    """What is known of a backup."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup as the catalog knows it: what its manifest says, and what the bucket says."""

    name: BackupName
    taken_at: datetime
    """The snapshot's time: what retention and `--at` go by."""
    size: int
    """Bytes of the dump object that the bucket holds."""
    raw_length: int
    tables: int
    rows: int
    duration: float
    server_version: str
    state: State
    verified_at: datetime | None
    """When its newest verification or drill ended, whatever came of it."""
    restored_at: datetime | None = None
    """When a drill last restored it and found it equal; `None` unless that still holds."""
    recovery_seconds: float | None = None
    """How long that restore took."""
    findings: tuple[str, ...] = ()
    pin: str | None = None
    """Why somebody pinned it, perhaps without a word; `None` where nobody did."""
    codec: Codec = Codec.GZIP
    encrypted: bool = False
    globals: Globals = Globals.NONE
    """What it has of the globals."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What its dump, its globals where it has them, and its archive are."""
        encrypted = self.encrypted
        scripts = () if self.globals is Globals.NONE else (globals_kind(encrypted=encrypted),)
        dump = dump_kind(self.codec, encrypted=encrypted)
        return dump, *scripts, archive_kind(encrypted=encrypted)


BACKUP_ID = "backup-id"
"""The metadata by which a dump says that this software wrote it, and for which backup."""


@dataclass(frozen=True, slots=True)
class Stray:
    """An object under the prefix that belongs to no backup."""

    key: str
    size: int
    modified_at: datetime
    reason: str
    deletable: bool
    """Left over from a deletion that did not finish: the next prune takes it."""
    unfinished: bool = False
    """Left by a backup that was killed before its manifest: a prune takes it when it is old."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the bucket holds: backups, newest first, and what belongs to none."""

    backups: tuple[Backup, ...]
    strays: tuple[Stray, ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep: everything younger than `days`, and verified backups for longer.

    `daily=7` keeps the newest verified backup of each of the last 7 days that have one, and so
    on: the meaning that restic gives to its `--keep-daily`.
    """

    days: int = 7
    minimum: int = 3
    """That many verified backups stay, however old they are."""
    daily: int = 0
    weekly: int = 0
    """Weeks are those of ISO 8601."""
    monthly: int = 0
    yearly: int = 0
    zone: tzinfo = UTC
    """Whose midnight parts one day from the next."""


@dataclass(frozen=True, slots=True)
class KeepDecision:
    """Whether a backup is kept, and why."""

    backup: Backup
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a prune did, or in a dry run would do."""

    decisions: tuple[KeepDecision, ...]
    dry_run: bool
    deleted: tuple[str, ...] = ()
    """Names of the backups that are gone."""
    failed: tuple[str, ...] = ()
    """A sentence for each deletion that failed; the next prune tries again."""
    reclaimed: int = 0
    aborted_uploads: tuple[str, ...] = ()
    cleared: tuple[Stray, ...] = ()
    """What deletions and backups that were cut short had left, and is gone."""
    strays: tuple[Stray, ...] = ()
    """What belongs to no backup and was left alone."""

    @property
    def kept(self) -> tuple[KeepDecision, ...]:
        """The backups that stay."""
        return tuple(decision for decision in self.decisions if decision.keep)

    @property
    def expired(self) -> tuple[KeepDecision, ...]:
        """The backups that go."""
        return tuple(decision for decision in self.decisions if not decision.keep)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verb has come."""

    stage: str
    done: int
    """Bytes."""
    total: int | None = None


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Report to nobody."""
