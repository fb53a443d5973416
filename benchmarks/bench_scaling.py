"""How the fixed-point step of the CIFAR-10 ConvNet scales: threads, batch, memory, start-up.

    python benchmarks/bench_scaling.py [--json FILE] [--quick]

Memory and start-up are those of fresh processes; numbers of threads, and sizes of batches, take
turns in one."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_products import square_product
from bench_step import cifar10_convnet, fixed_step
from machine import machine
from timing import burst_seconds

from fxsim.files import write_text
from fxsim.kernels.threads import use_threads

HERE = Path(__file__).parent

MEMORY = """
import resource, bench_step as b
network = b.cifar10_convnet()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
{warm}
before = peak()
step = {step}
step(); step()
print(peak() - before)
"""
WARM_FIXED = "b.fixed_step(network, 2)[1]()"
WARM_TORCH = "b.torch_step(network, 2, False)()"

IMPORT = (
    "import time; start = time.perf_counter(); import fxsim; print(time.perf_counter() - start)"
)
FIRST_STEP = """
import time; start = time.perf_counter()
import bench_step as b
b.fixed_step(b.cifar10_convnet(), 128)[1]()
print(time.perf_counter() - start)
"""


def figure(code: str, **environment: str) -> float:
    """What a fresh process prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, **environment},
    )
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    return float(run.stdout)


def threads_rows(size: int, rounds: int) -> list[dict]:
    """The step; and a product without anything between, as the most that the two cores give."""
    works = {
        "step at batch 128": fixed_step(cifar10_convnet(), 128)[1],
        f"14-bit by 8-bit product, {size}^3": square_product("14-bit by 8-bit", size)[1],
    }
    rows = []
    for target, (what, work) in zip((">= 1.8", "none"), works.items()):
        seconds = burst_seconds(
            {
                str(threads): lambda threads=threads, work=work: (use_threads(threads), work())
                for threads in (1, 2)
            },
            rounds,
        )
        rows.append(
            {
                "what": f"one thread / two threads, {what}",
                "ratio": seconds["1"] / seconds["2"],
                "target": target,
                "seconds": seconds,
            }
        )
    return rows


def batch_rows(batches, rounds: int) -> list[dict]:
    network = cifar10_convnet()
    seconds = burst_seconds(
        {str(batch): fixed_step(network, batch)[1] for batch in batches}, rounds
    )
    per_image = {batch: value / int(batch) for batch, value in seconds.items()}
    costs = list(per_image.values())
    growth = max(later / earlier for earlier, later in zip(costs, costs[1:]))
    return [
        {
            "what": "largest growth of per-image time from one batch size to the next",
            "ratio": growth,
            "target": "<= 1.1",
            "seconds_per_image": per_image,
        }
    ]


def memory_rows() -> list[dict]:
    fixed = figure(MEMORY.format(warm=WARM_FIXED, step="b.fixed_step(network, 128)[1]"))
    try:
        torch = figure(MEMORY.format(warm=WARM_TORCH, step="b.torch_step(network, 128, False)"))
    except RuntimeError as error:
        print(f"PyTorch's memory not measured: {error}", file=sys.stderr)
        return []
    return [
        {
            "what": "peak memory of the step above imports, fxsim / PyTorch",
            "ratio": fixed / torch,
            "target": "<= 0.5",
            "bytes": {"fxsim": fixed, "torch": torch},
        }
    ]


def start_rows() -> list[dict]:
    imported = statistics.median(figure(IMPORT) for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        cold = figure(FIRST_STEP, NUMBA_CACHE_DIR=folder)
        warm = figure(FIRST_STEP, NUMBA_CACHE_DIR=folder)
    return [
        {"what": what, "seconds": seconds, "target": target}
        for what, seconds, target in (
            ("import fxsim", imported, "< 0.5 s"),
            ("first step, cold cache", cold, "< 30 s"),
            ("first step, warm cache", warm, "< 3 s"),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two batch sizes, 2 rounds")
    arguments = parser.parse_args()
    size, batches, rounds = (
        (512, (32, 64), 2) if arguments.quick else (2048, (32, 64, 128, 256, 512), 10)
    )
    rows = [
        *start_rows(),
        *memory_rows(),
        *threads_rows(size, rounds),
        *batch_rows(batches, rounds),
    ]
    for row in rows:
        value = f"{row['ratio']:.2f}" if "ratio" in row else f"{row['seconds']:.2f} s"
        print(f"{row['what']:66} {value:>8}  target {row['target']}")
    if arguments.json:
        result = {"command": "python " + " ".join(sys.argv), "machine": machine(), "ratios": rows}
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
