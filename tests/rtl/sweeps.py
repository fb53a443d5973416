"""Sweeps of the requantizer and the multiply-accumulate unit.

What RTL, kernel and twin give for each case.
"""

from fractions import Fraction
from itertools import product

import numpy as np
from oracle import products
from oracle import rounding as rounding_oracle

from fxsim import OVERFLOWS, ROUNDINGS, Accumulator, Counts, Format, Tensor, requantize
from fxsim.kernels.rounding import code_range
from fxsim.ops.accumulation import accumulate
from rtl.harness import read_codes, write_codes

DETERMINISTIC = ROUNDINGS[:11]
MODES = list(product((False, True), DETERMINISTIC))
VALID = 1 << 6
CLEAR = 1 << 5
WRAP = 1 << 4


def every_code(bits, signed):
    source = Format(bits, bits - signed, signed)
    return list(range(source.min_code, source.max_code + 1))


class Sweep:
    """Values of one input format, to be requantized in every mode into a box of output formats.

    Arrays have the axes (overflow, rounding, value, output width, output sign, shift).
    """

    def __init__(self, codes, bits, signed, widths, shifts):
        self.codes = codes
        self.bits = bits
        self.signed = signed
        self.widths = widths
        self.shifts = shifts
        self.shape = (len(OVERFLOWS), len(DETERMINISTIC), len(codes), len(widths), 2, len(shifts))
        self.cases = int(np.prod(self.shape))

    def simulate(self, simulator, folder, bug=0):
        """(codes, flags) of the RTL.

        The codes as unsigned words, the flags with a last axis of three.
        """
        simulation = simulator.build(
            "requantize_tb",
            folder,
            COUNT=len(self.codes),
            IN_BITS=self.bits,
            IN_SIGNED=self.signed,
            OUT_BITS_MIN=self.widths[0],
            OUT_BITS_MAX=self.widths[-1],
            SHIFT_MIN=self.shifts[0],
            SHIFT_MAX=self.shifts[-1],
            BUG=bug,
        )
        write_codes(simulation.folder / "values", self.codes, self.bits)
        simulation.run(values="values", words="words")
        words = read_codes(simulation.folder / "words", self.widths[-1] + 3, False, self.shape)
        flags = words >> self.widths[-1]
        return words & (2 ** self.widths[-1] - 1), np.stack(
            [flags >> bit & 1 for bit in range(3)], axis=-1
        )

    def twin(self):
        """(codes, flags) of the twin, in the same form."""
        codes = np.empty(self.shape, np.int64)
        flags = np.empty((*self.shape, 3), np.int64)
        for (r, rounding), (s, shift) in product(enumerate(DETERMINISTIC), enumerate(self.shifts)):
            rounded = [
                rounding_oracle.round_exact(code / Fraction(2) ** shift, rounding)
                for code in self.codes
            ]
            flushed = [code != 0 and to == 0 for code, to in zip(self.codes, rounded)]
            for (w, bits), sign, (o, overflow) in product(
                enumerate(self.widths), (0, 1), enumerate(OVERFLOWS)
            ):
                rows = [
                    rounding_oracle.bound(code, (bits, 0, bool(sign)), overflow) for code in rounded
                ]
                codes[o, r, :, w, sign, s] = [row[0] % 2**bits for row in rows]
                flags[o, r, :, w, sign, s] = [
                    (row[1], row[2], zero) for row, zero in zip(rows, flushed)
                ]
        return codes, flags

    def kernel(self):
        """Codes of fxsim.requantize in the same form, and its Counts without the axis of values."""
        codes = np.empty(self.shape, np.int64)
        counts = {}
        source = Tensor(
            np.array(self.codes), Format(self.bits, self.bits - self.signed, self.signed)
        )
        for o, r, w, sign, s in np.ndindex(*self.shape[:2], *self.shape[3:]):
            bits = self.widths[w]
            target = Format(bits, self.shifts[s] + bits - sign, bool(sign))
            tensor, counts[o, r, w, sign, s] = requantize(
                source, target, DETERMINISTIC[r], OVERFLOWS[o], counts=True
            )
            codes[o, r, :, w, sign, s] = tensor.codes.astype(np.int64) & (2**bits - 1)
        return codes, counts

    def check(self, codes, flags):
        """AssertionError at the first case in which RTL, kernel and twin are not the same."""
        twin_codes, twin_flags = self.twin()
        self.assert_same(codes, twin_codes, "RTL and twin: codes")
        self.assert_same(flags, twin_flags, "RTL and twin: (below, above, flushed)")
        kernel_codes, counts = self.kernel()
        self.assert_same(codes, kernel_codes, "RTL and kernel: codes")
        for (o, r, w, sign, s), counted in counts.items():
            tally = flags[o, r, :, w, sign, s].sum(axis=0)
            assert counted == Counts(len(self.codes), *tally.tolist()), (
                OVERFLOWS[o],
                DETERMINISTIC[r],
                w,
                sign,
                s,
            )

    def differences(self, codes, flags):
        """The number of cases in which RTL, kernel and twin are not the same."""
        twin_codes, twin_flags = self.twin()
        kernel_codes, counts = self.kernel()
        different = (
            (codes != twin_codes) | (codes != kernel_codes) | (flags != twin_flags).any(axis=-1)
        )
        tallies = flags.sum(axis=2)
        miscounted = sum(
            counted != Counts(len(self.codes), *tallies[place].tolist())
            for place, counted in counts.items()
        )
        return int(different.sum()) + miscounted

    def assert_same(self, got, wanted, what):
        different = np.argwhere(got != wanted)
        if len(different):
            o, r, v, w, sign, s = first = tuple(different[0][:6])
            raise AssertionError(
                f"{what} differ in {len(different)} of {self.cases} cases, first {self.codes[v]} "
                f"of "
                f"{'su'[not self.signed]}{self.bits} to {'us'[sign]}{self.widths[w]}, "
                f"{self.shifts[s]} bits dropped, "
                f"{DETERMINISTIC[r]}, {OVERFLOWS[o]}: got {got[first]}, wanted {wanted[first]}"
            )


def exhaustive(bits, signed, widest, shifts):
    return Sweep(every_code(bits, signed), bits, signed, range(1, widest + 1), shifts)


class Sums:
    """Dot products of each row of `a` with the same row of `b`, (sums, terms).

    In every mode, each after the other.
    """

    def __init__(self, a, b, a_bits, b_bits, acc_bits, shift, modes=MODES):
        self.a = a
        self.b = b
        self.a_bits = a_bits
        self.b_bits = b_bits
        self.acc_bits = acc_bits
        self.shift = shift
        self.modes = modes
        self.shape = (len(modes), *a.shape)

    def controls(self):
        words = [
            VALID | WRAP * wrap | DETERMINISTIC.index(rounding) for wrap, rounding in self.modes
        ]
        controls = np.broadcast_to(np.array(words)[:, None, None], self.shape).copy()
        controls[:, :, 0] |= CLEAR
        return controls

    def simulate(self, simulator, folder, bug=0):
        """(accumulator, overflows) of the RTL after every term, int64 (modes, sums, terms)."""
        return run_cycles(
            simulator,
            folder,
            np.broadcast_to(self.a, self.shape),
            np.broadcast_to(self.b, self.shape),
            self.controls(),
            A_BITS=self.a_bits,
            B_BITS=self.b_bits,
            ACC_BITS=self.acc_bits,
            SHIFT=self.shift,
            BUG=bug,
        )

    def twin(self):
        sums = np.empty((*self.shape, 2), np.int64)
        terms = (self.a.astype(object) * self.b).tolist()
        for m, (wrap, rounding) in enumerate(self.modes):
            for i, row in enumerate(terms):
                for k in range(len(row)):
                    sums[m, i, k] = products.accumulate(
                        row[: k + 1],
                        self.acc_bits,
                        "wrap" if wrap else "saturate",
                        self.shift,
                        rounding,
                    )
        return sums[..., 0], sums[..., 1]

    def kernel(self):
        """As the twin; a sum of its own for each row and each number of terms."""
        sums, overflows = (np.empty(self.shape, np.int64) for _ in range(2))
        for m, i, k in np.ndindex(*self.shape):
            wrap, rounding = self.modes[m]
            a = self.a[i : i + 1, : k + 1].copy()
            b = self.b[i, : k + 1, None].copy()
            overflow = "wrap" if wrap else "saturate"
            model = Accumulator(self.acc_bits, overflow, rounding=rounding, drop=self.shift)
            one_sum, met = accumulate(a, b, model)
            sums[m, i, k] = one_sum.item()
            overflows[m, i, k] = met.item()
        return sums, overflows

    def check(self, got, wanted, what):
        for name, one, other in zip(("sums", "overflows"), got, wanted):
            different = np.argwhere(one != other)
            if len(different):
                m, i, k = first = tuple(different[0])
                wrap, rounding = self.modes[m]
                raise AssertionError(
                    f"{what}: {name} differ in {len(different)} of {one.size}, first after "
                    f"{self.a[i, : k + 1]} * "
                    f"{self.b[i, : k + 1]}, shifted by {self.shift}, {rounding}, "
                    f"{'wrap' if wrap else 'saturate'} at "
                    f"{self.acc_bits} bits: got {one[first]}, wanted {other[first]}"
                )

    def differences(self, got):
        """The number of sums whose last addition RTL, kernel and twin do not make alike."""
        pairs = [
            (one[..., -1] != other[..., -1])
            for wanted in (self.twin(), self.kernel())
            for one, other in zip(got, wanted)
        ]
        return int(np.any(pairs, axis=0).sum())


def run_cycles(simulator, folder, a, b, controls, **parameters):
    simulation = simulator.build("saturating_mac_tb", folder, CYCLES=controls.size, **parameters)
    write_codes(simulation.folder / "a", a, parameters["A_BITS"])
    write_codes(simulation.folder / "b", b, parameters["B_BITS"])
    write_codes(simulation.folder / "control", controls, 7)
    simulation.run(a="a", b="b", control="control", acc="acc", overflows="overflows")
    return (
        read_codes(simulation.folder / "acc", parameters["ACC_BITS"], True, controls.shape),
        read_codes(simulation.folder / "overflows", 32, False, controls.shape),
    )


def transitions(a_bits, b_bits, acc_bits, shift):
    """Sums that make every addition there is: of every product of two codes to every accumulator,
    in every mode.

    Each sum is brought to its accumulator by products with 1: one, or for an even accumulator under
    `jam`, which makes every addend odd, two.  a_bits must be at least acc_bits + shift.
    """
    a, b = (np.array(every_code(bits, True)) for bits in (a_bits, b_bits))
    low, high = code_range(acc_bits, True, "saturate")
    accumulators = np.arange(low, high + 1)
    even = accumulators[accumulators % 2 == 0]
    loads = [
        (accumulators[:, None], lambda rounding: rounding != "jam"),
        (accumulators[accumulators % 2 != 0][:, None], lambda rounding: rounding == "jam"),
        (np.column_stack([even + 1, np.full(len(even), -1)]), lambda rounding: rounding == "jam"),
    ]
    for rows, fits in loads:
        first = np.repeat(rows << shift, len(a) * len(b), axis=0)
        pairs = np.tile(np.array(list(product(a, b))), (len(rows), 1))
        yield Sums(
            np.column_stack([first, pairs[:, 0]]),
            np.column_stack([np.ones_like(first), pairs[:, 1]]),
            a_bits,
            b_bits,
            acc_bits,
            shift,
            [mode for mode in MODES if fits(mode[1])],
        )
