"""Diagnosis: what works between here, PostgreSQL and the bucket, and what to do where not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from backup_pipeline.engine.age import Identity, Recipient
from backup_pipeline.engine.diagnosis_bucket import of_reading, of_uploads, of_writing
from backup_pipeline.engine.diagnosis_drill import of_drill_server
from backup_pipeline.engine.diagnosis_server import of_server
from backup_pipeline.engine.findings import Finding, Level, few
from backup_pipeline.engine.model import Globals
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.postgres import SECURITY_MINIMUMS, Server
from backup_pipeline.engine.prune import STALE_AFTER
from backup_pipeline.engine.store import ObjectStore

FRESH_FOR = timedelta(hours=26)
"""A daily backup and two hours of grace."""


def diagnose(
    server: Server,
    bin_dirs: Sequence[Path],
    store: ObjectStore,
    keys: Keys,
    *,
    clock: Callable[[], datetime],
    minimums: Mapping[int, int] = SECURITY_MINIMUMS,
    fresh_for: timedelta = FRESH_FOR,
    stale_after: timedelta = STALE_AFTER,
    drills: Server | None = None,
    recipients: Sequence[Recipient] = (),
    identities: Sequence[Identity] = (),
    globals_: Globals = Globals.NONE,
) -> Iterator[Finding]:
    """Look at everything that a backup of `server.database` needs, each thing for itself.

    `drills` is the server on which drills restore, where it is another one; `recipients` are those
    for whom backups are encrypted, and `identities` those that are here; `globals_` is what backups
    have of the server's globals.
    Writes small probes under the prefix and deletes them again, as far as it may.
    """
    yield from of_server(server, bin_dirs, minimums, clock, globals_)
    if drills:
        yield from of_drill_server(drills, server, bin_dirs)
    yield from of_reading(store, keys, server.database, clock(), fresh_for)
    yield from of_uploads(store, keys, server.database, clock() - stale_after)
    yield from of_writing(store, keys, clock)
    if recipients:
        yield _encryption(recipients, identities)


def _encryption(recipients: Sequence[Recipient], identities: Sequence[Identity]) -> Finding:
    message = f"backups are encrypted for {few(list(map(str, recipients)))}"
    if not identities:
        return Finding("encryption", Level.OK, f"{message}; no key that reads them is here")
    if any(identity.recipient in recipients for identity in identities):
        return Finding("encryption", Level.OK, f"{message}, and can be read here")
    return Finding(
        "encryption",
        Level.WARN,
        f"{message}, and none of the identities here is one of them",
        "BACKUP_IDENTITY_FILE takes a private key of these; without it drills and restores are "
        "refused here.",
    )
