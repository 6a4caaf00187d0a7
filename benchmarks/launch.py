"""Runs a command and writes what it took into a file: `launch.py FILE COMMAND ...`.

A process of its own and a small one, because what a process held before it became the command
counts as the command's: no child of the benchmark itself would seem smaller than the benchmark.
"""

import os
import sys
import time

file, *argv = sys.argv[1:]
started = time.monotonic()
_, status, usage = os.wait4(os.posix_spawnp(argv[0], argv, os.environ), 0)
seconds = time.monotonic() - started
with open(file, "w") as written:  # noqa: PTH123 - pathlib would double what this process holds
    # Linux counts memory in KiB.
    print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=written)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
