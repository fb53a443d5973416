"""Images to train on: the embedded digits, readers for MNIST, CIFAR-10, CIFAR-100 and SVHN, and two
for images of one's own.

Every reader returns a `Dataset` of pixels `(N, H, W, C)` and labels `(N,)`, both uint8; pixels of
one's own may be uint16.  It checks
sizes and labels before it hands anything out and unpickles nothing; what is wrong with a file is
reported in one InputError that names it.  Where a set comes without a test set, its last fifth (rounded
up) is one.
"""

from fxsim.datasets.check import FileCheck, describe
from fxsim.datasets.dataset import Dataset
from fxsim.datasets.embedded import digits
from fxsim.datasets.folder import NAMES, cifar10, cifar100, load, mnist, svhn
from fxsim.datasets.idx import read_idx
from fxsim.datasets.npz import read_npz
from fxsim.datasets.png import read_folder

__all__ = [
    "Dataset",
    "FileCheck",
    "NAMES",
    "cifar10",
    "cifar100",
    "describe",
    "digits",
    "load",
    "mnist",
    "read_folder",
    "read_idx",
    "read_npz",
    "svhn",
]
