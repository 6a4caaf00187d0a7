"""How long does `backup-pipeline list` take, and how does it grow with the backups in the bucket?

One real backup is stored again and again under other names and times, evidence and all; then
`prune` writes its index, as it does after each backup, and `list` is run as a process of its own.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

from backup_pipeline.engine.catalog import read_catalog, read_evidence, read_manifest
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import Evidence
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.s3_client import S3Connection
from benchmarks.commands import OURS
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.servers import BUCKET, Servers

KEYS = Keys("backups/postgres/")
WRITERS = 8


def run(servers: Servers, repetitions: int, counts: Sequence[int]) -> Iterator[Comparison]:
    """List buckets of so many backups."""
    s3 = servers.s3
    store = S3Store(
        S3Connection(BUCKET, s3.endpoint_url, "us-east-1", s3.access_key, s3.secret_key)
    )
    database = servers.sample(1)
    first_prune = Contender("first prune", (OURS, "prune", "--retention-days", "100000"))
    compare(servers, database, [Contender("backup", (OURS, "backup"))], 1)
    (original,) = read_catalog(store, KEYS).backups
    made = 1
    for count in sorted(counts):
        multiply(store, original.name, range(made, count))
        made = count
        runs = compare(servers, database, [first_prune], 1)
        runs |= compare(servers, database, [Contender("list", (OURS, "list"))], repetitions)
        yield Comparison("listing", count, runs)
    servers.empty_bucket()


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
