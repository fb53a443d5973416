"""What rounding to nearest does to the gradients of a trained float network.

    python benchmarks/gradients.py RUN

RUN: folder of `fxsim run` or of `fxsim analyze`.  On the first training batches, for each layer:

- bits of G^A and of G^Z, batch norm's gradient at the pre-activations, where they round
  stochastically and where they round to nearest, and the share of their absolute sum that nearest
  would flush at either;
- the relative quantization bias of G^W at the assigned step and at steps below it, each a quarter
  of the one before.

Writes benchmarks/results/gradients-NETWORK.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from runs import write_result

from fxsim.analysis import criteria
from fxsim.analysis.assign import GRADIENT_ROUNDINGS, Rules, assign
from fxsim.experiment.stages import Experiment
from fxsim.nn.floating.network import FloatNetwork
from fxsim.report.tables import text_table
from fxsim.report.text import ALL_SYMBOLS
from fxsim.train.measured import first_batches

BATCHES = 8
FINER = (0, 2, 4, 6, 8)
"""Bits below the assigned step."""


def gradients_of(experiment: Experiment) -> dict[tuple[str, str], np.ndarray]:
    """(layer, tensor) -> all values over the batches, of one step from here on each of them."""
    network = FloatNetwork(experiment.network, experiment.float_parameters(), np.float64)
    found: dict[tuple[str, str], list[np.ndarray]] = {}

    def see(tensor: str, layer: str, array: np.ndarray) -> None:
        if tensor.endswith("_grads") and tensor in ALL_SYMBOLS:
            found.setdefault((layer, tensor), []).append(array.ravel())

    batches = first_batches(
        experiment.dataset, experiment.network, experiment.settings.batch, BATCHES
    )
    for step, (images, targets) in enumerate(batches):
        network.loss_and_grads(images, targets, step=step, probe=see)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    experiment = Experiment.reopen(parser.parse_args().run)
    statistics = experiment.statistics()
    assignments = {
        rounding: assign(experiment.network, statistics, Rules(gradient_rounding=rounding)).layers
        for rounding in GRADIENT_ROUNDINGS
    }
    flushing = []
    biases = []
    for (layer, tensor), values in gradients_of(experiment).items():
        formats = {name: layers[layer].given()[tensor] for name, layers in assignments.items()}
        if tensor == "weight_grads":
            steps = [formats["nearest"].step / 2**bits for bits in FINER]
            bias = [criteria.relative_quantization_bias(values, step) for step in steps]
            biases.append({"layer": layer, "step": steps[0], "bias": bias})
            continue
        row = {"layer": layer, "tensor": tensor}
        for name, format in formats.items():
            row[name] = {
                "bits": format.bits,
                "flushed": criteria.flushed_share(values, format.step),
            }
        flushing.append(row)
    settings = experiment.settings
    write_result(
        f"gradients-{settings.network}", settings=settings.to_dict(), flushing=flushing, bias=biases
    )
    header = ("layer", "tensor", *(f"{name}: bits, flushed" for name in GRADIENT_ROUNDINGS))
    print(text_table(header, map(_flushing_cells, flushing), "llrr"))
    header = ("layer", "step of G^W", *(f"RQB at 2^-{bits} of it" for bits in FINER))
    print("\n" + text_table(header, map(_bias_cells, biases), "l" + "r" * (len(FINER) + 1)))


def _flushing_cells(row: dict) -> list[str]:
    cells = (f"{row[name]['bits']}, {row[name]['flushed']:.2%}" for name in GRADIENT_ROUNDINGS)
    return [row["layer"], ALL_SYMBOLS[row["tensor"]], *cells]


def _bias_cells(row: dict) -> list[str]:
    return [
        row["layer"],
        f"2^{int(np.log2(row['step']))}",
        *(f"{bias:.1%}" for bias in row["bias"]),
    ]


if __name__ == "__main__":
    main()
