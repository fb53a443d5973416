"""The comparison that every bit-for-bit test uses."""

import numpy as np


def assert_same_codes(got, wanted, inputs=None, what=""):
    """AssertionError with the first difference (index, input, got, wanted) unless all integers
    are equal.
    """
    got = np.asarray(got)
    wanted = np.asarray(wanted, dtype=object)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    different = (
        [index for index in np.ndindex(*wanted.shape) if int(got[index]) != int(wanted[index])]
        if (got.tolist() != wanted.tolist())
        else []
    )
    if different:
        first = different[0]
        given = "" if inputs is None else f", input {np.asarray(inputs, dtype=object)[first]}"
        raise AssertionError(
            f"{what}: {len(different)} of {wanted.size} differ, first at {first}{given}: "
            f"got {int(got[first])}, wanted {int(wanted[first])}"
        )
