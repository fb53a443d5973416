"""Float networks from ONNX models compute what ONNX Runtime computes."""

import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)"
)

from support.onnx_models import NETWORKS, Model  # noqa: E402

from fxsim import FloatNetwork, InputError, Network  # noqa: E402
from fxsim.interchange import from_onnx  # noqa: E402
from fxsim.nn.spec import from_dict, to_dict  # noqa: E402


def as_model_reads(images, shape):
    """Images (N, H, W, C) on the axes of a model's input of this shape."""
    if len(shape) == 2:
        return images.reshape(len(images), -1)
    planes = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes if len(shape) == 4 else planes[:, :, 0])


def outputs(path, images):
    """Outputs of ONNX Runtime, in inference, before a last softmax."""
    model = onnx.load(path)
    last = model.graph.node[-1]
    if last.op_type in ("Softmax", "LogSoftmax"):
        model.graph.output[0].name = last.input[0]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    return session.run(None, {source.name: as_model_reads(images, source.shape)})[0]


def assert_alike(network, parameters, path, order=None):
    """The outputs differ by less than 1e-5 of the largest."""
    images = np.random.default_rng(1).random((3, *network.input_shape)).astype(np.float32)
    wanted = outputs(path, images)
    wanted = wanted if order is None else wanted.transpose(order)
    wanted = wanted.reshape(3, -1)
    got = FloatNetwork(network, parameters).logits(images)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_ten_networks(tmp_path, name):
    path = NETWORKS[name]().save(tmp_path / f"{name}.onnx")
    network, parameters = from_onnx(path)
    assert network.name == name
    assert from_dict(to_dict(network)) == network
    assert_alike(network, parameters, path)


def test_the_package_onnx_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        InputError, match=r"the package onnx: python -m pip install 'fxsim\[onnx\]'"
    ):
        from_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 3},
        {"layout": "CHW"},
        {"image_shape": "abc"},
        {"image_shape": (4, 4.0, 1)},
        {"loss": "l1"},
        {"targets": 7},
        {"path": 3.5},
        {"path": "/dev/zero"},
    ],
    ids=str,
)
def test_wrong_arguments(tmp_path, wrong):
    path = NETWORKS["mlp"]().save(tmp_path / "m.onnx")
    with pytest.raises((InputError, TypeError)) as caught:
        from_onnx(**{"path": path, **wrong})
    assert len(str(caught.value)) <= 300


def test_names_come_from_the_weights(tmp_path):
    network, _ = from_onnx(NETWORKS["resnet8"]().save(tmp_path / "m.onnx"))
    assert network.names[:3] == ("stem", "a_conv1", "a_conv2")
    assert network.names[4:6] == ("b_conv2", "b_down_0")


def test_the_loss_is_assumed_from_the_end(tmp_path):
    losses = {}
    for name in ("mobilenet", "lenet5", "autoencoder"):
        network, _ = from_onnx(NETWORKS[name]().save(tmp_path / f"{name}.onnx"))
        losses[name] = network.loss, network.targets
    assert losses == {
        "mobilenet": ("softmax_cross_entropy", "labels"),
        "lenet5": ("softmax_cross_entropy", "labels"),
        "autoencoder": ("mse", "tensors"),
    }
    path = Model(4).linear("fc", 4, 4).node("Sigmoid").save(tmp_path / "s.onnx")
    network, _ = from_onnx(path, targets="labels")
    assert (network.loss, network.targets) == ("sigmoid_cross_entropy", "labels")
    with pytest.raises(InputError, match="contradicts the model, which ends with Sigmoid"):
        from_onnx(path, loss="mse")


def test_flat_images_take_their_shape(tmp_path):
    path = NETWORKS["autoencoder"]().save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path, image_shape=(8, 8, 1))
    assert network.input_shape == (8, 8, 1)
    assert_alike(network, parameters, path)
    with pytest.raises(InputError, match="image_shape must be"):
        from_onnx(path, image_shape=(8, 8, 2))


def test_channels_last_is_seen_where_the_model_turns_images_at_once(tmp_path):
    model = Model(6, 5, 3).node("Transpose", perm=[0, 3, 1, 2])
    model.conv("c", 4, 3, 3, 3).relu().node("Transpose", perm=[0, 2, 3, 1]).flatten()
    path = model.linear("fc", 2, 48).save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path)
    assert network.input_shape == (6, 5, 3)
    images = np.random.default_rng(1).random((3, 6, 5, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    (wanted,) = session.run(None, {"x": images})
    got = FloatNetwork(network, parameters).logits(images)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_outputs_that_are_images_come_in_the_order_of_images(tmp_path):
    shape = np.array([0, 2, 3, 4])
    model = Model(2, 3, 4).flatten().linear("a", 8, 24).relu().linear("b", 24, 8)
    path = model.node("Reshape", model.constant(shape)).save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path)
    assert network.targets == "tensors"
    assert_alike(network, parameters, path, (0, 2, 3, 1))


def test_max_pooling_before_the_relu_is_the_same(tmp_path):
    model = Model(1, 6, 6).conv("c", 4, 1, 3, 3).max_pool(2, 2).relu().flatten()
    path = model.linear("fc", 3, 16).save(tmp_path / "m.onnx")
    assert_alike(*from_onnx(path), path)


def test_matmul_and_add(tmp_path):
    model = Model(6)
    for name, inputs, units in (("a", 6, 5), ("b", 5, 3)):
        model.node("MatMul", model.reals(name, inputs, units))
        model.node("Add", model.reals(f"{name}b", units))
        model.node("Relu" if name == "a" else "Identity")
    path = model.save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path)
    assert [layer.has_bias for layer in network.layers] == [True, True]
    assert_alike(network, parameters, path)


def test_batch_norm_of_the_last_layer_is_folded(tmp_path):
    path = Model(6).linear("fc", 3, 6).norm("n", 3).save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path)
    assert not network.layers[-1].batch_norm
    assert_alike(network, parameters, path)


def test_batch_norm_keeps_epsilon_and_rate(tmp_path):
    network, parameters = from_onnx(NETWORKS["mlp"]().save(tmp_path / "m.onnx"))
    norm = network.layers[0].norm
    assert (norm.epsilon, norm.running_rate, norm.frozen) == (1e-5, 0.1, False)
    assert sorted(parameters["dense0"]) == [
        "beta",
        "gamma",
        "running_mean",
        "running_var",
        "weight",
    ]


def test_dropout_and_same_padding(tmp_path):
    model = Model(1, 7, 7)
    weight = model.reals("c.weight", 4, 1, 3, 3)
    model.node("Conv", weight, auto_pad="SAME_UPPER", strides=[2, 2]).relu()
    ratio = model.constant(np.float32(0.25))
    model.node("Dropout", ratio, model.constant(np.array(False))).flatten()
    path = model.linear("fc", 3, 64).save(tmp_path / "m.onnx")
    network, parameters = from_onnx(path)
    assert (network.layers[0].padding, network.layers[0].dropout) == ("same", 0.25)
    assert not network.layers[0].has_bias
    assert_alike(network, parameters, path)


def test_weights_in_a_file_beside_the_model(tmp_path):
    proto = NETWORKS["lenet5"]().proto()
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    assert_alike(*from_onnx(tmp_path / "m.onnx"), tmp_path / "m.onnx")


WRONG = {
    "operator": (lambda m: m.node("Elu"), r"node '/Elu_0' \(Elu\): fxsim imports no such operator"),
    "domain": (lambda m: m.node("Quack", domain="a.b"), r"\(a\.b\.Quack\): fxsim imports no such"),
    "slope": (
        lambda m: m.conv("c", 2, 1, 3, 3).node("LeakyRelu", alpha=0.01),
        r"node '/LeakyRelu_1' \(LeakyRelu\): alpha must be a power of two, .* got 0.01; train with "
        r"0.0078125",
    ),
    "clip": (
        lambda m: m.conv("c", 2, 1, 3, 3).node("Clip", m.constant(np.float32(-1))),
        "min must be 0, .* got -1.0",
    ),
    "no layer before": (lambda m: m.relu(), "it reads the images; in fxsim it follows Conv"),
    "two poolings": (
        lambda m: m.conv("c", 2, 1, 3, 3).max_pool(2, 2).average_pool(2, 2),
        r"\(AveragePool\): layer 'c' has pool already",
    ),
    "norm after relu": (
        lambda m: m.conv("c", 2, 1, 3, 3).relu().norm("n", 2),
        "layer 'c' has activation already; the order is",
    ),
    "padding that is no zero": (
        lambda m: m.node("Pad", m.tensor("p", np.array([0, 0, 1, 1] * 2)), mode="reflect"),
        "fxsim pads with zeros alone",
    ),
    "wide padding": (
        lambda m: m.conv("c", 2, 1, 3, 3, pads=[3] * 4),
        r"\(Conv\): layer 'c': padding must be narrower than the kernel",
    ),
    "channels": (lambda m: m.conv("c", 2, 4, 3, 3), "the weight is for 4 channels .* has 1"),
    "dense on an image": (lambda m: m.linear("fc", 3, 64), "put a Flatten before it"),
    "rows": (lambda m: m.flatten().linear("fc", 3, 63), r"floats of shape \(64, units\)"),
    "softmax inside": (
        lambda m: m.flatten().linear("a", 3, 64).node("Softmax").linear("b", 2, 3),
        "fxsim has it at the end alone",
    ),
    "training": (
        lambda m: m.conv("c", 2, 1, 3, 3).node(
            "BatchNormalization", *[m.reals(f"{i}", 2) for i in range(4)], training_mode=1
        ),
        r"must be of inference, by channel; export with model.eval\(\)",
    ),
    "last activation": (
        lambda m: m.flatten().linear("a", 3, 64).relu(),
        "the last layer 'a' gives what the loss reads",
    ),
    "attribute": (lambda m: m.node("Conv", m.reals("w", 2, 1, 3, 3), puds=[1]), "'puds' is none"),
    "average padding": (
        lambda m: m.conv("c", 2, 1, 3, 3).node(
            "AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1]
        ),
        "pool padding must be 0 for averages",
    ),
    "rounding up": (
        lambda m: m.conv("c", 2, 1, 3, 3).node(
            "MaxPool", kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1
        ),
        "export with ceil_mode=0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_layer_has_is_named(tmp_path, name):
    make, message = WRONG[name]
    model = Model(1, 8, 8)
    make(model)
    with pytest.raises(InputError, match=message) as caught:
        from_onnx(model.save(tmp_path / "m.onnx"))
    assert len(str(caught.value)) <= 300


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "new"])
def test_a_model_that_pytorch_exports(tmp_path, dynamo):
    torch = pytest.importorskip("torch", reason="needs PyTorch (pip install torch)")
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 16), nn.ReLU6(), nn.Dropout(0.2), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    path = tmp_path / "m.onnx"
    torch.onnx.export(model, (torch.rand(2, 1, 8, 8),), str(path), dynamo=dynamo)
    network, parameters = from_onnx(path)
    assert isinstance(network, Network)
    images = np.random.default_rng(1).random((2, 8, 8, 1)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    got = FloatNetwork(network, parameters).logits(images)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
