"""The same run on one device and on eight: the same batches, the same losses, cut as the rules say.

Through the pieces that a run is made of, with dropout on: its masks must not depend on the mesh.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs.retrieval import get_config
from mmjax import train_state
from mmjax.config import build_sections, to_dict
from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.plan import TrainPlan
from mmjax.data.sources import ListSource
from mmjax.errors import UserError
from mmjax.optim.build import OptimOptions, build_optimizer
from mmjax.options import LOOP_SECTIONS, MeshOptions
from mmjax.parallel import rules
from mmjax.parallel.mesh import make_mesh
from mmjax.steps import make_predict_steps, make_train_step
from mmjax.tasks import task_module
from tfds_builders.photochat.demo_dialogues import dialogue

STEPS, BATCH = 20, 16
MESHES = {
    "data=8": MeshOptions(8, 1, 1),
    "data=4,fsdp=2": MeshOptions(4, 2, 1),
    "data=2,fsdp=2,tensor=2": MeshOptions(2, 2, 2),
}


class Pieces:
    """The demo, shrunk."""

    def __init__(self, folder):
        config = get_config("demo,model=de_label")  # convolutions: test_resnet_sharding
        config.model.vocab_size = 400
        config.task.query_max_length = 32
        config.train.global_batch_size = BATCH
        module = task_module("retrieval")
        self.options = build_sections(
            to_dict(config),
            LOOP_SECTIONS
            | {"task": module.OPTIONS, "model": module.MODEL_OPTIONS, "optim": OptimOptions},
        )
        assert self.options["model"].dropout is None  # as the preset: 0.1
        self.source = ListSource([dialogue("train", i) for i in range(40)])
        self.task = module.TASK(self.options["task"], self.options["model"])
        self.task.fit(self.source, folder)
        self.index = build_index(self.task, self.source)

    def loader(self, mesh):
        plan = TrainPlan([len(self.index)], BATCH, seed=0)
        return Loader(
            self.task, [self.source], [self.index], plan, mesh, self.options["loader"], seed=0
        )

    def run(self, mesh) -> dict:
        """What 20 steps leave."""
        loader, module = self.loader(mesh), self.task.module()
        params = train_state.abstract_params(module, loader.shapes())
        tx = build_optimizer(self.options["optim"], STEPS, params)
        found = {"batches": [], "loss": [], "first": None}
        with jax.set_mesh(mesh):
            abstract, init = train_state.abstract_state(module, loader.shapes(), tx, mesh, ema=True)
            state = train_state.init_state(abstract, init, seed=0)
            found["first"] = jax.device_get(state.params)
            step = make_train_step(module, self.task.objective(), tx, abstract, ema_decay=0.9)
            for batch in loader.batches(0, STEPS):
                found["batches"].append(jax.device_get(batch))
                state, metrics = step(state, batch)
                found["loss"].append(float(metrics["loss"]))
            predictors = {name: p.fn for name, p in self.task.predictors().items()}
            embed = make_predict_steps(predictors, mesh)["query"]
            found["embedded"] = np.asarray(embed(state.eval_variables(), batch))
        return found | {"state": state, "abstract": abstract}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return Pieces(tmp_path_factory.mktemp("preprocessing"))


@pytest.fixture(scope="module")
def on_one(pieces):
    return pieces.run(make_mesh(MeshOptions(), jax.devices()[:1]))


@pytest.fixture(scope="module")
def on_eight(pieces):
    @functools.cache
    def run(name):
        return pieces.run(make_mesh(MESHES[name], jax.devices()[:8]))

    return run


def named(tree) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_read_the_same_batches_and_learn_the_same(on_one, on_eight, name):
    one, eight = on_one, on_eight(name)
    assert len(one["batches"]) == len(eight["batches"]) == STEPS
    for a, b in zip(one["batches"], eight["batches"], strict=True):
        assert named(a).keys() == named(b).keys()
        for key, x in named(a).items():
            np.testing.assert_array_equal(x, named(b)[key], err_msg=key)
    for key, x in named(one["first"]).items():
        np.testing.assert_array_equal(x, named(eight["first"])[key], err_msg=key)
    assert one["loss"][-1] < one["loss"][0]  # something is learned
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(eight["embedded"], one["embedded"], atol=1e-4)


def expected(name: str) -> P:
    """How a parameter is cut, read off its name by a person, not by the rules."""
    last = name.rpartition("/")[2]
    stacked = "/layers/" in f"/{name}"
    if "embeddings/word" in name:
        spec = ("tensor", "fsdp")
    elif last == "embedding":  # positions, segments
        spec = (None, "fsdp")
    elif name.startswith(("query_head", "photo_head")):
        spec = ("fsdp", None) if last == "kernel" else (None,)
    elif "norm" in name:
        spec = ("fsdp",)
    elif "feed_forward/up" in name:
        spec = ("fsdp", "tensor") if last == "kernel" else ("tensor",)
    elif "feed_forward/down" in name:
        spec = ("tensor", "fsdp") if last == "kernel" else ("fsdp",)
    elif "attention/" in name:
        into = last == "kernel" and any(f"/{x}/" in name for x in ("query", "key", "value"))
        if into:
            spec = ("fsdp", "tensor", None)
        elif last == "kernel":
            spec = ("tensor", None, "fsdp")
        else:
            into = any(f"attention/{x}/" in name for x in ("query", "key", "value"))
            spec = ("tensor", None) if into else ("fsdp",)
    else:
        raise AssertionError(f"a parameter that this test does not know: {name}")
    return P(None, *spec) if stacked else P(*spec)


@pytest.mark.parametrize("name", MESHES)
def test_every_parameter_is_cut_as_the_rules_say_and_stays_so(on_eight, name):
    run = on_eight(name)
    state, options = run["state"], MESHES[name]
    size = {"data": options.data, "fsdp": options.fsdp, "tensor": options.tensor}
    moments = {
        key: x for key, x in named(state.opt_state).items() if "/mu/" in key or "/nu/" in key
    }
    assert len(moments) == 2 * len(named(state.params))
    groups = [named(state.params), named(state.ema)]
    groups.append({key.split("mu/")[-1].split("nu/")[-1]: x for key, x in moments.items()})
    for group in groups:
        for key, x in group.items():
            spec = expected(key)
            assert x.sharding.spec == spec, key
            want = tuple(
                n // (1 if axis is None else size[axis])
                for n, axis in zip(x.shape, spec, strict=True)
            )
            assert x.addressable_shards[0].data.shape == want, key


def test_a_device_holds_its_part_only(on_one, on_eight):
    def bytes_on_a_device(run):
        table = rules.bytes_table(run["state"].params)
        return int(table.splitlines()[-1].split()[-1].replace(",", ""))

    whole = bytes_on_a_device(on_one)
    assert whole == sum(x.nbytes for x in jax.tree.leaves(on_one["first"]))
    assert bytes_on_a_device(on_eight("data=8")) == whole
    assert bytes_on_a_device(on_eight("data=4,fsdp=2")) < 0.55 * whole
    assert bytes_on_a_device(on_eight("data=2,fsdp=2,tensor=2")) < 0.35 * whole


def test_a_batch_that_does_not_divide_among_the_devices_is_a_users_error(pieces):
    mesh = make_mesh(MeshOptions(), jax.devices()[:8])
    plan = TrainPlan([len(pieces.index)], 12, seed=0)
    with pytest.raises(UserError, match="a batch of 12 does not divide among 8 devices"):
        Loader(pieces.task, [pieces.source], [pieces.index], plan, mesh, pieces.options["loader"])
