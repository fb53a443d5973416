"""Files spoilt at random from a seed: flipped bits, cuts, insertions, changes of what they hold."""

import copy
import datetime
import gzip
import io
import json
import math
import struct
import zipfile
import zlib

import numpy as np

from fxsim.train.checkpoint import digest
from support.mutations import WRONG, at, places

KEYS = ("rounding", "name", "bits", "reason", "model", "zzz", "", "x" * 500, "a\nb", "\x1b[2J")


def spoilt_bytes(data, random):
    """`data` with one to three of its bytes, or slices of them, changed."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 2, 4, 8, 64, 1000)))
        change = random.choice(("flip", "flip", "set", "cut", "remove", "insert", "twice", "zero"))
        if change == "flip" and start < len(data):
            data[start] ^= 1 << random.randrange(8)
        elif change == "set" and start < len(data):
            data[start] = random.choice((0, 1, 9, 10, 13, 27, 47, 64, 127, 128, 255))
        elif change == "cut":
            del data[start:]
        elif change == "remove":
            del data[start:end]
        elif change == "insert":
            data[start:start] = random.randbytes(end - start)
        elif change == "twice":
            data[start:start] = data[start:end]
        elif change == "zero":
            data[start:end] = bytes(end - start)
    return bytes(data)


def spoilt_data(data, random):
    """Plain data with one to three values changed, or keys added, renamed or missing."""
    data = copy.deepcopy(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        found = [path for path in places(data) if path]
        if not found:
            return copy.deepcopy(random.choice(WRONG))
        *above, key = random.choice(found)
        container = at(data, above)
        change = random.choice(("value", "value", "number", "remove", "rename", "add", "deep"))
        if change == "remove":
            del container[key]
        elif change == "rename" and isinstance(container, dict):
            container[random.choice((*KEYS, f"{key}s"))] = container.pop(key)
        elif change == "add" and isinstance(container, dict):
            container[random.choice(KEYS)] = copy.deepcopy(random.choice(WRONG))
        elif change == "add" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif change == "number" and type(container[key]) in (int, float):
            container[key] *= random.choice((-1, 0, 2, 2**40, 1.5, 1e300))
        elif change == "deep":
            for _ in range(random.choice((3, 40, 2000))):
                container[key] = [container[key]]
            break  # what follows would go down there by recursion
        else:
            container[key] = copy.deepcopy(random.choice(WRONG))
    return data


def json_text(data):
    """JSON of any plain data, with NaN, of any depth."""
    parts = []
    work = [data]
    while work:
        each = work.pop()
        if isinstance(each, Literally):
            parts.append(each.text)
        elif isinstance(each, dict):
            work.append(Literally("}"))
            for index, key in reversed(list(enumerate(each))):
                start = f"{', ' if index else ''}{json.dumps(str(key))}: "
                work += [each[key], Literally(start)]
            work.append(Literally("{"))
        elif isinstance(each, list):
            work.append(Literally("]"))
            for index, value in reversed(list(enumerate(each))):
                work += [value, Literally(", " if index else "")]
            work.append(Literally("["))
        else:
            parts.append(json.dumps(each))
    return "".join(parts)


class Literally:
    """A piece of text between values."""

    def __init__(self, text):
        self.text = text


def toml_text(table):
    """TOML of a table, each of its values on one line."""
    return "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in table.items())


def toml_key(key):
    return json.dumps(str(key))


def toml_value(value):
    if value is None:
        return datetime.date(1979, 5, 27).isoformat()
    if isinstance(value, dict):
        pairs = (f"{toml_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        depth = 0
        while len(value) == 1 and isinstance(value[0], list):
            (value,) = value
            depth += 1
        inner = ", ".join(map(toml_value, value))
        return f"{'[' * (depth + 1)}{inner}{']' * (depth + 1)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def spoilt_arrays(arrays, random):
    """The bytes of an .npz of `arrays` with one of them changed, and the checksums right."""
    arrays = dict(arrays)
    name = random.choice(sorted(arrays))
    array = arrays[name]
    change = random.choice(("remove", "rename", "dtype", "shape", "values", "cut", "text", "file"))
    raw = {}
    if change == "remove":
        del arrays[name]
    elif change == "rename":
        arrays[random.choice((f"{name}s", "a.b", "x" * 300, "a\nb", "../x"))] = arrays.pop(name)
    elif change == "dtype":
        kind = random.choice(("i1", "<i8", ">f8", "f2", "c8", "?", "U3", "S2", "O", "M8[s]"))
        arrays[name] = np.zeros(array.shape, kind)
    elif change == "shape":
        arrays[name] = random.choice((array[None], array.reshape(-1), array.ravel()[:0]))
    elif change == "values" and array.dtype.kind == "f":
        arrays[name] = np.full_like(array, random.choice((math.nan, math.inf, -1, 0, 1e30)))
    elif change == "cut":
        arrays[name] = array.ravel()[: array.size // 2]
    elif change == "text":
        arrays[name] = np.frombuffer(random.randbytes(40), np.uint8)
    else:
        raw = {f"{name}.npy": spoilt_npy(array, random), "notes.txt": b"x"}
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    with zipfile.ZipFile(file, "a") as archive:
        for member, data in raw.items():
            if random.random() < 0.5 and member not in archive.namelist():
                archive.writestr(member, data)
    return file.getvalue()


def spoilt_npy(array, random):
    """The bytes of an .npy whose header says something else."""
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    size = struct.unpack_from("<H", data, 8)[0]
    header = eval(data[10 : 10 + size], {"__builtins__": {}})  # what NumPy has just written
    shapes = [(10**9, 10**9), (10**30,), (-1,), (True,), (0,), (), (1,) * 70, "3", (3.0,)]
    kinds = ["|O", "<f8", ">i4", "|V0", "<U0", "|b1", "<M8[s]", "<i3", "", [("a", "<i4")], "\\d"]
    key = random.choice(("shape", "descr", "fortran_order"))
    header[key] = random.choice({"shape": shapes, "descr": kinds}.get(key, [True, 1, None]))
    text = repr(header)
    if random.random() < 0.2:
        text = random.choice(("(" * 9000, "-" * 9000 + "1", "{'shape': 3}", text[:-5], "[]" * 4000))
    return data[:8] + struct.pack("<H", len(text)) + text.encode() + data[10 + size :]


def spoilt_checkpoint(arrays, random):
    """The bytes of a checkpoint whose text is changed, with the digest of what it holds then."""
    arrays = {name: array for name, array in arrays.items() if name != "sha256"}
    text = json.loads(arrays["text"].tobytes())
    place = random.choice(("position", "position", "whole", "state"))
    if place == "state":
        name = random.choice([name for name in arrays if name != "text"])
        arrays[name] = random.choice((arrays[name].ravel()[:-1], arrays[name][None], np.zeros(3)))
    elif place == "position":
        text["position"] = spoilt_data(text["position"], random)
    else:
        text = spoilt_data(text, random)
    arrays["text"] = np.frombuffer(json_text(text).encode("utf-8", "replace"), np.uint8)
    arrays["sha256"] = np.frombuffer(digest(arrays), np.uint8)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def spoilt_inside_gzip(data, random):
    """What a gzip file holds, spoilt and packed again."""
    return gzip.compress(spoilt_bytes(gzip.decompress(data), random))


def spoilt_inside_mat(data, random):
    """One variable of a compressed MATLAB file, its first bytes spoilt, packed again."""
    variables = []
    start = 128
    while start < len(data):
        size = struct.unpack_from("<I", data, start + 4)[0]
        variables.append(bytearray(zlib.decompress(data[start + 8 : start + 8 + size])))
        start += 8 + size
    chosen = random.randrange(len(variables))
    inside = variables[chosen]
    for _ in range(random.choice((1, 2, 4))):
        at_byte = random.randrange(random.choice((min(72, len(inside)), len(inside))))
        inside[at_byte] = random.choice((inside[at_byte] ^ 1 << random.randrange(8), 0, 1, 255, 14))
    if random.random() < 0.2:
        variables[chosen] = spoilt_bytes(bytes(inside), random)
    packed = (zlib.compress(bytes(each)) for each in variables)
    return data[:128] + b"".join(struct.pack("<II", 15, len(each)) + each for each in packed)
