"""The four costs of all five designs for the paper's four networks.

    python benchmarks/costs.py [STUDY ...]

STUDY: names of studies in benchmarks/results (study-NAME.json), whose first run of FX C_o gives FX
and SQ their formats, whatever the width that the run had.  A network without a study takes the
formats of the one with the same layers on other data.  Prints the table and writes
benchmarks/results/costs.json, where each row of FX and SQ says whose formats it has."""

from __future__ import annotations

import argparse
import dataclasses
import json

from runs import RESULTS, write_result

from fxsim.errors import InputError
from fxsim.nn import networks
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report.tables import text_table
from fxsim.report.text import METRICS
from fxsim.train.designs import DESIGNS, FIXED, costs

RELATIVES = {
    "svhn-convnet": "cifar10-convnet",
    "cifar10-convnet": "svhn-convnet",
    "cifar100-resnet": "cifar10-resnet",
    "cifar10-resnet": "cifar100-resnet",
}
STUDIES = ("cifar10-convnet-full", "cifar10-resnet-narrow")
SETTINGS = ("network", "width", "dataset", "images", "epochs", "batch", "learning_rate", "seed")


def read_study(name: str) -> tuple[PrecisionAssignment, dict]:
    """The formats that the study's first run of C_o had, and where they come from."""
    result = json.loads((RESULTS / f"study-{name}.json").read_text())
    chosen = next(run for run in result["runs"] if run["design"] == "FX C_o")
    settings = {key: result["settings"][key] for key in SETTINGS if key != "seed"}
    source = {"study": name, **settings, "seed": chosen["seed"], "commit": result["commit"]}
    return PrecisionAssignment.from_dict(chosen["assignment"]), source


def cost_rows(name: str, runs: dict[str, tuple[PrecisionAssignment, dict]]) -> list[dict]:
    network = networks.build(name)
    (assignment, settings) = runs.get(name) or runs.get(RELATIVES[name]) or (None, None)
    rows = []
    for design in DESIGNS:
        if design in FIXED and assignment is None:
            raise InputError(
                f"no study of {name} or {RELATIVES[name]} is given, which {design} takes its formats "
                f"from"
            )
        own = dataclasses.replace(assignment, network=name) if design in FIXED else None
        total = dataclasses.asdict(costs(design, network, own).total)
        rows.append(
            {"network": name, "design": design, **total, "formats_of": settings if own else None}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", default=STUDIES, metavar="STUDY")
    found = map(read_study, parser.parse_args().studies)
    runs = {assignment.network: (assignment, settings) for assignment, settings in found}
    rows = [row for name in RELATIVES for row in cost_rows(name, runs)]
    write_result("costs", rows=rows)
    header = ("network", "design", "C_W [Mb]", "C_A [Mb]", "C_M [GFA]", "C_C [Mb]")
    print(text_table(header, map(_cells, rows), "llrrrr"))


def _cells(row: dict) -> list[str]:
    units = zip(METRICS, (1e6, 1e6, 1e9, 1e6))
    return [row["network"], row["design"], *(f"{row[name] / unit:,.3g}" for name, unit in units)]


if __name__ == "__main__":
    main()
