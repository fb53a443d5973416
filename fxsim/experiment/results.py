"""What the designs of an experiment came to: results.json, written anew after each design, and
curves.csv, after each epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from fxsim import machine
from fxsim.analysis.complexity import Complexity
from fxsim.errors import InputError
from fxsim.files import read_json, write_text
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.loop import Epoch

FILE = "results.json"
KIND = "fxsim results"
CURVES = "curves.csv"
COLUMNS = ("design", *(field.name for field in dataclasses.fields(Epoch)))


@dataclass(frozen=True)
class Outcome:
    """What one design came to.

    design: 'FL', 'FX C_o', 'FX C_-1' ...  counts: tensor 'layer.tensor' -> elements, below, above,
    flushed, over all of training.  stopped: layer -> non-zero updates that did not move a weight's
    code.  sums: see exact_sums. fingerprint: SHA-256 of all parameter codes; None for float
    designs.  measured: see train/measured.py. overflows: 'layer.kind' -> sums, overflows of their
    accumulator, over all of training; without accumulators empty."""

    design: str
    epochs: list[Epoch]
    costs: Complexity
    seconds: float
    assignment: PrecisionAssignment | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    sums: dict[str, dict] = field(default_factory=dict)
    fingerprint: str | None = None
    measured: dict = field(default_factory=dict)
    overflows: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Plain data for results.json; epochs count from 1 there."""
        last = self.epochs[-1]
        return {
            "design": self.design,
            "test_error": last.test_error,
            "test_loss": last.test_loss,
            "train_loss": last.train_loss,
            "seconds": round(self.seconds, 3),
            "fingerprint": self.fingerprint,
            "costs": self.costs.to_dict(),
            "epochs": [epoch_row(epoch) for epoch in self.epochs],
            "counts": self.counts,
            "stopped": self.stopped,
            "sums": self.sums,
            "measured": self.measured,
            "overflows": self.overflows,
            "assignment": self.assignment.to_dict() if self.assignment else None,
        }

    @classmethod
    def from_dict(cls, row: dict, costs: Complexity) -> Outcome:
        """The outcome, with these costs, that `to_dict` gave."""
        epochs = [Epoch(**epoch | {"epoch": epoch["epoch"] - 1}) for epoch in row["epochs"]]
        assignment = PrecisionAssignment.from_dict(row["assignment"]) if row["assignment"] else None
        return cls(
            row["design"],
            epochs,
            costs,
            row["seconds"],
            assignment,
            row["counts"],
            row["stopped"],
            row["sums"],
            row["fingerprint"],
            row["measured"],
            row.get("overflows", {}),
        )


def exact_sums(network: FixedNetwork, batch: int) -> dict[str, dict]:
    """For each layer and product (forward, input_grad, weight_grad): terms, accumulator bits and
    kernel path.

    The bits hold every partial sum exactly; hardware that adds without loss needs as many.  Where
    the sums are in an accumulator all the same, its text.  The first layer has no input_grad.
    """
    rows = {}
    for layer, source in network.network.edges():
        own = network.layers[layer.name]
        plans = {
            "forward": own.forward_product.plan,
            "input_grad": own.input_grad.plan if source else None,
            "weight_grad": own.weight_grad.plan_of(batch),
        }
        models = {
            product.kind: {"accumulator": str(product.accumulator)}
            for product in own.weighted
            if product.accumulator
        }
        rows[layer.name] = {
            name: {
                "terms": plan.terms,
                "bits": plan.accumulator_bits,
                "path": plan.path,
                **models.get(name, {}),
            }
            for name, plan in plans.items()
            if plan
        }
    return rows


class Results:
    """The designs trained with one set of settings in one folder.

    data: what results.json holds; designs that it holds already are kept.  command: the command
    line, recorded with each design.  Raises InputError where the folder has results of other
    settings."""

    def __init__(self, folder: Path, settings: dict, command: str = ""):
        self.folder = folder
        self.command = command
        settings = json.loads(json.dumps(settings))  # tuples to lists, as they come back
        self.data = {"kind": KIND, "version": 1, "settings": settings, "designs": []}
        if (folder / FILE).exists():
            self.data = read_results(folder)
            if self.data["settings"] != settings:
                raise InputError(
                    f"{folder / FILE} holds results of other settings; choose another folder"
                )

    def add(self, outcome: Outcome) -> None:
        """Take in one design, in place of an earlier one of the same name, and write both files."""
        row = {"command": self.command, "machine": machine.describe(), **outcome.to_dict()}
        designs = self.data["designs"]
        names = [design["design"] for design in designs]
        at = names.index(outcome.design) if outcome.design in names else len(designs)
        designs[at : at + 1] = [row]
        write_curves(self.folder, {design["design"]: design["epochs"] for design in designs})
        self._write()

    def put(self, name: str, value) -> None:
        """Plain data about the experiment as a whole, beside its designs."""
        self.data[name] = value
        self._write()

    def _write(self) -> None:
        write_text(self.folder / FILE, json.dumps(self.data, indent=1) + "\n")


def read_results(folder: str | Path) -> dict:
    """The results.json in `folder`; InputError where it is none."""
    path = Path(folder) / FILE
    data = read_json(path)
    if (
        not isinstance(data, dict)
        or data.get("kind") != KIND
        or not {"settings", "designs"} <= data.keys()
    ):
        raise InputError(f"{path} is no results file of fxsim; choose another folder")
    return data


def finished(
    folder: Path, settings: dict, design: str, assignment: PrecisionAssignment | None
) -> dict | None:
    """The row of results.json of `design`, if it was trained there with these settings and this
    assignment.
    """
    if not (folder / FILE).exists():
        return None
    data = read_results(folder)
    wanted = json.loads(
        json.dumps([settings, design, assignment.to_dict() if assignment else None])
    )
    rows = [
        row
        for row in data["designs"]
        if [data["settings"], row["design"], row["assignment"]] == wanted
    ]
    return rows[0] if rows else None


def write_curves(folder: Path, epochs: dict[str, list[dict]]) -> None:
    """Put the epochs (plain data, counted from 1) of these designs into curves.csv, in place of the
    rows they had.

    The rows of other designs stay: they may be under way beside this one.
    """
    path = folder / CURVES
    designs = _read_curves(path)
    if not designs and not any(epochs.values()):
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for design, rows in (designs | epochs).items():
        writer.writerows({"design": design, **row} for row in rows)
    write_text(path, text.getvalue())


def _read_curves(path: Path) -> dict[str, list[dict]]:
    """The rows of each design in curves.csv; none where it is missing or somebody else's."""
    designs: dict[str, list[dict]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader if reader.fieldnames == list(COLUMNS) else ():
                designs.setdefault(row["design"], []).append(row)
    except (OSError, ValueError, csv.Error):
        return {}
    return designs


def epoch_row(epoch: Epoch) -> dict:
    """Plain data for results.json and curves.csv, where epochs count from 1."""
    return dataclasses.asdict(epoch) | {"epoch": epoch.epoch + 1}
