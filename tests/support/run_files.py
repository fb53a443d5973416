"""What the folder of a run holds, without what differs between two runs of the same settings."""

import csv
import json

from fxsim.files import read_arrays

VARYING = ("seconds", "images_per_second", "machine", "command", "sha256")


def lasting(value):
    """Plain data without what differs between two runs."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in VARYING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def curves(folder):
    with open(folder / "curves.csv", newline="") as file:
        return lasting(list(csv.DictReader(file)))


def _arrays(path):
    return {
        name: (array.dtype.str, array.shape, array.tobytes())
        for name, array in read_arrays(path).items()
    }


READERS = {
    ".npz": _arrays,
    ".json": lambda path: json.dumps(lasting(json.loads(path.read_text()))),
    ".csv": lambda path: curves(path.parent),
}


def content(folder):
    """All that a resumed run must leave as an unbroken one does, by file; of reports the names."""
    return {
        path.name: READERS.get(path.suffix, lambda path: None)(path)
        for path in sorted(folder.iterdir())
    }
