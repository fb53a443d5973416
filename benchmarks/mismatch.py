"""The bound on the decision mismatch p_m against what is measured, for B_min from 2 to 8.

    python benchmarks/mismatch.py --network digits-convnet --seed 0

Trains the float network, assigns weights and activations for each B_min, quantizes them, and counts
the images that float and fixed-point feed-forward decide differently.  The bound is an
expectation over inputs, so noise gains and mismatch are taken over the same images: the training
set, then the test set. Writes benchmarks/results/mismatch-NETWORK.json.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from runs import write_result

from fxsim.analysis.assign import assign_bits, assignment_mismatch_bound
from fxsim.analysis.mismatch import mismatch
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.nn.floating.network import FloatNetwork

MIN_BITS = range(2, 9)
MOST_IMAGES = 2000


def compare(experiment: Experiment, parameters: dict, name: str, images: np.ndarray) -> list[dict]:
    """One row for each B_min: the bound and the share of `images` decided differently."""
    network = experiment.network
    pixel_max = experiment.dataset.pixel_max
    statistics = experiment.measure(parameters, images)
    view = FloatNetwork(network, parameters, np.float64)
    rows = []
    for bits in MIN_BITS:
        assignment = assign_bits(network, statistics, bits)
        rows.append(
            {
                "images": name,
                "count": len(images),
                "min_bits": bits,
                "measured": mismatch(view, assignment, images, pixel_max),
                "bound": float(assignment_mismatch_bound(network, statistics, assignment)),
            }
        )
        print(
            f"{name} B_min {bits}: bound {rows[-1]['bound']:.4g}  measured "
            f"{rows[-1]['measured']:.4g}"
        )
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
        parameters = experiment.float_parameters()
        for name in ("train", "test"):
            images = getattr(experiment.dataset, f"{name}_images")[:MOST_IMAGES]
            rows += compare(experiment, parameters, name, images)
    write_result(f"mismatch-{arguments.network}", settings=settings.to_dict(), rows=rows)


if __name__ == "__main__":
    main()
