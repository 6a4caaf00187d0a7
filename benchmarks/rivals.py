"""What other tools take for the same: whole commands, Python and boto3 included as in ours.

`python -m benchmarks.rivals WHAT DIRECTORY`, with libpq's and boto3's variables.
The backups leave their objects in the bucket, the restore makes the database `restored`.
Imported in each measured process: no more than it needs.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import boto3

PREFIX = "rivals/"
SQL = "dump.sql.gz"
RESTORED = "restored"

_PLAIN = ("pg_dump", "--clean", "--if-exists", "--no-owner", "--no-privileges")
PSQL = ("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={RESTORED}")


def dump_gzip(directory: Path) -> None:
    """As the script did that this software replaces: a file, then an upload."""
    file = directory / SQL
    with file.open("wb") as output:
        _pipe(_PLAIN, ("gzip",), output.fileno())
    _upload(file)


def dump_custom(directory: Path) -> None:
    """An archive that pg_dump compresses itself, then an upload."""
    file = directory / "dump.archive"
    _run("pg_dump", "--format=custom", f"--file={file}")
    _upload(file)


def dump_directory(directory: Path) -> None:
    """A file for each table, two of them at a time, then an upload of each."""
    files = directory / "dump.directory"
    _run("pg_dump", "--format=directory", "--jobs=2", f"--file={files}")
    _upload(*sorted(files.iterdir()))
    files.rmdir()


def restore_gzip(directory: Path) -> None:
    """A download, then psql."""
    file = _download(directory)
    _run("createdb", RESTORED)
    _pipe(("gunzip", "--stdout", str(file)), PSQL)
    file.unlink()


def test_gzip(directory: Path) -> None:
    """A download, then what is often taken for a verification."""
    file = _download(directory)
    _run("gunzip", "--test", str(file))
    file.unlink()


WHAT: Mapping[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (dump_gzip, dump_custom, dump_directory, restore_gzip, test_gzip)
}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _pipe(first: Sequence[str], second: Sequence[str], output: int | None = None) -> None:
    with subprocess.Popen(first, stdout=subprocess.PIPE) as one:
        subprocess.run(second, stdin=one.stdout, stdout=output, check=True)
    if one.returncode:
        raise SystemExit(f"{first[0]} ended with {one.returncode}")


def _upload(*files: Path) -> None:
    client = boto3.client("s3")
    for file in files:
        client.upload_file(str(file), os.environ["BACKUP_BUCKET"], PREFIX + file.name)
        file.unlink()


def _download(directory: Path) -> Path:
    file = directory / SQL
    boto3.client("s3").download_file(os.environ["BACKUP_BUCKET"], PREFIX + SQL, str(file))
    return file


if __name__ == "__main__":
    WHAT[sys.argv[1]](Path(sys.argv[2]))
