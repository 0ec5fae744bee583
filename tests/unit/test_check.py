"""`--mode=check`: what fits and what does not, from shapes alone; mistakes are one sentence."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from mmjax import main
from mmjax.check import report, run, sweep, topology
from mmjax.check.advice import advice
from mmjax.check.costs import Costs, Traffic
from mmjax.check.measure import Compiled, Measured, Memory
from mmjax.check.subject import open_subject
from mmjax.config import to_dict
from mmjax.errors import UserError
from mmjax.observe.chips import Chip
from mmjax.options import TrainOptions
from mmjax.parallel.mesh import MeshOptions, make_mesh

CONFIG = Path(__file__).parents[2] / "configs" / "intent.py"
CHIP = Chip("made up", memory=1000, peak_flops=10.0, memory_bandwidth=5.0, link_bandwidth=2.0)


def measured(**changes) -> Measured:
    memory = Memory(
        parameters=100,
        optimiser=200,
        average=0,
        batch=10,
        resident=0,
        arguments=310,
        outputs=5,
        temporaries=400,
        program=1,
    )
    costs = Costs(20.0, 30.0, {"all-reduce": Traffic(2, 4.0)})
    values = {
        "label": "a network",
        "slice": "v0:2x2",
        "kind": "made up",
        "devices": 8,
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "batch_size": 64,
        "micro_batch_size": None,
        "eval_batch_size": 64,
        "train": Compiled(memory, costs),
        "evaluation": {"query": Compiled(dataclasses.replace(memory, resident=200), costs)},
        "model_flops": 120.0,
        "device": CHIP,
        "remat": "none",
        "dtype": "float32",
        "independent": True,
        "notes": ("a stand-in",),
    }
    return Measured(**{**values, **changes})


def larger(found: Measured, **bytes_) -> Measured:
    memory = dataclasses.replace(found.train.memory, **bytes_)
    return dataclasses.replace(found, train=Compiled(memory, found.train.costs))


def test_a_step_that_fits_is_told_with_its_bound_and_what_it_reaches_there():
    found = measured()
    assert found.train.memory.total == 310 + 5 + 400 + 1
    assert found.fits and found.bound.seconds == 6.0 and found.bound.by == "memory"
    assert found.mfu == pytest.approx(120 / (6.0 * 8 * 10.0))
    text = report.text(found)
    assert "a step takes at least 6,000.00 ms, by memory" in text and "no prediction" in text
    assert "11 examples/s, MFU 25 %" in text and text.endswith("it fits.")
    assert "all-reduce, sent in 2" in text and "(a stand-in)" in text
    values = json.loads(json.dumps(report.as_json(found)))
    assert values["train"]["bytes"]["total"] == 716 and values["bound"]["seconds"] == 6.0
    assert values["fits"] is True and values["advice"] == []


def test_what_is_larger_than_the_memory_does_not_fit_in_training_or_in_evaluation():
    assert larger(measured(), temporaries=700).fits is False
    evaluation = Compiled(dataclasses.replace(measured().train.memory, resident=300), None)
    assert measured(evaluation={"photo": evaluation}).fits is False
    assert measured(train=Compiled(measured().train.memory, None, refused=True)).fits is False
    assert measured(device=None).fits is None and measured(device=None).bound is None
    assert "not known" in report.text(measured(device=None))


def test_advice_begins_with_what_takes_the_room():
    activations = advice(larger(measured(), temporaries=5000))
    assert activations[0].startswith("--config.model.remat=full")
    assert activations[1].startswith("--config.train.micro_batch_size=32")
    # 3,000 bytes of state and 1,000 of gradients in 4 parts leave room, in 2 they do not.
    state = larger(measured(), parameters=1000, optimiser=2000, arguments=3010, temporaries=1000)
    assert advice(state)[0].startswith("--config.mesh.fsdp=8")
    smaller = larger(measured(), parameters=500, optimiser=1000, arguments=1510, temporaries=500)
    assert advice(smaller)[0].startswith("--config.mesh.fsdp=4")
    assert "try --config.mesh.fsdp=8" in report.text(state)


def test_advice_never_names_what_would_be_refused():
    """Batch statistics forbid parts of a batch; a part must still divide among the devices."""
    large = larger(measured(remat="full"), temporaries=5000)
    assert not any("micro_batch" in line for line in advice(dataclasses.replace(
        large, independent=False)))  # fmt: skip
    assert not any("micro_batch" in line for line in advice(dataclasses.replace(
        large, batch_size=8)))  # fmt: skip
    alone = {"data": 1, "fsdp": 1, "tensor": 8}
    assert not any("micro_batch" in line for line in advice(dataclasses.replace(
        large, mesh=alone, batch_size=15)))  # fmt: skip
    one = dataclasses.replace(large, mesh=alone, dtype="bfloat16", batch_size=1)
    assert advice(one) == ["a larger slice, or a smaller --config.train.global_batch_size"]


def test_a_sweep_names_the_smallest_that_fits_and_the_cheapest():
    fast = measured(train=Compiled(measured().train.memory, Costs(20.0, 5.0)))
    rows = [
        sweep.Row("v0:1x1", 64, 1, larger(measured(), temporaries=700)),
        sweep.Row("v0:2x2", 64, 4, measured()),
        sweep.Row("v0:2x4", 64, 8, fast),
        sweep.Row("v0:4x4", 64, 16, None, "a batch of 64 does not divide"),
    ]
    text = sweep.text("a network", rows)
    assert "smallest that fits: v0:2x2 (4 chips)" in text
    assert "cheapest per example, at the bounds: v0:2x4" in text  # 8 x 2 s against 4 x 6 s
    assert "v0:4x4, batch 64: a batch of 64 does not divide" in text
    assert sweep.text("a network", rows[:1]).endswith("nothing fits.")
    unknown = [*rows[:1], sweep.Row("local", 64, 1, measured(device=None))]
    assert (sweep.fits(rows), sweep.fits(rows[:1]), sweep.fits(unknown)) == (True, False, None)
    assert sweep.text("a network", unknown).endswith("whether any fits is not known.")
    values = sweep.as_json(rows)["rows"]
    assert [row["fits"] for row in values] == [False, True, True, False]
    assert values[1]["chip_seconds_per_example"] == 4 * 6.0 / 64


def test_a_sweep_in_which_nothing_could_be_compiled_is_a_users_error(monkeypatch):
    options = {"train": TrainOptions(global_batch_size=7)}
    subject = types.SimpleNamespace(options=options, label="a network", with_batch=lambda _: None)
    monkeypatch.setattr(run, "open_subject", lambda _: subject)
    monkeypatch.setattr(run, "_devices", lambda *_: jax.devices())
    why = "a batch of 7 does not divide"
    monkeypatch.setattr(run.sweeps, "row", lambda *_: sweep.Row("local", 7, 1, None, why))
    with pytest.raises(UserError, match=why):
        run.sweep({}, ["local"], 1, [])


@pytest.fixture
def command():
    """`main.main` with these flags."""

    def call(*arguments: str) -> int:
        argv = ["mmjax", f"--config={CONFIG}:demo", "--mode=check", *arguments]
        with flagsaver.flagsaver():
            return main.main(flags.FLAGS(argv))

    return call


@pytest.mark.parametrize(("fits", "code"), [(True, 0), (None, 0), (False, 3)])
def test_the_exit_code_says_whether_it_fits_and_only_check_json_is_written(
    fits, code, command, monkeypatch, tmp_path, capsys
):
    found = run.Found("the report", {"fits": fits}, fits)
    asked = []
    monkeypatch.setattr(run, "check", lambda *arguments: asked.append(arguments) or found)
    monkeypatch.chdir(tmp_path)
    assert command("--topology=v3:4x4", "--slices=2") == code
    assert asked[0][1:] == (["v3:4x4"], 2)
    assert capsys.readouterr().out == "the report\n" and not list(tmp_path.iterdir())
    assert command("--topology=v3:4x4", f"--workdir={tmp_path / 'run'}") == code
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["check.json"]
    assert json.loads((tmp_path / "run" / "check.json").read_text()) == {"fits": fits}


def test_without_libtpu_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu"):
        topology.slice_devices("v3:4x4")


@pytest.mark.parametrize(
    "name", ["v5e:0x4", "v5e:4x0x2", "v5e:", "v5e:4x", "v5e:4 x4", "v5e:4x4\n"]
)
def test_a_slice_that_is_mistyped_does_not_reach_libtpu_which_would_end_the_process(
    name, monkeypatch
):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(topology, "known_slices", lambda generations: ["v5e:4x4"])
    asked = []
    monkeypatch.setattr(topology, "_described", lambda *name: asked.append(name) or [])
    with pytest.raises(UserError, match=r"no such slice \(it must be written .* others, v5e:4x4"):
        topology.slice_devices(name)
    assert not asked
    for fine in ("v5e:4x4", "v4:2x2x4_twisted", "tpu7x:2x2x1"):
        topology.slice_devices(fine)
    assert [name for name, _ in asked] == ["v5e:4x4", "v4:2x2x4_twisted", "tpu7x:2x2x1"]


def test_what_has_no_network_and_what_is_mistyped_is_a_users_error():
    bm25 = {"system": "bm25", "label": "BM25"}
    with pytest.raises(UserError, match="has no network: there is nothing to compile"):
        open_subject(bm25)
    with pytest.raises(UserError, match="compared by --sweep"):
        run.check(bm25, ["v3:4x4", "v5e:2x2"])
    with pytest.raises(UserError, match="no positive whole number"):
        run.sweep(bm25, ["local"], 1, ["many"])
    with pytest.raises(UserError, match="goes with a --topology"):
        run.check(bm25, ["local"], 2)


def demo(module, variant, **changes):
    config = to_dict(module.get_config(variant))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return config


def test_shapes_come_from_the_config_alone_with_weights_at_home_or_not():
    from configs import intent, rerank, retrieval

    mesh = make_mesh(MeshOptions(), None)
    weights = "text=minilm,weights=sentence-transformers/all-MiniLM-L6-v2"
    subject = open_subject(demo(intent, weights))
    batch = subject.batch(mesh, 4)
    assert batch["text"]["ids"].shape == (4, 128) and batch["label"]["ids"].shape == (4, 1)
    assert subject.task.module().config.encoder.vocab_size == 30522  # the preset's own
    assert any("is no folder here" in note for note in subject.notes)

    scan = open_subject(demo(retrieval, "model=scan,regions=FOLDER")).batch(mesh, 2)
    assert scan["regions"].shape == (2, 36, 2048) and scan["query"]["ids"].shape == (2, 128)
    both = open_subject(demo(retrieval, "")).batch(mesh, 2)
    assert both["image"].shape == (2, 224, 224, 3) and both["image"].dtype == np.uint8
    some = open_subject(demo(rerank, "candidates=run://runs/bm25"))
    assert set(some.batch(mesh, 2, ("text", "place"))) == {"text", "place", "weight", "keys"}
    packed = open_subject(demo(intent, "prefix=shared,packed=1024")).training_batch(mesh)
    assert packed["text"]["ids"].shape == packed["dialogue"]["ids"].shape == (4, 1024)
    large = open_subject(demo(intent, "model=t5")).with_batch(6)
    assert large.options["train"].global_batch_size == large.options["eval"].batch_size == 6


def test_shapes_are_had_where_one_role_alone_answers():
    from configs import dialogue, respond

    mesh = make_mesh(MeshOptions(), None)
    for module, variant in (
        (respond, "role=agent,size=tiny"),
        (respond, "role=agent,model=transresnet"),
        (dialogue, "role=agent,size=tiny"),
    ):
        batch = open_subject(demo(module, variant)).batch(mesh, 2)
        assert batch["response"]["ids"].shape[0] == 2


def test_devices_without_a_slice_are_one_and_slices_must_be_alike():
    def device(slice_index):
        return types.SimpleNamespace(slice_index=slice_index, platform="tpu")

    with pytest.raises(UserError, match="not of one size"):
        make_mesh(MeshOptions(), [device(0), device(0), device(1)])
    with pytest.raises(UserError, match=r"dcn_data=2, dcn_fsdp=1\) does not match 1 slice"):
        make_mesh(MeshOptions(dcn_data=2))
    with pytest.raises(UserError, match="does not match 2 devices of a slice"):
        make_mesh(MeshOptions(data=4), [device(0), device(0), device(1), device(1)])
