"""What both executors agree on about batch norm."""
from __future__ import annotations

BATCH_NORM_EPSILON_EXP = -10
"""2**BATCH_NORM_EPSILON_EXP is added to the variance before the inverse square root."""

RUNNING_RATE_EXP = -4
"""A training step moves the running mean and variance by 2**RUNNING_RATE_EXP of the difference."""

AFFINE_RANGE_EXP = 1
"""gamma and beta stay in [-2**AFFINE_RANGE_EXP, 2**AFFINE_RANGE_EXP)."""
