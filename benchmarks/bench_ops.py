"""What a public operation costs over the kernel that it calls.

    python benchmarks/bench_ops.py [--json FILE] [--rounds 2000]

Each row times an operation of fxsim.ops, rounded to 8 bits, against the same product on bare arrays
that is worked out beforehand, on operands so small that the kernel takes little.  The two are
interleaved, and their codes are compared before they are timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from runs import write_result

from fxsim import Format, Quantizer, Tensor, ops
from fxsim.ops.conv import input_grad, weight_grad
from fxsim.ops.matmul import forward
from fxsim.ops.products import Geometry
from fxsim.windows import Window

TARGET = 50
"""Microseconds."""

NARROW = Format(8, 4)
BYTE = Format(8, 0)


def tensor(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).integers(-128, 128, shape), BYTE)


def works() -> dict[str, tuple]:
    """Name -> (public operation, the same product on arrays), both to 8 bits."""
    quantizer = Quantizer(NARROW)
    a = tensor(4, 16)
    b = tensor(16, 4)
    x = tensor(1, 6, 6, 4)
    w = tensor(3, 3, 4, 4)
    g = tensor(1, 4, 4, 4)
    dense = forward(BYTE, BYTE, Geometry(1, 1, 16, 4), None, None)
    geometry = Geometry(6, 6, 4, 4, Window((3, 3)))
    conv = forward(BYTE, BYTE, geometry, None, None)
    back = input_grad(BYTE, BYTE, geometry, None)
    weights = weight_grad(BYTE, BYTE, geometry, None)
    left = a.operand.reshape(4, 1, 1, 16)
    right = b.operand.reshape(1, 1, 16, 4)
    xs, ws, gs = (each.operand for each in (x, w, g))

    def to(exact):
        return exact.rounded(quantizer, False)[0]

    return {
        "matmul": (lambda: ops.matmul(a, b).to(NARROW), lambda: to(dense(left, right))),
        "conv2d": (lambda: ops.conv2d(x, w).to(NARROW), lambda: to(conv(xs, ws))),
        "conv2d_input_grad": (
            lambda: ops.conv2d_input_grad(g, w, (1, 6, 6, 4)).to(NARROW),
            lambda: to(back(gs, ws)),
        ),
        "conv2d_weight_grad": (
            lambda: ops.conv2d_weight_grad(x, g, (3, 3, 4, 4)).to(NARROW),
            lambda: to(weights(xs, gs)),
        ),
    }


def measured(operation, kernel, rounds: int) -> tuple[float, float]:
    """Median microseconds of each, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, own in zip((operation, kernel), times):
            start = time.perf_counter()
            work()
            own.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="name of a file in benchmarks/results")
    parser.add_argument("--rounds", type=int, default=2000)
    arguments = parser.parse_args()
    rows = []
    for name, (operation, kernel) in works().items():
        if not np.array_equal(operation().codes.reshape(-1), kernel().reshape(-1)):
            sys.exit(f"{name} differs from its kernel: no timing")
        whole, bare = measured(operation, kernel, arguments.rounds)
        rows.append({"operation": name, "microseconds": whole, "over_kernel": whole - bare})
        print(f"{name:20} {whole:7.1f} us, {whole - bare:6.1f} us over its kernel")
    if arguments.json:
        write_result(arguments.json.stem, target=TARGET, rounds=arguments.rounds, rows=rows)


if __name__ == "__main__":
    main()
