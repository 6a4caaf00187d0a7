"""`check`: what works, what does not, and what to do about it."""

from datetime import UTC, datetime, timedelta

import click

from backup_pipeline.cli.output import Output, Table, command


@click.command(short_help="Say what is wrong, and what to do about it.")
@command
def check(output: Output) -> None:
    """Look at PostgreSQL, also where drills restore, the client tools, the bucket, the rights and
    the clocks.
    """
    from backup_pipeline.engine.diagnosis import diagnose
    from backup_pipeline.settings import load_settings

    settings = load_settings()
    findings = list(
        diagnose(
            settings.server(),
            settings.clients_dirs(),
            settings.store(),
            settings.keys(),
            clock=lambda: datetime.now(UTC),
            minimums=settings.minimums,
            fresh_for=timedelta(hours=settings.freshness_hours),
            stale_after=settings.stale_after,
            drills=settings.drill_server() if settings.drill_dsn else None,
            recipients=settings.public_keys(),
            identities=settings.identities(),
            globals_=settings.globals,
        )
    )
    code = next((finding.exit_code for finding in findings if finding.exit_code), 0)
    output.document(
        {
            "exit_code": code,
            "findings": [
                {
                    "subject": finding.subject,
                    "level": str(finding.level),
                    "message": finding.message,
                    "advice": finding.advice,
                }
                for finding in findings
            ],
        }
    )
    output.table(
        Table(
            columns=("", "what", "finding", "what to do"),
            rows=[(str(f.level), f.subject, f.message, f.advice) for f in findings],
        )
    )
    click.get_current_context().exit(code)
