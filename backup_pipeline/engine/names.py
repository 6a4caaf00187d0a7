"""Backup names and object keys: the only place where either is built or read.

A backup of database `ahold_options` taken at 23:00 local time is called
`ahold_options_2025-12-16_230000`, and each of its objects has a key that is the prefix, the name
and a suffix.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote, unquote

from backup_pipeline.errors import InvalidInput

_STAMP = "%Y-%m-%d_%H%M%S"
_NAME = re.compile(r"(?P<database>[A-Za-z0-9_.~%-]+)_(?P<stamp>\d{4}-\d{2}-\d{2}_\d{6})")


class Kind(StrEnum):
    """What an object of a backup is; the value is the suffix of its key."""

    # Before the dumps, because their suffixes end with those of dumps.
    GLOBALS = ".globals.sql.gz"
    GLOBALS_AGE = ".globals.sql.gz.age"
    DUMP = ".sql.gz"
    DUMP_ZSTD = ".sql.zst"
    DUMP_AGE = ".sql.gz.age"
    DUMP_ZSTD_AGE = ".sql.zst.age"
    SCHEMA = ".schema.dump"
    SCHEMA_AGE = ".schema.dump.age"
    MANIFEST = ".manifest.json"
    EVIDENCE = ".verified.json"
    PIN = ".kept.json"

    @property
    def encrypted(self) -> "Kind":
        """What a dump, an archive or the globals are that were encrypted."""
        return Kind(f"{self}.age")


PLAIN_DUMPS = (Kind.DUMP, Kind.DUMP_ZSTD)
DUMPS = (*PLAIN_DUMPS, Kind.DUMP_AGE, Kind.DUMP_ZSTD_AGE)
"""A backup has one of them; its manifest says which."""
ARCHIVES = (Kind.SCHEMA, Kind.SCHEMA_AGE)
GLOBALS = (Kind.GLOBALS, Kind.GLOBALS_AGE)


@dataclass(frozen=True, slots=True, order=True)
class BackupName:
    """The name of a backup: its database and the local time that labels it.

    `str()` gives the name.
    Characters of a database name that are not letters, digits, `_`, `.`, `-` or `~` are
    percent-encoded as UTF-8 (RFC 3986, section 2.1), so a name is always one harmless path
    segment and reads back to exactly the same database.
    """

    database: str
    label: datetime
    """Local time of the configured zone, without a zone, to the second."""

    def __str__(self) -> str:
        return f"{_encoded(self.database)}_{self.label.strftime(_STAMP)}"

    @classmethod
    def of(cls, database: str, label: datetime) -> "BackupName":
        """The name for a backup labelled with a local time; its zone and fractions are dropped."""
        return cls(database, label.replace(tzinfo=None, microsecond=0))

    @classmethod
    # A listing shows the objects of one backup side by side, and reading a date is slow.
    @lru_cache(maxsize=16)
    def parse(cls, text: str) -> "BackupName":
        """Read a name back.

        Raises `InvalidInput` where the text is not exactly what `str()` would have given.
        """
        match = _NAME.fullmatch(text)
        try:
            if match:
                label = datetime.fromisoformat(match["stamp"])
                name = cls(unquote(match["database"], errors="strict"), label)
                if str(name) == text:
                    return name
        except ValueError:
            pass
        raise InvalidInput(
            f"{text!r} is not the name of a backup",
            hint="Names look like ahold_options_2025-12-16_230000; `backup-pipeline list` "
            "shows them.",
        )


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a bucket's backups, under one prefix such as `backups/postgres/`."""

    prefix: str

    def of(self, name: BackupName, kind: Kind) -> str:
        """The key of one object of a backup."""
        return f"{self.prefix}{name}{kind}"

    def stem(self, name: BackupName) -> str:
        """What the keys of a backup's objects start with, and no others'."""
        return f"{self.prefix}{name}."

    @property
    def index(self) -> str:
        """The key of the catalog's index, which is a cache and never the truth."""
        return f"{self.prefix}catalog.json"

    def under(self, database: str) -> str:
        """What the keys of a database's backups start with, and perhaps others' as well."""
        return f"{self.prefix}{_encoded(database)}_"

    def parse(self, key: str) -> tuple[BackupName, Kind] | None:
        """Which backup's object a key is, or `None` for a key that is none of ours."""
        if not key.startswith(self.prefix):
            return None
        for kind in Kind:
            stem = key[len(self.prefix) :].removesuffix(kind)
            if key.endswith(kind):
                try:
                    return BackupName.parse(stem), kind
                except InvalidInput:
                    return None
        return None


def _encoded(database: str) -> str:
    """A database's name in percent-encoding, so that it is no option and no path either."""
    encoded = quote(database, safe="")
    return f"%2D{encoded[1:]}" if encoded.startswith("-") else encoded
