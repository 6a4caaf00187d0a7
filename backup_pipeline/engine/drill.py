"""Drill: restore into a scratch database, and compare it with what the snapshot held.

Only this earns a backup the word *restorable*.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import Error, sql

from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.catalog import read_manifest, record_verdict
from backup_pipeline.engine.contents import differences, read_contents, under_roots
from backup_pipeline.engine.dump import Dump, PostgresDumpSource
from backup_pipeline.engine.model import (
    Act,
    EvidenceEntry,
    Invariant,
    Progress,
    Report,
    Section,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server, choose_clients, find_clients
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.restore import load, within_limits
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.target import (
    maintenance,
    new_database,
    remove_leftovers,
    without_event_triggers,
)
from backup_pipeline.engine.verify import read_members, require_whole
from backup_pipeline.errors import ChildFailed, ObjectMissing, PostgresFailed, VerificationFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_MOST_LINES = 3
# Classes of SQLSTATE that speak of the server or the session and not of the backup (PostgreSQL
# manual, appendix A): connection, resources, operator, system, internal, and rights.
_OF_THE_SERVER = ("08", "53", "55", "57", "58", "XX", "42501")


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """What became of one of the owner's invariants."""

    name: str
    passed: bool
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What a drill came to."""

    entry: EvidenceEntry
    invariants: tuple[InvariantResult, ...] = ()
    not_compared: tuple[str, ...] = ()
    """What could not be compared, and why."""
    tables: int = 0
    verify_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether the restored database is the one that was dumped, invariants aside."""
        return len(self.entry.findings) == sum(not each.passed for each in self.invariants)


def drill(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    server: Server,
    bin_dirs: Sequence[Path],
    *,
    invariants: Sequence[Invariant] = (),
    jobs: int = 1,
    identities: Sequence[Identity] = (),
    clock: Callable[[], datetime],
    report: Report = silent,
) -> DrillResult:
    """Restore a backup into a scratch database of `server`, compare, drop it, and record evidence.

    The copy is dumped as the source was: rows of each table and their digests, sequences and large
    objects are compared with the manifest's, and the text of the schema with the stored one; then
    the invariants are asked.
    A backup that is not equal is no error here: `entry.passed` says so, and its findings where.
    What stands in the way on the server's side is an error, and no evidence.

    Raises `NotFound`, `NoIdentity`, `TargetUnsuitable`, `ClientTooOld`, `PostgresUnreachable`,
    `PostgresFailed`, `VerificationFailed` where the manifest can't be read, and the errors of the
    store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    backup = StoredBackup(store, keys, manifest, identities)
    backup.require_identity()
    etag = _etag(store, keys.of(name, manifest.kind))
    drilling = _Drill(backup, server, bin_dirs, invariants, clock, report, jobs)
    try:
        findings = drilling.run()
    except VerificationFailed as error:
        findings = [error.message]
    ended_at = clock()
    loaded_at = drilling.loaded_at
    recovered = (loaded_at - started_at).total_seconds() if loaded_at else None
    entry = EvidenceEntry(
        act=Act.DRILL,
        at=ended_at,
        passed=not findings,
        etag=etag,
        findings=tuple(findings),
        read_bytes=manifest.length if recovered else 0,
        rows=manifest.rows if recovered else 0,
        seconds=(ended_at - started_at).total_seconds(),
        recovery_seconds=recovered,
    )
    record_verdict(store, keys, name, entry)
    verified = (drilling.verified_at or ended_at) - started_at
    return DrillResult(
        entry=entry,
        invariants=tuple(drilling.results),
        not_compared=tuple(drilling.not_compared),
        tables=len(manifest.contents.tables),
        verify_seconds=verified.total_seconds(),
        load_seconds=recovered - verified.total_seconds() if recovered else 0.0,
    )


@dataclass
class _Drill:
    """One drill under way."""

    backup: StoredBackup
    server: Server
    bin_dirs: Sequence[Path]
    invariants: Sequence[Invariant]
    clock: Callable[[], datetime]
    report: Report
    jobs: int

    def __post_init__(self) -> None:
        self.manifest = self.backup.manifest
        self.verified_at: datetime | None = None
        self.loaded_at: datetime | None = None
        self.results: list[InvariantResult] = []
        self.not_compared: list[str] = []

    def run(self) -> list[str]:
        """What is wrong with the backup; raises `VerificationFailed` where it can't be loaded."""
        source = self.manifest.source
        with self.server.using(maintenance(source.database)).connect() as admin:
            require_suitable(admin, source)
            # Before anything is loaded: what is loaded will have to be dumped.
            choose_clients(find_clients(self.bin_dirs), admin.info.server_version)
            require_whole(self.backup, self.jobs, self.report, inflating=False)
            self.verified_at = self.clock()
            remove_leftovers(self.server, admin)
            try:
                return self._compare(admin, self.bin_dirs)
            except ChildFailed:
                if self.loaded_at:
                    raise
                # Why, pg_restore tells in words only; the server itself has codes for it.
                return self._compare(admin, ())

    def _compare(
        self, admin: "psycopg.Connection[TupleRow]", bin_dirs: Sequence[Path]
    ) -> list[str]:
        """Load, with pg_restore of these directories, and tell in what the copy differs."""
        with new_database(
            self.server, admin, self.manifest.source, self.manifest.source.database
        ) as scratch:
            target = without_event_triggers(self.server, admin).using(scratch)
            try:
                load(
                    target,
                    self.backup,
                    bin_dirs=bin_dirs,
                    jobs=within_limits(admin, self.jobs),
                    report=self.report,
                )
            except ChildFailed:
                raise
            except PostgresFailed as error:
                raise _blame(error) from error
            self.loaded_at = self.clock()
            self.report(Progress("compare", 0, 1))
            copy = PostgresDumpSource(target, self.bin_dirs, jobs=self.jobs)
            with copy.open_dump() as dump:
                findings = [*self._differences(dump, admin.info.server_version)]
            with target.connect() as connection:
                return [*findings, *self._broken_invariants(connection)]

    def _differences(self, dump: Dump, server_version: int) -> Iterator[str]:
        contents = self.backup.contents()
        if contents.large_objects is None:
            self.not_compared.append("values, because the backup was made without digests")
        found = under_roots(read_contents(dump), contents, dump.inheritance.roots)
        yield from differences(contents, found)
        if why := self._incomparable(dump.pg_dump_version, server_version):
            self.not_compared.append(f"the schema's text, because {why}")
            return
        members = [
            member
            for member in self.manifest.members
            if member.section in (Section.PRE_DATA, Section.POST_DATA)
        ]
        read = read_members(self.backup, members)
        expected = b"".join(b"".join(chunks) for _, chunks in read)
        schema = dump.schema()
        yield from _schema_differences(expected, schema.pre_data + schema.post_data)

    def _incomparable(self, pg_dump_version: str, server_version: int) -> str | None:
        source, dumped_with = self.manifest.source, self.manifest.pg_dump_version
        if self.manifest.adopted:
            return "the dump is not divided"
        if server_version // 10000 != source.server_version_num // 10000:
            major = server_version // 10000
            return f"PostgreSQL {major} words it otherwise than {source.server_version}"
        if pg_dump_version.split(".")[0] != dumped_with.split(".")[0]:
            return f"pg_dump {pg_dump_version} words it otherwise than {dumped_with}"
        return None

    def _broken_invariants(self, connection: "psycopg.Connection[TupleRow]") -> Iterator[str]:
        for invariant in self.invariants:
            found = _value(connection, invariant.query)
            passed = found == invariant.expected
            self.results.append(InvariantResult(invariant.name, passed, invariant.expected, found))
            if not passed:
                yield f"invariant {invariant.name}: {found} where {invariant.expected} is expected"


def _etag(store: ObjectStore, key: str) -> str:
    try:
        return store.head(key).etag
    except ObjectMissing:
        return ""


def _blame(error: PostgresFailed) -> Exception:
    """A refused statement speaks against the backup, unless the server is in trouble itself."""
    cause = error.__cause__
    state = cause.sqlstate if isinstance(cause, Error) else None
    if state is None or state.startswith(_OF_THE_SERVER):
        return error
    return VerificationFailed(f"it can't be loaded: {error.message}")


def _schema_differences(expected: bytes, found: bytes) -> Iterator[str]:
    mine, theirs = (Counter(_statements(text)) for text in (expected, found))
    for said, lines in (("lacks", mine - theirs), ("has besides", theirs - mine)):
        for line in list(lines)[:_MOST_LINES]:
            yield f"the schema {said} the line {_shown(line)!r}"
        if len(lines) > _MOST_LINES:
            yield f"the schema {said} {len(lines) - _MOST_LINES:,} more lines"


# A subscription's connection, a password anywhere, or one of the options of a foreign server.
_SECRET = re.compile(rb"CONNECTION '|password|^(?:[^\s\"]+|\"[^\"]+\") '", re.IGNORECASE)
_LITERAL = re.compile(rb"'(?:[^']|'')*'?")


def _shown(line: bytes) -> str:
    """The line, but for the values where they may be somebody's password."""
    if _SECRET.search(line):
        line = _LITERAL.sub(b"'...'", line)
    return line.decode(errors="replace")


# Comments say when and by which version it was written, and tablespaces are the server's.
_ASIDE = (b"--", b"\\restrict ", b"\\unrestrict ", b"SET default_tablespace = ")


def _statements(script: bytes) -> Iterator[bytes]:
    """The lines that make up statements."""
    for line in script.splitlines():
        if line.strip() and not line.startswith(_ASIDE):
            # The last of a table's columns has no comma, and a restore may put another one there.
            yield line.strip().removesuffix(b",")


def _value(connection: "psycopg.Connection[TupleRow]", query: str) -> str:
    """The only value that a query gives, as text; a sentence where it gives anything else.

    The query is the owner's own, so it runs as the owner would run it, but can change nothing.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute('SET LOCAL search_path = "$user", public')
            cursor = connection.execute(sql.SQL(query))
            result = cursor.pgresult
            assert result is not None
            if (result.ntuples, result.nfields) != (1, 1):
                return f"{result.ntuples} rows of {result.nfields} columns"
            value = result.get_value(0, 0)
            return "NULL" if value is None else value.decode(errors="replace")
    except Error as error:
        if connection.broken:
            raise
        return f"an error ({' '.join(str(error).split())})"
