"""The schema archive, read by pg_restore: what belongs to a table, and the SQL that makes it."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backup_pipeline.engine.patterns import qualified, splits
from backup_pipeline.engine.postgres import Clients
from backup_pipeline.engine.process import child_environment, output
from backup_pipeline.engine.script import decoded
from backup_pipeline.errors import Refused

Name = tuple[str, str]
_ENTRY = re.compile(r"(?P<id>\d+); \d+ \d+ (?P<what>.+)")
_DEPENDS = re.compile(r";\s+depends on:(?P<ids>[ \d]+)")
# What belongs to a table and comes with it, as pg_dump calls it; longer words first.
_BELONGING = (
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "CONSTRAINT",
    "COMMENT",
    "DEFAULT",
    "INDEX ATTACH",
    "INDEX",
    "POLICY",
    "ROW SECURITY",
    "RULE",
    "SEQUENCE OWNED BY",
    "SEQUENCE",
    "STATISTICS",
    "TABLE ATTACH",
    "TRIGGER",
)
_VIEW = ("VIEW ", "MATERIALIZED VIEW ")
_RELATION = ("TABLE ", "FOREIGN TABLE ", *_VIEW)
_PARTS = ("TABLE ATTACH ", "TABLE DATA ")


@dataclass(frozen=True)
class Entry:
    """One object of the archive."""

    id: int
    what: str
    """Its kind, schema, name and owner as pg_restore lists them."""
    needs: frozenset[int]

    @property
    def is_relation(self) -> bool:
        """Whether it is a table or a view, and not a part of one."""
        return any(map(self.is_relation_of, _RELATION))

    def is_relation_of(self, kind: str) -> bool:
        """Whether it is one of that kind."""
        return self.what.startswith(kind) and not self.what.startswith(_PARTS)


@dataclass(frozen=True)
class Archive:
    """A schema archive in a file, as `opened` yields it."""

    clients: Clients
    path: Path
    encoding: str

    def matching(self, tables: Sequence[str], schemas: Sequence[str]) -> frozenset[int]:
        """The ids of what `pg_restore --table --schema` would restore, by exact names."""
        chosen = [f"--table={table}" for table in tables] + [f"--schema={s}" for s in schemas]
        return frozenset(entry.id for entry in self._list(*chosen))

    def matching_pattern(self, pattern: str, entries: Iterable[Entry]) -> frozenset[int]:
        """The ids of the relations, with their schemas, that a `schema.table` of pg_dump means."""
        names = qualified(pattern)
        if names is None:
            return frozenset()
        schema_is, table_is = names
        found: dict[str, set[str]] = {}
        for entry in entries:
            kind = next((each for each in _RELATION if entry.is_relation_of(each)), None)
            for schema, table in splits(entry.what.removeprefix(kind)) if kind else ():
                if schema_is.fullmatch(schema) and table_is.fullmatch(table):
                    found.setdefault(schema, set()).add(table)
        # Which of the splits is a name is known to pg_restore.
        ids = (self.matching(sorted(found[schema]), (schema,)) for schema in found)
        return frozenset().union(*ids)

    def entries(self) -> tuple[Entry, ...]:
        """Everything, in the order in which it is restored."""
        return tuple(self._list("--verbose"))

    def script(self, section: str, only: Iterable[Entry] | None = None) -> bytes:
        """The SQL of a section, or of some of its entries."""
        options = ["--file=-", "--no-owner", "--no-privileges", f"--section={section}"]
        if only is not None:
            chosen = self.path.with_name("list")
            chosen.write_text("".join(f"{entry.id};\n" for entry in only))
            options.append(f"--use-list={chosen}")
        return self._pg_restore(*options)

    def _list(self, *options: str) -> Iterator[Entry]:
        lines = decoded(self._pg_restore("--list", *options), self.encoding).split("\n")
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if entry := _ENTRY.fullmatch(line):
                needs = _DEPENDS.fullmatch(following)
                ids = needs["ids"].split() if needs else []
                yield Entry(int(entry["id"]), entry["what"], frozenset(map(int, ids)))

    def _pg_restore(self, *options: str) -> bytes:
        return output([self.clients.tool("pg_restore"), *options, self.path], child_environment({}))


@contextmanager
def opened(archive: bytes, clients: Clients, encoding: str) -> Iterator[Archive]:
    """An archive in a file of its own, which pg_restore needs, while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory:
        path = Path(directory, "schema.dump")
        path.write_bytes(archive)
        yield Archive(clients, path, encoding)


def named(entries: Iterable[Entry], kind: str, names: Iterable[Name]) -> frozenset[Name]:
    """Those of the names, each with its schema, of which there is an entry of that kind.

    Raises `Refused` where some of several that pg_restore lists alike are there.
    """
    # pg_restore lists kind, schema, name and owner with blanks between, and the name may hold some.
    listed: dict[str, list[Name]] = {}
    for name in names:
        listed.setdefault(re.sub(r"[\r\n]", " ", " ".join(name)), []).append(name)
    found: Counter[str] = Counter()
    for entry in entries:
        text = entry.what.removeprefix(f"{kind} ")
        while text != entry.what and text:
            text = text.rpartition(" ")[0]
            if text in listed:
                found[text] += 1
                break
    for text, number in found.items():
        if number < len(listed[text]):
            alike = " and ".join(".".join(map(repr, name)) for name in listed[text])
            raise Refused(
                f"{alike} can't be told apart by what pg_restore lists",
                hint="Restore the backup whole into a new database, and take what you need there.",
            )
    return frozenset(name for text in found for name in listed[text])


def with_what_belongs(entries: Sequence[Entry], chosen: frozenset[int]) -> tuple[Entry, ...]:
    """The chosen entries with their partitions, all that they need, and all that belongs to them.

    What a view asks comes with its partitions as well.
    What would need yet another table, as a foreign key does, is left out.
    """
    by_id = {entry.id: entry for entry in entries}
    needs = {entry.id: entry.needs for entry in entries}
    for view, query in _queries_apart(entries):
        needs[view] |= {query}
    for view, attachments in _attached_for(entries, needs):
        needs[view] |= attachments
    own = _with_partitions(entries, set(chosen))
    taken = own | _needed(needs, own)
    grown = True
    while grown:
        grown = False
        for entry in entries:
            if entry.id in taken or not entry.what.startswith(_BELONGING):
                continue
            more = _needed(needs, {entry.id}) - taken
            if entry.needs & own and not any(by_id[each].is_relation for each in more):
                own.add(entry.id)
                taken |= {entry.id} | more
                grown = True
    return tuple(entry for entry in entries if entry.id in taken)


def _queries_apart(entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """The ids of each view that is made without its query, and of the rule that brings that later.

    pg_dump does so where the query needs what comes behind tables, such as a primary key by which
    it groups: until then the view gives one row of NULLs.
    """
    by_id = {entry.id: entry for entry in entries}
    for entry in entries:
        if not (entry.what.startswith("RULE ") and " _RETURN " in entry.what):
            continue
        for each in entry.needs & by_id.keys():
            names = by_id[each].what.removeprefix("VIEW ").split(" ")
            # Behind the view's name, and before the owner's, which may hold blanks as well.
            if by_id[each].is_relation_of("VIEW ") and entry.what in {
                " ".join(["RULE", *names[:at], "_RETURN", *names[at:]]) for at in range(len(names))
            }:
                yield each, entry.id


def _attached_for(
    entries: Sequence[Entry], needs: Mapping[int, frozenset[int]]
) -> Iterator[tuple[int, set[int]]]:
    """The ids of each view, and of what attaches the partitions of the tables that it asks."""
    attached = _attached(entries)
    # Who asks a single partition needs the table that it is of, and not the other partitions.
    asked = dict(needs)
    for _, parent, partition in attached:
        asked[partition] -= {parent}
    for entry in entries if attached else ():
        if any(map(entry.is_relation_of, _VIEW)):
            tables, attachments, before = _needed(asked, {entry.id}), set[int](), -1
            while len(attachments) != before:
                before = len(attachments)
                more = [each for each in attached if each[1] in tables]
                attachments |= {attachment for attachment, _, _ in more}
                tables |= {partition for _, _, partition in more}
            yield entry.id, attachments


def partitions(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """The ids of each partitioned table and of one of its partitions."""
    return [(parent, partition) for _, parent, partition in _attached(entries)]


def _attached(entries: Sequence[Entry]) -> list[tuple[int, int, int]]:
    """The ids of what attaches a partition, of its parent, and of the partition."""
    by_id = {entry.id: entry for entry in entries}
    # A partition needs its parent, so the other way round is told from that.
    return [
        (entry.id, next(iter(entry.needs - {each})), each)
        for entry in entries
        if entry.what.startswith("TABLE ATTACH ") and len(entry.needs) == 2
        for each in entry.needs
        if by_id[each].needs & entry.needs
    ]


def _with_partitions(entries: Sequence[Entry], chosen: set[int]) -> set[int]:
    parts = partitions(entries)
    own, before = set(chosen), -1
    while len(own) != before:
        before = len(own)
        own |= {partition for parent, partition in parts if parent in own}
    return own


def _needed(needs: Mapping[int, frozenset[int]], ids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    ahead = [need for each in ids for need in needs[each]]
    while ahead:
        each = ahead.pop()
        if each in needs and each not in found:
            found.add(each)
            ahead += needs[each]
    return found
