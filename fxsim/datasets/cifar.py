"""The binary version of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fxsim.datasets.dataset import Images, check_labels
from fxsim.errors import InputError
from fxsim.files import read_bytes


def read_cifar(path: Path, label_bytes: dict[str, int]) -> Images:
    """Records of label bytes (name.

    Classes; the last one counts), then R, G and B planes of 32x32.
    """
    content = read_bytes(path)
    record = len(label_bytes) + 3 * 32 * 32
    if not content or len(content) % record:
        raise InputError(
            f"{path}: truncated: {len(content):,} bytes is not a multiple of {record:,}, the size "
            f"of "
            "a record; fetch it again, in the binary version"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    for column, (name, classes) in enumerate(label_bytes.items()):
        check_labels(str(path), records[:, column], classes, name=name)
    planes = records[:, len(label_bytes) :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[
        :, len(label_bytes) - 1
    ].copy()
