"""Kills a short run with SIGKILL at random moments, resumes it, and compares what it leaves with an
unbroken run.

    python benchmarks/sigkill.py --kills 50 --seed 0

Each kill strikes a run of its own, `moment` seconds after its first checkpoint was there, drawn
uniformly from the time that an unbroken run takes from there to its last result.  A checkpoint is
written after every step, so that many kills strike while one is written.  Writes
benchmarks/results/sigkill.json, and ends with 1 where a resumed run has other bits."""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

from fxsim.files import read_arrays, write_text
from fxsim.train import checkpoint

RESULTS = Path(__file__).parent / "results"
RUN = (
    "--network",
    "digits-convnet",
    "--width",
    "0.5",
    "--epochs",
    "3",
    "--images",
    "512",
    "--batch",
    "64",
    "--seed",
    "1",
    "--perturb",
    "1",
    "--checkpoint-minutes",
    "0",
)
VARYING = {"seconds", "images_per_second", "machine", "command", "sha256"}
"""What differs between two runs of the same settings."""


def start(folder: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fxsim", "run", *RUN, *options, "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode}: {errors}")


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    while not checkpoint.path_of(folder, "FL").exists():
        if process.poll() is not None:
            finish(process)
            raise SystemExit("a run ended without a checkpoint")
        time.sleep(0.001)


def unbroken(folder: Path) -> float:
    """A whole run; seconds from its first checkpoint to its last result."""
    process = start(folder)
    wait_for_checkpoint(folder, process)
    begun = time.time()
    finish(process)
    return (folder / "results.json").stat().st_mtime - begun


def kill(folder: Path, moment: float) -> dict | None:
    """A run that is killed; where it was.  None where it had ended before."""
    process = start(folder)
    wait_for_checkpoint(folder, process)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return where(folder) if process.returncode == -signal.SIGKILL else None


def where(folder: Path) -> dict:
    """What a killed run left.

    Designs that had ended, the position of the one under way, files half written.
    """
    results = folder / "results.json"
    ended = (
        [row["design"] for row in json.loads(results.read_text())["designs"]]
        if results.exists()
        else []
    )
    row = {"ended": ended, "half_written": sorted(path.name for path in folder.glob(".*.tmp"))}
    for path in folder.glob("checkpoint-*.npz"):
        text, _ = checkpoint.read(path)
        position = text["position"]
        row |= {
            "design": text["identity"]["design"],
            "epochs": len(position["epochs"]),
            "step": position["step"],
        }
    return row


def content(folder: Path) -> dict[str, object]:
    """What two runs of the same settings have in common, file by file; of plots their names."""
    return {
        path.name: _READERS.get(path.suffix, lambda path: None)(path)
        for path in sorted(folder.iterdir())
    }


def _arrays(path: Path) -> dict:
    return {
        name: (array.dtype.str, array.shape, array.tobytes())
        for name, array in read_arrays(path).items()
    }


def _rows(path: Path) -> list:
    with open(path, newline="") as file:
        return _lasting(list(csv.DictReader(file)))


def _lasting(value):
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in VARYING}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


_READERS = {
    ".npz": _arrays,
    ".csv": _rows,
    ".json": lambda path: _lasting(json.loads(path.read_text())),
}


def strike(folder: Path, span: float, draw: random.Random, wanted: dict) -> dict:
    """One kill and one resume; what happened."""
    found = None
    for attempt in range(100):
        moment = draw.uniform(0.0, span)
        if found := kill(folder / f"run{attempt}", moment):
            break
    folder = folder / f"run{attempt}"
    finish(start(folder, "--resume"))
    got = content(folder)
    differing = sorted(
        name
        for name in got.keys() | wanted.keys()
        if name not in got or got[name] != wanted.get(name)
    )
    return {"moment": round(moment, 4), **found, "identical": not differing, "differing": differing}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "sigkill.json")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        unbroken(
            Path(folder) / "compiling"
        )  # so that no moment is drawn from the time of compilation
        span = unbroken(Path(folder) / "unbroken")
        wanted = content(Path(folder) / "unbroken")
        for number in range(arguments.kills):
            rows.append(strike(Path(folder) / str(number), span, draw, wanted))
            print(json.dumps(rows[-1]), flush=True)
    identical = sum(row["identical"] for row in rows)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS
    ).stdout.strip()
    result = {
        "command": "python " + " ".join(["benchmarks/sigkill.py", *sys.argv[1:]]),
        "commit": commit,
        "seed": arguments.seed,
        "machine": machine(),
        "run": " ".join(["fxsim", "run", *RUN]),
        "seconds": round(span, 3),
        "kills": len(rows),
        "identical": identical,
        "half_written": sum(bool(row["half_written"]) for row in rows),
        "moments": rows,
    }
    write_text(arguments.output, json.dumps(result, indent=1) + "\n")
    print(f"{identical} of {len(rows)} resumed runs ended bit-identical")
    return 0 if identical == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
