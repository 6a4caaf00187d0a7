"""`backup`, `verify` and `prune`: make a backup, prove it, and clear away the expired ones."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from backup_pipeline.cli import options, words
from backup_pipeline.cli.documents import of_entry, of_manifest, of_prune
from backup_pipeline.cli.output import Output, Table, command
from backup_pipeline.errors import BackupPipelineError, NotFound, StoreError, VerificationFailed

if TYPE_CHECKING:
    from backup_pipeline.engine.age import Identity
    from backup_pipeline.engine.model import EvidenceEntry, Manifest, PruneResult, Report, Stray
    from backup_pipeline.engine.names import BackupName, Keys
    from backup_pipeline.engine.store import ObjectStore
    from backup_pipeline.settings import Settings

_retention_days = click.option(
    "--retention-days", type=click.IntRange(0, 36_500), help="Keep everything younger than this."
)
_database = click.option("--database", help="Instead of BACKUP_DATABASE.")


def _now() -> datetime:
    return datetime.now(UTC)


@click.command()
@click.option(
    "--date",
    "label",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="The day that the backup's name carries; retention goes by the true time.",
)
@_retention_days
@_database
@options.jobs
@click.option(
    "--codec",
    type=click.Choice(["gzip", "zstd"]),
    help="What compresses it, instead of BACKUP_CODEC.",
)
@click.option(
    "--globals",
    "globals_",
    type=click.Choice(["none", "without-passwords", "with-passwords"]),
    help="Back up the server's roles and other globals as well, instead of BACKUP_GLOBALS.",
)
@options.limit_rate
@click.option("--no-prune", is_flag=True, help="Delete nothing.")
@click.option(
    "--no-verify",
    is_flag=True,
    help="Read nothing back and delete nothing, where this machine may only write to the bucket.",
)
@command
def backup(
    output: Output,
    label: datetime | None,
    retention_days: int | None,
    database: str | None,
    jobs: int | None,
    codec: str | None,
    globals_: str | None,
    limit_rate: float | None,
    no_prune: bool,
    no_verify: bool,
) -> None:
    """Back up now: dump, verify, prune, and tell people."""
    from backup_pipeline.settings import load_settings

    settings = load_settings(
        retention_days=retention_days,
        database=database,
        jobs=jobs,
        codec=codec,
        globals=globals_,
        limit_rate=limit_rate,
    )
    name = settings.name(_now(), label.date() if label else None)
    title = f"{name} failed"
    try:
        make = _dump if no_verify else _back_up
        lines, document = make(output, settings, name)
        title = f"{name} is made, not verified yet" if no_verify else f"{name} is made and verified"
        if not (no_verify or no_prune):
            good, title = title, f"{title}, but the prune failed"
            pruned = _prune(output, settings, name)
            lines = (*lines, _pruned_line(pruned), *pruned.failed)
            document, title = {**document, "prune": of_prune(pruned)}, good
    except Exception as error:
        _tell(output, settings, name, title, _said(error), succeeded=False)
        raise
    failed = _tell(output, settings, name, title, lines, succeeded=True)
    output.document({**document, "notifications_failed": failed})


def _said(error: Exception) -> tuple[str, ...]:
    """What people are told of an error."""
    if isinstance(error, BackupPipelineError):
        return error.message, *error.notes, f"hint: {error.hint}"
    # Its text is not ours, and may hold what should not leave this machine.
    return (f"{type(error).__name__}: this should not happen; the log of this run says more",)


def _back_up(
    output: Output, settings: "Settings", name: "BackupName"
) -> tuple[Sequence[str], dict[str, object]]:
    from backup_pipeline.engine.verify import verify as verify_backup

    store, keys = settings.store(), settings.keys()
    with output.progress() as report:
        manifest = _made(output, settings, name, report)
        entry = verify_backup(
            store,
            keys,
            name,
            jobs=settings.jobs,
            identities=settings.identities(),
            clock=_now,
            report=report,
        )
    lines = _summary(manifest, entry)
    output.say(str(name), *lines)
    if not entry.passed:
        raise VerificationFailed(f"{name} is not what was dumped: {'; '.join(entry.findings)}")
    _beat(output, settings)
    return lines, {**of_manifest(manifest, name), "verification": of_entry(name, entry)}


def _prune(output: Output, settings: "Settings", name: "BackupName") -> "PruneResult":
    from backup_pipeline.engine.prune import prune as prune_bucket

    pruned = prune_bucket(
        settings.store(),
        settings.keys(),
        name.database,
        settings.policy(),
        now=_now(),
        stale_after=settings.stale_after,
    )
    output.say(_pruned_line(pruned))
    output.warn(*pruned.failed)
    return pruned


def _dump(
    output: Output, settings: "Settings", name: "BackupName"
) -> tuple[Sequence[str], dict[str, object]]:
    """Make a backup and look at nothing in the bucket: that is for another machine to do."""
    with output.progress() as report:
        manifest = _made(output, settings, name, report)
    lines = (_size(manifest), "not verified: `backup-pipeline verify` does that where it may read")
    output.say(str(name), *lines)
    return lines, {**of_manifest(manifest, name), "verification": None}


def _made(output: Output, settings: "Settings", name: "BackupName", report: "Report") -> "Manifest":
    from backup_pipeline.engine.backup import back_up
    from backup_pipeline.engine.postgres import outdated

    manifest = back_up(
        settings.source(),
        settings.store(),
        settings.keys(),
        name,
        codec=settings.codec,
        compression_level=settings.compression_level,
        digests=settings.digests,
        recipients=settings.public_keys(),
        globals_=settings.globals,
        rate=settings.rate(),
        clock=_now,
        report=report,
    )
    if wrong := outdated(manifest.pg_dump_version, settings.minimums):
        output.warn(wrong)
    output.warn(*manifest.remarks)
    return manifest


def _beat(output: Output, settings: "Settings") -> None:
    from backup_pipeline.engine.notify import Heartbeat, beat

    url = settings.heartbeat_url
    if beat(url.get_secret_value() if url else None) is Heartbeat.FAILED:
        output.warn("the backup is good, but its heartbeat was not delivered")


def _tell(
    output: Output,
    settings: "Settings",
    name: "BackupName",
    title: str,
    lines: Sequence[str],
    *,
    succeeded: bool,
) -> list[str]:
    """Notify people; gives the services that did not take it."""
    if not settings.notify_urls:
        return []
    from backup_pipeline.engine.notify import Outcome, notify

    outcome = Outcome("backup", name.database, succeeded, title, tuple(lines))
    failed = notify([url.get_secret_value() for url in settings.notify_urls], outcome)
    output.warn(*(f"{service} did not take the message" for service in failed))
    return list(failed)


def _summary(manifest: "Manifest", entry: "EvidenceEntry") -> tuple[str, str]:
    return _size(manifest), _verdict(entry)


def _size(manifest: "Manifest") -> str:
    return (
        f"{words.size(manifest.length)} ({words.size(manifest.raw_length)} of SQL, "
        f"{len(manifest.tables)} tables, {manifest.rows:,} rows) "
        f"in {words.seconds(manifest.duration)}{', encrypted' if manifest.encryption else ''}"
    )


def _verdict(entry: "EvidenceEntry") -> str:
    if not entry.passed:
        return f"failed verification: {'; '.join(entry.findings)}"
    return (
        f"verified: {words.size(entry.read_bytes)} read back, {_seen(entry)}, "
        f"in {words.seconds(entry.seconds)}"
    )


def _seen(entry: "EvidenceEntry") -> str:
    return f"{entry.rows:,} rows counted" if entry.opened else "not decrypted for want of a key"


@click.command()
@click.argument("name", required=False)
@click.option("--latest", is_flag=True, help="The newest backup of the database.")
@click.option("--all", "everything", is_flag=True, help="Every backup of the database.")
@_database
@options.jobs
@options.identity
@options.limit_rate
@command
def verify(
    output: Output,
    name: str | None,
    latest: bool,
    everything: bool,
    database: str | None,
    jobs: int | None,
    identity_file: str | None,
    limit_rate: float | None,
) -> None:
    """Read backups back byte by byte, and record what was found."""
    from backup_pipeline.engine.names import BackupName
    from backup_pipeline.settings import load_settings

    if [name is not None, latest, everything].count(True) != 1:
        raise click.UsageError("Give one of NAME, --latest and --all.")
    asked = BackupName.parse(name) if name is not None else None
    settings = load_settings(
        database=database, jobs=jobs, identity_file=identity_file, limit_rate=limit_rate
    )
    store, keys, identities = settings.store(), settings.keys(), settings.identities()
    names = [asked] if asked else _names(output, store, keys, settings.database, latest_only=latest)
    results = []
    with output.progress() as report:
        for each in names:
            try:
                found = _verified(store, keys, each, settings.jobs, identities, report)
            except NotFound as error:
                if not everything:
                    raise
                output.warn(error.message)
                continue
            results.append(found)
            output.say(f"{each}: {found['verdict']}")
    failed = [str(result["name"]) for result in results if not result["passed"]]
    if failed:
        raise VerificationFailed(
            f"{len(failed)} of {len(results)} backups failed: "
            + "; ".join(f"{r['name']}: {r['verdict']}" for r in results if not r["passed"])
        )
    output.document({"verified": results})


def _names(
    output: Output, store: "ObjectStore", keys: "Keys", database: str, *, latest_only: bool
) -> Sequence["BackupName"]:
    from backup_pipeline.engine.catalog import read_catalog
    from backup_pipeline.engine.choice import newest_backup
    from backup_pipeline.engine.names import Kind

    if latest_only:
        return [newest_backup(store, keys, database, _now(), output.warn).name]
    catalog = read_catalog(store, keys, database)
    # A backup whose manifest can't be read is in no catalog, and fails all the same.
    parsed = [keys.parse(stray.key) for stray in catalog.strays]
    unreadable = [each[0] for each in parsed if each and each[1] is Kind.MANIFEST]
    return [*(backup.name for backup in catalog.backups), *unreadable]


def _verified(
    store: "ObjectStore",
    keys: "Keys",
    name: "BackupName",
    jobs: int,
    identities: "Sequence[Identity]",
    report: "Report",
) -> dict[str, object]:
    from backup_pipeline.engine.verify import verify as verify_backup

    try:
        entry = verify_backup(
            store, keys, name, jobs=jobs, identities=identities, clock=_now, report=report
        )
    except VerificationFailed as error:
        return {"name": str(name), "passed": False, "verdict": error.message}
    return {**of_entry(name, entry), "verdict": _verdict(entry)}


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted, and why.")
@_retention_days
@_database
@command
def prune(output: Output, dry_run: bool, retention_days: int | None, database: str | None) -> None:
    """Delete expired backups and what unfinished runs left behind."""
    from backup_pipeline.engine.prune import prune as prune_bucket
    from backup_pipeline.settings import load_settings

    settings = load_settings(retention_days=retention_days, database=database)
    result = prune_bucket(
        settings.store(),
        settings.keys(),
        settings.database,
        settings.policy(),
        now=_now(),
        dry_run=dry_run,
        stale_after=settings.stale_after,
    )
    if result.failed:
        raise StoreError(
            "; ".join(result.failed),
            hint="The next prune tries again; `backup-pipeline check` looks at permissions.",
        )
    output.document(of_prune(result))
    output.table(_decisions(result))
    output.say(_pruned_line(result))


def _decisions(result: "PruneResult") -> Table:
    return Table(
        columns=("backup", "age", "decision", "reason"),
        right=frozenset({"age"}),
        rows=[
            (
                str(decision.backup.name),
                words.age(_now() - decision.backup.taken_at),
                "keep" if decision.keep else "expire",
                decision.reason,
            )
            for decision in result.decisions
        ]
        + [
            (_base(stray), words.age(_now() - stray.modified_at), "clear", stray.reason)
            for stray in result.cleared
        ],
        plain=[
            (str(decision.backup.name), "keep" if decision.keep else "expire", decision.reason)
            for decision in result.decisions
        ]
        + [(_base(stray), "clear", stray.reason) for stray in result.cleared],
    )


def _base(stray: "Stray") -> str:
    return stray.key.rpartition("/")[2]


def _pruned_line(result: "PruneResult") -> str:
    verb = "would delete" if result.dry_run else "deleted"
    uploads = len(result.aborted_uploads)
    aborted = f", and {uploads} stale uploads" if uploads else ""
    return (
        f"{len(result.kept)} backups kept, {verb} {len(result.deleted)} "
        f"({words.size(result.reclaimed)}){aborted}"
    )
