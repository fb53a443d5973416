"""What a probe of FixedNetwork keeps of its tensors, in data-flow order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fxsim.errors import choice
from fxsim.formats import STOCHASTIC, Format
from fxsim.golden.description import GRADS_WITHIN, QUANTIZED, Description, is_rounded_update
from fxsim.golden.manifest import RANDOM_WORDS, Entry, TensorWords
from fxsim.nn.fixed.activation import relu_format, relu_quantizer, seen_of
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.spec import Network
from fxsim.ops.exact import MASK, relu_bound
from fxsim.quantizer import Quantizer, words_at
from fxsim.tensor import Tensor
from fxsim.words import DroppedBits, Philox, words_of

WORD_FORMAT = Format(32, 32, False)


class Recorder:
    """Collects (layer, tensor, Tensor) from the probe, adding what the probe does not show.

    batch: images.  step: part of the key of the random words.  training: whether the tensors are
    of a training step; the masks of gradients are of no use in inference.
    """

    def __init__(self, network: FixedNetwork, batch: int, step: int, training: bool):
        self.network = network
        self.batch = batch
        self.step = step
        self.training = training
        self.kept: list[tuple[str, str, Tensor]] = []
        self.words: dict[tuple[str, str], TensorWords] = {}

    def see(self, tensor: str, layer: str, value: Tensor) -> None:
        """The probe."""
        self.keep(layer, tensor, value)
        own = self.network.layers[layer]
        read = "preactivations" if own.norm is None and own.addition is None else "relu_inputs"
        if tensor == read:
            self._see_activation(layer, value)

    def _see_activation(self, layer: str, value: Tensor) -> None:
        """What the activation function makes of its input beside the codes, and its tables."""
        own = self.network.layers[layer]
        quantizer = Quantizer(relu_format(own.layer, own.output.format))
        if own.layer.activation.is_relu and self.training:
            bound = relu_bound(value.format.step_exp, relu_quantizer(own.layer, quantizer))
            mask = (value.codes > 0) & (value.codes < bound)
            self.keep(layer, "relu_mask", Tensor(mask.astype(np.uint8), MASK))
        if own.activation is None:
            return
        table = own.activation.table
        if self.training or table is not None:
            self.keep(layer, *seen_of(own.layer.activation, value, quantizer))
        if table is not None:
            self.keep(layer, "table_values", table.values)
            if self.training and table.slopes is not None:
                self.keep(layer, "table_slopes", table.slopes)

    def keep(self, layer: str, tensor: str, value: Tensor) -> None:
        """Keep a tensor, after the random words of its rounding."""
        rounded_update = is_rounded_update(self.network.assignment, layer, tensor)
        if rounded_update or tensor in QUANTIZED and tensor != "activations":
            self.see_words(layer, tensor, value.shape)
        if tensor == "quantized_preactivations":
            self.see_words(layer, tensor, value.shape, "preactivations")
        if tensor in GRADS_WITHIN:
            maker = self.network.layers[layer].maker_of_grads(tensor)
            self.see_words(layer, tensor, value.shape, maker)
        source = self.network.network.source(layer)
        if tensor == "activations" and source is not None:
            before_pooling = self.network.network.shape(source).pre
            self.see_words(layer, tensor, (self.batch, *before_pooling))
        self.kept.append((layer, tensor, value))

    def see_words(
        self, layer: str, tensor: str, shape: tuple[int, ...], maker: str | None = ""
    ) -> np.ndarray | DroppedBits | None:
        """The random words of a stochastic rounding, one for every element before pooling.

        maker: the name that the assignment has for the rounding, where it is not the tensor's; None
        where there is no rounding.
        """
        made_as = tensor if maker == "" else maker
        if made_as is None or self.network.assignment.rounding_of(made_as) not in STOCHASTIC:
            return None
        owner = layer
        if tensor == "activations":
            read = self.network.network.source(layer)
            owner = next(each.name for each, reads in self.network.network.edges() if reads == read)
        source = self.network.assignment.words_of(owner, made_as)
        if source != Philox():
            self.words[layer, tensor] = TensorWords.of(source, self.step, shape)
        drawn = words_of(source, self.network.seed, self.step, f"{owner}.{made_as}")
        if isinstance(drawn, DroppedBits):
            return drawn
        words = words_at(drawn, shape)
        self.kept.append((layer, tensor + RANDOM_WORDS, Tensor(words, WORD_FORMAT)))
        return words

    def tensors(
        self, description: Description, layers: Iterable[str] | None
    ) -> tuple[tuple[Entry, ...], dict[str, np.ndarray]]:
        """Entries and codes of the chosen layers (None: of all), in data-flow order."""
        wanted = _wanted(self.network.network, layers)
        kept = [row for row in self.kept if wanted is None or wanted & {(row[0], ""), row[:2]}]
        entries = tuple(description.entry(*row) for row in kept)
        return entries, {entry.name: value.codes for entry, (_, _, value) in zip(entries, kept)}

    def words_kept(self, entries: Iterable[Entry]) -> dict[str, TensorWords]:
        """'layer.tensor' -> where its random words come from, in the layers of these entries."""
        layers = {entry.layer for entry in entries}
        return {
            f"{layer}.{tensor}": own
            for (layer, tensor), own in self.words.items()
            if layer in layers
        }


def _wanted(network: Network, layers: Iterable[str] | None) -> set[tuple[str, str]] | None:
    """(layer, tensor) of what the chosen layers make for their neighbours.

    (layer, '') for all of a layer.
    """
    if layers is None:
        return None
    chosen = {choice("layer", name, network.names) for name in layers}
    wanted = {(name, "") for name in chosen}
    for layer, source in network.edges():
        if source in chosen:
            wanted |= {(layer.name, "activations"), (layer.name, "activations" + RANDOM_WORDS)}
        if layer.name in chosen and source is not None:
            wanted |= {(source, "activation_grads"), (source, "activation_grads" + RANDOM_WORDS)}
    return wanted
