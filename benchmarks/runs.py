"""What the studies share.

The commit, means over seeds, and a file with all that says where numbers come from.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from machine import machine

from fxsim.files import write_text

RESULTS = Path(__file__).parent / "results"


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS
    ).stdout.strip()


def summary(runs: list[dict]) -> list[dict]:
    """Mean, standard deviation and values of training loss and test error of each design over
    its runs.
    """
    rows = []
    for design in dict.fromkeys(run["design"] for run in runs):
        chosen = [run for run in runs if run["design"] == design]
        row = {"design": design, "seeds": len(chosen)}
        for key in ("train_loss", "test_error"):
            values = [run[key] for run in chosen]
            row[key] = {
                "mean": statistics.fmean(values),
                "stdev": statistics.stdev(values) if len(values) > 1 else 0.0,
                "values": values,
            }
        rows.append(row)
    return rows


def print_summary(rows: list[dict]) -> None:
    for row in rows:
        print(
            f"{row['design']:28} train loss {row['train_loss']['mean']:.4f} +- "
            f"{row['train_loss']['stdev']:.4f}   "
            f"test error {100 * row['test_error']['mean']:.2f} +- "
            f"{100 * row['test_error']['stdev']:.2f} %"
        )


def write_result(name: str, **content) -> None:
    """results/NAME.json: the content, with the command, commit and machine before it."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    result = {"command": command, "commit": commit(), "machine": machine(), **content}
    write_text(RESULTS / f"{name}.json", json.dumps(result, indent=1) + "\n")
