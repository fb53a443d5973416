"""Checkpoints: all that a training needs to go on to the same bits, in one file that is written
whole or not at all.

`checkpoint-DESIGN.npz` is an .npz of plain arrays:

    state.NAME   the learner's arrays, as learner.state() names them
    text         JSON in UTF-8 (uint8): kind, version, identity, position
    sha256       32 bytes (uint8), the digest of all other arrays

The identity is plain data that tells one training from another; where it differs, a checkpoint is
refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fxsim.errors import InputError
from fxsim.fields import check_head, check_keys, read_fields
from fxsim.files import parse_json, read_arrays, write_arrays
from fxsim.identity import check_identity, plain
from fxsim.train.loop import Position, TrainingPlan

KIND = "fxsim checkpoint"
VERSION = 2
SUFFIX = ".npz"
_TEXT = ("kind", "version", "identity", "position")
_POSITION = tuple(field.name for field in dataclasses.fields(Position))


@dataclass(frozen=True)
class Cadence:
    """When a checkpoint is due beside the end of each epoch.

    After so many minutes, and after so many steps.
    """

    minutes: float = 2.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minutes) and self.minutes >= 0):
            raise InputError(f"checkpoint minutes must be a number from 0, got {self.minutes}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"checkpoint steps must be at least 1, got {self.steps}")


class Checkpoint:
    """The checkpoint of the training of `design` in `folder`."""

    def __init__(self, folder: Path, design: str, identity: Mapping, cadence: Cadence):
        self.path = path_of(folder, design)
        self.design = design
        self.cadence = cadence
        self.identity = plain(identity)
        self._written = time.monotonic()
        self._steps = 0

    def load(self, learner, plan: TrainingPlan | None = None) -> Position:
        """Bring `learner` to where it was when the file was written; returns that position.

        plan: of the training, which must have such a position.

        Raises InputError, the learner untouched, where the file is damaged or of another training.
        """
        text, state = read(self.path)
        where = f"{self.path}: position"
        table = check_keys(where, text["position"], _POSITION, _POSITION)
        position = read_fields(Position, table, where)
        way_out = f"choose another folder, or delete the file to train {self.design} anew"
        check_identity(str(self.path), text["identity"], self.identity, way_out)
        try:
            if plan:
                plan.check_position(position)
            learner.load_state(state)
        except (InputError, TypeError) as error:
            raise InputError(
                f"{self.path} does not fit {self.design}: {error}; delete it to train anew"
            ) from None
        return position

    def keep(self, learner, position: Position) -> None:
        """To be called after every step and every epoch: writes the file when it is due."""
        self._steps += 1
        late = time.monotonic() - self._written >= 60 * self.cadence.minutes
        if position.step == 0 or late or self._steps == self.cadence.steps:
            self.write(learner, position)

    def write(self, learner, position: Position) -> None:
        """Write the file now."""
        text = {
            "kind": KIND,
            "version": VERSION,
            "identity": self.identity,
            "position": dataclasses.asdict(position),
        }
        arrays = {f"state.{name}": array for name, array in learner.state().items()}
        arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
        write_arrays(self.path, arrays | {"sha256": np.frombuffer(digest(arrays), np.uint8)})
        self._written = time.monotonic()
        self._steps = 0


def path_of(folder: str | Path, design: str) -> Path:
    """The checkpoint file of `design`.

    Characters that are not safe in a file name are escaped with %.
    """
    return (
        Path(folder)
        / f"checkpoint-{urllib.parse.quote(design.replace(' ', '-'), safe='+')}{SUFFIX}"
    )


def remove(folder: Path, design: str) -> None:
    """Remove the checkpoint of a design that has ended."""
    path_of(folder, design).unlink(missing_ok=True)


def all_in(folder: Path) -> list[Path]:
    """The checkpoints in `folder`."""
    return sorted(Path(folder).glob(f"checkpoint-*{SUFFIX}"))


def read(path: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(text, state) of a checkpoint file; InputError where it is damaged or no checkpoint."""
    try:
        arrays = read_arrays(path)
    except InputError as error:
        raise InputError(f"{error}; the checkpoint is damaged, delete it to start anew") from None
    if "sha256" not in arrays or "text" not in arrays:
        raise InputError(f"{path} is no checkpoint of fxsim; choose another folder or delete it")
    stored = arrays.pop("sha256").tobytes()
    if digest(arrays) != stored:
        raise InputError(f"{path} is damaged (its SHA-256 differs); delete it to start anew")
    data = parse_json(arrays["text"].tobytes(), str(path))
    text = check_head(str(path), data, KIND, VERSION, "delete it to start anew")
    check_keys(str(path), text, _TEXT, _TEXT)
    return text, {
        name.partition(".")[2]: array for name, array in arrays.items() if name.startswith("state.")
    }


def digest(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of the arrays' names, dtypes, shapes and elements in row-major order."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.digest()
