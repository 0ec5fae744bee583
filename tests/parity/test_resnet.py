"""ResNets give what `transformers` gives from the same folder, in evaluation and in training."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn
from safetensors.torch import save_file

from mmjax.models.resnet import ResNet
from mmjax.pretrained import export_image_tower, image_config, load_folder, load_image_tower
from mmjax.pretrained.resnet import resnet_entries
from mmjax.pretrained.writing import to_tensors

# Block, stem's width, widths, depths, early stride. Scanned and single blocks, a first block with
# and without a projection.
SIZES = {
    "basic": ("basic", 8, [8, 12, 16], [2, 1, 3], False),
    "basic, narrow stem": ("basic", 6, [8, 16], [3, 2], False),
    "bottleneck": ("bottleneck", 8, [16, 24, 32], [3, 1, 2], False),
    "bottleneck, early stride": ("bottleneck", 16, [16, 32], [1, 4], True),
}
SIZE_KEYS = (
    "layer_type",
    "embedding_size",
    "hidden_sizes",
    "depths",
    "downsample_in_first_stage",
)
ODD = (45, 38)  # sides that tell symmetric padding from TensorFlow's


@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        ("basic", "ResNetModel", ODD),
        ("basic, narrow stem", "ResNetForImageClassification", (64, 64)),
        ("bottleneck", "ResNetForImageClassification", ODD),
        ("bottleneck, early stride", "ResNetModel", (64, 64)),
    ],
)
def test_grid_and_pooled_features_in_evaluation(name, head, shape, tmp_path):
    theirs = random_resnet(getattr(transformers, head), SIZES[name], 0, tmp_path)
    images = random_images(shape)
    expected, pooled = torch_features(theirs.base_model.eval(), images)
    config, variables = load(tmp_path)

    @jax.jit
    def features(variables, images):
        model = ResNet(config)
        return model.apply(variables, images), model.apply(variables, images, method=ResNet.grid)

    vector, grid = features(variables, images)
    assert_close(vector, pooled)
    assert_close(grid, expected)


@pytest.mark.parametrize("name", SIZES)
def test_features_and_running_statistics_in_training(name, tmp_path):
    theirs = random_resnet(transformers.ResNetModel, SIZES[name], 1, tmp_path)
    images = random_images(ODD)
    config, variables = load(tmp_path)

    @jax.jit
    def train(variables, images):
        return ResNet(config).apply(variables, images, True, mutable=["batch_stats"])

    actual, changed = train(variables, images)
    _, pooled = torch_features(theirs.train(), images)
    assert_close(actual, pooled)
    running = to_tensors(resnet_entries(config), changed)
    buffers = {k: v.numpy() for k, v in theirs.named_buffers() if "running" in k}
    assert running.keys() == buffers.keys()
    for key in running:
        assert_close(running[key], buffers[key], key)


@pytest.mark.parametrize(
    ("name", "training"),
    [("basic", True), ("bottleneck", True), ("bottleneck, early stride", False)],
)
def test_gradients(name, training, tmp_path):
    theirs = random_resnet(transformers.ResNetModel, SIZES[name], 2, tmp_path).train(training)
    images = random_images(ODD)
    weight = np.random.default_rng(3).normal(size=(len(images), theirs.config.hidden_sizes[-1]))
    weight = weight.astype(np.float32)
    pooled = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).pooler_output[:, :, 0, 0]
    (pooled * torch.tensor(weight)).sum().backward()

    config, variables = load(tmp_path)

    def loss(params):
        both = {**variables, "params": params}
        features, _ = ResNet(config).apply(both, images, training, mutable=["batch_stats"])
        return jnp.sum(features * weight)

    ours = {"params": jax.jit(jax.grad(loss))(variables["params"])}
    ours = to_tensors(resnet_entries(config), ours)
    expected = {key: p.grad.numpy() for key, p in theirs.named_parameters()}
    assert ours.keys() == expected.keys()
    for key in ours:
        assert_close(ours[key], expected[key], key)


@pytest.mark.parametrize("name", SIZES)
def test_an_exported_folder_gives_the_same_features_in_transformers(name, tmp_path):
    first = random_resnet(transformers.ResNetModel, SIZES[name], 4, tmp_path / "one")
    export_image_tower(*load(tmp_path / "one"), tmp_path / "two")
    second, info = transformers.ResNetModel.from_pretrained(
        tmp_path / "two", output_loading_info=True
    )
    assert not any(info.values()), info
    images = random_images(ODD)
    for a, b in zip(torch_features(first.eval(), images), torch_features(second.eval(), images),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_torchvision_names_load_the_same_network(block, tmp_path):
    theirs = TorchvisionNames(block, depths=[2, 3], widths=[16, 24])
    randomise(theirs, 5)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    sizes = zip(SIZE_KEYS, (block, 16, [16, 24], [2, 3], False), strict=True)
    config = transformers.ResNetConfig(**dict(sizes)).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    config, variables = load(tmp_path, left_over=["fc.bias", "fc.weight"])
    images = random_images(ODD)
    with torch.no_grad():
        expected = theirs.eval().features(torch.tensor(images.transpose(0, 3, 1, 2)))
    assert_close(jax.jit(ResNet(config).apply)(variables, images), expected.numpy())


@pytest.mark.parametrize(
    "depths", [[3, 4, 6, 3], pytest.param([3, 8, 36, 3], marks=pytest.mark.slow)], ids=str
)
def test_real_sizes(depths, tmp_path):
    sizes = ("bottleneck", 64, [256, 512, 1024, 2048], depths, False)
    # Blocks that add little, as trained ones do: else rounding grows from each to the next.
    theirs = random_resnet(transformers.ResNetModel, sizes, 6, tmp_path, gain=0.5)
    image = random_images((64, 64))[:1]
    config, variables = load(tmp_path)
    _, pooled = torch_features(theirs.eval(), image)
    assert_close(jax.jit(ResNet(config).apply)(variables, image), pooled)


def random_resnet(
    kind: type, sizes: tuple, seed: int, folder: Path, gain: float = 1.0
) -> torch.nn.Module:
    """A ResNet saved into `folder`, see `randomise`."""
    model = kind(transformers.ResNetConfig(**dict(zip(SIZE_KEYS, sizes, strict=True))))
    randomise(model, seed, gain)
    model.save_pretrained(folder)
    return model


def randomise(model: torch.nn.Module, seed: int, gain: float = 1.0) -> None:
    """Sets weights and statistics with which every detail of the computation counts.

    Convolutions give values with a variance of about 3e-4, beside which the norm's epsilon is
    visible. The running statistics fit the images roughly: exactly would hide a confusion of
    training and evaluation, far off would let values grow from block to block.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(x):
        return torch.randn(x.shape, generator=generator)

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.copy_(noise(module.weight) * (3e-4 / fan_in) ** 0.5)
        for norm in norms:
            norm.weight.copy_(gain * (1 + 0.2 * noise(norm.weight)))
            norm.bias.copy_(0.3 * noise(norm.bias))
            norm.momentum = 1.0
        model.train()(torch.tensor(random_images((64, 64)).transpose(0, 3, 1, 2)))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.1 * norm.running_var.sqrt() * noise(norm.bias)
            norm.running_var *= torch.exp(0.2 * noise(norm.bias))


def random_images(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, *shape, 3)).astype(np.float32)


def load(folder: Path, left_over: list[str] | None = None):
    folder = load_folder(folder)
    config = image_config(folder)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    target = nn.unbox(jax.eval_shape(ResNet(config).init, jax.random.key(0), images))
    variables, report = load_image_tower(folder, config, target)
    assert len(report.loaded) == len(jax.tree.leaves(target))
    if left_over is not None:
        assert report.left_over == left_over
    return config, variables


def torch_features(model: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    grid = out.last_hidden_state.numpy().transpose(0, 2, 3, 1)
    return grid, out.pooler_output.numpy()[:, :, 0, 0]


def assert_close(actual, expected, name: str = "") -> None:
    """To 1e-4 of the largest value."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.asarray(actual) / scale, expected / scale, atol=1e-4, rtol=0, err_msg=name
    )


class TorchvisionNames(torch.nn.Module):
    """The network under torchvision's names for its parts."""

    def __init__(self, block: str, depths: list[int], widths: list[int]):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        before, self.stages = 16, len(depths)
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(TorchvisionBlock(block, before, width, 2 if i and not j else 1))
                before = width
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(before, 5)

    def features(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class TorchvisionBlock(torch.nn.Module):
    def __init__(self, kind: str, before: int, width: int, stride: int):
        super().__init__()
        inner = width // 4
        convolutions = {
            "basic": [(before, width, 3, stride), (width, width, 3, 1)],
            "bottleneck": [(before, inner, 1, 1), (inner, inner, 3, stride), (inner, width, 1, 1)],
        }[kind]
        self.count = len(convolutions)
        for i, (a, b, size, step) in enumerate(convolutions, 1):
            setattr(self, f"conv{i}", torch.nn.Conv2d(a, b, size, step, size // 2, bias=False))
            setattr(self, f"bn{i}", torch.nn.BatchNorm2d(b))
        self.downsample = torch.nn.Sequential()
        if stride != 1 or before != width:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(before, width, 1, stride, bias=False), torch.nn.BatchNorm2d(width)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + self.downsample(x))
