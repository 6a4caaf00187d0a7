"""What the README tells people to type does what it says, on real servers."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.embedded.services import Services
from backup_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\|[^|]*\| `(backup-pipeline [^`]*)` \|", README, re.MULTILINE)


def typed(*, make: bool) -> list[str]:
    return [block for block in BLOCKS if block.startswith("make ") == make]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """An environment as `. .backup-pipeline/env` makes it, with a small sample and a backup."""
    with Services(tmp_path_factory.mktemp("readme") / "services") as services:
        services.start()
        load_sample(services.dsn, megabytes=4)
        ours = (Path(sys.executable).parent, services.postgres.bin_dir)
        path = os.pathsep.join([*map(str, ours), os.environ["PATH"]])
        env = {**os.environ, **services.environment(), "PATH": path}
        laptop = tmp_path_factory.mktemp("laptop") / "services.conf"
        laptop.write_text(f"[laptop]\nhost=127.0.0.1\nport={env['PGPORT']}\n")
        env["PGSERVICEFILE"] = str(laptop)
        run("backup-pipeline backup", env, ROOT)
        yield env


def run(script: str, env: Mapping[str, str], directory: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=dict(env),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_blocks_work_one_after_the_other(shell: Mapping[str, str], tmp_path: Path) -> None:
    blocks = typed(make=False)
    assert len(blocks) == 3
    for block in blocks:
        if "aws " in block and not shutil.which("aws"):
            pytest.skip("the aws command line is not installed; all the other blocks passed")
        run(block, shell, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_works(
    shell: Mapping[str, str], tmp_path: Path, command: str
) -> None:
    name = run("backup-pipeline list | head -n 1 | cut -f 1", shell, tmp_path).strip()
    soon = datetime.now() + timedelta(minutes=1)  # noqa: DTZ005  # local, as people type it
    exact = command.replace("NAME", name).replace("2025-12-10T12:00", f"{soon:%Y-%m-%dT%H:%M}Z")
    if "restore" in exact or "sync" in exact:
        exact += " --no-confirm"
        if "--replace" not in exact:
            exact += f" --into restored_{abs(hash(command)) % 10**6}"
    run(exact, shell, tmp_path)


def test_the_make_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert typed(make=True) == ["make demo\n", "make test\n"]
    assert all(block.strip() in ci for block in typed(make=True))


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `BACKUP_(\w+)` \| `?([^|`]*)`? \|", README, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        assert name.upper() in rows, f"BACKUP_{name.upper()} is not documented"
        default = field.default
        if isinstance(default, str | int | float) and default != "auto":
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert rows[name.upper()] == shown
    assert set(rows) == {name.upper() for name in Settings.model_fields} | {"CONFIG"}
