"""TG: a float network that is trained with ternary weight gradients.

Source: W. Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
Learning" (NIPS 2017), with its layer-wise scale and without its clipping of gradients.
"""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError
from fxsim.nn.floating.network import FloatNetwork, Probe, StepResult
from fxsim.nn.init import Parameters
from fxsim.rng import Stream, tensor_stream


class TernGradNetwork(FloatNetwork):
    """A FloatNetwork whose weight gradients are ternary before the update; those of other
    parameters are not.

    The words of a layer's gradient are those of Stream(seed, step, "<layer>.weight_grads").  Probes
    see the gradients before.
    """

    def _result_and_grads(
        self, images: np.ndarray, targets: np.ndarray, step: int | None, probe: Probe | None
    ) -> tuple[StepResult, Parameters]:
        if step is None:
            raise InputError("ternary gradients depend on the training step; pass its number")
        result, grads = super()._result_and_grads(images, targets, step, probe)
        for name, own in grads.items():
            if "weight" not in own:
                continue
            words = tensor_stream(self.seed, step, name, "weight_grads")
            own["weight"] = ternarized(own["weight"], words)
        return result, grads


def ternarized(gradient: np.ndarray, stream: Stream) -> np.ndarray:
    """s sign(g) with probability |g| / s, else 0, for s = max |g|.

    Three values whose mean is g, to 2**-32 s.
    """
    magnitude = np.abs(gradient, dtype=np.float64)
    scale = magnitude.max()
    if scale == 0:
        return gradient
    chosen = stream.words(gradient.shape) < np.rint(magnitude * (2.0**32 / scale))
    return (np.sign(gradient) * chosen * scale).astype(gradient.dtype)
