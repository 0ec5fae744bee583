"""A run that starts from another: what fits is taken over, the rest is named."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mmjax.artifacts import read_fitting, write_artifact
from mmjax.errors import UserError
from mmjax.first_state import check_kept
from mmjax.optim.lora import LoraOptions
from mmjax.optim.trained import make_split
from mmjax.train_state import TrainState, init_state


@pytest.fixture
def parent(tmp_path):
    """A finished run's artifact."""
    rng = np.random.default_rng(0)
    variables = {
        "params": {
            "query_tower": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)},
            "photo_head": {"kernel": jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)},
            "log_scale": jnp.float32(1.5),
        },
        "batch_stats": {"image_tower": {"mean": jnp.full((6,), 2.0)}},
    }
    (tmp_path / "preprocessing").mkdir()
    (tmp_path / "preprocessing" / "tokenizer.model").write_bytes(b"words")
    write_artifact(
        tmp_path / "run" / "artifact",
        variables,
        config={},
        preprocessing=tmp_path / "preprocessing",
        parents=[],
    )
    return tmp_path / "run", variables


def abstract(tree):
    here = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here), tree,
                        is_leaf=lambda x: isinstance(x, tuple))  # fmt: skip


CHILD = {
    "params": {
        "query_tower": {"kernel": (4, 3)},
        "photo_head": {"kernel": (7, 2)},
        "label_tower": {"kernel": (3,)},
    },
    "batch_stats": {"image_tower": {"mean": (6,)}},
}


def test_what_fits_is_taken_over_and_the_rest_is_named(parent):
    run, variables = parent
    found, report = read_fitting(f"run://{run}", abstract(CHILD))
    np.testing.assert_array_equal(
        found["params"]["query_tower"]["kernel"], variables["params"]["query_tower"]["kernel"]
    )
    np.testing.assert_array_equal(found["batch_stats"]["image_tower"]["mean"], np.full(6, 2.0))
    assert found["params"]["photo_head"]["kernel"] is None
    assert found["params"]["label_tower"]["kernel"] is None
    assert report.loaded == ["batch_stats/image_tower/mean", "params/query_tower/kernel"]
    assert report.fresh == ["params/label_tower/kernel"]
    assert report.other_shape == ["params/photo_head/kernel (5, 2) -> (7, 2)"]
    assert report.left_over == ["params/log_scale"]
    text = str(report)
    for name in ("label_tower/kernel", "(5, 2) -> (7, 2)", "log_scale"):
        assert name in text


def test_a_path_names_an_artifact_too(parent):
    run, _ = parent
    _, report = read_fitting(run / "artifact", abstract(CHILD))
    assert len(report.loaded) == 2


def test_nothing_that_fits_is_a_users_error(parent):
    run, _ = parent
    with pytest.raises(UserError, match=r"no array of .* fits this model.*log_scale"):
        read_fitting(f"run://{run}", abstract({"params": {"other": (3, 3)}}))


def test_a_changed_artifact_is_refused(parent):
    run, _ = parent
    weights = run / "artifact" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="was changed since it was written"):
        read_fitting(f"run://{run}", abstract(CHILD))


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no artifact in"):
        read_fitting(f"run://{tmp_path}", abstract(CHILD))


def test_the_first_state_holds_what_was_taken_over_and_fresh_values_elsewhere(parent):
    run, variables = parent
    tree = abstract(CHILD)
    taken, _ = read_fitting(f"run://{run}", tree)
    scalar = abstract(())

    def init(key):
        params = jax.tree.map(lambda x: jnp.full(x.shape, 9.0), tree["params"])
        return TrainState(
            jnp.zeros(()), params, {"batch_stats": jax.tree.map(jnp.zeros_like, statistics)},
            (), jax.tree.map(jnp.copy, params), jnp.zeros(()),
        )  # fmt: skip

    statistics = {"image_tower": {"mean": jnp.ones(6)}}
    described = TrainState(
        scalar, tree["params"], {"batch_stats": tree["batch_stats"]}, (), tree["params"], scalar
    )
    state = init_state(described, init, 0, taken)
    want = variables["params"]["query_tower"]["kernel"]
    np.testing.assert_array_equal(state.params["query_tower"]["kernel"], want)
    np.testing.assert_array_equal(state.ema["query_tower"]["kernel"], want)
    np.testing.assert_array_equal(state.params["photo_head"]["kernel"], np.full((7, 2), 9.0))
    np.testing.assert_array_equal(
        state.variables["batch_stats"]["image_tower"]["mean"], np.full(6, 2.0)
    )


@pytest.mark.parametrize(
    ("frozen", "batch_norm", "missing"),
    [
        ((), "global", None),
        (("^image_tower/",), "global", "image_tower/kernel"),
        ((), "frozen", "batch_stats/image_tower/mean"),
        (("^image_tower/",), "frozen", "image_tower/kernel and 1 more"),
        (("^query_tower/",), "global", None),  # it is taken over
    ],
)
def test_what_is_kept_and_came_from_nowhere_is_refused(parent, frozen, batch_norm, missing):
    run, _ = parent
    tree = abstract(
        {
            "params": {"query_tower": {"kernel": (4, 3)}, "image_tower": {"kernel": (2, 2)}},
            "batch_stats": {"image_tower": {"mean": (5,)}, "image_norm": {"mean": (5,)}},
        }
    )
    params, kept = make_split(frozen, 0, LoraOptions())(tree["params"], jax.random.key(0))
    state = TrainState(None, params, {"batch_stats": tree["batch_stats"]}, (), None, None, kept)
    loaded, _ = read_fitting(f"run://{run}", state.base_variables())
    model = types.SimpleNamespace(batch_norm=batch_norm)
    if missing is None:
        check_kept("run://it", loaded, state, model)
        return
    with pytest.raises(UserError, match=rf"run://it has no {missing} for.*model\.image_weights"):
        check_kept("run://it", loaded, state, model)
