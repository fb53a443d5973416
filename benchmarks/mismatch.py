"""Both bounds on the decision mismatch p_m against what is measured, for B_min from 2 to 10.

    python benchmarks/mismatch.py --network digits-convnet --seed 0

Trains the float network, assigns weights and activations for each B_min, quantizes them, and counts
the images that float and fixed-point feed-forward decide differently.  The bounds are expectations
over inputs, so they and the mismatch are taken over the same images: of the training set, those
held out of it, and the test set.  Writes benchmarks/results/mismatch-NETWORK.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile

import numpy as np
from runs import write_result

from fxsim.analysis.assign import Rules, assign, feedforward_bits
from fxsim.analysis.mismatch import mismatch
from fxsim.analysis.noise_gains import measure_decisions
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.nn.floating.network import FloatNetwork

MIN_BITS = range(2, 11)
MOST_IMAGES = 2000


def compare(experiment: Experiment, view: FloatNetwork, name: str, images: np.ndarray) -> list:
    """One row for each B_min: the bounds and the share of `images` decided differently."""
    network = experiment.network
    pixel_max = experiment.dataset.pixel_max
    decisions = measure_decisions(view, images / pixel_max)
    statistics = dataclasses.replace(experiment.statistics(), decisions=decisions)
    rows = []
    for bits in MIN_BITS:
        assignment = assign(network, statistics, Rules(min_bits=bits))
        rows.append(
            {
                "images": name,
                "count": len(images),
                "min_bits": bits,
                "measured": mismatch(view, assignment, images, pixel_max),
                **decisions.bounds(feedforward_bits(network, assignment)),
            }
        )
        found = (f"{key} {rows[-1][key]:.4g}" for key in ("tight", "paper", "measured"))
        print(f"{name} B_min {bits}: {'  '.join(found)}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="digits-convnet")
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    settings = Settings.make(
        network=arguments.network, data=arguments.data, seed=arguments.seed, epochs=arguments.epochs
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(settings, folder)
        experiment.train_float()
        experiment.analyze()
        view = FloatNetwork(experiment.network, experiment.float_parameters(), np.float64)
        splits = {
            "training": experiment.dataset.train_images,
            "held-out": experiment.setup.held_out,
            "test": experiment.dataset.test_images,
        }
        for name, images in splits.items():
            rows += compare(experiment, view, name, images[:MOST_IMAGES])
    write_result(f"mismatch-{arguments.network}", settings=settings.to_dict(), rows=rows)


if __name__ == "__main__":
    main()
