"""VSE++ and SCAN as models of photo retrieval: what they read, how they rank, what they learn."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from configs.retrieval import get_config
from mmjax.config import build, to_dict
from mmjax.data.examples import SkipRecord
from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.photos import BytesPhoto
from mmjax.data.plan import EvalPlan
from mmjax.data.region_set import ArrayRegions
from mmjax.data.regions import RegionOptions
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.tokenizers import load_tokenizer
from mmjax.errors import UserError
from mmjax.evaluators import RetrievalEvaluator
from mmjax.metrics.retrieval import (
    rank_counts_from_embeddings,
    rank_counts_from_scores,
    ranking_from_embeddings,
    ranking_from_scores,
)
from mmjax.models.stacked_cross_attention import StackedCrossAttention
from mmjax.observe.metrics_log import read_metrics
from mmjax.optim.build import OptimOptions
from mmjax.options import LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.systems import make_system
from mmjax.task_data import _scattered
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask, ScanOptions
from mmjax.workdir import WorkDir
from tests.scan_oracle import scan_scores
from tfds_builders.photochat import demo_dialogues, demo_photos


def talk(photo, text="we went to the park", name="d"):
    return Dialogue(name, (Turn(0, text), Turn(0, "", (photo,))))


def with_regions(*numbers, name="p"):
    return Photo(name, regions=ArrayRegions(np.array(numbers), name))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    source = ListSource([talk(with_regions((1, 2))), talk(with_regions((1, 2)), "the other said")])
    on_regions(min_count=1).fit(source, folder)
    return folder


def on_regions(folder=None, **model):
    options = RetrievalOptions(candidate="regions", regions=RegionOptions(count=3, dim=2))
    made = RetrievalTask(
        options,
        ModelOptions(**{"kind": "scan", "text": "gru", "joint_dim": 8, "word_dim": 4, **model}),
    )
    if folder is not None:
        made.load(folder)
    return made


def batch_of(made, chats):
    source = ListSource(chats)
    index = build_index(made, source)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    plan = EvalPlan(np.arange(len(index)), len(index))
    return Loader(made, [source], [index], plan, mesh, LoaderOptions()).host_batch(0)


# What is read


def test_the_words_are_those_of_the_training_queries_between_start_and_end(fitted):
    made = on_regions(fitted)
    tokenizer = load_tokenizer(fitted)
    assert tokenizer.vocab_size == 4 + len(["we", "went", "to", "the", "park", "other", "said"])
    ids = made.featurize(talk(with_regions((1, 2)), "THE park, unheard"), 0, None)["query"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
    the, park = tokenizer.encode("the park")
    assert list(ids[1:-1]) == [the, park, tokenizer.unk_id, tokenizer.unk_id]


def test_regions_are_cut_and_filled_up_to_their_number(fitted):
    many = with_regions((1, 2), (3, 4), (5, 6), (7, 8), name="many")
    batch = batch_of(on_regions(fitted), [talk(many), talk(with_regions((9, 9)), name="e")])
    np.testing.assert_array_equal(
        batch["regions"], [[[1, 2], [3, 4], [5, 6]], [[9, 9], [0, 0], [0, 0]]]
    )
    np.testing.assert_array_equal(batch["region_mask"], [[True] * 3, [True, False, False]])
    assert batch["regions"].dtype == np.float32 and "image" not in batch


def test_a_photo_without_regions_is_skipped_with_the_reason(fitted):
    with pytest.raises(SkipRecord, match="the photo has no features of regions"):
        list(on_regions(fitted).examples(talk(Photo("p", ("Dog",)))))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((np.nan, 1),), "it holds NaN or infinity"),
        (((np.inf, 1),), "it holds NaN or infinity"),
        (((1, 2, 3),), r"its shape is \(1, 3\), not \[regions, 2\]"),
        ((), r"its shape is \(0,\), not"),
    ],
)
def test_features_that_cannot_be_used_are_named(fitted, numbers, message):
    with pytest.raises(UserError, match=f"photo p's regions cannot be used .{message}"):
        batch_of(on_regions(fitted), [talk(with_regions(*numbers))])


def test_a_text_without_a_known_word_is_a_query_too(fitted):
    batch = batch_of(
        on_regions(fitted), [talk(with_regions((1, 2)), "\u200b"), talk(with_regions((1, 2)))]
    )
    assert batch["query"]["mask"].sum(1).min() >= 2


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({}, {"kind": "scan"}, r"kind=scan does not see config\.task\.candidate=labels"),
        ({}, {"kind": "vsepp"}, r"set it to pixels"),
        ({"candidate": "regions"}, {}, "kind=dual_encoder does not see"),
        ({"candidate": "pixels"}, {"kind": "vsepp"}, "reads with a GRU, not with bert-base"),
        (
            {"candidate": "pixels"},
            {"kind": "scan", "text": "gru", "weights": "x"},
            "leave config.model.weights out",
        ),
    ],
)
def test_kinds_that_cannot_be_are_named(options, model, message):
    with pytest.raises(UserError, match=message):
        RetrievalTask(RetrievalOptions(**options), ModelOptions(**model))


def test_a_shared_width_is_needed(fitted):
    with pytest.raises(UserError, match=r"joint_dim must have a value for scan"):
        on_regions(fitted, joint_dim=None).module()


# How it is ranked


def towers(seed, Q, P, W=40, R=5, D=6):
    """Ragged texts and photos; every photo is in the pool twice or so."""
    rng = np.random.default_rng(seed)

    def side(n, most):
        mask = np.arange(most) < rng.integers(1, most + 1, (n, 1))
        return np.float32(rng.normal(size=(n, most, D)) * mask[..., None]), mask

    (words, said), (regions, there) = side(Q, W), side(P // 2, R)
    of = rng.integers(0, P // 2, P)
    return {"words": words, "mask": said}, {"regions": regions[of], "mask": there[of]}, of


@functools.cache
def ranked(direction):
    score = StackedCrossAttention(direction)
    queries, pool, of = towers(0, 9, 150)
    gold = np.random.default_rng(1).integers(0, 150, 9)
    first = np.unique(of, return_index=True)[1]
    distinct = jax.tree.map(lambda x: x[first], pool)
    wanted = scan_scores(queries, distinct, direction=direction)[0].detach().numpy()
    wanted = wanted[:, np.searchsorted(of[first], of)]
    return score, queries, pool, gold, wanted


@pytest.mark.parametrize("direction", ["t-i", "i-t"])
def test_ranks_are_those_of_all_scores_in_float64_with_ties_for_equal_photos(direction):
    score, queries, pool, gold, wanted = ranked(direction)
    found = ranking_from_embeddings(queries, pool, gold, 7, score=score, block=(4, 64))
    exact = ranking_from_scores(wanted, gold, 7)
    for name, counts in found.counts._asdict().items():
        np.testing.assert_array_equal(counts, getattr(exact.counts, name), name)
    np.testing.assert_array_equal(found.top, exact.top)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.own, exact.own, rtol=1e-5, atol=1e-6)


def test_the_evaluator_gives_what_a_matrix_of_scores_gives():
    score, queries, pool, gold, wanted = ranked("t-i")
    counts = rank_counts_from_embeddings(queries, pool, gold, score=score, block=(4, 64))
    evaluator = RetrievalEvaluator(score=score, block=(4, 64))
    found = evaluator.judge(counts, gold).metrics
    assert found == evaluator.judge(rank_counts_from_scores(wanted, gold), gold).metrics


def test_what_is_no_number_has_no_rank():
    score, queries, pool, gold, _ = ranked("t-i")
    pool["regions"][3, 0, 0] = np.nan
    try:
        with pytest.raises(ValueError, match="the embedding of candidate 3 holds NaN"):
            rank_counts_from_embeddings(queries, pool, gold, score=score)
    finally:
        pool["regions"][3, 0, 0] = 0


def test_outputs_of_different_lengths_are_filled_up_and_put_in_their_places():
    parts = [np.ones((2, 3)), 2 * np.ones((2, 1))]
    found = _scattered(parts, np.array([2, 0, 1]))
    np.testing.assert_array_equal(found, [[1, 1, 1], [2, 0, 0], [1, 1, 1]])


# What is configured


def test_the_configs_are_those_of_the_papers():
    for model, rate, decay, epochs in (("vsepp", 2e-4, 15, 30), ("scan", 5e-4, 10, 20)):
        config = get_config(f"model={model}")
        task, optim = config.task, config.optim
        assert (task.loss, task.margin, task.reduction) == ("mh", 0.2, "sum")
        assert task.candidate == {"vsepp": "pixels", "scan": "regions"}[model]
        assert task.query == "sharer"
        assert (optim.name, optim.learning_rate, optim.clip_norm) == ("adam", rate, 2.0)
        assert (optim.schedule, optim.decay_rate, optim.decay_epochs) == ("staircase", 0.1, decay)
        assert (config.train.total_epochs, config.train.global_batch_size) == (epochs, 128)
        assert (config.model.joint_dim, config.model.word_dim, config.model.min_count) == (
            1024,
            300,
            4,
        )
        assert (task.image.fit, task.image.augment, task.image.mirror) == ("crop", "crop", True)
        assert (task.regions.count, task.regions.dim) == (36, 2048)
    scan = get_config("model=scan").model.scan
    assert (scan.direction, scan.pooling, scan.smoothing, scan.lse_smoothing) == (
        "t-i",
        "avg",
        9,
        6,
    )


def test_a_network_that_comes_with_weights_is_kept_until_it_is_tuned():
    first = get_config("model=vsepp,image_weights=x")
    assert first.optim.frozen == ("^image_tower/",) and first.model.batch_norm == "frozen"
    second = get_config("model=vsepp,finetune,init_from=run://y")
    assert second.optim.frozen == () and second.optim.learning_rate == 2e-5
    assert second.train.total_epochs == 15 and second.model.batch_norm == "global"


@pytest.mark.parametrize("direction", ["t-i", "i-t"])
@pytest.mark.parametrize("pooling", ["avg", "lse", "max", "sum"])
def test_every_variant_of_scan_is_one_command(direction, pooling):
    config = get_config(f"model=scan,direction={direction},pooling={pooling}")
    options = build(ModelOptions, config.model, "model")
    assert options.scan == ScanOptions(direction, pooling)
    task = build(RetrievalOptions, config.task, "task")
    (term,) = RetrievalTask(task, options).objective().terms
    assert term.score == StackedCrossAttention(direction, pooling)
    assert build(OptimOptions, config.optim, "optim").decay_epochs == 10


# What is learned

SCENES = 24


@functools.cache
def pictures():
    return [BytesPhoto(demo_photos.photo("train", i)) for i in range(SCENES)]


def told(*tellings):
    """Dialogues of the demo about the same photos."""
    found = []
    for i in range(SCENES):
        for telling in tellings:
            dialogue = demo_dialogues.dialogue("train", i, telling)
            turns = [
                dataclasses.replace(
                    turn,
                    photos=tuple(
                        dataclasses.replace(photo, file=pictures()[i]) for photo in turn.photos
                    ),
                )
                for turn in dialogue.turns
            ]
            found.append(Dialogue(dialogue.id, tuple(turns)))
    return found


@pytest.mark.parametrize("model", ["vsepp", "scan"])
def test_a_small_one_learns_to_find_the_photos_of_the_demo(model, monkeypatch, tmp_path):
    """What it was shown it finds again, far above chance, after seconds."""
    sources = {
        "train": ListSource(told(0, 1), "demo:train"),
        "dev": ListSource(told(0), "demo:dev"),
    }
    monkeypatch.setattr("mmjax.data.splits.open_dataset", lambda name, split, **_: sources[split])
    config = get_config(f"model={model},demo")
    config.data.data_dir = str(tmp_path / "data")
    config.task.update(query_max_length=64)
    config.task.image.size = 32
    config.model.update(joint_dim=32, word_dim=16)
    config.optim.learning_rate = 3e-3
    config.train.update(total_epochs=None, total_steps=100, global_batch_size=24)
    config.eval.update(every_epochs=None, first=False, test=False, batch_size=24)
    config.observe.update(tensorboard=False, samples=False, log_every_steps=10)
    workdir = WorkDir(tmp_path / "run")
    make_system(to_dict(config)).train(workdir)
    values = [line.get("values", {}) for line in read_metrics(workdir.path / "metrics")]
    losses = [found["train/loss"] for found in values if "train/loss" in found]
    assert losses[-1] < 0.5 * losses[0], losses
    result = json.loads((workdir.path / "result.json").read_text())
    found = result["metrics"]["dev"]["recall_sum"]
    chance = 100 * (1 + 5 + 10) / SCENES
    assert found > 2 * chance, (found, chance)


def test_a_run_on_features_of_regions_is_told_that_it_cannot_be_exported(
    fitted, monkeypatch, tmp_path
):
    config = get_config("model=scan,regions=FOLDER,demo")
    config.task.candidate = "regions"
    config.task.regions.update(count=3, dim=2)
    config.model.update(joint_dim=8, word_dim=4)
    workdir = WorkDir(tmp_path / "run")
    shutil.copytree(fitted, workdir.path / "preprocessing")
    (workdir.path / "preprocessing.ready").write_text("")
    # A trained network is found by the shapes of a batch; its numbers are not needed here.
    monkeypatch.setattr("mmjax.best_state._of_artifact", lambda folder, options, like: ({}, {}))
    with pytest.raises(UserError, match="kind=scan has no form in Hugging Face's format"):
        make_system(to_dict(config)).export(workdir)
