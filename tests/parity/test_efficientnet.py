"""EfficientNets give what `transformers` gives from the same folder, and can be given back."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn

from mmjax.models.presets import IMAGE_PRESETS
from mmjax.pretrained import export_image_tower, image_config, load_folder, load_image_tower
from mmjax.pretrained.efficientnet import efficientnet_entries
from mmjax.pretrained.writing import to_tensors

# Scanned and single blocks, with and without expansion, both kernels, both paddings: the strided
# blocks are number 2 (symmetric) and 4 (not).
SMALL = {
    "width_coefficient": 0.25,
    "depth_coefficient": 1.5,
    "hidden_dim": 320,
    "kernel_sizes": [3, 3, 5],
    "in_channels": [32, 32, 48],
    "out_channels": [32, 48, 100],
    "depthwise_padding": [2],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 1, 1],
    "expand_ratios": [1, 3, 2],
    "drop_connect_rate": 0.0,
}
ODD = (45, 39)  # every map's sides are odd somewhere, and differ


def test_grid_and_pooled_features_in_evaluation_without_the_head(tmp_path):
    theirs = random_network(transformers.EfficientNetForImageClassification, SMALL, 0, tmp_path)
    images = random_images(ODD)
    expected, pooled = torch_features(theirs.base_model.eval(), images)
    config, variables = load(tmp_path, head=True)

    @jax.jit
    def features(variables, images):
        network = config.module()
        return network.apply(variables, images), network.apply(
            variables, images, method=type(network).grid
        )

    vector, grid = features(variables, images)
    assert_close(vector, pooled)
    assert_close(grid, expected)


def test_features_gradients_and_running_statistics_in_training(tmp_path):
    theirs = random_network(transformers.EfficientNetModel, SMALL, 1, tmp_path).train()
    images = random_images(ODD)
    weight = np.random.default_rng(3).normal(size=(len(images), 320)).astype(np.float32)
    for norm in norms(theirs):
        norm.momentum = 0.01  # which is what the 0.99 of the config means
    pooled = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).pooler_output
    (pooled * torch.tensor(weight)).sum().backward()
    config, variables = load(tmp_path)
    assert config.batch_norm_momentum == 0.01

    @jax.jit
    def train(variables, images):
        def loss(params):
            both = {**variables, "params": params}
            out, changed = config.module().apply(both, images, True, mutable=["batch_stats"])
            return jnp.sum(out * weight), (out, changed)

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, (features, changed) = train(variables, images)
    assert_close(features, pooled.detach().numpy())
    ours = to_tensors(efficientnet_entries(config), {"params": grads, **changed})
    expected = {key: p.grad.numpy() for key, p in theirs.named_parameters()}
    expected |= {k: v.numpy() for k, v in theirs.named_buffers() if "running" in k}
    assert ours.keys() == expected.keys()
    for key in ours:
        # A projection's bias is taken away by the next norm: its gradient is 0 but for rounding.
        floor = 1.0 if "project_bn.bias" in key else 0.0
        assert_close(ours[key], expected[key], key, floor)


def test_an_exported_folder_gives_the_same_features_in_transformers(tmp_path):
    first = random_network(transformers.EfficientNetModel, SMALL, 4, tmp_path / "one")
    export_image_tower(*load(tmp_path / "one"), tmp_path / "two")
    second, info = transformers.EfficientNetModel.from_pretrained(
        tmp_path / "two", output_loading_info=True
    )
    assert not any(info.values()), info
    for key in SMALL:
        assert list(np.ravel(getattr(second.config, key))) == list(np.ravel(SMALL[key])), key
    assert second.config.batch_norm_momentum == first.config.batch_norm_momentum
    images = random_images(ODD)
    for a, b in zip(torch_features(first.eval(), images), torch_features(second.eval(), images),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_b0_is_transformers_b0(tmp_path):
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    theirs = random_network(transformers.EfficientNetModel, sizes, 6, tmp_path)
    image = random_images((64, 64))[:1]
    config, variables = load(tmp_path)
    assert config == IMAGE_PRESETS["efficientnet-b0"]
    _, pooled = torch_features(theirs.eval(), image)
    assert_close(jax.jit(config.module().apply)(variables, image), pooled)


@pytest.mark.parametrize(
    ("name", "sizes"), [("b1", (1.0, 1.1, 1280)), ("b4", (1.4, 1.8, 1792))], ids=["b1", "b4"]
)
def test_scaled_sizes_have_transformers_parameters(name, sizes):
    keys = ("width_coefficient", "depth_coefficient", "hidden_dim")
    with torch.device("meta"):
        theirs = transformers.EfficientNetModel(
            transformers.EfficientNetConfig(**dict(zip(keys, sizes, strict=True)))
        )
    config = IMAGE_PRESETS[f"efficientnet-{name}"]
    shapes = {"params": abstract(config)["params"]}
    ours = to_tensors(
        efficientnet_entries(config),
        jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes),
    )
    assert {k: v.shape for k, v in ours.items()} == {
        k: tuple(p.shape) for k, p in theirs.named_parameters()
    }


def random_network(kind: type, sizes: dict, seed: int, folder: Path) -> torch.nn.Module:
    """An EfficientNet saved into `folder`, with weights with which every detail counts.

    Convolutions give values with a variance of about 0.03, beside which the norm's epsilon is
    visible; the running statistics fit the images roughly; squeeze and excitation weighs channels
    differently.
    """
    model = kind(transformers.EfficientNetConfig(**sizes))
    generator = torch.Generator().manual_seed(seed)

    def noise(x):
        return torch.randn(x.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                variance = 0.03 if module.bias is None else 4.0
                module.weight.copy_(
                    noise(module.weight) * (variance / module.weight[0].numel()) ** 0.5
                )
                if module.bias is not None:
                    module.bias.copy_(0.5 * noise(module.bias))
        for norm in norms(model):
            norm.weight.copy_(1 + 0.2 * noise(norm.weight))
            norm.bias.copy_(0.3 * noise(norm.bias))
            norm.momentum = 1.0
        model.train()(torch.tensor(random_images((64, 64)).transpose(0, 3, 1, 2)))
        for norm in norms(model):
            norm.running_mean += 0.1 * norm.running_var.sqrt() * noise(norm.bias)
            norm.running_var *= torch.exp(0.2 * noise(norm.bias))
    model.save_pretrained(folder)
    return model


def norms(model: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def random_images(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, *shape, 3)).astype(np.float32)


def abstract(config):
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return nn.unbox(jax.eval_shape(config.module().init, jax.random.key(0), images))


def load(path: Path, head: bool = False):
    folder = load_folder(path)
    config = image_config(folder)
    variables, report = load_image_tower(folder, config, abstract(config))
    assert report.left_over == (["classifier.bias", "classifier.weight"] if head else [])
    return config, variables


def torch_features(model: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    return out.last_hidden_state.numpy().transpose(0, 2, 3, 1), out.pooler_output.numpy()


def assert_close(actual, expected, name: str = "", floor: float = 0.0) -> None:
    """To 1e-4 of the largest value, or of `floor` where that is larger."""
    scale = max(np.abs(expected).max(), floor)
    np.testing.assert_allclose(
        np.asarray(actual) / scale, expected / scale, atol=1e-4, rtol=0, err_msg=name
    )
