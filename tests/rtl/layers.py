"""Benches of the layer units, fed from the vectors of a training step or of inference.

Each dump is named as the tensor that it is.
"""

import numpy as np

from fxsim import OVERFLOWS, ROUNDINGS, Dense
from fxsim.activation import CLIPPED_RANGE_EXP
from fxsim.factors import MANTISSA_BITS
from rtl.harness import write_codes


class StepUnits:
    """Runs units on vectors (a fxsim.golden.export.Vectors with .mem files) of layers without batch
    norm or residual branch; dumps go to the folder `dumps`, what simulating them takes to `builds`.

    Each method takes the name of a layer, and parameters of the bench to be other than the manifest
    says; it returns the names of the tensors dumped.
    """

    def __init__(self, vectors, dumps, simulator, builds=None):
        self.vectors = vectors
        self.dumps = dumps
        self.builds = builds or dumps
        self.simulator = simulator
        self.network = vectors.manifest.network

    def forward(self, name, **overrides):
        """Pre-activations, ReLU mask (of a training step), and what the next layer reads unless a
        pool comes before it.
        """
        layer = self.network.layer(name)
        z = self.entry(name, "preactivations")
        bias = self.entry(name, "bias")
        z_step_exp = z.format.step_exp
        reader = next(
            (other.name for other, source in self.network.edges() if source == name), None
        )
        output = (reader, "activations") if reader else (name, "logits")
        masked = layer.activation.is_relu and not self.vectors.manifest.of_inference
        parameters = {
            **self.geometry(name),
            "A_BITS": self.bits(name, "activations"),
            "W_BITS": self.bits(name, "weights"),
            "BIAS_BITS": bias.format.bits,
            "BIAS_SHIFT": bias.format.step_exp - z_step_exp,
            "PRODUCT_SHIFT": z_step_exp
            - self.step_exp(name, "activations")
            - self.step_exp(name, "weights"),
            "ACC_BITS": z.accumulator.bits,
            "Z_BITS": z.format.bits,
            "RELU": layer.activation.is_relu,
            "RELU_BITS": CLIPPED_RANGE_EXP - z_step_exp,
            "OUT_SIGNED": self.entry(*output).format.signed,
            **self.quantization(*output, z_step_exp),
            **overrides,
        }
        inputs = {tensor: (name, tensor) for tensor in ("activations", "weights", "bias")}
        return self.run(
            "conv_forward_tb",
            parameters,
            inputs,
            {
                "preactivations": (name, "preactivations"),
                "mask": (name, "relu_mask") if masked else None,
                "codes": None if layer.pool else output,
                "flags": None,
                "overflows": None,
            },
        )

    def input_grad(self, name, **overrides):
        """Activation gradients of the layer that `name` reads, which must be the only one to
        read it.
        """
        below = self.network.source(name)
        grads = (name, "preactivation_grads")
        step_exp = self.step_exp(*grads) + self.step_exp(name, "weights")
        parameters = {
            **self.geometry(name),
            "G_BITS": self.bits(*grads),
            "W_BITS": self.bits(name, "weights"),
            "ACC_BITS": self.entry(below, "activation_grads").accumulator.bits,
            **self.quantization(below, "activation_grads", step_exp),
            **overrides,
        }
        return self.run(
            "conv_input_grad_tb",
            parameters,
            {"grads": grads, "weights": (name, "weights")},
            {"codes": (below, "activation_grads"), "sums": None, "flags": None, "overflows": None},
        )

    def weight_grad(self, name, **overrides):
        """Weight gradients."""
        grads = name, "preactivation_grads"
        step_exp = self.step_exp(*grads) + self.step_exp(name, "activations")
        parameters = {
            **self.geometry(name),
            "G_BITS": self.bits(*grads),
            "A_BITS": self.bits(name, "activations"),
            "ACC_BITS": self.entry(name, "weight_grads").accumulator.bits,
            **self.quantization(name, "weight_grads", step_exp),
            **overrides,
        }
        return self.run(
            "conv_weight_grad_tb",
            parameters,
            {"grads": grads, "activations": (name, "activations")},
            {"codes": (name, "weight_grads"), "sums": None, "flags": None, "overflows": None},
        )

    def update(self, name, **overrides):
        """Updated weights and their accumulators."""
        return self._update(name, "weights", "weight_grads", "accumulators", "updates", overrides)

    def update_bias(self, name, **overrides):
        """Updated bias and its accumulators."""
        return self._update(
            name, "bias", "bias_grads", "bias_accumulators", "bias_updates", overrides
        )

    def _update(self, name, parameter, grads, accumulators, updates, overrides):
        before = f"{accumulators}_before"
        rate = self.vectors.manifest.learning_rate
        count = int(np.prod(self.entry(name, parameter).shape))
        exponent = self.step_exp(name, grads) + rate.exponent - self.step_exp(name, before)
        parameters = {
            "COUNT": count,
            "W_BITS": self.bits(name, parameter),
            "ACC_BITS": self.bits(name, before),
            "GRAD_BITS": self.bits(name, grads),
            "EXPONENT": exponent,
            **overrides,
        }
        mantissas = self.builds / "mantissas"
        roundings = self.builds / "roundings"
        write_codes(mantissas, np.full(count, rate.mantissa), MANTISSA_BITS)
        write_codes(
            roundings, np.full(count, ROUNDINGS.index(self.entry(name, updates).rounding)), 4
        )
        inputs = {
            "weights": (name, parameter),
            "accumulators": (name, before),
            "grads": (name, grads),
            "mantissas": mantissas,
            "roundings": roundings,
        }
        return self.run(
            "weight_update_tb",
            parameters,
            inputs,
            {
                "new_weights": (name, f"updated_{parameter}"),
                "new_accumulators": (name, accumulators),
                "events": None,
            },
        )

    def run(self, bench, parameters, inputs, outputs):
        """Simulate; inputs: plusarg -> (layer, tensor) or a file; outputs: plusarg -> (layer,
        tensor), or None to leave the dump in the simulation's own folder."""
        files = {
            plusarg: self.vectors.folder / self.entry(*name).files["mem"].name
            if isinstance(name, tuple)
            else name
            for plusarg, name in inputs.items()
        }
        for plusarg, name in outputs.items():
            files[plusarg] = self.dumps / f"{'.'.join(name)}.mem" if name else plusarg
        self.simulator.build(bench, self.builds, **parameters).run(**files)
        return [".".join(name) for name in outputs.values() if name]

    def entry(self, layer, tensor):
        return self.vectors.manifest.entry(f"{layer}.{tensor}")

    def bits(self, layer, tensor):
        return self.entry(layer, tensor).format.bits

    def step_exp(self, layer, tensor):
        return self.entry(layer, tensor).format.step_exp

    def geometry(self, name):
        layer = self.network.layer(name)
        shape = self.network.shape(name)
        batch = self.vectors.manifest.batch
        if isinstance(layer, Dense):
            return {
                "BATCH": batch,
                "HEIGHT": 1,
                "WIDTH": 1,
                "CHANNELS": shape.dot_length,
                "FILTERS": layer.units,
                "KERNEL": 1,
            }
        height, width, channels = shape.input
        return {
            "BATCH": batch,
            "HEIGHT": height,
            "WIDTH": width,
            "CHANNELS": channels,
            "FILTERS": layer.filters,
            "KERNEL": layer.kernel,
            "STRIDE": layer.stride,
            "PADDING": layer.padding,
        }

    def quantization(self, layer, tensor, step_exp):
        """Parameters of the requantization of sums with step 2**step_exp to a tensor."""
        entry = self.entry(layer, tensor)
        return {
            "OUT_BITS": entry.format.bits,
            "SHIFT": entry.format.step_exp - step_exp,
            "ROUNDING": ROUNDINGS.index(entry.rounding),
            "OVERFLOW": OVERFLOWS.index(entry.overflow),
        }
