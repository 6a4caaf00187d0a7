"""Locks: how many may hold every table of a database at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

SIDE_BY_SIDE = 3
"""The coordinator, the pg_dump of the schema, and that of what has no pg_dump of its own."""
ONE_AFTER_THE_OTHER = 2
"""The coordinator and one pg_dump."""


@dataclass(frozen=True, slots=True)
class LockRoom:
    """What a pg_dump of a database locks, and what the server can keep in mind."""

    tables: int
    setting: int
    """The server's `max_locks_per_transaction`."""
    sessions: int

    def fits(self, holders: int) -> bool:
        """Whether so many can lock every table, and a quarter of the room is left to others."""
        # For each table that may be locked the server provides for two sessions that do.
        return 4 * holders * self.tables <= 3 * 2 * self.setting * self.sessions

    def shortage(self) -> str | None:
        """What the room is too small for, in words; `None` where nothing is."""
        if self.fits(SIDE_BY_SIDE):
            return None
        enough = -(-4 * SIDE_BY_SIDE * self.tables // (3 * 2 * self.sessions))
        return (
            f"several pg_dumps can't lock {self.tables:,} tables while max_locks_per_transaction "
            f"is {self.setting}; {enough} is enough"
        )


def lock_room(connection: "Connection") -> LockRoom:
    """What the server says of it."""
    row = connection.execute(_ROOM).fetchone()
    assert row is not None
    return LockRoom(*row)


_ROOM = """
    SELECT (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384)::int,
           current_setting('max_locks_per_transaction')::int,
           current_setting('max_connections')::int
               + current_setting('max_prepared_transactions')::int
"""
