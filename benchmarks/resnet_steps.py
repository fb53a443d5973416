"""Ten fixed-point training steps of a network at full width, with one thread and with two: the same
bits?

    python benchmarks/resnet_steps.py --run RUN --data ~/data/cifar-10-batches-bin

RUN: a folder of `fxsim run` or `fxsim assign` of the same network at any width; its assignment.json
gives the formats. Weights start from the run's seed, images are the data set's first, whole
batches in order.  Each number of threads has a process of its own.  Writes
benchmarks/results/steps-NETWORK.json, and ends with 1 where the fingerprints differ."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from runs import write_result

from fxsim.datasets import load
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import SETTINGS_FILE
from fxsim.factors import LearningRate
from fxsim.nn import networks
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.learners import FixedLearner

THREADS = (1, 2)


def steps(arguments: argparse.Namespace) -> dict:
    """What the steps came to in this process.

    Loss and seconds of each, fingerprint of all weights after each.
    """
    settings = Settings.load(arguments.run / SETTINGS_FILE)
    assignment = arguments.run / "assignment.json"
    network = networks.build(settings.network)
    data = load(settings.dataset, arguments.data)
    fixed = FixedNetwork(
        network,
        PrecisionAssignment.load(assignment),
        initial_parameters(network, settings.seed),
        seed=settings.seed,
    )
    learner = FixedLearner(fixed, data.pixel_max)
    rate = LearningRate.of(settings.learning_rate)
    rows = []
    for step in range(arguments.steps):
        chosen = slice(step * arguments.batch, (step + 1) * arguments.batch)
        start = time.perf_counter()
        loss = learner.step(data.train_images[chosen], data.train_labels[chosen], rate, step)
        rows.append(
            {
                "loss": loss,
                "seconds": round(time.perf_counter() - start, 3),
                "fingerprint": fixed.fingerprint(),
            }
        )
        print(f"step {step}: loss {loss:.4f}, {rows[-1]['seconds']} s", file=sys.stderr)
    return {"network": network.name, "seed": settings.seed, "steps": rows}


def in_process(threads: int) -> dict:
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    run = subprocess.run(
        [sys.executable, *sys.argv, "--here"], stdout=subprocess.PIPE, text=True, env=environment
    )
    if run.returncode:
        raise SystemExit(f"the process with {threads} threads ended with {run.returncode}")
    return {"threads": threads, **json.loads(run.stdout)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(steps(arguments)))
        return 0
    rows = [in_process(threads) for threads in THREADS]
    same = len({json.dumps([step["fingerprint"] for step in row["steps"]]) for row in rows}) == 1
    write_result(f"steps-{rows[0]['network']}", batch=arguments.batch, same_bits=same, runs=rows)
    print(
        f"{arguments.steps} steps of {rows[0]['network']} with {' and '.join(map(str, THREADS))} "
        f"threads: "
        f"{'the same bits' if same else 'DIFFERENT BITS'}, {rows[0]['steps'][-1]['fingerprint']}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
