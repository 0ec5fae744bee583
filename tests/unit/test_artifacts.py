"""An artifact stands alone: what is read is what was written, or it is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mmjax.artifacts import check_artifact, parent, read_artifact, write_artifact
from mmjax.errors import UserError

VARIABLES = {
    "params": {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "scale": jnp.float32(3)},
    "batch_stats": {"mean": jnp.ones(4)},
}


def target(variables=VARIABLES):
    sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), variables
    )


@pytest.fixture
def run(tmp_path):
    fitted = tmp_path / "preprocessing"
    fitted.mkdir()
    (fitted / "vocab.txt").write_text("a\nb\n")
    write_artifact(
        tmp_path / "artifact",
        VARIABLES,
        config={"label": "x"},
        preprocessing=fitted,
        parents=[{"kind": "weights"}],
        chosen={"threshold": 0.1},
    )
    return tmp_path


def test_what_is_read_is_what_was_written(run):
    for place in (run / "artifact", f"run://{run}"):
        found = read_artifact(place, target())
        jax.tree.map(np.testing.assert_array_equal, found, VARIABLES)
    about = check_artifact(run / "artifact")
    assert about["config"] == {"label": "x"}
    assert about["parents"] == [{"kind": "weights"}]
    assert about["chosen"] == {"threshold": 0.1}
    assert (run / "artifact" / "preprocessing" / "vocab.txt").read_text() == "a\nb\n"


@pytest.mark.parametrize("name", ["weights.safetensors", "preprocessing/vocab.txt"])
def test_a_changed_file_is_refused(run, name):
    path = run / "artifact" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=name):
        read_artifact(run / "artifact", target())


def test_an_unfinished_artifact_is_none(run):
    (run / "artifact" / "artifact.json").unlink()
    with pytest.raises(UserError, match="no artifact"):
        read_artifact(run / "artifact", target())


def test_weights_of_another_model_are_refused_with_the_first_difference(run):
    other = {**VARIABLES, "params": {**VARIABLES["params"], "bias": jnp.zeros(2)}}
    with pytest.raises(UserError, match="params/bias is not in the artifact"):
        read_artifact(run / "artifact", target(other))
    wider = {**VARIABLES, "batch_stats": {"mean": jnp.ones(5)}}
    with pytest.raises(UserError, match=r"batch_stats/mean has shape \(4,\) there and \(5,\)"):
        read_artifact(run / "artifact", target(wider))


def test_a_parent_is_named_by_its_weights_and_not_by_its_place(tmp_path):
    for name, content in (("x", b"1"), ("y/x", b"1"), ("z/x", b"2")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    same, moved, other = (parent("weights", str(tmp_path / n)) for n in ("x", "y/x", "z/x"))
    assert same == moved
    assert other["sha256"] != same["sha256"]


def test_a_run_as_a_parent_tells_its_config_and_its_own_parents(run, tmp_path):
    found = parent("init_from", str(run / "artifact"))
    assert found["config"] == {"label": "x"} and found["parents"] == [{"kind": "weights"}]
    assert found["sha256"] and found["kind"] == "init_from"
    (tmp_path / "weights").mkdir()
    assert set(parent("weights", str(tmp_path / "weights"))) == {"kind", "name", "sha256"}
