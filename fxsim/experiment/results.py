"""What the designs of an experiment came to: results.json, written anew after each design, and
curves.csv, after each epoch.

results.json holds

    kind, version    'fxsim results' and VERSION
    settings         of the experiment (Settings.to_dict)
    images           training, test: how many; sha256: of their pixels and labels
    designs          a row for each design: Outcome.to_dict, command, machine
    mismatch         criterion EFQN as measured (Experiment.mismatch), once it has been
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxsim import machine
from fxsim.analysis.complexity import Complexity
from fxsim.errors import InputError
from fxsim.experiment.settings import Settings
from fxsim.experiment.stage_file import read_stage_file
from fxsim.fields import check_keys
from fxsim.files import write_text
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.loop import Epoch

FILE = "results.json"
KIND = "fxsim results"
VERSION = 2
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

    data: what results.json holds; designs that it holds already are kept.  images: what
    TrainingSetup.describe_images gives.  command: the command line, recorded with each design.
    Raises InputError where the folder has results of other settings or on other images.
    """

    def __init__(self, folder: Path, settings: dict, images: dict, command: str = ""):
        self.folder = folder
        self.command = command
        settings = json.loads(json.dumps(settings))  # tuples to lists, as they come back
        self.data: dict[str, Any] = {
            "kind": KIND,
            "version": VERSION,
            "settings": settings,
            "images": images,
            "designs": [],
        }
        if (folder / FILE).exists():
            self.data = read_results(folder)
            if self.data["settings"] != settings:
                raise InputError(
                    f"{folder / FILE} holds results of other settings; choose another folder"
                )
            if self.data["images"] != images:
                raise InputError(
                    f"{folder / FILE} holds results on other images ({_difference(self.data['images'], images)}); "
                    f"name the data set's folder as it was, or choose another --out"
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


_ROW = (
    "command",
    "machine",
    "test_error",
    "test_loss",
    "train_loss",
    *(field.name for field in dataclasses.fields(Outcome)),
)
_IMAGES = ("training", "test", "sha256")
_EPOCH = tuple(field.name for field in dataclasses.fields(Epoch))
_MISMATCH = ("target", "bound", "measured")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "a table": dict,
    "a list": list,
    "a text": str,
    "a number": (int, float),
    "a table or null": (dict, type(None)),
    "a text or null": (str, type(None)),
}
_KINDS = {"settings": "a table", "images": "a table", "designs": "a list"}
_ROW_KINDS = {
    **dict.fromkeys(("design", "command"), "a text"),
    **dict.fromkeys(("machine", "costs", "counts", "stopped", "sums"), "a table"),
    **dict.fromkeys(("measured", "overflows"), "a table"),
    **dict.fromkeys(("test_error", "test_loss", "train_loss", "seconds"), "a number"),
    **dict.fromkeys(("start_fingerprint", "fingerprint"), "a text or null"),
    "assignment": "a table or null",
    "epochs": "a list",
}


def read_results(folder: str | Path) -> dict:
    """The results.json in `folder`.

    Raises:
        InputError: it cannot be read, is of another kind or version, or has a key that is unknown,
            missing or of another type.
    """
    path = Path(folder) / FILE
    data = read_stage_file(path, KIND, VERSION, ("settings", "images", "designs"), ("mismatch",))
    _check_kinds(path, data, _KINDS)
    check_keys(f"{path}: images", data["images"], _IMAGES, _IMAGES)
    if "mismatch" in data:
        _check_kinds(path, data, {"mismatch": "a table"})
        check_keys(f"{path}: mismatch", data["mismatch"], _MISMATCH, _MISMATCH)
    for row in data["designs"]:
        _check_row(path, row)
    return data


def _check_row(path: Path, row) -> None:
    """InputError unless a row of designs has the keys that `Outcome.to_dict` gives, with values of
    their types.
    """
    _check_kinds(path, {"design": row}, {"design": "a table"})
    check_keys(f"{path}: a design", row, _ROW, _ROW)
    _check_kinds(path, row, _ROW_KINDS)
    for epoch in row["epochs"]:
        _check_kinds(path, {"epochs": epoch}, {"epochs": "a table"})
        check_keys(f"{path}: an epoch", epoch, _EPOCH, _EPOCH)
        _check_kinds(path, epoch, dict.fromkeys(_EPOCH, "a number"))


def _check_kinds(path: Path, row: dict, kinds: dict[str, str]) -> None:
    """InputError unless each value of `row` is of the kind that `kinds` names."""
    for name, kind in kinds.items():
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, _TYPES[kind]):
            raise InputError(
                f"{path}: {name} must be {kind}, got {reprlib.repr(value)}; the file was edited, "
                f"run the experiment again in another folder"
            )


def stored_settings(folder: str | Path) -> Settings:
    """The settings that results.json in `folder` holds."""
    data = read_results(folder)
    try:
        return Settings.from_dict(data["settings"])
    except InputError as error:
        raise InputError(f"{Path(folder) / FILE}: {error}") from None


def _difference(there: dict, here: dict) -> str:
    """The first value in which two descriptions of images differ."""
    name = next(name for name in _IMAGES if there[name] != here[name])
    return f"{name}: {reprlib.repr(there[name])} there, {reprlib.repr(here[name])} here"


def finished(
    folder: Path, settings: dict, design: str, assignment: PrecisionAssignment | None
) -> dict | None:
    """The row of results.json of `design`, if it was trained there with these settings and this
    assignment.
    """
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
