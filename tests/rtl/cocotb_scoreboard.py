"""cocotb benches of two units.

Fxsim, called while the simulation runs, says what each must answer.
"""

from itertools import product

import cocotb
import numpy as np
from cocotb.triggers import Timer

from fxsim import OVERFLOWS, ROUNDINGS, Accumulator, Format, Tensor, ops, requantize
from fxsim.formats import STOCHASTIC
from fxsim.testing import assert_bit_exact

MODES = [rounding for rounding in ROUNDINGS if rounding not in STOCHASTIC]

SOURCE = Format(12, 2)
TARGET = Format(7, 0)
REQUANTIZE = {
    "IN_BITS": SOURCE.bits,
    "OUT_BITS": TARGET.bits,
    "SHIFT": TARGET.step_exp - SOURCE.step_exp,
}

OPERAND = Format(6, 0)
ACCUMULATOR = Format(10, 1)
MAC = {
    "A_BITS": OPERAND.bits,
    "B_BITS": OPERAND.bits,
    "ACC_BITS": ACCUMULATOR.bits,
    "SHIFT": ACCUMULATOR.step_exp - 2 * OPERAND.step_exp,
}


def random_codes(format, count, seed):
    return Tensor(
        np.random.default_rng(seed).integers(format.min_code, format.max_code + 1, count), format
    )


@cocotb.test()
async def requantizes_as_fxsim_does(dut):
    """50 random codes in every mode, and the number of those that clip."""
    for rounding, overflow in product(MODES, OVERFLOWS):
        values = random_codes(SOURCE, 50, 1)
        wanted, counts = requantize(values, TARGET, rounding, overflow, counts=True)
        dut.rounding.value = ROUNDINGS.index(rounding)
        dut.overflow.value = OVERFLOWS.index(overflow)
        got = []
        clipped = 0
        for code in values.codes:
            dut.value.value = int(code) % 2**SOURCE.bits
            await Timer(1, "ns")
            got.append(dut.code.value.to_signed())
            clipped += int(dut.below.value) + int(dut.above.value)
        assert_bit_exact(got, wanted, f"{rounding}, {overflow}")
        assert clipped == counts.clipped


@cocotb.test()
async def accumulates_as_fxsim_does(dut):
    """The dot product of 60 random codes in every rounding, saturated and wrapped."""
    a, b = random_codes(OPERAND, 60, 2), random_codes(OPERAND, 60, 3)
    dut.valid.value = 1
    for rounding, overflow in product(MODES, ("saturate", "wrap")):
        accumulator = Accumulator.of(ACCUMULATOR, rounding=rounding, overflow=overflow)
        exact = ops.dot(a, b, accumulator=accumulator)
        wanted = exact.tensor()
        dut.rounding.value = ROUNDINGS.index(rounding)
        dut.wrap.value = overflow == "wrap"
        dut.clear.value = 1
        for left, right in zip(a.codes, b.codes):
            dut.a.value = int(left) % 2**OPERAND.bits
            dut.b.value = int(right) % 2**OPERAND.bits
            dut.clk.value = 0
            await Timer(1, "ns")
            dut.clk.value = 1
            await Timer(1, "ns")
            dut.clear.value = 0
        got = dut.acc.value.to_signed()
        assert_bit_exact(got, wanted, f"{rounding}, {overflow}", explain=(exact, wanted.format))
        assert int(dut.overflows.value) == exact.overflows.overflows
