"""Puts the method's claim to the test: FL against fixed point with C_o and its perturbations,
several seeds.

    python benchmarks/claim.py --network digits-convnet --seeds 0,1,2 --perturb=-2,-1,1 --per-class

Writes benchmarks/results/claim-NETWORK.json: every run with its epochs, costs, counts and
fingerprint, then means and standard deviations over the seeds.  Prints the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

from runs import print_summary, summary, write_result

from fxsim.errors import InputError
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.nn.precision import PERTURBATION_CLASSES
from fxsim.train.designs import perturbed_name

DETAILS = ("assignment", "counts", "stopped", "sums", "overflows", "measured")


def runs_of_seed(
    settings: Settings, folder: str, perturb: list[int], per_class: bool
) -> list[dict]:
    experiment = Experiment(settings, folder)
    outcomes = [experiment.train_float()]
    experiment.analyze()
    chosen = experiment.assign()
    outcomes.append(experiment.train_fixed(chosen))
    for bits in perturb:
        for only in [None, *(PERTURBATION_CLASSES if per_class else ())]:
            name = perturbed_name(bits, only)
            try:
                outcomes.append(experiment.train_fixed(chosen.perturbed(bits, only), name))
            except InputError as error:
                print(f"  {name}: {error}", file=sys.stderr)
            else:
                last = outcomes[-1].epochs[-1]
                print(
                    f"  {name}: loss {last.train_loss:.4f} error {100 * last.test_error:.2f} %",
                    file=sys.stderr,
                )
    rows = [outcome.to_dict() for outcome in outcomes]
    for row in rows[2:]:  # C_o's bits and counts say it all
        for detail in DETAILS:
            row.pop(detail)
    return [{"seed": settings.seed, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="digits-convnet")
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--perturb", default="-2,-1,1")
    parser.add_argument(
        "--per-class", action="store_true", help="perturb each class of tensors by itself, too"
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--width", type=float)
    parser.add_argument("--bound", help="tight or paper (default: tight)")
    parser.add_argument("--held-out", type=int, help="images kept from training")
    parser.add_argument("--gradient-rounding", help="stochastic or nearest (default: stochastic)")
    arguments = parser.parse_args()
    perturb = [int(bits) for bits in arguments.perturb.split(",")]
    runs = []
    for seed in map(int, arguments.seeds.split(",")):
        print(f"seed {seed}", file=sys.stderr)
        settings = Settings.make(
            network=arguments.network,
            data=arguments.data,
            seed=seed,
            epochs=arguments.epochs,
            width=arguments.width,
            bound=arguments.bound,
            held_out=arguments.held_out,
            gradient_rounding=arguments.gradient_rounding,
        )
        with tempfile.TemporaryDirectory() as folder:
            runs += runs_of_seed(settings, folder, perturb, arguments.per_class)
    means = summary(runs)
    write_result(
        f"claim-{arguments.network}", settings=settings.to_dict(), summary=means, runs=runs
    )
    print_summary(means)


if __name__ == "__main__":
    main()
