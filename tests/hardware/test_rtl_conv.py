"""RTL layer units with exact and narrow accumulators give the sums and overflow counts of the
twin.
"""

import numpy as np
import pytest
from oracle import products as oracle
from rtl.harness import ICARUS, read_codes, write_codes
from support.bits import assert_same_codes

from fxsim import ROUNDINGS

SHAPE = {
    "BATCH": 2,
    "HEIGHT": 4,
    "WIDTH": 5,
    "CHANNELS": 3,
    "FILTERS": 2,
    "KERNEL": 2,
    "STRIDE": 2,
    "PADDING": 1,
}
BITS = {"activations": 5, "weights": 5, "bias": 6, "grads": 6}


def random_layer():
    """Codes of a small layer.

    Activations (2, 4, 5, 3), weights (2, 2, 3, 2), bias (2,), gradients (2, 3, 3, 2).
    """
    random = np.random.default_rng(4)
    shapes = {
        "activations": (2, 4, 5, 3),
        "weights": (2, 2, 3, 2),
        "bias": (2,),
        "grads": (2, 3, 3, 2),
    }
    return {
        name: random.integers(
            0 if name == "activations" else -(2 ** (BITS[name] - 1)),
            2 ** (BITS[name] - (name != "activations")),
            shape,
        )
        for name, shape in shapes.items()
    }


def ordered_terms(unit, codes):
    """Output index -> its terms in the stated order (a padded input adds 0, which changes
    nothing).
    """
    x, w, g = (codes[name].tolist() for name in ("activations", "weights", "grads"))
    terms = {}
    for n, oy, ox, iy, ix, ky, kx in oracle.taps(oracle.shape_of(x), oracle.shape_of(w), 2, 1):
        for c, o in np.ndindex(3, 2):
            index, order, term = {
                "forward": ((n, oy, ox, o), (c, ky, kx), x[n][iy][ix][c] * w[ky][kx][c][o]),
                "input_grad": ((n, iy, ix, c), (o, ky, kx), g[n][oy][ox][o] * w[ky][kx][c][o]),
                "weight_grad": ((ky, kx, c, o), (n, oy, ox), x[n][iy][ix][c] * g[n][oy][ox][o]),
            }[unit]
            terms.setdefault(index, []).append((order, term))
    return {index: [term for _, term in sorted(rows)] for index, rows in terms.items()}


RUNS = {
    "forward": (
        "preactivations",
        ("activations", "weights", "bias"),
        (2, 3, 3, 2),
        {"A_BITS": 5, "W_BITS": 5, "BIAS_BITS": 6},
    ),
    "input_grad": ("sums", ("grads", "weights"), (2, 4, 5, 3), {"G_BITS": 6, "W_BITS": 5}),
    "weight_grad": ("sums", ("activations", "grads"), (2, 2, 3, 2), {"A_BITS": 5, "G_BITS": 6}),
}


@pytest.mark.parametrize(
    "acc_bits, overflow, shift, rounding",
    [
        (24, "saturate", 0, "floor"),
        (9, "saturate", 0, "floor"),
        (8, "wrap", 0, "floor"),
        (7, "saturate", 2, "nearest_even"),
        (7, "wrap", 1, "zero"),
    ],
)
@pytest.mark.parametrize("unit", RUNS)
def test_accumulators_of_the_units_are_the_twins(
    tmp_path, unit, acc_bits, overflow, shift, rounding
):
    """Sums and overflow counts of a padded, strided layer in exact and narrow accumulators."""
    codes = random_layer()
    (sums_name, inputs, shape, widths) = RUNS[unit]
    simulation = ICARUS.build(
        f"conv_{unit}_tb",
        tmp_path,
        **SHAPE,
        **widths,
        ACC_BITS=acc_bits,
        ACC_WRAP=overflow == "wrap",
        PRODUCT_SHIFT=shift,
        PRODUCT_ROUNDING=ROUNDINGS.index(rounding),
    )
    for name in inputs:
        write_codes(simulation.folder / name, codes[name], BITS[name])
    outputs = (sums_name, "codes", "flags", "overflows", *(("mask",) if unit == "forward" else ()))
    simulation.run(**{name: name for name in (*inputs, *outputs)})
    sums = read_codes(
        simulation.folder / sums_name, 24 if unit == "forward" else acc_bits, True, shape
    )
    overflows = read_codes(simulation.folder / "overflows", 32, False, shape)
    wanted = np.zeros((2, *shape), np.int64)
    for index, terms in ordered_terms(unit, codes).items():
        total, count = oracle.accumulate(terms, acc_bits, overflow, shift, rounding)
        if unit == "forward":
            total, extra = oracle.accumulate(
                [total, int(codes["bias"][index[-1]])], acc_bits, overflow
            )
            count += extra
        wanted[(slice(None), *index)] = total, count
    assert_same_codes(sums, wanted[0], what="sums")
    assert_same_codes(overflows, wanted[1], what="overflows")
    assert wanted[1].any() == (acc_bits < 24)
