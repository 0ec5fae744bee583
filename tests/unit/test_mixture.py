"""Several tasks at once: one network, told apart by marks, mixed by weight, judged each alone."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs import dialogue, rewrite
from mmjax import config as config_lib
from mmjax import report
from mmjax.artifacts import read_fitting
from mmjax.check.subject import open_subject
from mmjax.data.images import ImageOptions
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import open_source
from mmjax.data.tokenizers import train_character_tokenizer
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.metrics.generation import GenerationMetric, answers
from mmjax.mixing import data_options, weights
from mmjax.models import presets
from mmjax.options import CommonDataOptions, EvalOptions, LoaderOptions, MeshOptions, TrainOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.published.tables import load_table
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.task_data import TaskData, train_loader
from mmjax.tasks.dialogue import DialogueMixture, DialogueOptions, dialogue_task
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.mixture import ShareOptions
from mmjax.tasks.response import ResponseOptions
from mmjax.tasks.rewrite import RewriteOptions
from mmjax.workdir import WorkDir

GIVEN = dict(zip("你好我要", "退货了的", strict=True))


def talks(count: int, seed: int, *, rewritten: bool) -> list[Dialogue]:
    """One sign is asked: it is answered with another one, or it means itself twice."""
    asked = np.random.default_rng(seed).choice(list(GIVEN), count)
    if rewritten:
        return [Dialogue(f"r{i}", (Turn(0, a, rewrites=(a + a,)),)) for i, a in enumerate(asked)]
    turns = [(Turn(0, a), Turn(1, GIVEN[a])) for a in asked]
    return [Dialogue(f"d{i}", said, roles=("customer", "agent")) for i, said in enumerate(turns)]


DATASETS = {
    (dataset, split): ListSource(
        talks(40 if split == "train" else 24, seed, rewritten=dataset == "rewrites"),
        f"{dataset}:{split}",
    )
    for dataset in ("answers", "rewrites")
    for seed, split in enumerate(("train", "dev", "test"))
}


def opened(options, split, **_):
    return DATASETS[options.dataset, split]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    network = presets.gpt2(layers=1, width=32, heads=2, max_positions=64, dropout=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.CAUSAL_PRESETS, "gpt2-tiny", network)
        patch.setattr("mmjax.task_data.open_source", opened)
        yield


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_character_tokenizer(["你好吗我要退货了的"], 300, folder)
    return folder


def options_of(**train) -> dict:
    sizes = {"target_max_length": 4, "decoding": DecodingOptions(max_new_tokens=4)}
    return {
        "task": DialogueOptions(
            response=ResponseOptions(max_length=16, **sizes),
            rewrite=RewriteOptions(max_length=12, **sizes),
        ),
        "model": ModelOptions(text="gpt2-tiny", copies=True),
        "mixture": DialogueMixture(
            response=ShareOptions(dataset="answers", weight=3.0),
            rewrite=ShareOptions(dataset="rewrites"),
        ),
        "data": CommonDataOptions(),
        "train": TrainOptions(**{"global_batch_size": 16, **train}),
        "eval": EvalOptions(metric="mean"),
        "loader": LoaderOptions(threads=1),
    }


def stream_of(vocabulary, tmp_path, **train):
    """(task, loader, plan)"""
    options, mesh = options_of(**train), make_mesh(MeshOptions())
    options["data"] = CommonDataOptions(data_dir=str(tmp_path))
    task = dialogue_task(options["task"], options["model"])
    task.load(vocabulary)
    parts = [
        TaskData(part, {**options, "data": data_options(options, name)}, mesh, seed=0)
        for name, part in task.parts.items()
    ]
    return task, *train_loader(task, parts, weights(options, task.parts), options, mesh, seed=0)


def marks_of(batch) -> list[list[int]]:
    """Of each row, the marks that stand before its learned texts."""
    first = np.diff(batch["response"]["ids"], prepend=0, axis=1) == 1
    return [row[here].tolist() for row, here in zip(batch["speaker"]["ids"], first, strict=True)]


# The stream


@pytest.mark.parametrize("train", [{}, {"length_window": 4}, {"packed_length": 20}])
def test_the_stream_has_the_tasks_in_the_proportion_of_their_weights(vocabulary, tmp_path, train):
    task, loader, _ = stream_of(vocabulary, tmp_path, **train)
    rewritten = task.parts["rewrite"]._rows.marks.rewrite
    rows = [row for k in range(64) for row in marks_of(loader.host_batch(k))]
    # To the nearest example in each lap of the plan; 64 batches are whole laps, or many.
    found = np.concatenate(rows) == rewritten
    assert found.mean() == pytest.approx(0.25, abs=0.01)
    if "packed_length" in train:
        assert any(len(set(row)) == 2 for row in rows)


@pytest.mark.parametrize("train", [{"length_window": 4}, {"packed_length": 20}])
def test_a_run_that_continues_sees_the_stream_that_it_would_have_seen(vocabulary, tmp_path, train):
    straight = stream_of(vocabulary, tmp_path, **train)[1]
    made = [jax.device_get(batch) for batch in straight.batches(0, 12)]
    again = stream_of(vocabulary, tmp_path, **train)[1]
    for k, batch in zip(range(7, 12), again.batches(7, 12), strict=True):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(batch), made[k])


def test_both_tasks_read_the_same_and_the_mark_tells_them_apart(vocabulary):
    options = options_of()
    task = dialogue_task(options["task"], options["model"])
    task.load(vocabulary)
    both = Dialogue("b", (Turn(0, "你", rewrites=("你你",)), Turn(1, "好")))
    answer, meant = (
        task.parts[name].featurize(both, turn, None)
        for name, turn in (("response", 1), ("rewrite", 0))
    )
    marks = task.parts["response"]._rows.marks
    np.testing.assert_array_equal(answer["text"][:3], meant["text"][:3])
    assert answer["text"][3] == marks.speakers[1] and meant["text"][3] == marks.rewrite
    assert answer["speaker"][3:].tolist() == [marks.speakers[1]] * 3
    assert meant["speaker"][3:].tolist() == [marks.rewrite] * 4


def loss_of(task):
    module, objective = task.module(), task.objective()
    return lambda variables, batch: objective(module.apply(variables, batch, train=False), batch)[0]


def test_on_examples_of_one_task_the_loss_is_that_task_s_alone(vocabulary, tmp_path):
    task, loader, plan = stream_of(vocabulary, tmp_path)
    module = task.module()
    variables = None
    whole = loader.host_batch(0)
    rewritten = np.concatenate(marks_of(whole)) == task.parts["rewrite"]._rows.marks.rewrite
    assert 0 < rewritten.sum() < 16
    for part, mine in (("response", ~rewritten), ("rewrite", rewritten)):
        alone = task.parts[part]
        mixed = jax.tree.map(lambda x: x[mine], whole)  # noqa: B023 - used here
        options = options_of()
        data = TaskData(
            alone,
            {**options, "data": data_options(options, part)},
            make_mesh(MeshOptions()),
            seed=0,
        )
        examples = plan.batch(0).example[mine]
        order = data.eval_loader(data.split("train"), examples, None)
        single = jax.tree.map(lambda x: x[: len(examples)], order.host_batch(0))  # noqa: B023
        if variables is None:
            made = jax.jit(lambda b: module.init(jax.random.key(0), b, train=False))(mixed)
            variables = jax.tree.map(lambda x: 5 * x, nn.unbox(made))
        found, wanted = (
            jax.jit(loss_of(learned))(variables, batch)
            for learned, batch in ((task, mixed), (alone, single))
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


# Mistakes


def built(variant: str = "", **changes):
    config = dialogue.get_config(variant)
    with config.unlocked():
        for path, value in changes.items():
            *sections, key = path.split("__")
            place = config
            for name in sections:
                place = place[name]
            place[key] = value
    return config_lib.to_dict(config)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("rewrite_weight=0", {}, r"config\.mixture\.rewrite\.weight=0\.0 must be above 0"),
        ("response_weight=-1", {}, r"config\.mixture\.response\.weight=-1\.0 must be above 0"),
        ("rewrite_weight=1e-6", {}, r"config\.mixture\.rewrite\.weight=1e-06 is less than 1/1024"),
        ("", {"mixture__rewrite__weight": float("nan")}, "must be a finite number"),
        ("", {"mixture__rewrite__metric": "exakt"}, r'is no metric \(did you mean "exact"\?\)'),
        ("", {"mixture__rewrite__dataset": None}, r"mixture\.rewrite\.dataset must have a value"),
        ("", {"mixture__summary": {"weight": 1.0}}, r"config\.mixture\.summary does not exist"),
        ("", {"mixture__best_of": "rewriting"}, r"is no task of the mixture \(did you mean"),
        ("", {"eval__metric": "bleu"}, r'config\.eval\.metric=\'bleu\' is no metric'),
        ("", {"eval__higher_is_better": False}, "the mean of metrics of one direction"),
        ("images=resnet-18", {"task__rewrite__max_images": 1}, "max_images differ"),
    ],
)  # fmt: skip
def test_a_wrong_share_is_told_in_one_sentence(variant, changes, message):
    with pytest.raises(UserError, match=message):
        make_system(built(f"size=tiny{',' if variant else ''}{variant}", **changes))


def test_a_task_that_there_is_not_and_a_dataset_that_there_is_not(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="variant 'summary' of the config does not exist"):
        dialogue.get_config("summary=vcsum")
    system = make_system(built("size=tiny,rewrite=rewrites", data__data_dir=str(tmp_path)))
    monkeypatch.setattr("mmjax.task_data.open_source", open_source)
    with pytest.raises(UserError, match="Unknown dataset: 'rewrites'; there are"):
        system._split("rewrite", "train")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "rewrite",
            {"target_max_length": 10},
            r"task\.rewrite\.target_max_length=10 leaves",
        ),
        ("rewrite", {"max_length": 65}, r"config\.task\.rewrite asks for 65 tokens.*64 positions"),
        ("response", {"max_length": 65}, r"config\.task\.response asks for 65 tokens"),
    ],
)
def test_sizes_that_cannot_be_are_named_by_the_task_s_own_keys(vocabulary, part, changes, message):
    options = options_of()
    own = dataclasses.replace(getattr(options["task"], part), **changes)
    task = dialogue_task(dataclasses.replace(options["task"], **{part: own}), options["model"])
    with pytest.raises(UserError, match=message):
        task.load(vocabulary)
        task.module()


# Whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(system, working directory, its config as JSON values)"""
    folder = tmp_path_factory.mktemp("run")
    variant = "size=tiny,copies=false,response=answers,rewrite=rewrites,role=agent"
    config = dialogue.get_config(variant)
    config.task.response.update(max_length=16, target_max_length=4)
    config.task.rewrite.update(max_length=12, target_max_length=4)
    for part in ("response", "rewrite"):
        config.task[part].decoding.max_new_tokens = 4
    config.model.vocab_size = 300
    config.train.update(global_batch_size=16, total_epochs=None, total_steps=200)
    config.train.packed_length, config.train.length_window = 32, 1
    config.optim.learning_rate = 5e-3
    config.eval.update(every_epochs=None, every_steps=100, batch_size=24)
    config.observe.tensorboard = False
    config.data.data_dir = str(folder / "data")
    config.loader.threads = 1
    config = config_lib.to_dict(config)
    system, workdir = make_system(config), WorkDir(folder / "run")
    workdir.path.mkdir()
    system.train(workdir)
    return system, workdir, config


def test_one_network_learns_both_tasks_and_each_has_its_figures(run, tmp_path):
    system, workdir, _ = run
    result = read_result(str(workdir.path / "result.json"))
    dev = result.metrics["dev"]
    assert dev["response/exact"] > 80 and dev["rewrite/exact"] > 80
    assert dev["mean"] == pytest.approx((dev["response/bleu"] + dev["rewrite/exact"]) / 2)
    assert result.dataset["sizes"] == {"train": 80, "dev": 48, "test": 48}
    assert result.tasks.keys() == {"response", "rewrite"}

    found = system.predict(workdir, "dev", 1)
    for name, own in result.tasks.items():
        assert own.task == name and own.dataset["sizes"]["dev"] == 24
        mine = [answer for answer in found if answer["task"] == name]
        metric = GenerationMetric()
        said = answers([a["answer"] for a in mine], [a["references"] for a in mine])
        want = metric.compute(metric.update(metric.init(), said, {}))
        want["perplexity"] = dev[f"{name}/perplexity"]
        assert own.metrics["dev"] == pytest.approx(want)
        low, high = own.intervals["dev"]["exact"]
        assert low <= own.metrics["dev"]["exact"] <= high
        assert own.per_example["dev"]["ids"] == [a["id"] for a in mine]
        made = report.make_report(load_table(f"jddc21_{name}"), [own])
        (row,) = [cells for cells in made.rows if "at once" in cells[0]]
        kind = {"response": "answers", "rewrite": "rewrites"}[name]
        assert f"stand-in: {kind} test (24)" in row[1]
        page = tmp_path / f"{name}.html"
        system.page(page, "dev", mine)
        assert mine[0]["id"] in page.read_text()
    assert report.run([str(workdir.path), "--table=jddc21_rewrite", "--format=markdown"]) == 0


def test_the_best_state_of_each_task_can_be_asked(run):
    _, workdir, config = run
    kept = json.loads((workdir.path / "result.json").read_text())["tasks"]
    checkpoints = sorted(int(p.name) for p in (workdir.path / "best").iterdir())
    assert {own["own_best"]["step"] for own in kept.values()} <= set(checkpoints)
    own = make_system({**config, "mixture": {**config["mixture"], "best_of": "rewrite"}})
    workdir.check(own.identity(), free=own.judging_keys())
    best = kept["rewrite"]["own_best"]
    assert best["metric"] == "rewrite/exact"
    metrics = own.evaluate(workdir, "dev").metrics
    assert metrics["rewrite/exact"] == pytest.approx(best["dev"])


def test_an_artifact_alone_answers_as_the_run_does_and_has_no_other_state(run, tmp_path):
    system, workdir, config = run
    alone = WorkDir(tmp_path)
    (workdir.path / "artifact").rename(tmp_path / "artifact")
    try:
        assert system.predict(alone, "dev", 1) == system.predict(workdir, "dev", 1)
        other = make_system({**config, "mixture": {**config["mixture"], "best_of": "rewrite"}})
        with pytest.raises(UserError, match="that needs the checkpoints of the run"):
            other.evaluate(alone, "dev")
    finally:
        (tmp_path / "artifact").rename(workdir.path / "artifact")


def test_it_is_exported_once_for_each_task_and_not_audited(run):
    system, workdir, _ = run
    folders = system.export(workdir)
    assert [folder.rpartition("/")[2] for folder in folders] == [
        "response-decoder",
        "rewrite-decoder",
    ]
    for folder, task in zip(folders, ("response", "rewrite"), strict=True):
        own = json.loads((workdir.path / folder / "config.json").read_text())["mmjax"]
        assert own["task"] == task
        assert own["prompt_max_length"] == {"response": 12, "rewrite": 8}[task]
    with pytest.raises(UserError, match="audit a run of one of them"):
        system.judge(workdir)


def test_a_run_of_one_task_can_start_from_it_and_the_other_way_round(run, tmp_path):
    _, workdir, mixed = run
    config = rewrite.get_config(f"size=tiny,copies=false,init_from=run://{workdir.path}")
    config.data.update(dataset="rewrites", data_dir=str(tmp_path / "data"))
    config.task.update(mixed["task"]["rewrite"])
    config.model.vocab_size = 300
    config.train.update(global_batch_size=16, total_epochs=None, total_steps=0)
    config.eval.update(every_epochs=None, batch_size=24)
    config.observe.tensorboard = False
    system, own = make_system(config_lib.to_dict(config)), WorkDir(tmp_path / "run")
    own.path.mkdir()
    system.train(own)
    found = read_result(str(own.path / "result.json"))
    (parent,) = found.parents
    assert parent["config"] == read_result(str(workdir.path / "result.json")).config
    figures = found.metrics["dev"]
    before = read_result(str(workdir.path / "result.json")).metrics["dev"]
    assert figures == pytest.approx(
        {name: before[f"rewrite/{name}"] for name in figures}, rel=1e-5, abs=1e-6
    )
    # Back again: all of its arrays have a place, and there is none without.
    state, _ = system._best(own)
    shapes = jax.eval_shape(lambda: state)
    target = jax.tree.map(lambda shape, x: shape.update(sharding=x.sharding), shapes, state)
    _, taken = read_fitting(f"run://{workdir.path}", target)
    assert not taken.fresh and not taken.other_shape and not taken.left_over


@pytest.mark.parametrize("packed", [None, 512])
def test_a_check_finds_the_greatest_batch_of_any_task(packed):
    config = built("size=mini,images=resnet-18", train__packed_length=packed)
    config["train"]["length_window"] = 1
    subject = open_subject(config)
    mesh = make_mesh(MeshOptions())
    batch = subject.training_batch(mesh)
    assert batch["text"]["ids"].shape == (32, packed or 256)
    assert batch["image"].shape[:2] == (32, 4 if packed else 2)
    assert {"response/written", "rewrite/log_p"} <= set(subject.task.predictors())
    assert ImageOptions(fit="crop") == subject.options["task"].rewrite.image
