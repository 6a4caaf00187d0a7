"""`list` and `show`: what the bucket holds."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import words
from backup_pipeline.cli.documents import of_backup, of_entry, of_stray
from backup_pipeline.cli.output import Output, Table, command
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from zoneinfo import ZoneInfo

    from backup_pipeline.engine.model import Backup, EvidenceEntry, Manifest, Stray


_EVER, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@click.command("list")
@click.option("--database", help="Only the backups of this database.")
@click.option("--since", metavar="TIME", help="Only those taken at TIME or later.")
@click.option("--until", metavar="TIME", help="Only those taken by TIME.")
@command
def list_backups(
    output: Output, database: str | None, since: str | None, until: str | None
) -> None:
    """List the backups in the bucket, newest first."""
    show_catalog(output, database, since, until)


def show_catalog(
    output: Output, database: str | None, since: str | None, until: str | None
) -> None:
    """The table of `list` and of `restore --list`."""
    from backup_pipeline.engine.catalog import read_catalog
    from backup_pipeline.engine.choice import parse_moment
    from backup_pipeline.settings import load_settings

    settings = load_settings()
    first = parse_moment(since, settings.zone) if since is not None else _EVER
    last = parse_moment(until, settings.zone) if until is not None else _NEVER
    store = settings.store()
    catalog = read_catalog(store, settings.keys(), database)
    backups = [backup for backup in catalog.backups if first <= backup.taken_at <= last]
    if output.as_json:
        output.document(
            {
                "backups": [of_backup(backup) for backup in backups],
                "strays": [of_stray(stray) for stray in catalog.strays],
            }
        )
        return
    output.table(_backups_table(backups, datetime.now(UTC), settings.zone))
    if output.terminal and not backups:
        output.say(f"There is no such backup under {settings.prefix} in {store.describe()}.")
    output.warn(*(_line(stray) for stray in catalog.strays))


def _backups_table(backups: "Sequence[Backup]", now: datetime, zone: "ZoneInfo") -> Table:
    return Table(
        columns=("backup", "taken at", "age", "size", "SQL", "rows", "state", "pin"),
        right=frozenset({"age", "size", "SQL", "rows"}),
        rows=(
            (
                str(backup.name),
                words.local(backup.taken_at, zone),
                words.age(now - backup.taken_at),
                words.size(backup.size),
                words.size(backup.raw_length),
                f"{backup.rows:,}",
                str(backup.state),
                _pinned(backup),
            )
            for backup in backups
        ),
        plain=(
            (
                str(backup.name),
                words.iso(backup.taken_at),
                str(backup.size),
                str(backup.rows),
                str(backup.state),
                _pinned(backup),
            )
            for backup in backups
        ),
    )


def _pinned(backup: "Backup") -> str:
    return "" if backup.pin is None else "pinned"


def _line(stray: "Stray") -> str:
    return f"{stray.key} ({words.size(stray.size)}) belongs to no backup: {stray.reason}"


@click.command()
@click.argument("name")
@command
def show(output: Output, name: str) -> None:
    """Show all that is known of the backup NAME."""
    from backup_pipeline.engine.catalog import read_backup, read_evidence, read_manifest
    from backup_pipeline.engine.documents import to_json
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.settings import load_settings

    parsed = BackupName.parse(name)
    settings = load_settings()
    store, keys = settings.store(), settings.keys()
    manifest = read_manifest(store, keys, parsed)
    backup = read_backup(store, keys, parsed)
    try:
        entries = read_evidence(store, keys, parsed).entries
    except VerificationFailed:
        # The backup says so among its findings.
        entries = ()
    output.document(
        {
            **of_backup(backup),
            "manifest": json.loads(to_json(manifest)),
            "evidence": [of_entry(parsed, entry) for entry in entries],
        }
    )
    if output.as_json:
        return
    output.say(*_about(backup, manifest, settings.zone), *_left_out(manifest))
    output.table(
        Table(
            columns=("schema", "table", "rows"),
            right=frozenset({"rows"}),
            rows=[(t.schema, t.table, str(t.rows)) for t in manifest.tables],
        )
    )
    output.say(*(_entry_line(entry, settings.zone) for entry in entries))


def _about(backup: "Backup", manifest: "Manifest", zone: "ZoneInfo") -> list[str]:
    source = manifest.source
    rate = words.size(round(backup.raw_length / max(backup.duration, 0.001)))
    lines = {
        "backup": str(backup.name),
        "database": backup.name.database,
        "taken at": words.local_and_utc(backup.taken_at, zone),
        "state": "; ".join((str(backup.state), *backup.findings)),
        "restorable": _proof(backup, zone),
        "pin": backup.pin or _pinned(backup) or "none",
        "size": f"{words.size(backup.size)} of {backup.codec}, "
        f"{words.size(backup.raw_length)} of SQL",
        "encrypted": _readers(manifest),
        "globals": str(backup.globals).replace("-", " "),
        "holds": f"{backup.tables} tables, {backup.rows:,} rows",
        "made in": f"{words.seconds(backup.duration)} ({rate}/s)",
        "server": f"PostgreSQL {source.server_version}, {source.encoding}, "
        f"{source.collate or 'unknown locale'}",
        "pg_dump": manifest.pg_dump_version,
        "snapshot": source.snapshot_lsn,
        "extensions": ", ".join(f"{e.name} {e.version}" for e in source.extensions) or "none",
        "id": manifest.id,
    }
    return [f"{label:<11} {value}" for label, value in lines.items()]


def _readers(manifest: "Manifest") -> str:
    return f"for {', '.join(manifest.encryption.recipients)}" if manifest.encryption else "no"


def _left_out(manifest: "Manifest") -> "Iterator[str]":
    """Owners, rights and settings of the source, none of which are in a dump."""
    from backup_pipeline.engine.findings import few

    label = "left out"
    for each in manifest.source.access:
        yield f"{label:<11} {each.role}, {each.right}: {few(list(each.objects))}"
        label = ""


def _proof(backup: "Backup", zone: "ZoneInfo") -> str:
    if backup.restored_at is None:
        return "not tried yet"
    return (
        f"restored and compared {words.local(backup.restored_at, zone)}, "
        f"in {words.seconds(backup.recovery_seconds or 0)}"
    )


def _entry_line(entry: "EvidenceEntry", zone: "ZoneInfo") -> str:
    passed = "passed" if entry.opened else "passed, not decrypted for want of a key"
    came = passed if entry.passed else "; ".join(("failed", *entry.findings))
    return f"{words.local(entry.at, zone)}  {entry.act}: {came}"
