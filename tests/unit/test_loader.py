"""Batches are what the plan says, however many threads make them and wherever they begin."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from mmjax.data.examples import Example
from mmjax.data.featurize import Ragged
from mmjax.data.index import build_index
from mmjax.data.loader import Loader, process_rows
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import ListSource
from mmjax.errors import UserError
from mmjax.options import LoaderOptions

SEED = 4


class Characters:
    """A dialogue as its characters' codes; "noise" is drawn anew each epoch unless told not to."""

    ragged = {"text": Ragged(0, (4, 8, 16))}  # noqa: RUF012
    key_names = ("first", "whole")
    identity = {"task": "characters"}  # noqa: RUF012

    def __init__(self, deterministic=False):
        self.cached = ("text", "noise") if deterministic else ("text",)
        self.made = []

    def examples(self, d):
        text = d.turns[0].text
        yield Example(0, {"text": len(text)}, {"first": text[0], "whole": text})

    def featurize(self, d, sub, rng):
        self.made.append(d.id)
        codes = np.frombuffer(d.turns[0].text.encode(), np.uint8).astype(np.int32)
        drawn = rng is not None and "noise" not in self.cached
        noise = rng.random(2) if drawn else np.zeros(2)
        return {"text": codes, "noise": noise.astype(np.float32)}


def texts(n, longest=9):
    rng = np.random.default_rng(n)
    letters = np.array(list("abcdefgh"))
    return ["".join(rng.choice(letters, rng.integers(1, longest))) for _ in range(n)]


def mesh():
    return jax.make_mesh(
        (1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[:1]
    )


def make(plan, task=None, words=None, **options):
    words = [texts(s) for s in plan.sizes] if words is None else words
    task = task or Characters()
    sources = [
        ListSource([Dialogue(f"{s}-{i}", (Turn(0, t),)) for i, t in enumerate(w)])
        for s, w in enumerate(words)
    ]
    indexes = [build_index(task, source) for source in sources]
    return Loader(task, sources, indexes, plan, mesh(), LoaderOptions(**options), seed=SEED)


def taken(loader, start, stop):
    return [jax.device_get(b) for b in loader.batches(start, stop)]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


def test_a_batch_holds_the_planned_examples_padded_and_masked():
    plan = TrainPlan([5, 7], 6, seed=SEED)
    words = [texts(5), texts(7)]
    loader = make(plan, words=words)
    for k in range(6):
        planned, batch = plan.batch(k), loader.host_batch(k)
        wanted = [words[s][e] for s, e in zip(planned.source, planned.example, strict=True)]
        ids, mask = batch["text"]["ids"], batch["text"]["mask"]
        longest = max(map(len, wanted))
        assert ids.shape == mask.shape == (6, next(b for b in (4, 8, 16) if longest <= b))
        for row, text in enumerate(wanted):
            assert bytes(ids[row][mask[row]].tolist()).decode() == text
            assert mask[row].sum() == len(text) and (ids[row][~mask[row]] == 0).all()
        np.testing.assert_array_equal(batch["weight"], np.ones(6, np.float32))
        keys = batch["keys"]
        for i, j in np.ndindex(6, 6):
            assert (keys[i, 0] == keys[j, 0]) == (wanted[i][0] == wanted[j][0])
            assert (keys[i, 1] == keys[j, 1]) == (wanted[i] == wanted[j])


def test_padding_rows_weigh_nothing_and_equal_nothing():
    plan = EvalPlan(np.arange(5)[::-1], 4)
    loader = make(plan, words=[texts(5)])
    assert loader.num_batches == 2
    last = loader.host_batch(1)
    np.testing.assert_array_equal(last["weight"], [1, 0, 0, 0])
    assert (last["keys"][1:] == -1).all() and (last["keys"][0] >= 0).all()
    assert not last["text"]["mask"][1:].any() and (last["text"]["ids"][1:] == 0).all()
    assert (last["noise"][1:] == 0).all()


def test_an_evaluation_gives_each_example_once():
    order = np.random.default_rng(0).permutation(11)
    words = texts(11)
    loader = make(EvalPlan(order, 4), words=[words])
    found = []
    for batch in taken(loader, 0, loader.num_batches):
        real = batch["weight"] > 0
        ids, mask = batch["text"]["ids"][real], batch["text"]["mask"][real]
        found += [bytes(i[m].tolist()).decode() for i, m in zip(ids, mask, strict=True)]
    assert found == [words[i] for i in order]


def test_the_stream_is_the_batches_in_order_from_any_start():
    plan = TrainPlan([9, 4], 4, seed=SEED, weights=[1, 1])
    wanted = [make(plan).host_batch(k) for k in range(12)]
    same(taken(make(plan), 0, 12), wanted)
    same(taken(make(plan), 7, 12), wanted[7:])
    assert taken(make(plan), 5, 5) == []
    endless = make(plan).batches(3)
    same([jax.device_get(next(endless)) for _ in range(4)], wanted[3:7])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1, "prefetch": 1},
        {"threads": 4, "prefetch": 8},
        {"cached_examples": 0},
        {"cached_examples": 3},
        {"workers": 2, "prefetch": 2},
    ],
    ids=str,
)
def test_threads_prefetching_and_the_cache_do_not_change_a_batch(deterministic, options):
    plan = TrainPlan([13], 8, seed=SEED)
    wanted = [make(plan, Characters(deterministic)).host_batch(k) for k in range(6)]
    same(taken(make(plan, Characters(deterministic), **options), 0, 6), wanted)


def test_what_is_drawn_is_drawn_anew_each_epoch_and_never_from_the_cache():
    plan = TrainPlan([4], 4, seed=SEED)
    loader = make(plan, Characters())
    noise = []
    for k in range(2):
        order = np.argsort(plan.batch(k).example)
        noise.append(loader.host_batch(k)["noise"][order])
    assert (noise[0] != noise[1]).all()


def test_what_is_not_drawn_is_made_once():
    task = Characters(deterministic=True)
    loader = make(TrainPlan([6], 3, seed=SEED), task)
    for k in range(8):
        loader.host_batch(k)
    assert sorted(task.made) == sorted({*task.made}) and len(task.made) == 6


def test_the_shapes_are_those_of_a_batch():
    plan = TrainPlan([5], 4, seed=SEED)
    loader = make(plan, words=[["a", "b", "c", "d", "e"]])
    described = jax.tree.map(lambda x: (x.shape, x.dtype), loader.shapes())
    found = jax.tree.map(lambda x: (x.shape, x.dtype), loader.host_batch(0))
    assert described == found


def test_every_process_would_pad_a_batch_alike():
    """The padded length comes from the whole batch, though a process makes its own rows only."""
    plan = TrainPlan([40], 8, seed=SEED)
    loader = make(plan, words=[[*texts(39, 4), "x" * 16]])
    whole = [loader.host_batch(k) for k in range(5)]
    loader._host.rows = np.arange(4)  # as on one of two processes
    for k, batch in enumerate(whole):
        mine = loader.host_batch(k)
        same(mine, jax.tree.map(lambda x: x[:4], batch))


def test_an_error_in_a_thread_reaches_the_consumer_as_it_is():
    task = Characters()

    def fail(*_):
        raise UserError("record 3 is damaged")

    loader = make(TrainPlan([5], 4, seed=0), task)
    task.featurize = fail
    with pytest.raises(UserError, match="record 3 is damaged"):
        next(loader.batches())


class Eight:
    """A mesh of another size, as far as the division of a batch is concerned."""

    shape = {"data": 4, "fsdp": 2, "tensor": 1}  # noqa: RUF012


def test_a_batch_that_does_not_divide_is_a_users_error(monkeypatch):
    monkeypatch.setattr("mmjax.data.loader.NamedSharding", lambda *_: None)
    with pytest.raises(UserError, match=r"a batch of 12 does not divide among 8 devices"):
        process_rows(Eight(), 12)


def test_one_process_owns_every_row():
    np.testing.assert_array_equal(process_rows(mesh(), 6), np.arange(6))
