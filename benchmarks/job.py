"""How long does the Dagster job take, from nothing: `python -m benchmarks.job`.

One process, Dagster's in-process executor, both servers and the sample database of the demo.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.embedded.services import Services

REPETITIONS = 5


def main() -> None:
    """Start the servers, load the definitions, and run the job a few times."""
    begun = time.perf_counter()
    import dagster as dg

    steps = {"import dagster": time.perf_counter() - begun}
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as directory,
        Services(Path(directory, "services")) as services,
    ):
        begun = time.perf_counter()
        services.start()
        steps["start both servers, the first time"] = time.perf_counter() - begun
        load_sample(services.dsn)
        services.stop()
        begun = time.perf_counter()
        services.start()
        steps["start both servers again"] = time.perf_counter() - begun
        os.environ.update(services.environment(), BACKUP_PG_BIN_DIRS=str(services.postgres.bin_dir))
        begun = time.perf_counter()
        from backup_pipeline.definitions import defs

        job = defs.resolve_job_def("database_backup_pipeline")
        steps["load the definitions"] = time.perf_counter() - begun
        took = []
        for _ in range(REPETITIONS):
            begun, used = time.perf_counter(), time.process_time()
            with dg.DagsterInstance.ephemeral() as instance:
                assert job.execute_in_process(instance=instance).success
            took.append((time.perf_counter() - begun, time.process_time() - used))
        steps["the job"] = statistics.median(seconds for seconds, _ in took)
        steps["of that CPU of this process"] = statistics.median(cpu for _, cpu in took)
    for name, seconds in steps.items():
        sys.stdout.write(f"{name:<36} {seconds:6.2f} s\n")


if __name__ == "__main__":
    main()
