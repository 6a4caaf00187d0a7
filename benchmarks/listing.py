"""How long does `backup-pipeline list` take, and how does it grow with the backups in the bucket?

One real backup is stored again and again under other names and times, evidence and all; then
`prune` writes its index, as it does after each backup, and `list` is run as a process of its own.
"""

import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.engine.catalog import read_catalog, read_evidence, read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import Evidence
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.s3_client import S3Connection
from benchmarks.memory import CLI, measure

BUCKET = "benchmarks"
KEYS = Keys("backups/postgres/")
WRITERS = 8


def run(repetitions: int, counts: list[int]) -> None:
    """List buckets of so many backups."""
    table = Table("backups", "first prune, s", "list, s", "list, CPU s", "list, peak MiB")
    with (
        tempfile.TemporaryDirectory() as scratch,
        EmbeddedPostgres(Path(scratch) / "postgres", durable=False) as postgres,
        EmbeddedS3(Path(scratch) / "s3") as s3,
    ):
        s3.create_bucket(BUCKET)
        store = S3Store(
            S3Connection(BUCKET, s3.endpoint_url, "us-east-1", s3.access_key, s3.secret_key)
        )
        env = {**os.environ, **postgres.environment(), **s3.environment(), "BACKUP_BUCKET": BUCKET}
        measure([*CLI, "backup"], env)
        (original,) = read_catalog(store, KEYS).backups
        made = 1
        for count in sorted(counts):
            multiply(store, original.name, range(made, count))
            made = count
            prune = measure([*CLI, "prune", "--retention-days", "100000"], env)
            lists = [measure([*CLI, "list"], env) for _ in range(repetitions)]
            seconds = statistics.median(each.seconds for each in lists)
            print(f"{count}: {seconds:.2f} s, {lists}", file=sys.stderr)
            table.add_row(
                f"{count:,}",
                f"{prune.seconds:.1f}",
                f"{seconds:.2f}",
                f"{statistics.median(each.cpu_seconds for each in lists):.2f}",
                f"{statistics.median(each.peak_mib for each in lists):.0f}",
            )
    Console(width=100).print(table)


def multiply(store: S3Store, original: BackupName, numbers: range) -> None:
    """Store a backup again under names and times of its own, an hour apart."""
    manifest = read_manifest(store, KEYS, original)
    evidence = read_evidence(store, KEYS, original)
    dump = b"".join(store.read(KEYS.of(original, Kind.DUMP)))
    schema = b"".join(store.read(KEYS.of(original, Kind.SCHEMA)))

    def make(number: int) -> None:
        age = timedelta(hours=number)
        name = BackupName.of(original.database, original.label - age)
        source = replace(manifest.source, snapshot_at=manifest.source.snapshot_at - age)
        etag = store.put(KEYS.of(name, Kind.DUMP), dump).etag
        entries = tuple(replace(entry, etag=etag) for entry in evidence.entries)
        documents = {
            Kind.SCHEMA: schema,
            Kind.MANIFEST: to_json(replace(manifest, name=str(name), source=source)),
            Kind.EVIDENCE: to_json(Evidence(1, str(name), entries)),
        }
        for kind, body in documents.items():
            store.put(KEYS.of(name, kind), body)

    with ThreadPoolExecutor(WRITERS) as writers:
        for _ in writers.map(make, numbers):
            pass
