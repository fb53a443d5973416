"""What the designs of an experiment came to: results.json and curves.csv, written anew after each design."""
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
from fxsim.nn.fixed import FixedNetwork
from fxsim.precision import PrecisionAssignment
from fxsim.train.loop import Epoch

FILE, KIND = "results.json", "fxsim results"


@dataclass(frozen=True)
class Outcome:
    """What one design came to.

    design: 'FL', 'FX C_o', 'FX C_-1' ...  counts: tensor 'layer.tensor' -> elements, below, above, flushed, over all
    of training.  stopped: layer -> non-zero updates that did not move a weight's code.  sums: see exact_sums.
    fingerprint: SHA-256 of all parameter codes; None for float designs.
    """

    design: str
    epochs: list[Epoch]
    costs: Complexity
    seconds: float
    assignment: PrecisionAssignment | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    sums: dict[str, dict] = field(default_factory=dict)
    fingerprint: str | None = None

    def to_dict(self) -> dict:
        """Plain data for results.json; epochs count from 1 there."""
        last = self.epochs[-1]
        return {"design": self.design, "test_error": last.test_error, "test_loss": last.test_loss,
                "train_loss": last.train_loss, "seconds": round(self.seconds, 3), "fingerprint": self.fingerprint,
                "costs": self.costs.to_dict(),
                "epochs": [dataclasses.asdict(epoch) | {"epoch": epoch.epoch + 1} for epoch in self.epochs],
                "counts": self.counts, "stopped": self.stopped, "sums": self.sums,
                "assignment": self.assignment.to_dict() if self.assignment else None}


def exact_sums(network: FixedNetwork, batch: int) -> dict[str, dict]:
    """For each layer and product (forward, input_grad, weight_grad): terms, accumulator bits and kernel path.

    The bits hold every partial sum exactly; hardware that adds without loss needs as many.  The first layer
    has no input_grad.
    """
    rows = {}
    for layer, source in network.network.edges():
        products = network.products[layer.name]
        plans = {"forward": products.forward_plan, "input_grad": products.input_grad_plan if source else None,
                 "weight_grad": products.weight_grad_plan(batch)}
        rows[layer.name] = {name: {"terms": plan.terms, "bits": plan.accumulator_bits, "path": plan.path}
                            for name, plan in plans.items() if plan}
    return rows


class Results:
    """The designs trained with one set of settings in one folder.

    data: what results.json holds; designs that it holds already are kept.  command: the command line, recorded
    with each design.  Raises InputError where the folder has results of other settings.
    """

    def __init__(self, folder: Path, settings: dict, command: str = ""):
        self.folder, self.command = folder, command
        settings = json.loads(json.dumps(settings))  # tuples to lists, as they come back
        self.data = {"kind": KIND, "version": 1, "settings": settings, "designs": []}
        if (folder / FILE).exists():
            self.data = read_results(folder)
            if self.data["settings"] != settings:
                raise InputError(f"{folder / FILE} holds results of other settings; choose another folder")

    def add(self, outcome: Outcome) -> None:
        """Take in one design, in place of an earlier one of the same name, and write both files."""
        row = {"command": self.command, "machine": machine.describe(), **outcome.to_dict()}
        designs = self.data["designs"]
        names = [design["design"] for design in designs]
        at = names.index(outcome.design) if outcome.design in names else len(designs)
        designs[at:at + 1] = [row]
        write_text(self.folder / FILE, json.dumps(self.data, indent=1) + "\n")
        write_text(self.folder / "curves.csv", curves_csv(designs))


def read_results(folder: str | Path) -> dict:
    """The results.json in `folder`; InputError where it is none."""
    path = Path(folder) / FILE
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != KIND or not {"settings", "designs"} <= data.keys():
        raise InputError(f"{path} is no results file of fxsim; choose another folder")
    return data


def curves_csv(designs: list[dict]) -> str:
    """One row per design and epoch, from the designs of results.json."""
    text = io.StringIO()
    columns = ["design", *(name.name for name in dataclasses.fields(Epoch))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for design in designs:
        writer.writerows({"design": design["design"], **epoch} for epoch in design["epochs"])
    return text.getvalue()
