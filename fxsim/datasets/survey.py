"""What `fxsim data` tells about a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fxsim.datasets.check import FileCheck, describe
from fxsim.datasets.folder import LAYOUTS, OWN
from fxsim.errors import InputError, shown

SPLITS = ("train", "test")
MOST_LISTED = 10


def survey(folder: str | Path, dataset: str | None = None) -> dict:
    """The data sets in `folder`, or that of one name, as plain data for JSON; or the file .npz.

    folder; datasets: for each name, classes, class_names (of PNG files), target_shape, shape,
    splits ('train' and 'test' -> images, published, class_counts), files (files, split, images,
    pixels, problem), problems; not_read: what else is there. Raises InputError where there is no
    such folder, or no data set in it.
    """
    checks = describe(folder, dataset)
    if not checks:
        names = LAYOUTS if dataset is None else [dataset]
        raise InputError(f"{folder}: holds no data set; {_looked_for(list(names))}")
    rows = [
        _row(name, [check for check in checks if check.dataset == name], Path(folder))
        for name in dict.fromkeys(check.dataset for check in checks)
    ]
    not_read = _not_read(checks, Path(folder)) if Path(folder).is_dir() else []
    return {"folder": str(folder), "datasets": rows, "not_read": not_read}


def _row(name: str, checks: Sequence[FileCheck], folder: Path) -> dict:
    published = LAYOUTS[name].published if name in LAYOUTS else (None, None)
    splits = {split: _split(checks, split, known) for split, known in zip(SPLITS, published)}
    files = [
        {
            "files": [_name(file, folder) for file in check.files],
            "split": check.split,
            "images": check.records,
            "pixels": list(check.pixels),
            "problem": check.problem,
        }
        for check in checks
    ]
    class_names = next((list(check.class_names) for check in checks if check.class_names), [])
    return {
        "name": name,
        "classes": _classes(name, checks),
        "class_names": class_names,
        "target_shape": next((list(own.target_shape) for own in checks if own.target_shape), []),
        "shape": next((list(check.shape) for check in checks if check.shape), []),
        "splits": splits,
        "files": files,
        "problems": [check.problem for check in checks if check.problem],
    }


def _classes(name: str, checks: Sequence[FileCheck]) -> int:
    if name in LAYOUTS:
        return LAYOUTS[name].classes
    return len(next((counts for check in checks for counts in check.classes.values()), ()))


def _split(checks: Sequence[FileCheck], split: str, published: int | None) -> dict:
    counts = [
        sum(numbers)
        for numbers in zip(*(check.classes[split] for check in checks if split in check.classes))
    ]
    return {"images": sum(counts), "published": published, "class_counts": counts}


def _name(file: Path, folder: Path) -> str:
    if file == folder:
        return "." if folder.is_dir() else file.name
    return str(file.relative_to(folder))


def _not_read(checks: Sequence[FileCheck], folder: Path) -> list[str]:
    """Names in the folder, but for hidden ones, that are part of no data set."""
    read = {path for check in checks for file in check.files for path in (file, file.parent)}
    try:
        return sorted(
            path.name
            for path in folder.iterdir()
            if path not in read and not path.name.startswith(".")
        )
    except OSError:  # the checks tell that the folder cannot be read
        return []


def survey_text(found: dict) -> str:
    """What `survey` found, for people."""
    blocks = ["\n".join(_lines(row)) for row in found["datasets"]]
    if found["not_read"]:
        shown = found["not_read"][:5]
        more = len(found["not_read"]) - 5
        blocks.append(f"not read: {', '.join(shown)}" + (f" and {more} more" if more > 0 else ""))
    return "\n\n".join(blocks)


def _lines(row: dict) -> list[str]:
    images = f", images of {'x'.join(map(str, row['shape']))}" if row["shape"] else ""
    if row["target_shape"]:
        images += f", targets of {'x'.join(map(str, row['target_shape']))}"
    lines = [f"{_state(row)}, {row['classes']} classes{images}", ""]
    for part in row["files"]:
        told = (
            part["problem"]
            or f"{', '.join(part['files'])}: {part['images']:,} images, pixels "
            f"{_span(part['pixels'])}"
        )
        lines.append(f"  {part['split'] or 'unclear':<12}{told}")
    if row["class_names"]:
        lines.append(f"  {'classes':<12}{_listed(row['class_names'])}")
    return [
        *lines,
        "",
        *(f"  {split:<12}{_split_text(own)}" for split, own in row["splits"].items()),
    ]


def _listed(names: Sequence[str]) -> str:
    """Names in their order, the first of them where there are many."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(map(shown, names[:MOST_LISTED])) + more


def _state(row: dict) -> str:
    if not row["problems"]:
        return f"{row['name']}: whole"
    return (
        f"{row['name']}: {len(row['problems'])} of {len(row['files'])} parts missing or malformed"
    )


def _split_text(split: dict) -> str:
    images = split["images"]
    published = split["published"]
    counts = split["class_counts"]
    if not images:
        return "no images"
    compared = ""
    if published is not None:
        found = "as published" if images == published else f"published: {published:,}"
        compared = f" ({found})"
    if len(set(counts)) == 1:
        classes = f"{counts[0]:,} of each class"
    elif len(counts) <= 10:
        classes = f"of classes 0 to {len(counts) - 1}: {' '.join(f'{count:,}' for count in counts)}"
    else:
        classes = f"{_span((min(counts), max(counts)))} of a class"
    return f"{images:,} images in all{compared}; {classes}"


def _span(limits: Sequence[int]) -> str:
    return f"{limits[0]:,} to {limits[1]:,}"


def complaint(found: dict) -> str | None:
    """One line on what is wrong with the data sets; None where all are whole."""
    broken = [row for row in found["datasets"] if row["problems"]]
    if not broken:
        return None
    states = "; ".join(map(_state, broken))
    return f"{found['folder']}: {states}; {_looked_for([row['name'] for row in broken])}"


def _looked_for(names: Sequence[str]) -> str:
    """The files of one data set; those of several are too many for a line."""
    if len(names) == 1:
        (name,) = names
        return f"looked for {OWN[name][0] if name in OWN else LAYOUTS[name].wanted}"
    return f"looked for {', '.join(names)}; `fxsim data --help` names the files of each"
