"""BN, the binarized network: every weight and every activation has one bit where a product reads
it.

Source: M. Courbariaux et al., "Binarized Neural Networks" (arXiv 1602.02830): sign in the forward
pass, straight-through in the backward pass, real-valued weights that are updated and clipped to
[-1, 1) in float.
"""

from __future__ import annotations

import numpy as np

from fxsim.nn.floating.activation import LayerTape
from fxsim.nn.floating.network import FloatNetwork


class BinarizedNetwork(FloatNetwork):
    """A FloatNetwork whose activations, those of every function, are -1 or 1, and whose products
    read weights of -1 or 1 over the root of the number of terms in a sum.

    Without that constant of the layer, which batch norm cancels, a sum would hardly ever lie within
    (-1, 1), and the weights' gradients would be as much smaller than those of a float network.

    The gradient with respect to a sign is taken as that with respect to the number, an activation's
    where the pre-activation lies within (-1, 1).  The sign of 0 is 1.  The network's input stays
    real, and dropped activations are 0. The sign is taken after pooling: of the greatest
    pre-activation, or of the mean over those clipped to [-1, 1].
    """

    activation_range = (-1.0, 1.0)

    def weight(self, name: str) -> np.ndarray:
        """The weights as products read them: the sign times a constant of the layer."""
        magnitude = self.network.shape(name).dot_length ** -0.5
        return np.copysign(self.dtype.type(magnitude), self.parameters[name]["weight"] + 0)

    def _activate(self, tape: LayerTape) -> None:
        super()._activate(tape)
        if tape.layer.activation.kind != "none":
            magnitude = self.dtype.type(1) if tape.keep is None else tape.keep
            tape.output = np.copysign(magnitude, tape.output + 0)  # 0 is added for the sign of -0.0
