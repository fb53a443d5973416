"""Runs one fixed-point training step in plain Python and fails if any array of floats is made on
the way.

    NUMBA_DISABLE_JIT=1 python tests/support/audit_run.py [--plant MODULE.FUNCTION]

Every array that the step touches is an Audited one: the images are, and so is what NumPy's
functions return inside fxsim.  NumPy calls __array_finalize__ for each array that derives from it -
views, casts, results of operators, temporaries - and there a float dtype raises.  --plant makes the
named function compute one float array."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np

from fxsim.factors import LearningRate
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.networks import digits_convnet
from support.fingerprint_run import assignment


class FloatArrayMade(Exception):
    pass


class Audited(np.ndarray):
    def __array_finalize__(self, parent):
        if self.dtype.kind in "fc":
            raise FloatArrayMade(f"{self.dtype} array of shape {self.shape}")


class AuditedNumPy(types.ModuleType):
    """NumPy whose functions return Audited arrays."""

    def __init__(self):
        super().__init__("numpy")

    def __getattr__(self, name):
        value = getattr(np, name)
        if not callable(value) or isinstance(value, type):
            return value

        return AuditedCall(value)


class AuditedCall:
    """A function or ufunc (with its methods) of NumPy that returns Audited arrays."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args, **kwargs):
        return _audit(self._function(*args, **kwargs))

    def __getattr__(self, name):
        value = getattr(self._function, name)
        return AuditedCall(value) if callable(value) else value


def _audit(result):
    if type(result) is np.ndarray:
        if result.dtype.kind in "fc":
            raise FloatArrayMade(f"{result.dtype} array of shape {result.shape}")
        return result.view(Audited)
    return result


def _audit_modules() -> None:
    numpy = AuditedNumPy()
    for name, module in list(sys.modules.items()):
        if name.startswith("fxsim") and getattr(module, "np", None) is np:
            module.np = numpy


def _plant(target: str) -> None:
    module_name, _, function_name = target.rpartition(".")
    module = importlib.import_module(module_name)
    original = getattr(module, function_name)

    def planted(*args, **kwargs):
        result = original(*args, **kwargs)
        next(value for value in args if isinstance(value, np.ndarray)) * 0.5
        return result

    setattr(module, function_name, planted)


def small_step() -> tuple[FixedNetwork, np.ndarray, np.ndarray]:
    """A narrow network, two images (codes) and their labels."""
    network = digits_convnet(0.125)
    fixed = FixedNetwork(network, assignment(network), initial_parameters(network, 1))
    images = (np.arange(2 * 64).reshape(2, 8, 8, 1) * 37 % 256).astype(np.int16)
    return fixed, images, np.array([3, 7])


def main() -> None:
    fixed, images, labels = small_step()
    for parameters in fixed.parameters.values():
        for parameter in parameters.values():
            parameter._codes = parameter._codes.view(Audited)
            parameter._accumulators = parameter._accumulators.view(Audited)
    _audit_modules()
    if "--plant" in sys.argv:
        _plant(sys.argv[sys.argv.index("--plant") + 1])
    try:
        fixed.train_step(images.view(Audited), labels.view(Audited), LearningRate.of(0.1), 0)
        fixed.evaluate(images.view(Audited), labels.view(Audited))
    except FloatArrayMade as made:
        sys.exit(f"a float array was made: {made}")
    print(f"no float array; fingerprint {fixed.fingerprint()}")


if __name__ == "__main__":
    main()
