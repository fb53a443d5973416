"""Malformed ONNX models: name -> what writes one; run as a script, it imports all of a folder."""

import re
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.onnx_models import Model


def good():
    model = Model(1, 8, 8).conv("c", 2, 1, 3, 3).relu().flatten()
    return model.linear("fc", 3, 72)


def _proto(change):
    """A model of which `change` spoils the protobuf message."""

    def write(path):
        proto = good().proto()
        change(proto)
        path.write_bytes(proto.SerializeToString())

    return write


def _data(change):
    """A model of whose bytes `change` makes others."""

    def write(path):
        path.write_bytes(change(good().proto().SerializeToString()))

    return write


def _external(**entries):
    """The weight of the convolution is said to be elsewhere."""

    def change(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return _proto(change)


def _node(at, **fields):
    def change(proto):
        node = proto.graph.node[at]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(node, name)[:]
                getattr(node, name).extend(value)
            else:
                setattr(node, name, value)

    return _proto(change)


def _attribute(at, name, value):
    def change(proto):
        node = proto.graph.node[at]
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return _proto(change)


def _tensor(at=0, **fields):
    def change(proto):
        tensor = proto.graph.initializer[at]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return _proto(change)


def _input(*sizes, kind=TensorProto.FLOAT):
    def change(proto):
        del proto.graph.input[:]
        proto.graph.input.append(helper.make_tensor_value_info("x", kind, sizes))

    return _proto(change)


def _cycle(proto):
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]


def _doubling(path):
    """Constants that double forty times."""
    model = Model(64)
    value = model.constant(np.zeros(1024, np.int64))
    for _ in range(40):
        value = model.node("Concat", inputs=[value, value], axis=0).value
    model.node("Reshape", inputs=["x", value])
    model.save(path)


def _outer_product(path):
    model = Model(64)
    row = model.constant(np.zeros((1, 60_000), np.int64))
    column = model.constant(np.zeros((60_000, 1), np.int64))
    model.node("Reshape", inputs=["x", model.node("Mul", inputs=[row, column]).value]).save(path)


def _huge_fill(path):
    model = Model(64)
    sizes = model.constant(np.array([2**31]))
    filled = model.node("ConstantOfShape", inputs=[sizes]).value
    model.node("Reshape", inputs=["x", filled]).save(path)


def _loop(path):
    model = good()
    model.node("Loop", body=helper.make_graph([], "body", [], []))
    model.save(path)


def _function(proto):
    proto.functions.add(name="f", domain="d", output=["y"])


MODELS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"ir_version: 8\n"),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "cut at half": _data(lambda data: data[: len(data) // 2]),
    "cut by one byte": _data(lambda data: data[:-1]),
    "a byte inverted": _data(lambda data: data[:10] + bytes([data[10] ^ 255]) + data[11:]),
    "zeros behind": _data(lambda data: data + bytes(20)),
    "a folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "4 GB, sparse": lambda path: (path.touch(), __import__("os").truncate(path, 2**32)),
    "no graph": _proto(lambda proto: proto.ClearField("graph")),
    "no nodes": _proto(lambda proto: proto.graph.ClearField("node")),
    "no operator set": _proto(lambda proto: proto.ClearField("opset_import")),
    "old operators": _proto(lambda proto: setattr(proto.opset_import[0], "version", 1)),
    "future operators": _proto(lambda proto: setattr(proto.opset_import[0], "version", 2**40)),
    "cyclic": _proto(_cycle),
    "reads itself": _node(1, input=["/Relu_1_output_0"]),
    "reads nothing that is": _node(1, input=["nowhere"]),
    "reads no input": _node(1, input=[]),
    "makes no output": _node(1, output=[]),
    "makes the input": _node(0, output=["x"]),
    "made twice": _node(1, output=["/Conv_0_output_0"]),
    "out of order": _proto(lambda proto: proto.graph.node.reverse()),
    "unknown operator": _node(1, op_type="Swish"),
    "no operator": _node(1, op_type=""),
    "another domain": _node(1, domain="com.example"),
    "a name of 10,000 letters": _node(1, name="n" * 10_000, op_type="Q" * 10_000),
    "control characters": _node(1, name="\x1b[2J\n\n", op_type="\x07"),
    "a loop": _loop,
    "local functions": _proto(_function),
    "two outputs": _proto(lambda proto: proto.graph.output.append(proto.graph.output[0])),
    "an output that nothing makes": _proto(
        lambda proto: setattr(proto.graph.output[0], "name", "nowhere")
    ),
    "no input": _proto(lambda proto: proto.graph.ClearField("input")),
    "two inputs": _proto(
        lambda proto: proto.graph.input.append(
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2])
        )
    ),
    "dynamic rows": _input("N", 1, "H", 8),
    "integers": _input("N", 1, 8, 8, kind=TensorProto.INT64),
    "five axes": _input("N", 1, 8, 8, 8),
    "size 0": _input("N", 1, 0, 8),
    "a huge image": _input("N", 1, 2**31, 2**31),
    "other channels": _input("N", 3, 8, 8),
    "2 GB declared, no data": _tensor(dims=[2**29, 1, 1, 1], raw_data=b""),
    "2^63 declared": _tensor(dims=[2**40, 2**40, 2**40, 2**40]),
    "a negative size": _tensor(dims=[2, -1, 3, 3]),
    "more data than declared": _tensor(dims=[1, 1, 3, 3]),
    "1,000 axes": _tensor(dims=[1] * 1000),
    "floats of 16 bits": _tensor(data_type=TensorProto.FLOAT16),
    "no type": _tensor(data_type=0),
    "a type that is none": _tensor(data_type=999),
    "NaN": _tensor(raw_data=np.full(18, np.nan, np.float32).tobytes()),
    "the same tensor twice": _proto(
        lambda proto: proto.graph.initializer.append(proto.graph.initializer[0])
    ),
    "data above the folder": _external(location="../secret", length="72"),
    "data at a path": _external(location="/etc/passwd", length="72"),
    "data that is missing": _external(location="absent.bin", length="72"),
    "data in no place": _external(length="72"),
    "data in the folder itself": _external(location=".", length="72"),
    "data at a negative place": _external(location="model.onnx", offset="-8", length="72"),
    "data beyond the end": _external(location="model.onnx", offset="999999", length="72"),
    "data of another length": _external(location="model.onnx", offset="0", length="7"),
    "strides of 0": _attribute(0, "strides", [0, 0]),
    "strides of texts": _attribute(0, "strides", ["a", "b"]),
    "a group of text": _attribute(0, "group", "two"),
    "groups of 0": _attribute(0, "group", 0),
    "pads of one axis": _attribute(0, "pads", [1, 1]),
    "huge dilations": _attribute(0, "dilations", [2**40, 1]),
    "an unknown attribute": _attribute(0, "speed", 3),
    "alpha of text": _attribute(3, "alpha", "one"),
    "axis 7": _attribute(2, "axis", 7),
    "constants that double": _doubling,
    "an outer product": _outer_product,
    "a huge fill": _huge_fill,
    "100,000 nodes": _proto(lambda proto: proto.graph.node.extend([proto.graph.node[1]] * 100_000)),
}


def main(folder):
    """Import all models of a folder; print the exit codes, and the memory in MB at last."""
    from fxsim.cli import main as fxsim

    for path in sorted(Path(folder).iterdir()):
        model = path / "model.onnx"
        print(
            fxsim(["import", str(model), "--pixels", "0,1", "--out", f"{folder}/../run"]),
            flush=True,
        )
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory, too
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)


if __name__ == "__main__":
    assert onnx
    main(sys.argv[1])
