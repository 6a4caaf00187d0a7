"""Run benchmarks: `python -m benchmarks [memory | listing]`."""

import argparse

from benchmarks import listing, memory


def main() -> None:
    """Run what was asked for, by default all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", nargs="?", choices=["memory", "listing"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--small", type=int, default=100, help="MB of SQL, the smaller database")
    parser.add_argument("--large", type=int, default=2000, help="MB of SQL, the larger database")
    parser.add_argument("--verbs", nargs="+", choices=memory.VERBS, default=memory.VERBS)
    parser.add_argument("--backups", nargs="+", type=int, default=[10, 100, 1000, 10_000])
    given = parser.parse_args()
    if given.benchmark in (None, "memory"):
        memory.run(given.repetitions, given.small, given.large, given.verbs)
    if given.benchmark in (None, "listing"):
        listing.run(given.repetitions, given.backups)


main()
