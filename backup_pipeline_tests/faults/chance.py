"""How often a fault is tried, and by which dice.

`BACKUP_TEST_REPETITIONS=full` has each test try as often as the catalogue of faults asks for, as
`make test-faults` does; without it a small sample has to do.
`BACKUP_TEST_SEED` throws the dice of an earlier run again.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """The dice of one test."""

    def __init__(self, outside: Mapping[str, str]) -> None:
        self._full = outside.get("BACKUP_TEST_REPETITIONS") == "full"
        self.seed = int(outside.get("BACKUP_TEST_SEED", random.randrange(10**6)))  # noqa: S311
        self.random = random.Random(self.seed)  # noqa: S311
        print(f"BACKUP_TEST_SEED={self.seed}")  # noqa: T201  # whoever sees this fail needs it

    def times(self, sample: int, full: int) -> range:
        """So many repetitions."""
        return range(full if self._full else sample)

    def some(self, choices: Sequence[T], sample: int) -> Sequence[T]:
        """All choices, or some of them."""
        return choices if self._full else self.random.sample(choices, min(sample, len(choices)))
