"""What the designs of an experiment came to: results.json, written anew after each design, and
curves.csv, after each epoch.

results.json holds

    kind, version    'fxsim results' and VERSION
    identity         of the experiment: settings, network, images (Identity.to_dict)
    designs          a row for each design: Outcome.to_dict, command, machine
    mismatch         criterion EFQN as measured (Experiment.mismatch), once it has been
    output_error     in its place, for a network that decides nothing (Experiment.output_error)
    sha256           of all this (fxsim.identity.sealed)
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxsim import machine
from fxsim.analysis.complexity import Complexity
from fxsim.errors import InputError, cut, shown
from fxsim.experiment import stored
from fxsim.experiment.settings import Settings
from fxsim.experiment.stage_file import read_stage_file
from fxsim.fields import check_keys, read_fields
from fxsim.files import read_text, write_text
from fxsim.identity import SEAL, Identity, check_identity, check_seal, plain, sealed
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.loop import Epoch

FILE = "results.json"
KIND = "fxsim results"
VERSION = 3
CURVES = "curves.csv"
COLUMNS = ("design", *(field.name for field in dataclasses.fields(Epoch)))


@dataclass(frozen=True)
class Outcome:
    """What one design came to.

    Args:
        design: 'FL', 'FX C_o', 'FX C_-1' ...
        epochs: loss, error and speed of every epoch.
        costs: the four costs.
        seconds: what the training took.
        assignment: the formats of FX and SQ.
        counts: tensor 'layer.tensor' -> elements, below, above, flushed, over all of training.
        stopped: layer -> non-zero updates that did not move a weight's code.
        sums: see exact_sums.
        start_fingerprint: SHA-256 of all parameter codes before the first step; None for float
            designs.
        fingerprint: the same after the last step.
        measured: see train/measured.py.
        overflows: 'layer.kind' -> sums, overflows of their accumulator, over all of training;
            empty without accumulators.
    """

    design: str
    epochs: list[Epoch]
    costs: Complexity
    seconds: float
    assignment: PrecisionAssignment | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    sums: dict[str, dict] = field(default_factory=dict)
    start_fingerprint: str | None = None
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
            "start_fingerprint": self.start_fingerprint,
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
        kept = (field.name for field in dataclasses.fields(cls) if field.name in row)
        values = {name: row[name] for name in kept}
        values["epochs"] = [
            Epoch(**epoch | {"epoch": epoch["epoch"] - 1}) for epoch in row["epochs"]
        ]
        values["costs"] = costs
        values["assignment"] = row_assignment(row)
        return cls(**values)


def row_assignment(row: dict) -> PrecisionAssignment | None:
    """The formats of a row of results.json; None for a float design."""
    return PrecisionAssignment.from_dict(row["assignment"]) if row["assignment"] else None


def exact_sums(network: FixedNetwork, batch: int) -> dict[str, dict]:
    """For each layer and product (forward, input_grad, weight_grad): terms, accumulator bits and
    kernel path.

    The bits hold every partial sum exactly; hardware that adds without loss needs as many.  Where
    the sums are in an accumulator all the same, its text.  The first layer has no input_grad, and
    what is not trained has no gradients.
    """
    rows = {}
    for name, own in network.layers.items():
        plans = {
            "forward": own.forward_product.plan,
            "input_grad": own.input_grad.plan if own.input_grad else None,
            "weight_grad": own.weight_grad.plan_of(batch) if own.weight_grad else None,
        }
        models = {
            product.kind: {"accumulator": str(product.accumulator)}
            for product in own.weighted
            if product.accumulator
        }
        rows[name] = {
            kind: {
                "terms": plan.terms,
                "bits": plan.accumulator_bits,
                "path": plan.path,
                **models.get(kind, {}),
            }
            for kind, plan in plans.items()
            if plan
        }
    return rows


class Results:
    """The designs trained with one set of settings in one folder.

    data: what results.json holds; designs that it holds already are kept.  identity: of the
    experiment.  command: the command line, recorded with each design.
    Raises InputError where the folder has results of other settings or on other images.
    """

    def __init__(self, folder: Path, identity: Identity, command: str = ""):
        self.folder = folder
        self.command = command
        self.data: dict[str, Any] = {
            "kind": KIND,
            "version": VERSION,
            "identity": identity.to_dict(),
            "designs": [],
        }
        if (folder / FILE).exists():
            self.data = read_results(folder)
            way_out = "name the data set's folder as it was, or choose another --out"
            check_identity(str(folder / FILE), self.data["identity"], identity.to_dict(), way_out)

    def row(self, design: str) -> dict | None:
        """The row of a design; None where it has not been trained."""
        return next((row for row in self.data["designs"] if row["design"] == design), None)

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
        self.data = sealed(plain(self.data))
        write_text(self.folder / FILE, json.dumps(self.data, indent=1) + "\n")


_MEASURED: dict[str, type] = {"mismatch": stored.Mismatch, "output_error": stored.OutputError}
_IDENTITY = tuple(field.name for field in dataclasses.fields(Identity))


def read_results(folder: str | Path) -> dict:
    """The results.json in `folder`.

    Raises:
        InputError: it cannot be read, is of another kind or version, has a key that is unknown or
            missing, or a value that `to_dict` does not give, or was changed after it was written.
    """
    path = Path(folder) / FILE
    data = read_stage_file(path, KIND, VERSION, ("identity", "designs", SEAL), tuple(_MEASURED))
    way_out = "the file was edited, run the experiment again in another folder"
    try:
        _check(data)
    except InputError as error:
        raise InputError(f"{path}: {cut(str(error), 150)}; {way_out}") from None
    check_seal(str(path), data, "run the experiment again in another folder")
    return data


def _check(data: dict) -> None:
    """InputError unless the values in results.json are those that `stored` describes."""
    identity = check_keys("identity", data["identity"], _IDENTITY, _IDENTITY)
    Settings.from_dict(identity["settings"])
    read_fields(stored.Images, identity["images"], "images")
    for name, kind in _MEASURED.items():
        if name in data:
            read_fields(kind, data[name], name)
    if not isinstance(data["designs"], list):
        raise InputError(f"designs must be a list, got {shown(data['designs'])}")
    keys = [field.name for field in dataclasses.fields(stored.Design)]
    found = set()
    for index, row in enumerate(data["designs"]):
        where = f"designs[{index}]"
        design = read_fields(stored.Design, check_keys(where, row, keys, keys), where).design
        if design in found:
            raise InputError(f"design {shown(design)} stands there twice")
        found.add(design)


def stored_settings(folder: str | Path) -> Settings:
    """The settings that results.json in `folder` holds."""
    return Settings.from_dict(read_results(folder)["identity"]["settings"])


def formats_of(row: dict) -> dict | None:
    """The `formats` of a row of results.json; None for a float design."""
    return formats(row_assignment(row))


def formats(assignment: PrecisionAssignment | None) -> dict | None:
    """The formats and modes, without the reasons for them, as plain data; None for none."""
    return plain(assignment.formats_to_dict()) if assignment else None


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
    """The rows of each design in curves.csv; none where it is missing."""
    if not path.exists():
        return {}
    lines = io.StringIO(read_text(path), newline="")
    designs: dict[str, list[dict]] = {}
    try:
        reader = csv.reader(lines, strict=True)
        header = next(reader, None)
        if header != list(COLUMNS):
            raise ValueError("its header is another")
        for row in reader:
            if len(row) != len(COLUMNS):
                raise ValueError(f"line {reader.line_num} has {len(row)} columns")
            designs.setdefault(row[0], []).append(dict(zip(COLUMNS, row)))
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is no file of curves of fxsim ({error}); move it away or choose another folder"
        ) from None
    return designs


def epoch_row(epoch: Epoch) -> dict:
    """Plain data for results.json and curves.csv, where epochs count from 1."""
    return dataclasses.asdict(epoch) | {"epoch": epoch.epoch + 1}
