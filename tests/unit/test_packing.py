"""A row of several examples is what they are one after another, and learns what each would."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.data.batches import HostBatches
from mmjax.data.examples import Example
from mmjax.data.featurize import Ragged, collate
from mmjax.data.index import build_index
from mmjax.data.packing import Packing, pack_row
from mmjax.data.plan import EvalPlan
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.losses.objective import LocalTerm, Objective
from mmjax.losses.response import response_loss
from mmjax.models.decoder import Decoder, DecoderConfig
from mmjax.models.packed_rows import packed_positions
from mmjax.models.presets import gpt2
from mmjax.task_data import packed_plan

TOKENS = ("text", "response", "image_at")
LONGEST, MOST_IMAGES, VECTORS = 12, 2, 2


class Talks:
    """What a decoder with images reads: made-up numbers, drawn by the dialogue's name.

    "noise" is drawn anew each epoch.
    """

    ragged = dict.fromkeys(TOKENS, Ragged(0, (LONGEST,)))
    key_names = ()
    cached = TOKENS
    identity = {"task": "talks"}  # noqa: RUF012
    packs = True

    def packing(self, row_length):
        return Packing(
            limits={"text": row_length, "images": 3},
            ragged=dict.fromkeys(TOKENS, Ragged(0, (row_length,))),
            numbers={"image_at": "vectors"},
            lists={"image_features": "images", "has_image": "images", "noise": "images"},
        )

    def examples(self, d):
        made = self.featurize(d, 0, None)
        images = int(made["has_image"].sum())
        lengths = {name: len(made[name]) for name in TOKENS}
        yield Example(0, lengths | {"images": images, "vectors": images * VECTORS}, {})

    def featurize(self, d, sub, rng):
        drawn = np.random.default_rng(int(d.id))
        length, images = drawn.integers(5, LONGEST + 1), drawn.integers(0, MOST_IMAGES + 1)
        at = np.zeros(length, np.int32)
        at[: images * VECTORS] = 1 + np.arange(images * VECTORS)
        there = np.arange(MOST_IMAGES) < images
        features = drawn.normal(size=(MOST_IMAGES, VECTORS, 6)).astype(np.float32)
        noise = np.zeros(MOST_IMAGES) if rng is None else rng.random(MOST_IMAGES)
        return {
            "text": drawn.integers(1, 60, length).astype(np.int32),
            "response": (np.arange(length) > length // 2).astype(np.int32),
            "image_at": at,
            "image_features": features,
            "has_image": there,
            "noise": noise,
        }


SOURCE = ListSource([Dialogue(str(i), (Turn(0, "a"),)) for i in range(24)])
INDEX = build_index(Talks(), SOURCE)
# Beyond the positions of the model, which count anew in each dialogue.
ROW = 32


def batches(rows=None, row_length=ROW, batch_size=None):
    """Host batches and their plan; one has an epoch unless `batch_size` says otherwise."""
    packing = Talks().packing(row_length)
    whole = packed_plan([Split(SOURCE, INDEX)], packing, 1, seed=0)
    plan = packed_plan([Split(SOURCE, INDEX)], packing, batch_size or whole.rows, seed=0)
    rows = np.arange(plan.batch_size) if rows is None else rows
    given = {"seed": 5, "fields": None, "cached_examples": 100, "packing": packing}
    return HostBatches(Talks(), [SOURCE], [INDEX], plan, rows, **given), plan


def test_a_row_is_its_examples_one_after_another():
    made, plan = batches()
    batch, talks = made(0), Talks()
    assert batch["weight"].tolist() == [1.0] * plan.rows and batch["keys"].shape == (plan.rows, 0)
    shared = 0
    for row, members in enumerate(plan.batch(0).members()):
        start = images = 0
        for number, (_, i, _) in enumerate(members, 1):
            one = talks.featurize(SOURCE[i], 0, None)
            here = slice(start, start + len(one["text"]))
            count = int(one["has_image"].sum())
            for name in TOKENS:
                wanted = one[name]
                if name == "image_at":
                    wanted = np.where(wanted > 0, wanted + images * VECTORS, 0)
                np.testing.assert_array_equal(batch[name]["ids"][row, here], wanted)
                assert batch[name]["mask"][row, here].all()
            assert (batch["dialogue"]["ids"][row, here] == number).all()
            entries = slice(images, images + count)
            found = batch["image_features"][row, entries]
            np.testing.assert_array_equal(found, one["image_features"][:count])
            assert batch["has_image"][row, entries].all()
            start, images = here.stop, entries.stop
        shared += len(members) > 1
        for name in (*TOKENS, "dialogue"):
            assert batch[name]["ids"].shape == (plan.rows, ROW)
            assert not batch[name]["mask"][row, start:].any()
            assert (batch[name]["ids"][row, start:] == 0).all()
        assert not batch["has_image"][row, images:].any()
        assert batch["image_features"].shape == (plan.rows, 3, VECTORS, 6)
    assert shared > plan.rows / 2


def test_positions_count_on_through_a_row():
    packing = Packing({"text": 9}, dict.fromkeys(("text", "place"), Ragged(0, (9,))), ("place",))
    parts = [
        {"text": np.ones(n, np.int32), "place": np.array(p, np.int32)}
        for n, p in ((4, [0, 3]), (2, [1]), (3, [0, 2]))
    ]
    row = pack_row(parts, {"text": [4, 2, 3]}, packing)
    assert row["place"].tolist() == [0, 3, 5, 6, 8] and row["place"].dtype == np.int32
    assert row["dialogue"].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert parts[1]["place"].tolist() == [1]  # it may be kept, and used in another row


def test_every_process_makes_its_rows_of_the_same_batches():
    for k in (0, 3):
        whole = batches(batch_size=4)[0](k)
        for rows in ([0, 1], [2, 3], [3]):
            part = batches(np.array(rows), batch_size=4)[0](k)
            want = jax.tree.map(lambda x, rows=rows: x[rows], whole)
            jax.tree.map(np.testing.assert_array_equal, part, want)


def test_what_is_drawn_is_drawn_anew_for_every_example_and_epoch():
    made, plan = batches()
    drawn = np.concatenate([batch["noise"][batch["has_image"]] for batch in (made(0), made(1))])
    assert plan.batch(1).epoch.min() == 1
    assert len(np.unique(drawn)) == len(drawn) == 2 * INDEX.lengths["images"].sum()


def test_the_shapes_are_those_of_a_batch():
    made, _ = batches()

    def shapes(batch):
        return jax.tree.map(lambda x: (x.shape[1:], x.dtype), batch)

    assert shapes(made.smallest()) == shapes(made.largest()) == shapes(made(0))


def test_positions_begin_anew_in_each_dialogue_and_padding_never_runs_out_of_them():
    number = jnp.array([[1, 1, 1, 2, 2, 0, 0, 0, 0, 0], [1, 2, 2, 2, 2, 2, 3, 0, 0, 0]])
    found = packed_positions(number, number > 0)
    assert found.tolist() == [[0, 1, 2, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4, 0, 0, 0, 0]]


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params, batch):
    objective = Objective([LocalTerm("response", response_loss)])
    return jax.value_and_grad(
        lambda params: objective(model.apply({"params": params}, batch, train=False), batch)[0]
    )(params)


def test_a_decoder_learns_from_packed_dialogues_what_it_learns_from_each_in_its_row():
    text = gpt2(layers=1, width=16, heads=2, vocab_size=60, max_positions=LONGEST)
    model = Decoder(DecoderConfig(text, image_features=6))
    talks = Talks()
    features = [talks.featurize(SOURCE[i], 0, None) for i in range(len(SOURCE))]
    alone = collate(features, features[0], Talks.ragged, dict.fromkeys(TOKENS, LONGEST))
    alone["weight"] = np.ones(len(features), np.float32)
    init = functools.partial(model.init, jax.random.key(0), train=False)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32),
        nn.unbox(jax.eval_shape(init, alone))["params"],
    )
    want = loss_and_gradient(model, params, alone)
    packed = batches()[0](0)
    assert len(packed["weight"]) < len(features) / 2
    found = loss_and_gradient(model, params, packed)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, want)


def test_what_cannot_share_rows_is_refused():
    with pytest.raises(
        UserError, match=r"longest example has 12 of 'text', and a row holds 11: raise"
    ):
        batches(row_length=11)
    packing = Packing({"text": 9}, {"text": Ragged(0, (9,))})
    with pytest.raises(ValueError, match="'label' has one value per example"):
        pack_row([{"text": np.zeros(2), "label": np.zeros(())}], {"text": [2]}, packing)
    talks = Talks()
    talks.key_names = ("photo",)
    with pytest.raises(ValueError, match=r"keys \['photo'\] cannot share rows"):
        HostBatches(
            *(talks, [SOURCE], [INDEX], EvalPlan(np.arange(1), 1), np.arange(1)),
            seed=0,
            fields=None,
            cached_examples=0,
            packing=packing,
        )
