"""Compare what a device under test wrote with the vectors; the manifest is the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from fxsim.errors import InputError
from fxsim.files import read_bytes
from fxsim.golden.difference import Difference
from fxsim.golden.explain.search import Explanation, explain
from fxsim.golden.export import READABLE, SUFFIXES, Vectors, decode, most_bytes
from fxsim.golden.manifest import Entry


@dataclass(frozen=True)
class Mismatch:
    """One file of a dump that differs from the vectors.

    Position: of its tensor in the data flow, from 1.
    """

    entry: Entry
    path: Path
    position: int
    difference: Difference


@dataclass(frozen=True)
class Report:
    """What a check found.

    subject: what the vectors are of, as Manifest.subject tells it.  Tensors and codes compared,
    mismatches in data-flow order, and what explains the first.
    """

    subject: str
    tensors: int
    all_tensors: int
    codes: int
    mismatches: tuple[Mismatch, ...]
    explanation: Explanation | None = None

    @property
    def passed(self) -> bool:
        """Whether every code is the golden one."""
        return not self.mismatches

    def text(self) -> str:
        """The report for people: one line if all is equal."""
        if self.passed:
            return (
                f"equal: {self.codes} codes of {_count(self.tensors, 'tensor')} of {self.subject}"
            )
        first = self.mismatches[0]
        others = self.mismatches[1:]
        lines = [
            f"MISMATCH at {self.subject}, layer {first.entry.layer}, tensor {first.entry.tensor} "
            f"(number {first.position} of {self.all_tensors} in data-flow order; "
            f"{first.entry.format})",
            *first.difference.text(first.entry.format, first.entry.axes).splitlines(),
        ]
        if self.explanation is not None:
            lines += self.explanation.text("all codes of the tensor").splitlines()
        if others:
            lines.append(
                f"{_count(len(others), 'more file')} of the {self.tensors} tensors compared "
                f"{'differs' if len(others) == 1 else 'differ'}, later in the data flow:"
            )
            lines += [
                f"  {other.entry.name}: {other.difference.count} of {other.difference.size} codes"
                for other in others
            ]
        return "\n".join(lines)


def check(vectors: str | Path, dump: str | Path, tensors: Iterable[str] | None = None) -> Report:
    """Compare a dump with the vectors in a folder and explain the first mismatch.

    dump: a folder with files named as the vectors are (layer.tensor.mem, .hex or .npy), or one file
    of one tensor. tensors: names 'layer.tensor' or patterns ('conv1.*'); None for every result, and
    those inputs that were dumped. Raises InputError for a file that is missing, too short, too long
    or malformed, and for damaged vectors.
    """
    source = Vectors(vectors)
    dump = Path(dump)
    chosen = _chosen(source, dump, tensors)
    mismatches = []
    codes = 0
    positions = {
        entry.name: position for position, entry in enumerate(source.manifest.tensors, start=1)
    }
    for entry, path in chosen:
        difference = Difference.between(read_dump(path, entry), source.codes(entry.name))
        codes += int(np.prod(entry.shape))
        if difference:
            mismatches.append(Mismatch(entry, path, positions[entry.name], difference))
    explanation = None
    if mismatches:
        first = mismatches[0]
        explanation = explain(source, first.entry, read_dump(first.path, first.entry))
    names = {entry.name for entry, _ in chosen}
    return Report(
        source.manifest.subject,
        len(names),
        len(positions),
        codes,
        tuple(mismatches),
        explanation,
    )


def read_dump(path: Path, entry: Entry) -> np.ndarray:
    """The codes (of entry.shape) in a dump; a suffix other than .npy means hexadecimal."""
    kind = "npy" if path.suffix == SUFFIXES["npy"] else "mem"
    return decode(kind, read_bytes(path, most_bytes(entry)), entry, str(path))


def _chosen(source: Vectors, dump: Path, tensors: Iterable[str] | None) -> list[tuple[Entry, Path]]:
    """Every (entry, file) to compare, in data-flow order."""
    entries = _named(source, tensors)
    if not dump.exists():
        raise InputError(f"the dump {dump} does not exist; let the device write it first")
    if not dump.is_dir():
        if tensors is None or len(entries) != 1:
            raise InputError(f"{dump} is one file; name its tensor with --tensor, or give a folder")
        return [(entries[0], dump)]
    found = [(entry, path) for entry in entries for path in _dumps(dump, entry)]
    have = {entry.name for entry, _ in found}
    missing = [
        entry.name
        for entry in entries
        if entry.name not in have and (entry.role == "result" or tensors is not None)
    ]
    if missing:
        shown = ", ".join(missing[:8]) + (
            f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        )
        raise InputError(
            f"{dump} lacks {_count(len(missing), 'tensor')}: {shown} (.mem, .hex or .npy); "
            "dump them, or name those to compare with --tensor"
        )
    return found


def _named(source: Vectors, tensors: Iterable[str] | None) -> list[Entry]:
    entries = list(source.manifest.tensors)
    if tensors is None:
        return entries
    wanted = set()
    for pattern in tensors:
        names = [name for name in source.manifest.entries if fnmatch(name, pattern)]
        wanted |= set(names or [source.manifest.entry(pattern).name])
    return [entry for entry in entries if entry.name in wanted]


def _dumps(folder: Path, entry: Entry) -> list[Path]:
    paths = (folder / (entry.name + SUFFIXES[kind]) for kind in READABLE)
    return [path for path in paths if path.exists()]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
