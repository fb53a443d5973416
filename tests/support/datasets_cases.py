"""What tests share.

Data sets: every format read back from small files in the real layout, every kind of malformed file
refused.
"""

from __future__ import annotations

import gzip
import struct

import numpy as np
import scipy.io

CIFAR10_TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def random_images(count, shape, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(
        0, classes, count, np.uint8
    )


def idx_bytes(array, dtype_code=8):
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, dtype_code, array.ndim, *array.shape)
        + array.tobytes()
    )


def write_idx(path, array):
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist_pair(folder, prefix, count, seed=0, join="-", end=""):
    images, labels = random_images(count, (28, 28), 10, seed)
    write_idx(folder / f"{prefix}images{join}idx3-ubyte{end}", images)
    write_idx(folder / f"{prefix}labels{join}idx1-ubyte{end}", labels)
    return images[..., np.newaxis], labels


def write_cifar(path, count, seed=0, label_classes=(10,)):
    """Records written byte by byte: labels, then the R, G and B planes row by row."""
    images, _ = random_images(count, (32, 32, 3), 1, seed)
    rng = np.random.default_rng(seed + 100)
    labels = np.stack(
        [rng.integers(0, classes, count, np.uint8) for classes in label_classes], axis=1
    )
    path.write_bytes(
        b"".join(
            bytes(label) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for image, label in zip(images, labels)
        )
    )
    return images, labels[:, -1]


def write_cifar10(folder, count=3):
    return [
        write_cifar(folder / name, count, seed)
        for seed, name in enumerate([*CIFAR10_TRAIN, "test_batch.bin"])
    ]


def write_svhn(path, count, seed=0, compressed=True, **changes):
    images, labels = random_images(count, (32, 32, 3), 10, seed)
    variables = {
        "X": images.transpose(1, 2, 3, 0),
        "y": np.where(labels == 0, 10, labels)[:, np.newaxis],
    }
    variables = {
        name: value for name, value in {**variables, **changes}.items() if value is not None
    }
    scipy.io.savemat(path, variables, do_compression=compressed)
    return images, labels


def write_svhn_pair(folder, **changes):
    return (
        write_svhn(folder / "train_32x32.mat", 20, 1, **changes),
        write_svhn(folder / "test_32x32.mat", 5, 2),
    )
