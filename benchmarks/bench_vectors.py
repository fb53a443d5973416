"""Golden vectors of one step of the CIFAR-10 ConvNet at batch 4: the commands that export it and
check a dump of it.

    python benchmarks/bench_vectors.py [--json FILE] [--repeats 3]

Each command runs in a process of its own, start included, on images of random pixels; the least
of the repeats counts, after one round that compiles kernels.  Before a time is taken, the commands'
exit codes and results are checked: a right dump is equal; one with the last bits of a tensor
flipped is not, and the search for what explains it goes through all it has."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_step import assignment
from machine import machine
from timing import best_seconds

from fxsim.files import write_text
from fxsim.golden.export import Vectors, encode
from fxsim.kernels.threads import thread_count
from fxsim.nn.networks import cifar10_convnet

BATCH = 4
IMAGES = 8
RECORD = 3073
TARGET = 10
SPOILT = ("conv2.weight_grads", "fc1.preactivations")


def write_images(folder: Path) -> None:
    """CIFAR-10's binary files with random pixels."""
    records = np.random.default_rng(0).integers(0, 256, (IMAGES, RECORD)).astype(np.uint8)
    records[:, 0] %= 10
    folder.mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(records.tobytes())


def fxsim(code: int, begins: str, *arguments) -> None:
    """Run a command; it must end with this exit code, and print what begins so."""
    done = subprocess.run(
        [sys.executable, "-m", "fxsim", "vectors", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    if done.returncode != code or not done.stdout.startswith(begins):
        sys.exit(
            f"fxsim vectors {arguments[0]} ended with {done.returncode}: "
            f"{done.stdout[:400]}{done.stderr[-400:]}"
        )


def dump(vectors: Vectors, folder: Path) -> Path:
    """What a device writes that is right in every code."""
    folder.mkdir()
    for entry in vectors.manifest.tensors:
        if entry.role == "result":
            shutil.copy(vectors.folder / f"{entry.name}.mem", folder)
    return folder


def spoil(vectors: Vectors, right: Path, name: str) -> Path:
    """The dump with the last bit of every code of one tensor flipped."""
    folder = shutil.copytree(right, right.parent / f"wrong-{name}")
    entry = vectors.manifest.entry(name)
    (folder / f"{name}.mem").write_bytes(encode("mem", name, vectors.codes(name) ^ 1, entry))
    return folder


def works(folder: Path) -> dict:
    """What is measured -> a function that does it."""
    network = cifar10_convnet()
    exported = folder / "vectors"
    write_images(folder / "cifar10")
    assignment(network).save(folder / "assignment.json")
    export = (
        "export",
        "--network",
        network.name,
        "--assignment",
        folder / "assignment.json",
        "--data",
        folder / "cifar10",
        "--batch",
        BATCH,
        "--out",
        exported,
    )
    fxsim(0, "step 0 of cifar10-convnet", *export)
    vectors = Vectors(exported)
    right = dump(vectors, folder / "right")
    wrong = {name: spoil(vectors, right, name) for name in SPOILT}
    return {
        "export": lambda: fxsim(0, "step 0 of cifar10-convnet", *export),
        "check, all equal": lambda: fxsim(0, "equal: ", "check", exported, right),
        **{
            f"check, {name} differs": lambda name=name: fxsim(
                1, "MISMATCH ", "check", exported, wrong[name]
            )
            for name in SPOILT
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = best_seconds(works(Path(folder)), arguments.repeats)
        codes = sum(array.size for array in map(np.load, Path(folder, "vectors").glob("*.npy")))
    rows = [
        {
            "what": f"vectors of a ConvNet step at batch {BATCH}: {what}",
            "seconds": value,
            "target": f"<= {TARGET} s",
        }
        for what, value in seconds.items()
    ]
    for row in rows:
        print(f"{row['what']:70} {row['seconds']:6.2f} s  target {row['target']}")
    print(f"{codes:,} codes")
    if arguments.json:
        result = {
            "command": "python " + " ".join(sys.argv),
            "machine": machine(),
            "threads": thread_count(),
            "codes": codes,
            "ratios": rows,
        }
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
