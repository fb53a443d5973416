"""The four costs of all five designs for the paper's four networks.

    python benchmarks/costs.py RUN [RUN ...]

RUN: folders of `fxsim run` or `fxsim assign`, whose assignment.json gives FX and SQ their formats,
whatever the width that the run had.  A network without a run takes the formats of the one with the
same layers on other data.  Prints the table and writes benchmarks/results/costs.json, where each
row of FX and SQ says whose formats it has."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from runs import write_result

from fxsim.errors import InputError
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import SETTINGS_FILE
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
SETTINGS = ("network", "width", "dataset", "images", "epochs", "batch", "learning_rate", "seed")


def read_run(folder: Path) -> tuple[PrecisionAssignment, dict]:
    settings = Settings.load(folder / SETTINGS_FILE).to_dict()
    return PrecisionAssignment.load(folder / "assignment.json"), {
        name: settings[name] for name in SETTINGS
    }


def cost_rows(name: str, runs: dict[str, tuple[PrecisionAssignment, dict]]) -> list[dict]:
    network = networks.build(name)
    (assignment, settings) = runs.get(name) or runs.get(RELATIVES[name]) or (None, None)
    rows = []
    for design in DESIGNS:
        if design in FIXED and assignment is None:
            raise InputError(
                f"no run of {name} or {RELATIVES[name]} is given, which {design} takes its formats "
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
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    found = map(read_run, parser.parse_args().runs)
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
