"""The contract of a folder of vectors: which tensors, in which files, made by which semantics."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from fxsim.accumulator import Accumulator as Model
from fxsim.errors import InputError, choice, cut, shown
from fxsim.factors import LearningRate
from fxsim.fields import (
    check_derived,
    check_fields,
    check_head,
    check_keys,
    check_table,
    construct,
    read_fields,
)
from fxsim.files import read_json, write_text
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.identity import SEAL, Identity, check_seal, plain, sealed
from fxsim.lfsr import Lfsr
from fxsim.nn import spec
from fxsim.nn.spec import Network
from fxsim.tensor import Counts
from fxsim.words import WordSource, source_from_dict

FILE = "manifest.json"
KIND = "fxsim vectors"
VERSION = 2

RANDOM_WORDS = "_random_words"
"""Ends the name of the tensor of random words that rounded a tensor of the name before it."""

OPTIONAL = ("words", "input_grads", "packages")
"""Keys of the manifest that are left out where they hold nothing."""

Kind = Literal["training step", "inference"]
"""What the tensors of a manifest are of."""

ROLES = ("input", "result")
ACCUMULATION = ("exact", "model")
ENCODING = {
    "mem": "one code per line: two's complement of `bits` bits as ceil(bits/4) hexadecimal digits, "
    "most significant "
    "digit first, unused bits 0; for $readmemh",
    "order": "row-major: the last axis of `shape` runs fastest",
    "value": "real value = code * 2**step_exp",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


FileKind = Literal["mem", "hex", "npy", "c"]
PackageKind = Literal["vhdl", "sv"]


@dataclass(frozen=True)
class Accumulator:
    """The accumulator of the sums that a tensor is made from.

    bits: its signed width at the products' step (the bias included, where there is one).  overflow:
    'exact' (bits are enough), or 'model' where `model` says it all.  terms: additions.  order: of
    the terms, slowest first; it matters where partial sums overflow.
    """

    bits: int
    terms: int
    order: str
    overflow: str = "exact"
    model: Model | None = None

    def __post_init__(self) -> None:
        check_fields(self, "accumulator")
        choice("accumulator overflow", self.overflow, ACCUMULATION)
        for name in ("bits", "terms"):
            _at_least(f"accumulator {name}", getattr(self, name), 1)
        if (self.overflow == "model") != (self.model is not None):
            raise InputError(
                "an accumulator with overflow 'model' needs a model, and no other has one"
            )

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        row = {name: getattr(self, name) for name in ("bits", "terms", "order", "overflow")}
        return (
            {**row, "model": {**self.model.to_dict(), "text": str(self.model)}}
            if self.model
            else row
        )

    @classmethod
    def from_dict(cls, row: object, where: str = "accumulator") -> Accumulator:
        """The accumulator that `to_dict` gave; InputError tells what is wrong."""
        row = dict(check_table(where, row))
        model = row.pop("model", None)
        if model is not None:
            model = dict(check_table(f"{where}, model", model))
            text = model.pop("text", None)
            model = construct(Model.from_dict, f"{where}, model", model)
            if text is not None:
                check_derived(f"{where}, model", "text", text, str(model))
        return read_fields(cls, {**row, "model": model}, where)


@dataclass(frozen=True)
class File:
    """A file of one tensor: its name in the folder and the SHA-256 of its bytes."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        check_fields(self, "file")
        _check_plain("file name", self.name)
        if not _SHA256.fullmatch(self.sha256):
            raise InputError(f"file sha256 must be 64 hex digits, got {shown(self.sha256)}")


def _plain(value: TensorWords | Accumulator | File) -> dict:
    return dataclasses.asdict(value) if isinstance(value, File) else value.to_dict()


def _check_plain(what: str, name: str) -> None:
    """A name that leads out of no folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise InputError(f"{what} {shown(name)} must be letters, digits, underscores and dots")


def _at_least(argument: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{argument} must be at least {least}, got {shown(value)}")


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
    files: Mapping[FileKind, File] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "tensor")
        _check_plain("tensor", self.name)
        choice("role", self.role, ROLES)
        for size in self.shape:
            _at_least(f"size in the shape of {shown(self.name)}", size, 1)
        if len(self.axes.split(",")) != len(self.shape):
            raise InputError(
                f"axes of {shown(self.name)} must name the {len(self.shape)} axes of its shape, "
                f"got {shown(self.axes)}"
            )
        if self.rounding is not None:
            choice("rounding", self.rounding, ROUNDINGS)
        if self.overflow is not None:
            choice("overflow", self.overflow, OVERFLOWS)

    @property
    def size(self) -> int:
        """How many codes."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """'layer.tensor'."""
        return f"{self.layer}.{self.tensor}"

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        accumulator = self.accumulator and self.accumulator.to_dict()
        return {
            **dataclasses.asdict(self),
            "format": self.format.to_dict(),
            "shape": list(self.shape),
            "accumulator": accumulator,
        }

    @classmethod
    def from_dict(cls, row: object, where: str = "tensor") -> Entry:
        """The entry that `to_dict` gave; InputError tells what is wrong."""
        keys = [field.name for field in dataclasses.fields(cls)]
        return read_fields(cls, check_keys(where, row, keys, keys), where)


@dataclass(frozen=True)
class TensorWords:
    """Where the random words of a tensor come from.

    states: of registers, one for each lane, before the step's first word.
    """

    source: WordSource
    states: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "words")

    @classmethod
    def of(cls, source: WordSource, step: int, shape: tuple[int, ...]) -> TensorWords:
        """The words of a tensor of that shape at that step."""
        states = source.states(step, math.prod(shape)) if isinstance(source, Lfsr) else ()
        return cls(source, states)

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        return {**self.source.to_dict(), "states": list(self.states)}

    @classmethod
    def from_dict(cls, row: object, where: str = "words") -> TensorWords:
        """The words that `to_dict` gave; InputError tells what is wrong."""
        row = dict(check_table(where, row))
        states = row.pop("states", ())
        return construct(cls, where, source_from_dict(row, where), states)


@dataclass(frozen=True)
class Manifest:
    """One training step, or one inference, as vectors; `tensors` are in data-flow order.

    vectors: which of both.  step: part of the key of the random words; 0 in inference.  batch: the
    images.  learning_rate: None in inference.  versions: package -> version that computed the
    vectors.  fingerprints: SHA-256 of all parameter codes before and after the step
    (FixedNetwork.fingerprint).  identity: of the experiment whose step or network it is; None for
    one of no experiment.  words: 'layer.tensor' -> where its random words come from, if not from
    its Stream.  input_grads: layer -> the accumulator of the gradient at what it reads, where that
    is no tensor of its own: others read or add the same, and the exact sum of all is rounded.
    packages: 'vhdl' or 'sv' -> the package that tells formats, modes and shapes in that language.
    """

    network: Network
    step: int
    seed: int
    batch: int
    learning_rate: LearningRate | None
    tensors: tuple[Entry, ...]
    versions: Mapping[str, str | None]
    fingerprints: Mapping[Literal["before", "after"], str]
    identity: Identity | None = None
    words: Mapping[str, TensorWords] = field(default_factory=dict)
    input_grads: Mapping[str, Accumulator] = field(default_factory=dict)
    vectors: Kind = "training step"
    packages: Mapping[PackageKind, File] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "manifest")
        if (self.learning_rate is None) != self.of_inference:
            raise InputError(
                f"manifest of vectors {self.vectors!r} "
                f"{'has no' if self.of_inference else 'needs a'} learning_rate"
            )
        for name, least in (("step", 0), ("seed", 0), ("batch", 1)):
            _at_least(f"manifest {name}", getattr(self, name), least)
        if len(self.entries) < len(self.tensors):
            names = [entry.name for entry in self.tensors]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"manifest has the tensor {shown(twice)} twice; leave one out")

    @property
    def of_inference(self) -> bool:
        """Whether the tensors are of inference, not of a training step."""
        return self.vectors == "inference"

    @property
    def subject(self) -> str:
        """'step 3', or 'inference of 16 images'."""
        if not self.of_inference:
            return f"step {self.step}"
        return f"inference of {self.batch} image{'' if self.batch == 1 else 's'}"

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Name -> Entry."""
        return {entry.name: entry for entry in self.tensors}

    def entry(self, name: str) -> Entry:
        """The entry of a tensor; InputError where there is none."""
        return self.entries[choice("tensor", name, self.entries)]

    def to_dict(self) -> dict:
        """Plain data for JSON, sealed; `from_dict` reads it back."""
        rate = self.learning_rate
        table = {
            "kind": KIND,
            "version": VERSION,
            "vectors": self.vectors,
            "versions": dict(self.versions),
            "step": self.step,
            "seed": self.seed,
            "batch": self.batch,
            "learning_rate": rate and {**dataclasses.asdict(rate), "real": rate.real},
            "fingerprints": dict(self.fingerprints),
            "encoding": ENCODING,
            "network": spec.to_dict(self.network),
            "identity": self.identity and self.identity.to_dict(),
            "tensors": [entry.to_dict() for entry in self.tensors],
        }
        for key in OPTIONAL:
            values = getattr(self, key)
            if values:
                table[key] = {name: _plain(value) for name, value in values.items()}
        return sealed(plain(table))

    @classmethod
    def from_dict(cls, data: object) -> Manifest:
        """The manifest that `to_dict` gave.

        Raises:
            InputError: another kind or version, an unknown or missing key, a wrong value, keys
                that contradict each other, a digest of other content.
        """
        data = check_head("the manifest", data, KIND, VERSION, "export the vectors again")
        try:
            manifest = cls._read(data)
        except InputError as error:
            raise InputError(
                f"the manifest is damaged: {cut(str(error))}; export the vectors again"
            ) from None
        check_seal("the manifest", data, "export the vectors again")
        return manifest

    @classmethod
    def _read(cls, data: Mapping) -> Manifest:
        fields = [field.name for field in dataclasses.fields(cls)]
        keys = ("kind", "version", *fields, "encoding", SEAL)
        may_lack = (*OPTIONAL, "vectors")  # earlier exports, of training steps alone, lack the last
        check_keys("manifest", data, keys, [key for key in keys if key not in may_lack])
        if data["encoding"] != ENCODING:
            raise InputError("encoding is not the one that this fxsim reads")
        rate = data["learning_rate"]
        if rate is not None:
            rate = read_fields(LearningRate, rate, "learning_rate", ("real",))
        table = {name: data[name] for name in fields if name in data}
        table["network"] = spec.from_dict(data["network"])
        return read_fields(cls, {**table, "learning_rate": rate}, "manifest")

    def save(self, folder: str | Path) -> None:
        """Write the manifest into a folder."""
        write_text(Path(folder) / FILE, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """The manifest of a folder; InputError tells what is wrong."""
        path = Path(folder) / FILE
        if not path.exists():
            raise InputError(
                f"{folder} holds no {FILE}; name a folder that `fxsim vectors export` wrote"
            )
        data = read_json(path)
        try:
            return cls.from_dict(data)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
