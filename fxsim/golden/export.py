"""Write the tensors of a training step as vectors; read them back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fxsim import memfile
from fxsim.errors import InputError, choice, shown
from fxsim.files import make_folder, parse_npy, read_bytes, write_bytes
from fxsim.formats import Format
from fxsim.golden.capture import GoldenStep
from fxsim.golden.header import to_header
from fxsim.golden.manifest import FILE, Entry, File, FileKind, Manifest
from fxsim.golden.packages import IN_MEMORY, identifiers, to_systemverilog, to_vhdl
from fxsim.golden.packages import NAME as PACKAGE
from fxsim.lock import hold

SUFFIXES = {"mem": ".mem", "hex": ".hex", "npy": ".npy", "c": ".h"}
READABLE: tuple[FileKind, ...] = ("npy", "mem", "hex")
"""Kinds of files that codes are read from, the fastest first."""
PACKAGES: dict[str, tuple[str, Callable[[Manifest], bytes]]] = {
    "vhdl": (".vhd", to_vhdl),
    "sv": (".sv", to_systemverilog),
}
"""Kinds of packages: how their files end, and what writes them."""
DEFAULT_KINDS = ("mem", "npy", "c")


def write_vectors(
    golden: GoldenStep, folder: str | Path, kinds: Iterable[str] = DEFAULT_KINDS
) -> Manifest:
    """Write every tensor of `golden` in every kind ('mem', 'hex', 'npy', 'c'), then manifest.json.

    Of the kinds 'vhdl' and 'sv' there is one file, a package of all tensors' formats, modes, shapes
    and memory files (golden/packages.py).  The same step gives the same bytes.  folder: new, empty,
    or with an earlier export and nothing else; that is replaced when the new one is whole.  Returns
    the manifest with names and SHA-256 of the files.
    """
    kinds = [choice("kind of file", kind, (*SUFFIXES, *PACKAGES)) for kind in kinds]
    packages = [kind for kind in kinds if kind in PACKAGES]
    if not set(kinds) & set(READABLE):
        raise InputError(
            f"kinds of files must include one of {', '.join(READABLE)}: `check` cannot read C "
            f"headers"
        )
    if packages and not set(kinds) & set(IN_MEMORY):
        raise InputError(
            f"kinds of files must include mem or hex, got {', '.join(kinds)}: a package of kind "
            f"{packages[0]!r} names the files with the codes"
        )
    names = identifiers(golden.manifest.entries)
    with _replaced(check_place(folder)) as fresh:
        entries = tuple(
            _write_entry(entry, golden.codes[entry.name], fresh, kinds, names[entry.name])
            for entry in golden.manifest.tensors
        )
        manifest = dataclasses.replace(golden.manifest, tensors=entries)
        files: dict[Any, File] = {kind: _write_package(manifest, fresh, kind) for kind in packages}
        manifest = dataclasses.replace(manifest, packages=files)
        manifest.save(fresh)
    return manifest


def check_place(folder: str | Path) -> Path:
    """The absolute path of a folder that vectors may be written to.

    Raises:
        InputError: it holds anything but an earlier export, or cannot be renamed.
    """
    folder = Path(folder)
    try:
        place = folder.resolve()
        if Path.cwd().is_relative_to(place) or os.path.ismount(place):
            raise InputError(
                f"{folder} holds the current folder or is a mount point, and an export replaces "
                f"its folder; name a new one"
            )
        found = {path.name for path in place.iterdir()} if place.exists() else set()
    except OSError as error:
        raise InputError(
            f"cannot write vectors to {folder}: {error.strerror}; name a new folder"
        ) from None
    if not found:
        return place
    if FILE not in found:
        raise InputError(f"{folder} is not empty and holds no vectors; name a new folder")
    try:
        earlier = Manifest.load(place)
    except InputError as error:
        raise InputError(f"cannot replace what is in {folder}: {error}, in a new folder") from None
    others = found - {
        FILE,
        *(file.name for file in earlier.packages.values()),
        *(file.name for each in earlier.tensors for file in each.files.values()),
    }
    if others:
        raise InputError(
            f"{folder} holds {shown(min(others))}, which no export wrote; name a new folder"
        )
    return place


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place at the end of the block.

    Until then `folder` stays as it is.  What a killed process left beside it is removed first.
    """
    fresh = folder.with_name(f".{folder.name}.fxsim-new")
    earlier = folder.with_name(f".{folder.name}.fxsim-earlier")
    make_folder(folder.parent)
    with hold(folder.with_name(f".{folder.name}.fxsim-lock"), folder, "fxsim vectors export"):
        try:
            _tidy(folder, fresh, earlier)
            yield make_folder(fresh)
            if folder.exists():
                folder.rename(earlier)
            fresh.rename(folder)
        except OSError as error:
            raise InputError(
                f"cannot write vectors to {folder}: {error.strerror}; choose another folder"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                _tidy(folder, fresh, earlier)


def _tidy(folder: Path, fresh: Path, earlier: Path) -> None:
    """Remove what is beside `folder`, but put an earlier export that has no successor back."""
    if earlier.exists() and not folder.exists():
        earlier.rename(folder)
    for leftover in (earlier, fresh):
        if leftover.exists():
            shutil.rmtree(leftover)


def _write_entry(
    entry: Entry, codes: np.ndarray, folder: Path, kinds: Iterable[str], identifier: str
) -> Entry:
    files: dict[Any, File] = {}
    for kind in kinds:
        if kind in SUFFIXES:
            data = encode(kind, identifier, codes, entry)
            files[kind] = _written(folder, entry.name + SUFFIXES[kind], data)
    return dataclasses.replace(entry, files=files)


def _write_package(manifest: Manifest, folder: Path, kind: str) -> File:
    suffix, text = PACKAGES[kind]
    return _written(folder, PACKAGE + suffix, text(manifest))


def _written(folder: Path, name: str, data: bytes) -> File:
    write_bytes(folder / name, data)
    return File(name, hashlib.sha256(data).hexdigest())


def encode(kind: str, identifier: str, codes: np.ndarray, entry: Entry) -> bytes:
    """The file of kind 'mem', 'hex', 'npy' or 'c' with the codes of one tensor.

    identifier: of the tensor in C.
    """
    if kind == "npy":
        file = io.BytesIO()
        little_endian = entry.format.dtype.newbyteorder("<")
        np.lib.format.write_array(file, np.ascontiguousarray(codes, little_endian), version=(1, 0))
        return file.getvalue()
    if kind == "c":
        return to_header(entry.name, codes, entry.format, identifier)
    return memfile.to_hex(codes, entry.format.bits)


def decode(kind: str, data: bytes, entry: Entry, where: str) -> np.ndarray:
    """The codes (of entry.shape) that a 'mem', 'hex' or 'npy' file holds.

    InputError unless they fit the entry.
    """
    if kind == "npy":
        return _decode_npy(data, entry, where)
    count = math.prod(entry.shape)
    return memfile.from_hex(data, entry.format, count, where).reshape(entry.shape)


def most_bytes(entry: Entry) -> int:
    """The bytes that a file with the codes of one tensor may have."""
    return memfile.most_bytes(math.prod(entry.shape))


def _decode_npy(data: bytes, entry: Entry, where: str) -> np.ndarray:
    codes = parse_npy(data, where)
    format = entry.format
    if codes.dtype.kind not in "iu":
        raise InputError(f"{where} holds {codes.dtype}; dump integer codes, not real values")
    if codes.shape != entry.shape:
        raise InputError(f"{where} has shape {codes.shape}, the manifest says {entry.shape}")
    if not _inside(codes, format):
        hint = ""
        if codes.dtype.itemsize > 1 and _inside(codes.byteswap(), format):
            hint = "; with the bytes of every code in the other order (endianness) all are inside"
        raise InputError(
            f"{where} holds codes in [{codes.min()}, {codes.max()}], outside the {format.bits} "
            f"bits of the format, [{format.min_code}, {format.max_code}]{hint}"
        )
    return codes.astype(format.dtype)


def _inside(codes: np.ndarray, format: Format) -> bool:
    """Whether every code is one of the format."""
    if not codes.size:
        return True
    return format.min_code <= int(codes.min()) and int(codes.max()) <= format.max_code


class Vectors:
    """A folder of vectors, read tensor by tensor and checked against the manifest's SHA-256."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._codes: dict[str, np.ndarray] = {}

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the folder, read once."""
        return Manifest.load(self.folder)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.entries

    def codes(self, name: str) -> np.ndarray:
        """The codes of tensor 'layer.tensor', in its shape and format.dtype."""
        if name not in self._codes:
            self._codes[name] = self._read(self.manifest.entry(name))
        return self._codes[name]

    def _read(self, entry: Entry) -> np.ndarray:
        kind = next((kind for kind in READABLE if kind in entry.files), None)
        if kind is None:
            raise InputError(
                f"{self.folder / FILE} names no .mem, .hex or .npy of {entry.name}; export it again"
            )
        path = self.folder / entry.files[kind].name
        data = read_bytes(path, most_bytes(entry))
        if hashlib.sha256(data).hexdigest() != entry.files[kind].sha256:
            raise InputError(
                f"{path} is not the file that was exported (its SHA-256 differs); export it again"
            )
        return decode(kind, data, entry, str(path))
