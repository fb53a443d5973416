"""The contract of a folder of vectors: which tensors, in which files, made by which semantics."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fxsim.accumulator import Accumulator as Model
from fxsim.errors import InputError, choice
from fxsim.factors import LearningRate
from fxsim.files import read_json, write_text
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.nn import spec
from fxsim.nn.spec import Network
from fxsim.tensor import Counts

FILE = "manifest.json"
KIND = "fxsim vectors"
VERSION = 1

RANDOM_WORDS = "_random_words"
"""Ends the name of the tensor of random words that rounded a tensor of the name before it."""

ROLES = ("input", "result")
ACCUMULATION = ("exact", "model")
ENCODING = {
    "mem": "one code per line: two's complement of `bits` bits as ceil(bits/4) hexadecimal digits, "
    "most significant "
    "digit first, unused bits 0; for $readmemh",
    "order": "row-major: the last axis of `shape` runs fastest",
    "value": "real value = code * 2**step_exp",
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class Accumulator:
    """The accumulator of the sums that a tensor is made from.

    bits: its signed width at the products' step (the bias included, where there is one).  overflow:
    'exact' (bits are enough), or 'model' where `model` says it all.  terms: additions.  order: of
    the terms, slowest first; it matters where partial sums overflow."""

    bits: int
    terms: int
    order: str
    overflow: str = "exact"
    model: Model | None = None

    def __post_init__(self):
        choice("accumulator overflow", self.overflow, ACCUMULATION)
        if (self.overflow == "model") != (self.model is not None):
            raise InputError(
                "an accumulator with overflow 'model' needs a model, and no other has one"
            )

    def to_dict(self) -> dict:
        row = {name: getattr(self, name) for name in ("bits", "terms", "order", "overflow")}
        return (
            {**row, "model": {**self.model.to_dict(), "text": str(self.model)}}
            if self.model
            else row
        )

    @classmethod
    def from_dict(cls, row: dict) -> Accumulator:
        model = {key: value for key, value in row.get("model", {}).items() if key != "text"}
        return cls(**{**row, "model": Model.from_dict(model) if model else None})


@dataclass(frozen=True)
class File:
    """A file of one tensor: its name in the folder and the SHA-256 of its bytes."""

    name: str
    sha256: str

    def __post_init__(self):
        _check_plain("file name", self.name)


def _check_plain(what: str, name: str) -> None:
    """A name that leads out of no folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError(f"{what} {name!r} must be letters, digits, underscores and dots")


@dataclass(frozen=True)
class Entry:
    """One tensor of the step.

    role: 'input' of the device (pictures, parameters, labels, random words) or 'result' that it
    computes. axes: a letter per axis of shape.  rounding, overflow: of the quantization that made
    it, None where there was none.  accumulator: of the sums before that quantization.  counts: what
    the quantization clipped and flushed. files: 'mem', 'hex', 'npy' or 'c' -> File.
    """

    layer: str
    tensor: str
    role: str
    shape: tuple[int, ...]
    axes: str
    format: Format
    rounding: str | None = None
    overflow: str | None = None
    accumulator: Accumulator | None = None
    counts: Counts | None = None
    files: Mapping[str, File] = field(default_factory=dict)

    def __post_init__(self):
        _check_plain("tensor", self.name)
        choice("role", self.role, ROLES)
        if self.rounding is not None:
            choice("rounding", self.rounding, ROUNDINGS)
        if self.overflow is not None:
            choice("overflow", self.overflow, OVERFLOWS)

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.tensor}"

    def to_dict(self) -> dict:
        accumulator = self.accumulator and self.accumulator.to_dict()
        return {
            **dataclasses.asdict(self),
            "format": _format_dict(self.format),
            "shape": list(self.shape),
            "accumulator": accumulator,
        }

    @classmethod
    def from_dict(cls, row: dict) -> Entry:
        made = {
            "format": _read_format(row["format"]),
            "shape": tuple(map(int, row["shape"])),
            "files": {kind: File(**file) for kind, file in row["files"].items()},
        }
        made["accumulator"] = (
            Accumulator.from_dict(row["accumulator"]) if row["accumulator"] else None
        )
        made["counts"] = Counts(**row["counts"]) if row["counts"] else None
        return cls(**{**row, **made})


@dataclass(frozen=True)
class Manifest:
    """One training step as vectors; `tensors` are in data-flow order.

    versions: package -> version that computed the vectors.  fingerprints: SHA-256 of all parameter
    codes before and after the step (FixedNetwork.fingerprint).
    """

    network: Network
    step: int
    seed: int
    batch: int
    learning_rate: LearningRate
    tensors: tuple[Entry, ...]
    versions: Mapping[str, str | None]
    fingerprints: Mapping[str, str]

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Name -> Entry."""
        return {entry.name: entry for entry in self.tensors}

    def entry(self, name: str) -> Entry:
        return self.entries[choice("tensor", name, self.entries)]

    def to_dict(self) -> dict:
        rate = {**dataclasses.asdict(self.learning_rate), "real": self.learning_rate.real}
        return {
            "kind": KIND,
            "version": VERSION,
            "versions": dict(self.versions),
            "step": self.step,
            "seed": self.seed,
            "batch": self.batch,
            "learning_rate": rate,
            "fingerprints": dict(self.fingerprints),
            "encoding": ENCODING,
            "network": spec.to_dict(self.network),
            "tensors": [entry.to_dict() for entry in self.tensors],
        }

    @classmethod
    def from_dict(cls, data: dict) -> Manifest:
        """The manifest that `to_dict` gave; InputError tells what is missing or wrong."""
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise InputError(f"this is no manifest of vectors (no kind {KIND!r})")
        if data.get("version") != VERSION:
            raise InputError(
                f"the manifest has version {data.get('version')!r}, this fxsim reads {VERSION}; "
                "export the vectors again"
            )
        try:
            rate = LearningRate(
                data["learning_rate"]["mantissa"], data["learning_rate"]["exponent"]
            )
            return cls(
                spec.from_dict(data["network"]),
                data["step"],
                data["seed"],
                data["batch"],
                rate,
                tuple(map(Entry.from_dict, data["tensors"])),
                data["versions"],
                data["fingerprints"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"the manifest is damaged: {error}; export the vectors again"
            ) from None

    def save(self, folder: str | Path) -> None:
        write_text(Path(folder) / FILE, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        path = Path(folder) / FILE
        if not path.exists():
            raise InputError(
                f"{folder} holds no {FILE}; name a folder that `fxsim vectors export` wrote"
            )
        try:
            return cls.from_dict(read_json(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _format_dict(format: Format) -> dict:
    return {**dataclasses.asdict(format), "step_exp": format.step_exp, "q": format.q("ti")}


def _read_format(cell: dict) -> Format:
    return Format(cell["bits"], cell["range_exp"], cell["signed"])
