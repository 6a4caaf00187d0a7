"""The command line: works on the bucket and the server directly, without Dagster.

Exit codes are those of `errors.py`, and 130 after an interruption.
"""

import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import click

from backup_pipeline.cli.adopt import adopt
from backup_pipeline.cli.backup import backup, prune, verify
from backup_pipeline.cli.check import check
from backup_pipeline.cli.demo import demo, dev
from backup_pipeline.cli.drill import drill
from backup_pipeline.cli.globals import write_globals
from backup_pipeline.cli.keep import keep, unkeep
from backup_pipeline.cli.metrics import metrics
from backup_pipeline.cli.output import printable
from backup_pipeline.cli.restore import restore
from backup_pipeline.cli.show import list_backups, show
from backup_pipeline.cli.sync import sync
from backup_pipeline.errors import BackupPipelineError, InvalidInput, NotConfirmed, notes_of

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="backup-pipeline")
def commands() -> None:
    """PostgreSQL backups that prove themselves.

    Servers and credentials come from libpq's PG* and boto3's AWS_* variables, everything else
    from BACKUP_* variables or backup.yaml.
    """


for each in (
    backup,
    list_backups,
    show,
    verify,
    drill,
    prune,
    keep,
    unkeep,
    restore,
    write_globals,
    sync,
    adopt,
    check,
    metrics,
    demo,
    dev,
):
    commands.add_command(each)


def main() -> None:
    """The console script."""
    # A command ends before its garbage matters; collecting took a third of a long listing.
    gc.set_threshold(200_000)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    code = run(sys.argv[1:])
    # At the end Python looks through all that is left for garbage: a quarter of a short command.
    gc.freeze()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; gives the exit code, and is the only place where errors are shown."""
    as_json = "--json" in arguments
    try:
        code = commands.main(list(arguments), prog_name="backup-pipeline", standalone_mode=False)
    except BackupPipelineError as error:
        return _show(error, error.exit_code, as_json=as_json)
    except click.ClickException as error:
        return _show(_from_click(error), error.exit_code, as_json=as_json)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__ or error.__context__, EOFError):
            refused = NotConfirmed("the input ended before anybody said yes")
            return _show(refused, refused.exit_code, as_json=as_json)
        stopped = BackupPipelineError("interrupted", hint="Run the command again.")
        # Click puts an error of its own in the place of the interruption.
        for note in notes_of(error.__cause__ or error):
            stopped.add_note(note)
        return _show(stopped, INTERRUPTED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - beyond this nobody is left to tell the operator
        unforeseen = BackupPipelineError(
            f"{type(error).__name__}: {error}",
            hint="This should not happen: run it again with BACKUP_DEBUG=1, and report it.",
        )
        return _show(unforeseen, unforeseen.exit_code, as_json=as_json)
    return code if isinstance(code, int) else 0


def _show(error: BackupPipelineError, exit_code: int, *, as_json: bool) -> int:
    if os.environ.get("BACKUP_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)
    if as_json:
        document = {
            "error": "Interrupted" if exit_code == INTERRUPTED else type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "notes": error.notes,
            "exit_code": exit_code,
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        told = [("error", error.message), *(("note", note) for note in error.notes)]
        for word, text in (*told, ("hint", error.hint)):
            click.echo(f"{word}: {printable(text)}", err=True)
    return exit_code


def _from_click(error: click.ClickException) -> InvalidInput:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "backup-pipeline"
    return InvalidInput(error.format_message(), hint=f"`{path} --help` shows what there is.")


def _interrupt(number: int, _: FrameType | None) -> None:
    """End as Ctrl-C does, so that what was begun is taken back."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
