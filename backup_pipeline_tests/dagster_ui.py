"""A running Dagster, asked through GraphQL exactly as its own UI asks."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backup_pipeline.embedded.leash import Command, Leashed
from backup_pipeline.embedded.ports import LOOPBACK, choose_ports

ROOT = Path(__file__).parent.parent
LOCATION = "backup_pipeline"
WAYS = {
    "dagster dev": ("-m", "dagster", "dev"),
    "dagster dev -w workspace.yaml": ("-m", "dagster", "dev", "-w", "workspace.yaml"),
    "dg dev": ("-m", "dagster_dg_cli.cli", "dev"),
}
_STARTED_WITHIN = 90.0
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

_LOCATIONS = """
    { workspaceOrError { ... on Workspace { locationEntries {
        name loadStatus locationOrLoadError { __typename } } } } }
"""
_LAUNCH = """
    mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
        __typename
        ... on LaunchRunSuccess { run { runId } }
        ... on PythonError { message }
        ... on InvalidSubsetError { message }
        ... on RunConfigValidationInvalid { errors { message } } } }
"""
_TERMINATE = """
    mutation($run: String!) { terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) {
        __typename ... on PythonError { message } } }
"""
_CHECKS = """
    query($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) {
        ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks { name } } } } } }
"""
_FRESHNESS = """
    query($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) {
        ... on AssetNode { freshnessStatusInfo { freshnessStatus } } } }
"""
_RUN = """
    query($run: ID!) { runOrError(runId: $run) { ... on Run { status startTime endTime } } }
"""


@dataclass(frozen=True)
class DagsterUI:
    """Webserver and daemon of the project."""

    url: str
    home: Path

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The answer to a GraphQL query or mutation."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)  # noqa: S310  # ours
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            answered = json.load(answer)
        assert "errors" not in answered, answered
        data = answered["data"]
        assert isinstance(data, dict)
        return data

    def locations(self) -> dict[str, str]:
        """The code locations, and what became of loading each."""
        entries = self.ask(_LOCATIONS)["workspaceOrError"]["locationEntries"]
        return {
            entry["name"]: (entry["locationOrLoadError"] or {}).get("__typename", "LOADING")
            for entry in entries
        }

    def launch(self, job: str, config: Mapping[str, object] | None = None) -> str:
        """Start a run of a job as the launchpad does; gives its id."""
        return self._launch({"pipelineName": job}, config or {})

    def materialize(self, asset: Sequence[str]) -> str:
        """Materialize one asset, and run its checks; gives the run's id."""
        selector = {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [*asset]}]}
        return self._launch(selector, {})

    def freshness(self, asset: Sequence[str]) -> str:
        """What the daemon says of an asset's declared freshness."""
        found = self.ask(_FRESHNESS, asset={"path": [*asset]})["assetNodeOrError"]
        return str((found["freshnessStatusInfo"] or {}).get("freshnessStatus"))

    def run_checks(self, asset: Sequence[str]) -> str:
        """Run the checks of an asset that have a step of their own; gives the run's id."""
        path = {"path": [*asset]}
        checks = self.ask(_CHECKS, asset=path)["assetNodeOrError"]["assetChecksOrError"]["checks"]
        selector = {
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [],
            "assetCheckSelection": [{"assetKey": path, "name": check["name"]} for check in checks],
        }
        return self._launch(selector, {})

    def _launch(self, what: Mapping[str, object], config: Mapping[str, object]) -> str:
        project = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
        params = {"selector": {**project, **what}, "runConfigData": config}
        answer = self.ask(_LAUNCH, params=params)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        run_id = answer["run"]["runId"]
        assert isinstance(run_id, str)
        return run_id

    def cancel(self, run: str) -> None:
        """Ask a run to end, as the UI's button does."""
        answer = self.ask(_TERMINATE, run=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run(self, run: str) -> dict[str, Any]:
        """A run's status, and when it began and ended."""
        found = self.ask(_RUN, run=run)["runOrError"]
        assert isinstance(found, dict)
        return found

    def wait(self, run: str, timeout: float = 120) -> str:
        """Wait for a run to end; gives its status."""
        deadline = time.monotonic() + timeout
        while (status := str(self.run(run)["status"])) not in _ENDED:
            assert time.monotonic() < deadline, f"the run is still {status}"
            time.sleep(0.3)
        return status


@contextmanager
def started(
    home: Path, environment: Mapping[str, str], way: Sequence[str] = WAYS["dagster dev"]
) -> Iterator[DagsterUI]:
    """A webserver and a daemon on a free port, and ended with all that they have started."""
    (home / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    (port,) = choose_ports(1, home / "port")
    venv = Path(sys.prefix)
    command = Command(
        arguments=[sys.executable, *way, "-h", LOOPBACK, "-p", f"{port}"],
        environment={
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(venv),
            "HOME": str(home),
            "DAGSTER_HOME": str(home),
            **environment,
        },
        directory=ROOT,
        grace=20,
    )
    log = home / "dagster.log"
    process = Leashed(command, log)
    try:
        ui = DagsterUI(f"http://{LOOPBACK}:{port}", home)
        _wait_until_loaded(ui, process, log)
        yield ui
    finally:
        process.stop()


def processes_of(home: Path) -> list[str]:
    """What still runs with this DAGSTER_HOME."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DAGSTER_HOME") == str(home):
                left.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended, or is somebody else's
            continue
    return left


def _wait_until_loaded(ui: DagsterUI, process: Leashed, log: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN
    while True:
        try:
            if ui.locations().get(LOCATION) == "RepositoryLocation":
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass  # it does not listen yet
        said = log.read_text(errors="replace")[-3000:]
        assert process.running(), said
        assert time.monotonic() < deadline, said
        time.sleep(0.3)
