"""Every error of the software, as one tree.

::

    BackupPipelineError                 1
    ├── InvalidInput                    2   a flag, a setting or a name that can't be used
    ├── Refused                         3   nothing was changed, to protect data
    │   ├── NewestNotVerified               prune: the newest backup has no evidence
    │   ├── TargetExists                    restore: the database is there already
    │   ├── TargetInUse                     restore: sessions hold the live database
    │   ├── TargetUnsuitable                restore: version, right, role, locale or room
    │   ├── BackupRunning                   another backup of the database is not done yet
    │   ├── BackupTooOld                    no verified backup is as young as somebody needs
    │   ├── NotConfirmed                    restore: nobody said yes
    │   ├── NoIdentity                      what is encrypted takes a key that is not here
    │   └── ClientTooOld                    no pg_dump on this machine can read the server
    ├── NotFound                        4   no such backup, table or database
    ├── PostgresUnreachable             5   no connection could be made
    │   ├── PostgresDenied                  the server answered, and refused the login
    │   └── PostgresSilent                  nothing comes from it any more
    ├── PostgresFailed                  1   the server or one of its tools reported an error
    │   ├── ChildFailed                     pg_dump or another child ended badly
    │   └── TableLocked                     somebody held a table for too long
    ├── StoreError                      6   the object store did not do as asked
    │   ├── StoreUnreachable                no answer, after every retry
    │   ├── StoreDenied                     credentials or policy
    │   ├── BucketMissing                   no such bucket
    │   ├── ObjectMissing                   no such key
    │   └── ObjectExists                    the key is taken (If-None-Match)
    └── VerificationFailed              7   the stored bytes are not what was dumped

The number is the exit code of the command line.  130 is an interruption and has no class:
it stays Python's `KeyboardInterrupt`.  Each error carries a hint for the operator.
"""

from typing import ClassVar


class BackupPipelineError(Exception):
    """What went wrong, and in `hint` what the operator can do about it."""

    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "The log of this run says more."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    @property
    def notes(self) -> tuple[str, ...]:
        """What else went wrong on the way out, such as what could not be taken back."""
        return notes_of(self)


def notes_of(error: BaseException) -> tuple[str, ...]:
    """What `add_note` added to an error (PEP 678)."""
    return tuple(getattr(error, "__notes__", ()))


class InvalidInput(BackupPipelineError):
    """A flag, a setting or a name can't be used."""

    exit_code = 2
    default_hint = "Correct the value and run the command again."


class Refused(BackupPipelineError):
    """Nothing was changed, because going on could have harmed data."""

    exit_code = 3


class NewestNotVerified(Refused):
    """Nothing is deleted while the newest backup has no evidence."""

    default_hint = "Run `backup-pipeline verify --latest`, then prune again."


class TargetExists(Refused):
    """The database to restore into exists already."""

    default_hint = "Choose another name with --into, or swap the live database with --replace."


class TargetInUse(Refused):
    """Sessions are connected to the database that would be switched."""

    default_hint = (
        "Stop the clients, give them time with --wait, or end their sessions with --disconnect."
    )


class TargetUnsuitable(Refused):
    """The target server lacks something that the backup needs."""


class BackupRunning(Refused):
    """Another backup of the same database is not done yet."""

    default_hint = "Wait for it, or end it; BACKUP_LOCK_TIMEOUT says how long the next one waits."


class BackupTooOld(Refused):
    """No verified backup is as young as somebody needs."""

    default_hint = "Make one first: `backup-pipeline backup`, or the job in Dagster."


class NotConfirmed(Refused):
    """Nobody confirmed."""

    default_hint = "Answer yes at the prompt, or give --no-confirm in scripts."


class NoIdentity(Refused):
    """A backup is encrypted, and no identity that decrypts it is here."""

    default_hint = (
        "Name the file with the private key by --identity or BACKUP_IDENTITY_FILE; "
        "`backup-pipeline show` tells the public keys for which a backup is encrypted."
    )


class ClientTooOld(Refused):
    """No pg_dump on this machine can read a server this new."""

    default_hint = "Install the PostgreSQL client tools of the server's major version."


class NotFound(BackupPipelineError):
    """No such backup, or no such database."""

    exit_code = 4
    default_hint = "`backup-pipeline list` shows what there is."


class PostgresUnreachable(BackupPipelineError):
    """No connection to PostgreSQL could be made."""

    exit_code = 5
    default_hint = "Check PGHOST, PGPORT and PGUSER, and whether the server is up."


class PostgresDenied(PostgresUnreachable):
    """The server answered and refused the login: role, password, database or pg_hba.conf."""

    default_hint = "Check PGUSER, PGDATABASE and the password, and the server's pg_hba.conf."


class PostgresSilent(PostgresUnreachable):
    """The server, or the network on the way to it, fell silent without closing a connection."""

    default_hint = (
        "Look at the server and the network between, and run it again; BACKUP_POSTGRES_TIMEOUT "
        "says how long a silence may last."
    )


class PostgresFailed(BackupPipelineError):
    """The server, or one of PostgreSQL's own tools, reported an error."""


class ChildFailed(PostgresFailed):
    """A child process ended with another code than 0."""


class TableLocked(PostgresFailed):
    """Somebody held a table that has to be dumped for longer than a dump waits."""

    default_hint = "Run it when nobody rewrites tables, or raise BACKUP_LOCK_TIMEOUT."


class StoreError(BackupPipelineError):
    """The object store did not do as it was asked."""

    exit_code = 6
    default_hint = "`backup-pipeline check` looks at the bucket step by step."


class StoreUnreachable(StoreError):
    """The object store gave no usable answer within the retries."""

    default_hint = "Check AWS_ENDPOINT_URL_S3 and the network between here and the store."


class StoreDenied(StoreError):
    """The object store refused the credentials, or its policy forbids the call."""

    default_hint = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy."


class BucketMissing(StoreError):
    """The bucket does not exist."""

    default_hint = "Create the bucket, or correct BACKUP_BUCKET."


class ObjectMissing(StoreError):
    """There is no object of this key."""


class ObjectExists(StoreError):
    """An object of this key exists already, and is never overwritten."""

    default_hint = "Another run made a backup of this name in the same second; run again."


class VerificationFailed(BackupPipelineError):
    """The stored bytes are not, or not all, of what was dumped."""

    exit_code = 7
    default_hint = "Make a new backup now; don't delete older ones before it is verified."
