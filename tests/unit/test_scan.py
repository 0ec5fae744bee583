"""SCAN's network beside PyTorch's parts; its regions from a batch or from a grid of pixels."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmjax.losses.objective import Objective, PairTerm
from mmjax.losses.pairwise import HardestHinge
from mmjax.models.gru import GruConfig
from mmjax.models.pixels import normalize
from mmjax.models.presets import IMAGE_PRESETS, PRESETS
from mmjax.models.scan import Scan, ScanConfig
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.parallel.rules import unbox
from tests.pair_oracle import QUICK_TO_COMPILE, looped
from tests.scan_oracle import scan_scores

B, L, R, F, D, WORDS = 5, 7, 4, 9, 12, 30
LENGTHS, COUNTS = np.array([7, 2, 5, 3, 4]), np.array([4, 1, 3, 2, 4])


def quick(function):
    return jax.jit(function, compiler_options=QUICK_TO_COMPILE)


def batch_of(garbage=0):
    rng = np.random.default_rng(0)
    said, there = np.arange(L) < LENGTHS[:, None], np.arange(R) < COUNTS[:, None]
    regions = rng.normal(size=(B, R, F))
    return {
        "query": {"ids": np.where(said, rng.integers(1, WORDS, (B, L)), garbage), "mask": said},
        "regions": np.where(there[..., None], regions, np.nan if garbage else 0).astype(np.float32),
        "region_mask": there,
        "image": rng.integers(0, 256, (B, 64, 64, 3)).astype(np.uint8),
        "has_image": np.arange(B) > 0,
        "mirror": np.zeros(B, bool),
        "keys": np.arange(B)[:, None].astype(np.int32),
        "weight": np.ones(B, np.float32),
    }


def made(config):
    module = Scan(config)
    init = quick(functools.partial(module.init, train=False))
    return module, unbox(init(jax.random.key(1), batch_of()))


@functools.cache
def on_regions():
    return made(ScanConfig(GruConfig(WORDS, 6, D, both_ways=True), joint_dim=D))


def in_torch(params, batch):
    """Words and regions as SCAN's code makes them; and our parameters, as torch's leaves."""
    words, unit = (
        torch.nn.Embedding(WORDS, 6),
        torch.nn.GRU(6, D, batch_first=True, bidirectional=True),
    )
    head = torch.nn.Linear(F, D)
    tower, leaves = params["query_tower"], {}

    def give(parameter, value, *path, turned=False):
        value = torch.tensor(np.asarray(value))
        with torch.no_grad():
            parameter.copy_(value.T if turned else value)
        leaves["/".join(path)] = parameter, turned

    give(words.weight, tower["word"]["embedding"][:WORDS], "query_tower/word/embedding")
    for direction, suffix in (("forward", ""), ("backward", "_reverse")):
        for ours, theirs in (("input", "ih"), ("state", "hh")):
            for kind, name in (("kernel", "weight"), ("bias", "bias")):
                give(
                    getattr(unit, f"{name}_{theirs}_l0{suffix}"),
                    tower["gru"][direction][f"{ours}_{kind}"],
                    f"query_tower/gru/{direction}/{ours}_{kind}",
                    turned=kind == "kernel",
                )
    give(head.weight, params["photo_head"]["kernel"], "photo_head/kernel", turned=True)
    give(head.bias, params["photo_head"]["bias"], "photo_head/bias")
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        words(torch.tensor(batch["query"]["ids"])),
        torch.tensor(LENGTHS),
        batch_first=True,
        enforce_sorted=False,
    )
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(unit(packed)[0], batch_first=True)
    states = (states[:, :, :D] + states[:, :, D:]) / 2
    regions = head(torch.tensor(batch["regions"]))

    def unit_length(x):
        return x / (x.norm(dim=-1, keepdim=True) + 1e-8)

    return unit_length(states), unit_length(regions), leaves


@pytest.mark.parametrize(("direction", "pooling"), [("t-i", "avg"), ("i-t", "lse")])
def test_loss_and_gradients_of_all_parameters_are_those_of_pytorchs_parts(direction, pooling):
    (module, variables), batch = on_regions(), batch_of()
    words, regions, leaves = in_torch(variables["params"], batch)
    rows = {"words": words.detach(), "mask": batch["query"]["mask"]}
    columns = {"regions": regions.detach(), "mask": batch["region_mask"]}
    scores, ends = scan_scores(rows, columns, direction=direction, pooling=pooling)
    total, slope = looped(
        scores.detach().numpy(), HardestHinge(0.2), batch["keys"], batch["weight"]
    )
    slopes = torch.autograd.grad(scores, ends, torch.tensor(slope))
    torch.autograd.backward((words, regions), [x.float() for x in slopes])

    objective = Objective(
        [
            PairTerm(
                *("pairs", "query", "photo", "scale", HardestHinge(0.2)),
                reduction="sum",
                score=StackedCrossAttention(direction, pooling),
                tile=(3, 2),
            )
        ]
    )

    def loss(params):
        return objective(module.apply({"params": params}, batch, train=True), batch)[0]

    found, gradients = quick(jax.value_and_grad(loss))(variables["params"])
    assert found == pytest.approx(total, rel=1e-5)
    gradients["query_tower"]["word"]["embedding"] = gradients["query_tower"]["word"]["embedding"][
        :WORDS
    ]
    for path, got in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        theirs, turned = leaves.pop(name)
        want = theirs.grad.numpy()
        np.testing.assert_allclose(got, want.T if turned else want, 1e-4, 1e-5, err_msg=name)
    assert not leaves


def test_what_stands_where_there_is_no_word_or_region_changes_nothing():
    module, variables = on_regions()
    run = quick(functools.partial(module.apply, train=False))
    wanted, found = (run(variables, batch_of(garbage=x)) for x in (0, 5))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    for side, name in (("query", "words"), ("photo", "regions")):
        vectors, mask = np.asarray(found[side][name]), np.asarray(found[side]["mask"])
        assert not vectors[~mask].any()
        np.testing.assert_allclose(np.linalg.norm(vectors[mask], axis=-1), 1, rtol=1e-5)


@functools.cache
def on_pixels():
    """With the grid [B, h, w, F] of the batch's photos."""
    module, variables = made(ScanConfig(PRESETS["bert-tiny"], IMAGE_PRESETS["resnet-tiny"], D))
    tower = IMAGE_PRESETS["resnet-tiny"].module()
    grid = quick(functools.partial(tower.apply, method="grid"))(
        {name: tree["image_tower"] for name, tree in variables.items()},
        normalize(batch_of()["image"]),
    )
    return module, variables, np.asarray(grid)


def of_unit_length(variables, features):
    head = variables["params"]["photo_head"]
    wanted = features @ head["kernel"] + head["bias"]
    return wanted / np.linalg.norm(wanted, axis=-1, keepdims=True)


def test_a_grids_cells_are_regions_and_a_transformer_may_read_the_words():
    module, variables, grid = on_pixels()
    found = quick(functools.partial(module.apply, train=False))(variables, batch_of())
    assert found["query"]["words"].shape == (B, L, D)
    regions = np.asarray(found["photo"]["regions"])
    wanted = of_unit_length(variables, grid.reshape(B, -1, grid.shape[-1]))
    np.testing.assert_allclose(regions[1:], wanted[1:], rtol=1e-4, atol=1e-5)
    # The first photo is missing.
    assert not regions[0].any() and not np.asarray(found["photo"]["mask"])[0].any()
    assert np.asarray(found["photo"]["mask"])[1:].all()


def on_boxes(**image):
    """The same parameters on boxes of the grid; `train` by the statistics that are there."""
    config = dataclasses.replace(
        on_pixels()[0].config,
        image=dataclasses.replace(IMAGE_PRESETS["resnet-tiny"], **image),
        boxes=True,
    )
    return functools.partial(Scan(config).apply, method="embed_photo")


def boxed(batch, *boxes, padding=0):
    boxes = np.array([(*boxes, *[(np.nan,) * 4] * padding)] * B, np.float32)
    return {**batch, "boxes": boxes, "box_mask": np.isfinite(boxes).all(-1)}


def test_boxes_in_the_grid_are_regions_and_those_that_are_not_there_change_nothing():
    _, variables, grid = on_pixels()
    boxes = (0, 0, 1, 1), (0.5, 0, 1, 0.25)
    run = quick(functools.partial(on_boxes(), train=False))
    h, w = grid.shape[1:3]
    pooled = np.stack([grid.mean((1, 2)), grid[:, : h // 4, w // 2 :].mean((1, 2))], axis=1)
    wanted = of_unit_length(variables, pooled)
    found = run(variables, boxed(batch_of(), *boxes, padding=3))
    regions, mask = np.asarray(found["regions"]), np.asarray(found["mask"])
    np.testing.assert_allclose(regions[1:, :2], wanted[1:], rtol=1e-4, atol=1e-5)
    assert mask[1:].tolist() == [[True] * 2 + [False] * 3] * (B - 1)
    assert not mask[0].any() and not regions[~mask].any()  # the first photo is missing


def test_in_training_boxes_are_mirrored_with_their_photos_and_padding_has_no_gradient():
    variables, mirror = on_pixels()[1], np.arange(B) > 2
    run = functools.partial(on_boxes(batch_norm="frozen"), train=True)

    def total(variables, batch):
        found = run(variables, batch)["regions"]
        return (found[:, 0] * jnp.arange(D)).sum(), found

    step = quick(jax.value_and_grad(total, has_aux=True))
    there = boxed(batch_of() | {"mirror": mirror}, (0.25, 0, 1, 0.5), padding=1)
    (_, found), gradients = step(variables, there)
    by_hand = boxed(batch_of(), (0.25, 0, 1, 0.5), padding=1)
    by_hand["image"][mirror] = by_hand["image"][mirror, :, ::-1]
    by_hand["boxes"][mirror, 0] = (0, 0, 0.75, 0.5)
    (_, wanted), _ = step(variables, by_hand)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    assert np.abs(gradients["params"]["photo_head"]["kernel"]).max() > 0
