"""What encryption costs: the same commands with a public key and without one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from backup_pipeline.engine.age import Identity
from benchmarks.commands import DUMP_ALONE, RESTORE, RESTORED, VERIFY
from benchmarks.measure import Comparison, Contender, compare
from benchmarks.servers import Servers


def run(servers: Servers, repetitions: int, sizes: Sequence[int]) -> Iterator[Comparison]:
    """One comparison for each size of sample, in MB of SQL, with the default jobs."""
    identity, file = Identity.made(), servers.scratch / "identity"
    file.write_text(identity.secret)
    for size in sizes:
        ways = contenders(servers, str(identity.recipient), file)
        runs = compare(servers, servers.sample(size), ways, repetitions)
        yield Comparison("encryption", size, runs)
        servers.empty_bucket()


def contenders(servers: Servers, recipient: str, file: Path) -> Sequence[Contender]:
    """Each command on backups under a prefix of their own."""
    prefix = {"BACKUP_PREFIX": "encrypted/", "BACKUP_RECIPIENTS": recipient}
    with_key = {**prefix, "BACKUP_IDENTITY_FILE": str(file)}

    def drop() -> None:
        servers.drop(RESTORED)

    return [
        Contender("backup", DUMP_ALONE),
        Contender("backup, encrypted", DUMP_ALONE, prefix),
        Contender("verify", VERIFY),
        Contender("verify, encrypted, without a key", VERIFY, prefix),
        Contender("verify, encrypted, with a key", VERIFY, with_key),
        Contender("restore", RESTORE, clean_up=drop),
        Contender("restore, encrypted", RESTORE, with_key, drop),
    ]
