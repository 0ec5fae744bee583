"""What is frozen stays, and what is adapted is its matrix plus a product; through real steps."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.artifacts import read_artifact, write_artifact
from mmjax.checkpoint.store import CheckpointStore
from mmjax.errors import UserError
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.optim.lora import Adapter, LoraOptions
from mmjax.optim.trained import make_split
from mmjax.options import MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import make_train_step
from mmjax.train_state import abstract_params, abstract_state, count, init_state
from mmjax.trainer import best_tree

LAYERS, WIDTH, HEADS, HEAD_DIM = 2, 6, 2, 4


def waves(key, shape, dtype=jnp.float32):
    """First values without random numbers, which take long to compile."""
    return 0.5 * jnp.sin(1 + jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape)


class Linear(nn.Module):
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    outputs: int

    @nn.compact
    def __call__(self):
        def param(name, init, skipped):
            names = (*self.axes[:1], *self.axes[1 + skipped :]) if skipped else self.axes
            shape = (*self.shape[:1], *self.shape[1 + skipped :]) if skipped else self.shape
            return self.param(name, nn.with_logical_partitioning(init, names), shape)

        inputs = len(self.shape) - 1 - self.outputs
        return param("kernel", waves, 0), param("bias", nn.initializers.zeros, inputs)


class Layers(nn.Module):
    """Two matrices per layer, stacked as a scan would stack them."""

    @nn.compact
    def __call__(self, x):
        axes, sizes = ("heads", "head_dim"), (HEADS, HEAD_DIM)
        query = Linear((LAYERS, WIDTH, *sizes), ("layers", "embed", *axes), 2, name="query")()
        output = Linear((LAYERS, *sizes, WIDTH), ("layers", *axes, "embed"), 1, name="output")()
        for i in range(LAYERS):
            y = jnp.tanh(jnp.einsum("be,ehk->bhk", x, query[0][i]) + query[1][i])
            x = x + jnp.einsum("bhk,hke->be", y, output[0][i]) + output[1][i]
        return x


class Toy(nn.Module):
    """A matrix before a stack of layers, and a head behind it."""

    @nn.compact
    def __call__(self, batch, *, train: bool):
        x = nn.Dense(WIDTH, kernel_init=waves, name="embeddings")(batch["x"])
        return nn.Dense(5, kernel_init=waves, name="head")(Layers(name="layers")(x))


def objective(outputs, batch):
    loss = jnp.mean((outputs - batch["y"]) ** 2)
    return loss, {"loss": loss}


def batch_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(8, 7)).astype("f4"), "y": rng.normal(size=(8, 5)).astype("f4")}


LORA = LoraOptions(pattern="(query|output)/kernel", rank=2, alpha=6.0, also_train=("head",))


class Run:
    """The pieces of a run, on one device; nothing is compiled before it is needed."""

    def __init__(self, micro_batch_size=None, loaded=None, lora=LORA, **options):
        options = {"learning_rate": 0.1, "schedule": "constant", "lora": lora} | options
        optim = OptimOptions(**options)
        split = make_split(optim.frozen, optim.frozen_layers, optim.lora)
        mesh = make_mesh(MeshOptions(), jax.devices()[:1])
        with jax.set_mesh(mesh):
            tx = build_optimizer(optim, 10, abstract_params(Toy(), batch_of(0), split))
            self.abstract, init = abstract_state(
                Toy(), batch_of(0), tx, mesh, ema=optim.ema_decay is not None, split=split
            )
            self._first = lambda: init_state(self.abstract, init, 0, loaded)
            self._step = make_train_step(
                Toy(), objective, tx, self.abstract,
                micro_batch_size=micro_batch_size, ema_decay=optim.ema_decay,
            )  # fmt: skip

    @functools.cached_property
    def state(self):
        return self._first()

    def steps(self, *seeds: int) -> dict:
        for seed in seeds:
            self.state, metrics = self._step(self.state, batch_of(seed))
        return metrics


def named(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): np.array(x) for path, x in leaves}


@functools.cache
def plain() -> dict[str, np.ndarray]:
    """The model's parameters, as it makes them itself."""
    return named(Run(lora=LoraOptions()).state.params)


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def adapted():
    """A run with adapters after three steps."""
    run = Run(weight_decay=0.5, ema_decay=0.9)
    run.steps(1, 2, 3)
    return run


def slope(variables, seed):
    """The gradient by all parameters, outside the compiled step."""
    params, batch = jax.device_get(variables["params"]), batch_of(seed)
    return jax.grad(lambda p: objective(Toy().apply({"params": p}, batch, train=True), batch)[0])(
        params
    )


def test_what_is_frozen_stays_bitwise_and_counts_in_no_norm():
    run = Run(
        lora=LoraOptions(), frozen=("layers/query", "embeddings"), name="sgd", clip_norm=0.01,
        ema_decay=0.9,
    )  # fmt: skip
    before = plain()
    frozen = {name for name in before if "layers/query" in name or "embeddings" in name}
    grads = named(slope(run.state.base_variables(), 1))
    norm = np.sqrt(sum(np.sum(np.square(grads[name])) for name in before.keys() - frozen))
    assert float(run.steps(1)["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    moved = named(run.state.params)["head/kernel"] - before["head/kernel"]
    np.testing.assert_allclose(moved, -0.1 * 0.01 / norm * grads["head/kernel"], atol=3e-8)
    run.steps(2, 3)
    for variables in (run.state.base_variables(), run.state.eval_variables()):
        after = named(variables["params"])
        for name in before.keys() | after.keys():
            assert (after[name].tobytes() == before[name].tobytes()) == (name in frozen), name


def test_what_is_frozen_has_no_state():
    run = Run(lora=LoraOptions(), frozen=("layers/query", "embeddings"), ema_decay=0.9)
    trained = {"layers/output/kernel", "layers/output/bias", "head/kernel", "head/bias"}
    state = run.abstract
    moments = (optax.tree.get(state.opt_state, moment) for moment in ("mu", "nu"))
    for tree in (state.params, state.ema, *moments):
        assert names(tree) == trained
    assert names(state.frozen) == plain().keys() - trained


def test_first_layers_stay_bitwise_and_have_no_state():
    given = jax.tree.map(lambda x: x + 0.1, Run(lora=LoraOptions()).state.params)
    run = Run(lora=LoraOptions(), frozen_layers=1, loaded={"params": given}, ema_decay=0.9)
    assert jax.tree.map(np.shape, run.abstract.base_variables()["params"]) == jax.tree.map(
        np.shape, given
    )
    before = named(run.state.base_variables()["params"])
    same(before, named(given))
    run.steps(1, 2)
    for variables in (run.state.base_variables(), run.state.eval_variables()):
        after = named(variables["params"])
        for name in before:
            if name.startswith("layers"):
                assert after[name][0].tobytes() == before[name][0].tobytes(), name
                assert (after[name][1:] != before[name][1:]).all(), name
            else:
                stays = after[name].tobytes() == before[name].tobytes()
                assert stays == name.startswith("embeddings"), name
    moments = optax.tree.get(run.state.opt_state, "mu")
    assert moments["layers"]["query"]["kernel"].shape == (LAYERS - 1, WIDTH, HEADS, HEAD_DIM)
    assert count(moments) == count(run.state.params) < count(given)


def names(tree) -> set[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_adapters_change_nothing_at_first():
    run = Run()
    same(named(run.state.base_variables()["params"]), plain())
    outputs = [
        Toy().apply(variables, batch_of(1), train=False)
        for variables in (run.state.base_variables(), run.state.eval_variables())
    ]
    np.testing.assert_array_equal(*outputs)


def test_adapters_learn_and_the_base_stays_bitwise(adapted):
    before, after = plain(), named(adapted.state.base_variables()["params"])
    for name in before:
        stays = after[name].tobytes() == before[name].tobytes()
        assert stays != name.startswith("head"), name
    first, learned = named(Run().state.params), named(adapted.state.params)
    adapters = {f"layers/{m}/kernel/{x}" for m in ("query", "output") for x in "ab"}
    assert learned.keys() == adapters | {"head/kernel", "head/bias"}
    for name in learned:
        assert (learned[name] != first[name]).all(), name


def test_a_batch_in_parts_teaches_adapters_the_same():
    found, wanted = (Run(size, name="sgd") for size in (4, None))
    for run in (found, wanted):
        run.steps(1)
    found, wanted = named(found.state.params), named(wanted.state.params)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_adapters_have_the_gradient_of_the_product():
    """d/da of f(W + s a b) is s dW b^T, d/db is s a^T dW: layer by layer, in float64."""
    run = Run(name="sgd", clip_norm=None, learning_rate=0.5)
    run.steps(1)  # b is 0 before, and a has no gradient
    before, scale = jax.device_get(run.state.params), 3.0
    grads = slope(run.state.eval_variables(), 2)
    run.steps(2)
    for name, rows in (("query", WIDTH), ("output", HEADS * HEAD_DIM)):
        old, new = before["layers"][name]["kernel"], run.state.params["layers"][name]["kernel"]
        for i in range(LAYERS):
            dw = np.asarray(grads["layers"][name]["kernel"][i], "f8").reshape(rows, -1)
            a, b = np.asarray(old.a[i], "f8").reshape(rows, 2), old.b[i].reshape(2, -1)
            da, db = new.a[i].reshape(rows, 2) - a, new.b[i].reshape(2, -1) - b
            np.testing.assert_allclose(da, -0.5 * scale * dw @ b.T, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(db, -0.5 * scale * a.T @ dw, rtol=1e-3, atol=1e-6)
            assert np.abs(da).max() > 1e-3 and np.abs(db).max() > 1e-3


def test_the_optimiser_holds_moments_of_adapters_alone():
    state = Run(lora=dataclasses.replace(LORA, also_train=())).abstract
    numbers = LAYERS * 2 * 2 * (WIDTH + HEADS * HEAD_DIM)  # two matrices, rank 2
    assert count(state.params) == numbers
    assert count(state.opt_state) == 2 * numbers + 2  # and two counts of updates


def test_an_artifact_is_the_plain_model_with_the_adapters_in_it(tmp_path, adapted):
    (tmp_path / "fitted").mkdir()
    variables = best_tree(adapted.state)["variables"]
    write_artifact(
        tmp_path / "run", variables, config={}, preprocessing=tmp_path / "fitted", parents=[]
    )
    target = Run(lora=LoraOptions()).abstract.base_variables()
    found = read_artifact(tmp_path / "run", target)
    state = jax.device_get(adapted.state)
    for name in ("query", "output"):
        kernel, adapter = state.frozen["layers"][name]["kernel"], state.ema["layers"][name]
        for i in range(LAYERS):
            a, b = np.asarray(adapter["kernel"].a[i], "f8"), adapter["kernel"].b[i]
            merged = found["params"]["layers"][name]["kernel"][i]
            np.testing.assert_allclose(merged, kernel[i] + 3.0 * np.tensordot(a, b, 1), atol=1e-6)
    told, live = (
        Toy().apply(v, batch_of(5), train=False) for v in (found, adapted.state.eval_variables())
    )
    np.testing.assert_allclose(told, live, atol=1e-6)


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, adapted):
    store = CheckpointStore(tmp_path)
    store.save(3, adapted.state, {}, keep=1)
    store.wait()
    adapted.steps(4, 5)
    straight = named(adapted.state)
    adapted.state, _ = store.restore(3, adapted.abstract)
    store.close()
    assert int(adapted.state.step) == 3
    adapted.steps(4, 5)
    same(named(adapted.state), straight)


def test_loaded_weights_become_the_base():
    given = jax.tree.map(lambda x: x + 1, Run(lora=LoraOptions()).state.params)
    given["layers"]["query"]["bias"] = None  # of the new model only
    run = Run(loaded={"params": given}, ema_decay=0.9)
    fresh, found = plain(), named(run.state.base_variables()["params"])
    for name in fresh:
        want = fresh[name] if name == "layers/query/bias" else fresh[name] + 1
        np.testing.assert_array_equal(found[name], want, err_msg=name)
    assert isinstance(run.state.params["layers"]["query"]["kernel"], Adapter)
    same(named(run.state.ema), named(run.state.params))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": ("tower",)}, "config.optim.frozen: 'tower' matches no parameter"),
        ({"frozen": ("(head",)}, "frozen='\\(head' is no regular expression"),
        ({"frozen": (3,)}, "frozen=3 is no regular expression"),
        ({"frozen": ("",), "lora": LoraOptions()}, "none is left to train"),
        ({"frozen_layers": 2, "frozen": ("head",)}, "none is left to train"),
        ({"lora": LoraOptions("attention")}, "lora.pattern: 'attention' matches no parameter"),
        ({"lora": LoraOptions("query")}, "matches layers/query/bias of shape .* is no matrix"),
        (
            {"lora": LoraOptions("query/kernel", rank=7)},
            "rank=7 is more than layers/query/kernel has: its matrix is 6 x 8",
        ),
        (
            {"lora": dataclasses.replace(LORA, also_train=("query",))},
            "both match layers/query/kernel",
        ),
        ({"lora": dataclasses.replace(LORA, also_train=("x",))}, "also_train: 'x' matches no"),
    ],
    ids=str,
)
def test_a_choice_that_makes_no_sense_is_named(options, message):
    optim = OptimOptions(**{"lora": LoraOptions(), **options})
    with pytest.raises(UserError, match=message):
        abstract_params(
            Toy(), batch_of(0), make_split(optim.frozen, optim.frozen_layers, optim.lora)
        )
