"""Dialogues of photo-sharing intent that share rows are learned from as each in its own."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from configs.intent import get_config
from mmjax.config import build_sections
from mmjax.data.batches import HostBatches
from mmjax.data.featurize import collate
from mmjax.data.index import build_index
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import train_tokenizer
from mmjax.errors import UserError
from mmjax.models.presets import bert
from mmjax.models.turn_classifier import TurnClassifier, TurnClassifierConfig
from mmjax.parallel.mesh import make_mesh
from mmjax.programs import check_options, config_sections, make_task, run_schedule
from mmjax.task_data import packed_plan
from mmjax.tasks.intent import IntentOptions, ModelOptions, intent_task

PREFIXES = ("separate", "shared")
WORDS = "we went out where to the park nice lovely hello friend look at this photo of mine"
# Rows are longer than the dialogues, and than the model's positions.
LONGEST, ROW = 24, 40


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preprocessing")
    rng = np.random.default_rng(0)
    train_tokenizer([" ".join(rng.permutation(WORDS.split())) for _ in range(40)], 330, folder)
    return folder


def task_of(fitted, prefix):
    task = intent_task(
        IntentOptions(prefix, LONGEST, positive_weight=3.0, focal_gamma=1.0),
        ModelOptions(text="bert-tiny"),
    )
    task.load(fitted)
    return task


def talks(count=10, seed=0) -> list[Dialogue]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        said = [
            Turn(int(rng.integers(2)), " ".join(rng.choice(WORDS.split(), rng.integers(1, 6))))
            for _ in range(rng.integers(1, 6))
        ]
        found.append(Dialogue(f"d{i}", (*said, Turn(0, "", (Photo("dog"),)))[: len(said) + i % 2]))
    return found


def split_of(task, dialogues) -> Split:
    source = ListSource(dialogues)
    return Split(source, build_index(task, source))


def alone(task, split) -> dict:
    """All examples, each in its row."""
    index = split.index
    features = [
        task.featurize(split.source[int(record)], int(sub), None)
        for record, sub in zip(index.record, index.sub, strict=True)
    ]
    padded = {name: ragged.buckets[-1] for name, ragged in task.ragged.items()}
    batch = collate(features, features[0], task.ragged, padded)
    return batch | {"weight": np.ones(len(features), np.float32)}


def together(task, split):
    """All examples of an epoch in shared rows, and the plan."""
    packing = task.packing(ROW)
    rows = packed_plan([split], packing, 1, seed=0).rows
    plan = packed_plan([split], packing, rows, seed=0)
    made = HostBatches(
        *(task, [split.source], [split.index], plan, np.arange(rows)),
        seed=0,
        fields=None,
        cached_examples=0,
        packing=packing,
    )
    return made(0), plan


TINY = bert(layers=1, width=16, heads=2, feed_forward=24, vocab_size=400, max_positions=LONGEST)
MODEL = TurnClassifier(TurnClassifierConfig(TINY, hidden_dim=8))


@functools.cache
def params():
    rng = np.random.default_rng(0)
    ids = {"ids": np.zeros((1, LONGEST), np.int32), "mask": np.ones((1, LONGEST), bool)}
    batch = dict.fromkeys(("text", "speaker", "place"), ids)
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), batch, train=False))["params"]
    return jax.tree.map(
        lambda x: (rng.normal(size=x.value.shape) / 2).astype(np.float32),
        shapes,
        is_leaf=lambda x: hasattr(x, "value"),
    )


@functools.partial(jax.jit, static_argnums=0)
def learned(objective, params, batch):
    """(loss, logits), and the loss's gradient."""

    def loss(params):
        outputs = MODEL.apply({"params": params}, batch, train=False)
        return objective(outputs, batch)[0], outputs["logits"]

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_shared_rows_have_the_loss_and_gradients_of_own_rows_and_let_nothing_through(
    fitted, prefix
):
    task = task_of(fitted, prefix)
    dialogues = talks()
    split = split_of(task, dialogues)
    step = functools.partial(learned, task.objective().terms[0], params())
    batch, plan = together(task, split)
    assert plan.rows < 0.7 * len(split.index) and batch["text"]["ids"].shape == (plan.rows, ROW)
    (want, _), want_gradient = step(alone(task, split))
    (found, logits), gradient = step(batch)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        *(gradient, want_gradient),
    )
    # Other words and speakers in every second example of a row: the others' scores are the same
    # to the last bit.
    number, place = batch["dialogue"]["ids"], batch["place"]
    changed = dict(batch)
    for name, other in (("text", 5), ("speaker", 1)):
        ids = np.where(number % 2 == 1, batch[name]["ids"] ^ other, batch[name]["ids"])
        changed[name] = {"ids": ids, "mask": batch[name]["mask"]}
    (_, after), _ = step(changed)
    of = np.take_along_axis(number, place["ids"], axis=1) * place["mask"]
    same = (after == logits).all(axis=-1)
    assert same[(of > 0) & (of % 2 == 0)].all() and (of % 2 == 0).any()
    assert not same[of % 2 == 1].any()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_score_is_read_where_its_example_stands(fitted, prefix):
    task = task_of(fitted, prefix)
    split = split_of(task, talks())
    batch, plan = together(task, split)
    for row, members in enumerate(plan.batch(0).members()):
        place = batch["place"]["ids"][row][batch["place"]["mask"][row]]
        text = batch["text"]["ids"][row]
        wanted, tokens = [], []
        for _, example, _ in members:
            record, sub = split.index.record[example], split.index.sub[example]
            one = task.featurize(split.source[int(record)], int(sub), None)
            wanted += list(one["place"] + len(tokens))
            tokens += list(one["text"])
        np.testing.assert_array_equal(place, wanted)
        np.testing.assert_array_equal(text[: len(tokens)], tokens)


def test_epochs_become_as_many_steps_as_the_rows_of_them_take(fitted):
    task = task_of(fitted, "separate")
    split = split_of(task, talks(30))
    whole = packed_plan([split], task.packing(ROW), 1, seed=0)
    plan = dataclasses.replace(whole, batch_size=4)
    config = get_config("demo")
    config.train.update(total_epochs=2.0, global_batch_size=4)
    options = build_sections(config, config_sections(config))
    schedule = run_schedule(options, len(split.index), plan.examples_per_batch)
    assert schedule.total == pytest.approx(2 * plan.rows / 4, abs=0.51)
    assert schedule.eval_every == pytest.approx(plan.rows / 4, abs=0.51)
    assert schedule.total < 0.7 * 2 * len(split.index) / 4


def checked(variant, **train):
    config = get_config(variant)
    config.train.update(train)
    options = build_sections(config, config_sections(config))
    check_options(make_task(config, options), options, make_mesh(options["mesh"]))


def test_what_packing_does_not_go_with_is_told_before_anything_is_read():
    checked("demo", packed_length=256, length_window=1)
    with pytest.raises(UserError, match=r"packed_length=256 makes rows of one length"):
        checked("demo", packed_length=256, length_window=2)
    with pytest.raises(UserError, match=r"packed_length=256: the examples of this task"):
        checked("model=t5", packed_length=256, length_window=1)
