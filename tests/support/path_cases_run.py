"""Random products on all paths of one kind: python tests/support/path_cases_run.py PATHS SEED COUNT

PATHS: the start of the names of the paths, separated by commas.  Prints how many cases each path
took; ends with the first difference from NumPy's int64, if there is one.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.path_cases import difference, exact, finished, random_case, run_case, runners, said


def main(starts: str, seed: int, count: int) -> None:
    chosen = {
        name: run
        for name, run in runners().items()
        if any(name.startswith(start) for start in starts.split(","))
    }
    taken = Counter()
    rng = np.random.default_rng(seed)
    for number in range(count):
        case = random_case(rng)
        wanted = finished(exact(case), case)
        for name, run in chosen.items():
            got = run_case(case, run)
            if got is None:
                continue
            taken[name, case.kind] += 1
            found = difference(got, wanted)
            if found:
                sys.exit(f"case {number} of seed {seed}, {name}: {found}\n{said(case)}")
    for (name, kind), cases in sorted(taken.items()):
        print(f"{name}, {kind}: {cases}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
