"""Run the benchmarks: `python -m benchmarks [memory] [--repetitions N] [--verbs ...]`."""

import argparse

from benchmarks import memory


def main() -> None:
    """Run what was asked for, by default all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", nargs="?", choices=["memory"], default="memory")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--small", type=int, default=100, help="MB of SQL, the smaller database")
    parser.add_argument("--large", type=int, default=2000, help="MB of SQL, the larger database")
    parser.add_argument("--verbs", nargs="+", choices=memory.VERBS, default=memory.VERBS)
    given = parser.parse_args()
    memory.run(given.repetitions, given.small, given.large, given.verbs)


main()
