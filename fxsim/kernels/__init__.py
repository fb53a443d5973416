"""Compiled code on bare arrays."""

import os

from fxsim.errors import InputError, shown

MOST_THREADS = 1024


def _check_threads() -> None:
    """InputError for a number of threads that Numba would refuse, ignore, or start all the same.

    It stands before the first import of Numba, which reads the variable.
    """
    text = os.environ.get("NUMBA_NUM_THREADS")
    if text is None:
        return
    digits = text.strip()
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else 0
    if not 1 <= number <= MOST_THREADS:
        raise InputError(
            f"NUMBA_NUM_THREADS must be an integer from 1 to {MOST_THREADS}, got {shown(text)}; "
            f"unset it to use every core"
        )


_check_threads()
