"""Selection: chosen tables or schemas of a backup, without reading the members of the others."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

from backup_pipeline.engine.age import Identity
from backup_pipeline.engine.archive import (
    Archive,
    Entry,
    Name,
    named,
    opened,
    partitions,
    with_what_belongs,
)
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.crew import Crew, Tally, taken_from
from backup_pipeline.engine.execute import copy_in, events_of, events_of_members
from backup_pipeline.engine.load import Receiver, set_up
from backup_pipeline.engine.model import (
    Member,
    Progress,
    Report,
    Section,
    SequenceValue,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server, choose_clients, find_clients
from backup_pipeline.engine.preflight import require_suitable
from backup_pipeline.engine.restore import within_limits
from backup_pipeline.engine.script import CopyBegin, Event, decoded, encoded, quoted
from backup_pipeline.engine.settle import analyse
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.stored import StoredBackup
from backup_pipeline.engine.target import (
    exists,
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    switch,
    without_event_triggers,
)
from backup_pipeline.engine.verify import read_members, runs_of
from backup_pipeline.errors import NotFound, Refused, VerificationFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of a backup, as pg_restore has it: exact names, and all that is not named.

    A table that is no exact name may be a `schema.table` with wildcards, as pg_dump has it.
    """

    tables: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    definitions: bool = True
    rows: bool = True


@dataclass(frozen=True, slots=True)
class SelectionResult:
    """What was restored."""

    database: str
    tables: int
    rows: int
    read_bytes: int
    """Of the dump object."""
    seconds: float


def restore_selection(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    server: Server,
    target: str,
    selection: Selection,
    bin_dirs: Sequence[Path],
    *,
    add: bool = False,
    jobs: int = 2,
    identities: Sequence[Identity] = (),
    clock: Callable[[], datetime],
    report: Report = silent,
) -> SelectionResult:
    """Restore a part of a backup into a new database, or with `add` into one that exists.

    A table comes with its partitions, what it needs, and what belongs to it and needs no other
    table; a partition whose rows were dumped under the name of its root comes with all the others;
    large objects come only with a whole restore.
    Only the members with those tables are read, and verified as they go by: a new database gets
    its name at the end, and what is added is one transaction, so the target is as it was whatever
    goes wrong.
    Where only rows are added, a sequence is set forwards, and never back.
    Up to `jobs` connections load a new database.

    Raises `NotFound` where the backup has no such table or schema, and what a restore raises.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    backup = StoredBackup(store, keys, manifest, identities)
    backup.require_identity()
    part = _Part(backup, selection, report)
    with server.using(maintenance(target)).connect() as admin:
        if add and not exists(admin, target):
            raise NotFound(f"there is no database {target!r} to add to")
        if not add:
            require_free(admin, target)
        # How much room a part takes is not known.
        require_suitable(admin, replace(manifest.source, database_size=0))
        with part.prepared(bin_dirs, admin.info.server_version):
            if add:
                with server.using(target).connect() as connection, connection.transaction():
                    part.load(connection, server.using(target), 1)
            else:
                remove_leftovers(server, admin)
                with new_database(server, admin, manifest.source, target) as made:
                    loading = without_event_triggers(server, admin).using(made)
                    jobs = within_limits(admin, jobs)
                    with loading.connect() as connection:
                        # The switch commits synchronously, and with it all that was before it.
                        set_up(connection)
                        part.load(connection, loading, jobs)
                    analyse(loading, jobs)
                    switch(
                        server,
                        admin,
                        made,
                        target,
                        kept_name(target, started_at),
                    )
    return SelectionResult(
        database=target,
        tables=len(part.tables),
        rows=part.rows,
        read_bytes=part.read_bytes,
        seconds=(clock() - started_at).total_seconds(),
    )


# Compared is what comes next: without being called, that is the value itself.
_SET_SEQUENCE = b"""
    SELECT pg_catalog.setval(seqrelid::pg_catalog.regclass, %%(value)s, %%(called)s)
    FROM %b AS stood JOIN pg_catalog.pg_sequence ON seqrelid = stood.tableoid
    WHERE %%(made)s OR sign(seqincrement::numeric) * (
        %%(value)s::numeric + %%(called)s::int * seqincrement
        - last_value - is_called::int * seqincrement) > 0
"""


class _Part:
    """The wanted part of a backup."""

    def __init__(self, backup: StoredBackup, selection: Selection, report: Report) -> None:
        self._backup = backup
        self._manifest = backup.manifest
        self._selection = selection
        self._report = report
        self._scripts: dict[str, bytes] = {}
        self._sequences: tuple[SequenceValue, ...] = ()
        self._rows, self._done = Tally(), Tally()
        self.tables: frozenset[Name] = frozenset()
        self.read_bytes = 0

    @contextmanager
    def prepared(self, bin_dirs: Sequence[Path], server_version: int) -> Iterator[None]:
        """Find out what is wanted, and read the SQL that makes it."""
        manifest = self._manifest
        if manifest.schema_archive is None:
            raise Refused(
                f"{manifest.name} was adopted, and has no archive that tells which objects belong "
                "together",
                hint="Restore it whole into a new database, and take from that what you need.",
            )
        archive = self._backup.archive()
        dumped_with = int(manifest.pg_dump_version.split(".")[0]) * 10000
        clients = choose_clients(find_clients(bin_dirs), max(dumped_with, server_version))
        with opened(archive, clients, manifest.source.encoding) as file:
            entries = self._wanted(file)
            self.tables = self._rows_of(entries)
            sequences = {(each.schema, each.sequence): each for each in manifest.contents.sequences}
            self._sequences = tuple(
                sequences[each] for each in sorted(named(entries, "SEQUENCE", sequences))
            )
            if self._selection.definitions:
                only = entries if self._named else None
                self._scripts = {
                    section: file.script(section, only) for section in ("pre-data", "post-data")
                }
            yield

    @property
    def rows(self) -> int:
        """How many the server has taken."""
        return self._rows.sum

    def load(self, connection: "psycopg.Connection[TupleRow]", server: Server, jobs: int) -> None:
        """Make what is wanted in the database of the connection, which is one of the server's.

        While rows are loaded, `jobs` less one others are beside it.
        """
        connection.prepare_threshold = None
        encoding = self._manifest.source.encoding
        connection.execute(sql.SQL("SET client_encoding = {}").format(sql.Literal(encoding)))
        receiver = Receiver(server, encoding)
        with Crew() as crew:
            crew.start(lambda: receiver.make_tables(connection, self._events("pre-data"), crew))
            crew.wait()
            if self._selection.rows:
                self._copy(connection, receiver, jobs, crew)
            for each in self._sequences if self._selection.rows else ():
                self._set(connection, each)
            crew.start(lambda: receiver.take(connection, self._events("post-data"), crew))
            crew.wait()

    def _set(self, connection: "psycopg.Connection[TupleRow]", sequence: SequenceValue) -> None:
        encoding = self._manifest.source.encoding
        schema, name = (
            quoted(encoded(part, encoding)) for part in (sequence.schema, sequence.sequence)
        )
        # One that was there may have given values since, which are in somebody's rows.
        made = self._selection.definitions
        values = {"value": sequence.value, "called": sequence.called, "made": made}
        relation = b"%b.%b" % (schema, name)
        connection.execute(_SET_SEQUENCE % relation.replace(b"%", b"%%"), values)

    @property
    def _named(self) -> bool:
        return bool(self._selection.tables or self._selection.schemas)

    def _wanted(self, archive: Archive) -> tuple[Entry, ...]:
        entries = archive.entries()
        if not self._named:
            return entries
        wanted = self._selection
        for each in wanted.schemas:
            if not archive.matching((), (each,)):
                raise NotFound(f"{self._manifest.name} has no schema {each!r}")
        if wanted.tables:
            chosen = frozenset[int]().union(
                *(self._meant(archive, entries, each) for each in wanted.tables)
            )
            if wanted.schemas:
                chosen &= archive.matching((), wanted.schemas)
        else:
            chosen = archive.matching((), wanted.schemas)
        if not chosen:
            raise NotFound(f"{self._manifest.name} has no such table in that schema")
        taken = with_what_belongs(entries, chosen)
        if not wanted.rows:
            return taken
        return with_what_belongs(entries, chosen | self._whole(entries, taken))

    def _meant(self, archive: Archive, entries: Sequence[Entry], table: str) -> frozenset[int]:
        """What a name means, or else a pattern with a schema."""
        found = archive.matching((table,), ()) or archive.matching_pattern(table, entries)
        if found:
            return found
        names = sorted({f"{t.schema}.{t.table}" for t in self._manifest.contents.tables})
        last = table.rpartition(".")[2].strip('"*').lower()
        near = get_close_matches(table.lower(), names, 3) or [
            name for name in names if last and last in name.lower()
        ]
        raise NotFound(
            f"{self._manifest.name} has no table {table!r}",
            hint="A table is an exact name or schema.table, where * and ? stand for what may be "
            f"there{'; near to it: ' + ', '.join(near[:3]) if near else ''}.",
        )

    def _whole(self, entries: Sequence[Entry], taken: Sequence[Entry]) -> frozenset[int]:
        """The partitioned tables under whose own name rows were dumped: nobody knows whose."""
        roots = {parent for parent, _ in partitions(entries)}
        return frozenset(each.id for each in taken if each.id in roots and self._rows_of([each]))

    def _rows_of(self, entries: Sequence[Entry]) -> frozenset[Name]:
        """The tables whose rows are wanted."""
        if not self._selection.rows:
            return frozenset()
        tables = ((each.schema, each.table) for each in self._manifest.contents.tables)
        return named(entries, "TABLE", tables)

    def _events(self, section: str) -> Iterator[Event]:
        return events_of([self._scripts.get(section, b"")])

    def _copy(
        self,
        connection: "psycopg.Connection[TupleRow]",
        receiver: Receiver,
        jobs: int,
        crew: Crew,
    ) -> None:
        members = [
            member
            for member in self._manifest.members
            if member.section is Section.DATA
            and any((each.schema, each.table) in self.tables for each in member.tables)
        ]
        self.read_bytes = sum(member.length for member in members)
        total = sum(member.raw_length for member in members)
        runs = deque(runs_of(members))
        for _ in range(min(jobs, len(runs)) - 1):
            crew.start(lambda: self._copy_beside(receiver, runs, crew))
        crew.start(lambda: self._copy_runs(connection, runs, crew))
        crew.wait(lambda: self._report(Progress("restore", self._done.sum, total)))

    def _copy_beside(self, receiver: Receiver, runs: "deque[list[Member]]", crew: Crew) -> None:
        with receiver.connected() as connection:
            self._copy_runs(connection, runs, crew)

    def _copy_runs(
        self, connection: "psycopg.Connection[TupleRow]", runs: "deque[list[Member]]", crew: Crew
    ) -> None:
        with crew.stopping(connection.cancel):
            for run in taken_from(runs):
                for member, chunks in read_members(self._backup, run):
                    self._copy_member(connection, member, chunks, crew)

    def _copy_member(
        self,
        connection: "psycopg.Connection[TupleRow]",
        member: Member,
        chunks: Iterable[bytes],
        crew: Crew,
    ) -> None:
        encoding = self._manifest.source.encoding
        taken: Counter[Name] = Counter()
        events = events_of_members([member], chunks, encoding)
        for event in events:
            if not isinstance(event, CopyBegin):
                continue
            name = (decoded(event.schema, encoding), decoded(event.table, encoding))
            if name not in self.tables:
                continue
            cursor = connection.cursor()
            for length in copy_in(cursor, event, events):
                crew.go_on()
                self._done.add(length)
            taken[name] += cursor.rowcount
        for each in member.tables:
            name = (each.schema, each.table)
            if name in self.tables and taken[name] != each.rows:
                raise VerificationFailed(
                    f"{'.'.join(name)} took {taken[name]} rows of {each.rows}",
                    hint="The target is as it was. A trigger or rule of the target may drop rows.",
                )
        self._rows.add(taken.total())
