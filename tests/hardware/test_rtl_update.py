"""The RTL weight-update unit, the kernel and the twin give the same weights, accumulators and
events.
"""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from oracle import rounding as rounding_oracle
from oracle import update as oracle
from rtl.harness import ICARUS, both_simulators, read_codes, write_codes
from support.bits import assert_same_codes

from fxsim import ROUNDINGS
from fxsim.kernels.elementwise import update as kernel
from fxsim.kernels.rounding import Rounding, code_range

DETERMINISTIC = ROUNDINGS[:11]
MANTISSAS = (1, 3, 7)


class Updates:
    """One update a row: weight, accumulator and gradient codes, mantissa, position of the rounding
    mode.

    widths: of weight, accumulator, gradient.  An update is grad * mantissa * 2**exponent
    accumulator steps."""

    def __init__(self, rows, widths, exponent):
        self.rows = np.array(rows)
        self.widths = widths
        self.exponent = exponent

    def simulate(self, simulator, folder, bug=0):
        """Columns: weight, accumulator, then the events 0 or 1."""
        weight_bits, below, grad_bits = self.widths
        simulation = simulator.build(
            "weight_update_tb",
            folder,
            COUNT=len(self.rows),
            W_BITS=weight_bits,
            ACC_BITS=below,
            GRAD_BITS=grad_bits,
            EXPONENT=self.exponent,
            BUG=bug,
        )
        inputs = ("weights", "accumulators", "grads", "mantissas", "roundings")
        for name, codes, bits in zip(inputs, self.rows.T, (*self.widths, 16, 4)):
            write_codes(simulation.folder / name, codes, bits)
        outputs = ("new_weights", "new_accumulators", "events")
        simulation.run(**{name: name for name in (*inputs, *outputs)})
        weights, accumulators, events = (
            read_codes(simulation.folder / name, bits, name != "events", len(self.rows))
            for name, bits in zip(outputs, (weight_bits, below, 4))
        )
        return np.column_stack([weights, accumulators, *(events >> bit & 1 for bit in range(4))])

    def twin(self):
        weight_bits, below, grad_bits = self.widths
        weight_fmt = (weight_bits, 0, True)
        acc_fmt = (below, -weight_bits, True)
        grad_fmt = (grad_bits, 0, True)
        unit = (
            Fraction(2) ** self.exponent
            * rounding_oracle.step(acc_fmt)
            / rounding_oracle.step(grad_fmt)
        )
        wanted = []
        for weight, accumulator, grad, mantissa, mode in self.rows.tolist():
            weight, accumulator, events = oracle.update(
                weight,
                accumulator,
                grad,
                mantissa * unit,
                weight_fmt,
                acc_fmt,
                grad_fmt,
                DETERMINISTIC[mode],
            )
            wanted.append([weight, accumulator, *map(int, events)])
        return np.array(wanted)

    def kernel(self):
        """As the twin, from one call for each mantissa and mode.

        The events summed over the rows of a call.
        """
        weight_bits, below, _ = self.widths
        shift = max(-self.exponent, 0)
        held = kernel.Held(
            below,
            *code_range(weight_bits, True, "saturate"),
            *code_range(below, True, "saturate"),
        )
        codes = np.empty((len(self.rows), 2), np.int64)
        events = {}
        for mantissa, mode in np.unique(self.rows[:, 3:], axis=0).tolist():
            chosen = (self.rows[:, 3] == mantissa) & (self.rows[:, 4] == mode)
            weights, accumulators, grads = (
                column.astype(np.int32) for column in self.rows[chosen, :3].T
            )
            events[mantissa, mode] = kernel.update(
                weights,
                accumulators,
                grads,
                np.empty(0, np.int64),
                kernel.Scale(mantissa, max(self.exponent, 0)),
                Rounding.of(DETERMINISTIC[mode], shift),
                held,
            )
            codes[chosen] = np.column_stack([weights, accumulators])
        return codes, events

    def check_twin(self, got):
        inputs = np.array([[str(row)] * 6 for row in self.rows.tolist()])
        assert_same_codes(
            got, self.twin(), inputs, f"(W, acc, G, mantissa, mode), exponent {self.exponent}"
        )

    def check(self, got):
        self.check_twin(got)
        codes, events = self.kernel()
        assert_same_codes(got[:, :2], codes, what="RTL and kernel")
        for (mantissa, mode), counts in events.items():
            chosen = (self.rows[:, 3] == mantissa) & (self.rows[:, 4] == mode)
            assert got[chosen, 2:].sum(axis=0).tolist() == counts.tolist()


def every_code(*widths):
    return product(*(range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in widths))


def exhaustive(widths, exponent, modes=range(11)):
    rows = [
        (*codes, mantissa, mode)
        for codes in every_code(*widths)
        for mantissa in MANTISSAS
        for mode in modes
    ]
    return Updates(rows, widths, exponent)


@pytest.mark.parametrize("exponent", [-4, -2, 1])
def test_every_code_of_3_bits_in_every_mode(tmp_path, exponent):
    """16,896 updates each."""
    updates = exhaustive((3, 3, 3), exponent)
    updates.check(updates.simulate(ICARUS, tmp_path))


@both_simulators
def test_every_code_of_4_bits(tmp_path, simulator):
    """12,288 updates, ties away from zero."""
    updates = exhaustive((4, 4, 4), -3, [DETERMINISTIC.index("nearest_away")])
    updates.check(updates.simulate(simulator, tmp_path))


@pytest.mark.parametrize(
    "widths, exponent", [((1, 1, 4), 0), ((1, 5, 3), -2), ((5, 1, 3), -1), ((2, 6, 4), 1)]
)
def test_every_code_of_uneven_formats(tmp_path, widths, exponent):
    updates = exhaustive(widths, exponent, [DETERMINISTIC.index("nearest_away")])
    updates.check(updates.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize(
    "widths, exponent",
    [
        ((8, 16, 12), -12),
        ((16, 32, 16), -20),
        ((30, 32, 32), -4),
        ((8, 24, 32), -30),
        ((16, 32, 32), 9),
    ],
)
def test_wide_formats_at_random_and_at_the_extremes(tmp_path, widths, exponent):
    random = np.random.default_rng(widths[1])
    columns = [
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 800) >> random.integers(0, bits, 800)
        for bits in widths
    ]
    for column, bits in zip(columns, widths):
        column[:8] = np.resize([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1], 8)
    columns[0][:8].sort()
    rows = np.column_stack(
        [*columns, random.integers(2**15, 2**16, 800), random.integers(0, 11, 800)]
    )
    updates = Updates(rows, widths, exponent)
    updates.check(updates.simulate(ICARUS, tmp_path))


@pytest.mark.parametrize(
    "bug",
    [1, 2, 3, 4],
    ids=["wrong tie", "wrap for saturate", "a bit too narrow", "truncated update"],
)
def test_a_planted_bug_is_caught(tmp_path, bug):
    updates = exhaustive((3, 3, 3), -1, [DETERMINISTIC.index("nearest_away")])
    with pytest.raises(AssertionError, match="differ, first at"):
        updates.check_twin(updates.simulate(ICARUS, tmp_path, bug))
