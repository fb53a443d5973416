"""Results made up for reports."""

import dataclasses

from fxsim.analysis.complexity import design_complexity
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.formats import Format
from fxsim.nn.layer_precision import SYMBOLS, LayerPrecision
from fxsim.nn.networks import build
from fxsim.nn.precision import PrecisionAssignment, Reason
from fxsim.train.loop import Epoch

FORMATS = LayerPrecision(
    weights=Format(7, 0),
    activations=Format(5, 1, signed=False),
    activation_grads=Format(11, -6),
    weight_grads=Format(10, -2),
    accumulators=Format(12, -7),
)
ASSIGNMENT = PrecisionAssignment(
    "mnist-convnet",
    dict.fromkeys(build("mnist-convnet").names, FORMATS),
    reasons={("conv2", "weight_grads"): Reason("GC, RQB", {"sigma_max": 0.1}, 1.25)},
)


def design(name, costs=None, **changes):
    epochs = [
        Epoch(epoch, 0.1, 1 / (epoch + 1), 1 / (epoch + 1), 0.1 / (epoch + 1), 1000.0)
        for epoch in range(3)
    ]
    costs = costs or design_complexity(build("mnist-convnet"), "FL")
    return {**Outcome(name, epochs, costs, 1.0).to_dict(), **changes}


DESIGNS = [
    design("FL"),
    design("BN", design_complexity(build("mnist-convnet"), "BN")),
    design("FX C_-1", assignment=ASSIGNMENT.to_dict()),
]


SENSITIVITY = [
    {"class": name, "bits": bits, "train_loss": loss, "test_error": loss / 10}
    for name, bits, loss in (
        ("all", -1, 0.5),
        ("all", 0, 0.3),
        ("all", 1, 0.2),
        ("accumulators", -1, 0.4),
        ("accumulators", 1, 0.25),
    )
]


def histograms(layers):
    row = {tensor: {"zeros": 2, "least": -6, "counts": [1, 0, 3]} for tensor in SYMBOLS}
    return {moment: dict.fromkeys(layers, row) for moment in ("start", "end")}


def measured():
    def finding(
        criterion, tensor, value, bound, error=0.0, moment="training", layer="conv1", passed=True
    ):
        return {
            "moment": moment,
            "criterion": criterion,
            "layer": layer,
            "tensor": tensor,
            "value": value,
            "bound": bound,
            "error": error,
            "passed": passed,
        }

    return {
        "histograms": histograms(ASSIGNMENT.layers),
        "criteria": [
            finding("AS", "accumulators", 0.0, 0.0),
            finding("GC", "weight_grads", 0.02, 0.05),
            finding("GC", "activation_grads", 0.06, 0.05, passed=False, layer="conv2"),
            finding("RQB", "weight_grads", 0.03, 0.01, 0.02, "end"),
            finding("GF", "activation_grads", 0.001, 0.01, moment="end"),
            finding("GF", "preactivation_grads", 0.004, 0.01, moment="end"),
        ],
    }


def results_of(designs, **more):
    """The plain data of a results.json."""
    settings = dataclasses.asdict(Settings.make(network="mnist-convnet"))
    row = {
        "command": "fxsim run",
        "machine": {"processor": "a processor", "versions": {"fxsim": "1"}},
    }
    return {
        "identity": {"settings": settings, "images": {"test": 360}},
        "designs": [{**row, **design} for design in designs],
        **more,
    }
