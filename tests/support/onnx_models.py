"""Ten small networks as ONNX models, in the patterns of nodes that torch.onnx.export writes.

`tests/interchange/test_from_onnx.py` exports the same from PyTorch where that is installed.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST = 2**63 - 1


class Model:
    """A graph that grows at its end; `value` is the name of what the last node made."""

    def __init__(self, *shape, seed=0, batch="N"):
        self.random = np.random.default_rng(seed)
        self.value = "x"
        self.shape = shape
        self.batch = batch
        self.nodes = []
        self.tensors = []

    def node(self, op, *others, inputs=None, output=None, domain="", **attributes):
        """A node that reads the last value and `others`; its output is the last value then."""
        given = [self.value, *others] if inputs is None else inputs
        self.value = output or f"/{op}_{len(self.nodes)}_output_0"
        self.nodes.append(
            helper.make_node(
                op, given, [self.value], f"/{op}_{len(self.nodes)}", domain=domain, **attributes
            )
        )
        return self

    def tensor(self, name, array):
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def constant(self, array):
        """A node Constant, which is not the last value."""
        name = f"/Constant_{len(self.nodes)}_output_0"
        value = numpy_helper.from_array(np.asarray(array))
        self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name

    def reals(self, name, *shape, scale=1.0):
        return self.tensor(name, (scale * self.random.normal(size=shape)).astype(np.float32))

    def conv(self, name, filters, channels, *kernel, bias=True, groups=1, pads=None, **options):
        scale = (channels // groups * np.prod(kernel)) ** -0.5
        given = [self.reals(f"{name}.weight", filters, channels // groups, *kernel, scale=scale)]
        if bias:
            given.append(self.reals(f"{name}.bias", filters, scale=0.3))
        rows = len(kernel)
        attributes = {"dilations": [1] * rows, "strides": [1] * rows} | options
        return self.node(
            "Conv",
            *given,
            group=groups,
            kernel_shape=list(kernel),
            pads=pads or [0] * 2 * rows,
            **attributes,
        )

    def linear(self, name, units, inputs):
        weight = self.reals(f"{name}.weight", units, inputs, scale=inputs**-0.5)
        bias = self.reals(f"{name}.bias", units, scale=0.3)
        return self.node("Gemm", weight, bias, alpha=1.0, beta=1.0, transB=1)

    def norm(self, name, channels):
        gamma = self.tensor(
            f"{name}.weight", self.random.uniform(0.5, 1.5, channels).astype(np.float32)
        )
        mean = [
            self.reals(f"{name}.{own}", channels, scale=0.3) for own in ("bias", "running_mean")
        ]
        variance = self.tensor(
            f"{name}.running_var", self.random.uniform(0.3, 2.0, channels).astype(np.float32)
        )
        return self.node(
            "BatchNormalization",
            gamma,
            *mean,
            variance,
            epsilon=1e-5,
            momentum=0.9,
            training_mode=0,
        )

    def relu(self):
        return self.node("Relu")

    def relu6(self):
        ends = [self.constant(np.float32(end)) for end in (0.0, 6.0)]
        return self.node("Clip", *ends)

    def max_pool(self, *size):
        return self.node(
            "MaxPool",
            kernel_shape=list(size),
            strides=list(size),
            pads=[0] * 2 * len(size),
            dilations=[1] * len(size),
            ceil_mode=0,
        )

    def average_pool(self, *size):
        return self.node(
            "AveragePool",
            kernel_shape=list(size),
            strides=list(size),
            pads=[0] * 2 * len(size),
            ceil_mode=0,
            count_include_pad=1,
        )

    def flatten(self):
        return self.node("Flatten", axis=1)

    def view(self):
        """x.view(x.size(0), -1), where the number of images is open."""
        image = self.value
        size = self.node("Shape").value
        self.node("Gather", inputs=[size, self.constant(np.int64(0))], axis=0)
        axes = self.tensor(f"axes{len(self.nodes)}", np.array([0]))
        batch = self.node("Unsqueeze", axes).value
        self.node("Concat", inputs=[batch, self.constant(np.array([-1]))], axis=0)
        return self.node("Reshape", inputs=[image, self.value], allowzero=0)

    def pad(self, left, right, top, bottom):
        """torch.nn.functional.pad with these four sides."""
        image = self.value
        given = self.constant(np.array([left, right, top, bottom]))
        zero = helper.make_tensor("value", TensorProto.INT64, [1], [0])
        self.node("ConstantOfShape", inputs=[self.constant(np.array([4]))], value=zero)
        self.node("Concat", inputs=[given, self.value], axis=0)
        self.node("Reshape", self.constant(np.array([-1, 2])), allowzero=0)
        ends = [self.constant(np.array([end])) for end in (0, -1, -LARGEST, -1)]
        self.node("Slice", ends[1], ends[2], ends[0], ends[3])
        self.node("Transpose", perm=[1, 0])
        self.node("Reshape", self.constant(np.array([-1])), allowzero=0)
        self.node("Cast", to=TensorProto.INT64)
        return self.node("Pad", inputs=[image, self.value, ""], mode="constant")

    def proto(self, opset=18):
        """The onnx.ModelProto."""
        images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])
        output = helper.make_tensor_value_info(self.value, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "main_graph", [images], [output], self.tensors)
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", opset)] + [
            helper.make_opsetid(each, 1) for each in domains
        ]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path, **options):
        """Write the model; returns the path."""
        onnx.save(self.proto(**options), path)
        return path


def lenet5():
    model = Model(1, 28, 28)
    model.conv("conv1", 6, 1, 5, 5, pads=[2] * 4).relu().max_pool(2, 2)
    model.conv("conv2", 16, 6, 5, 5).relu().max_pool(2, 2).view()
    return model.linear("fc1", 120, 400).relu().linear("fc2", 84, 120).relu().linear("fc3", 10, 84)


def _block(model, name, inputs, filters, stride):
    source = model.value
    strides = {"strides": [stride, stride], "bias": False}
    model.conv(f"{name}.conv1", filters, inputs, 3, 3, pads=[1] * 4, **strides)
    model.norm(f"{name}.bn1", filters).relu()
    model.conv(f"{name}.conv2", filters, filters, 3, 3, pads=[1] * 4, bias=False)
    branch = model.norm(f"{name}.bn2", filters).value
    if stride > 1:
        model.value = source
        model.conv(f"{name}.down.0", filters, inputs, 1, 1, **strides).norm(
            f"{name}.down.1", filters
        )
        source = model.value
    return model.node("Add", inputs=[branch, source]).relu()


def resnet8():
    model = Model(3, 32, 32)
    model.conv("stem", 8, 3, 3, 3, pads=[1] * 4, bias=False).norm("norm", 8).relu()
    for name, inputs, filters, stride in (("a", 8, 8, 1), ("b", 8, 16, 2), ("c", 16, 32, 2)):
        _block(model, name, inputs, filters, stride)
    return model.node("GlobalAveragePool").flatten().linear("fc", 10, 32)


def ds_cnn():
    model = Model(1, 49, 10)
    model.pad(1, 1, 4, 5).conv("0", 16, 1, 10, 4, bias=False, strides=[2, 2]).norm("1", 16).relu()
    for block in range(2):
        model.conv(f"{block}d", 16, 16, 3, 3, pads=[1] * 4, groups=16, bias=False)
        model.norm(f"{block}dn", 16).relu()
        model.conv(f"{block}p", 16, 16, 1, 1, bias=False).norm(f"{block}pn", 16).relu()
    return model.average_pool(25, 5).flatten().linear("fc", 12, 16)


def mobilenet():
    model = Model(3, 32, 32)
    model.conv("0", 8, 3, 3, 3, pads=[1] * 4, strides=[2, 2]).relu6()
    for block, (inputs, filters, stride) in enumerate(((8, 16, 1), (16, 32, 2), (32, 32, 1))):
        strides = [stride, stride]
        model.conv(f"{block}d", inputs, inputs, 3, 3, pads=[1] * 4, strides=strides, groups=inputs)
        model.relu6().conv(f"{block}p", filters, inputs, 1, 1).relu6()
    model.node("ReduceMean", model.constant(np.array([2, 3])), keepdims=0)
    return model.linear("fc", 2, 32).node("Softmax", axis=1)


def autoencoder():
    model = Model(64)
    for name, units, inputs in (("0", 32, 64), ("3", 8, 32), ("6", 32, 8)):
        model.linear(name, units, inputs).norm(f"{name}n", units).relu()
    return model.linear("9", 64, 32)


def mlp():
    model = Model(16)
    model.linear("0", 32, 16).norm("1", 32).relu().linear("3", 16, 32).norm("4", 16)
    return model.node("Sigmoid").linear("6", 5, 16).node("LogSoftmax", axis=1)


def one_dimension():
    model = Model(2, 64)
    model.conv("c1", 8, 2, 5, pads=[2, 2]).relu().max_pool(2)
    model.conv("c2", 16, 8, 5, pads=[2, 2], strides=[2]).norm("b", 16).node("Tanh")
    return model.flatten().linear("fc", 5, 256)


def residual():
    model = Model(3, 16, 16)
    first = model.conv("c1", 8, 3, 3, 3, pads=[1] * 4).relu().value
    second = model.conv("c2", 8, 8, 3, 3, pads=[1] * 4).value
    pooled = model.node("Add", inputs=[first, second]).relu().max_pool(2, 2).value
    third = model.conv("c3", 8, 8, 3, 3, pads=[1] * 4).value
    model.node("Add", inputs=[third, pooled]).relu().max_pool(2, 2).view()
    return model.linear("fc", 4, 128)


def asymmetric():
    model = Model(3, 16, 16)
    model.pad(0, 1, 0, 1).conv("c1", 8, 3, 3, 3, strides=[2, 2]).relu()
    model.pad(1, 0, 2, 1).conv("c2", 12, 8, 3, 2, strides=[1, 2], dilations=[2, 1]).relu()
    return model.flatten().linear("fc", 6, 336)


def leaky():
    model = Model(1, 8, 8)
    model.conv("c", 8, 1, 3, 3).norm("b", 8).node("LeakyRelu", alpha=0.125).average_pool(2, 2)
    return model.flatten().linear("a", 16, 72).node("LeakyRelu", alpha=0.125).linear("fc", 10, 16)


NETWORKS = {
    "lenet5": lenet5,
    "resnet8": resnet8,
    "ds_cnn": ds_cnn,
    "mobilenet": mobilenet,
    "autoencoder": autoencoder,
    "mlp": mlp,
    "one_dimension": one_dimension,
    "residual": residual,
    "asymmetric": asymmetric,
    "leaky": leaky,
}
