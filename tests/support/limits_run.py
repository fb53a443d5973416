"""Runs the cases first .. last of limits_cases on the given paths, for tests and by hand.

    python tests/support/limits_run.py FIRST LAST PATH,PATH,...

Prints every failure and, at the end, how many networks were trained; exit code 1 for a failure."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.limits_cases import random_case, run_case


def main(first: int, last: int, paths: tuple[str, ...]) -> int:
    tally: Counter[str] = Counter()
    for seed in range(first, last):
        sys.stderr.write(f"{seed}\n" if seed % 50 == 0 else "")
        case = random_case(seed)
        try:
            outcome = run_case(case, paths)
        except Exception as error:
            tally["failed"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            sys.stdout.write(
                f"case {seed}: {type(error).__name__}: {str(error)[:300]} "
                f"({Path(place.filename).name}:{place.lineno})\n"
            )
            sys.stdout.flush()
            continue
        tally.update(f"{path} built" for path in outcome.built)
        tally["cases"] += 1
        tally["trained"] += outcome.stepped
        tally["refused by all"] += not outcome.built
    for what, count in sorted(tally.items()):
        sys.stdout.write(f"{what}: {count}\n")
    return 1 if tally["failed"] else 0


if __name__ == "__main__":
    start, stop, names = sys.argv[1:]
    sys.exit(main(int(start), int(stop), tuple(names.split(","))))
