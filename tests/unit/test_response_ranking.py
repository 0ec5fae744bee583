"""Ranking of responses: what is read, how hits are counted, what is learned, and k-NN with it."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs import respond
from mmjax.answers import read_answers
from mmjax.config import to_dict
from mmjax.data.batches import HostBatches
from mmjax.data.examples import SkipRecord
from mmjax.data.images import ImageOptions
from mmjax.data.index import build_index
from mmjax.data.perturb_photos import BLANK
from mmjax.data.plan import EvalPlan
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.tokenizers import load_tokenizer, train_character_tokenizer
from mmjax.errors import UserError
from mmjax.evaluators_hits import HitsEvaluator, drawn_candidates
from mmjax.metrics.generation import GenerationMetric, answers
from mmjax.models import presets
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.tasks.response_ranking import RankingOptions, ResponseRankingTask
from mmjax.tasks.trans_resnet_model import TransResNetOptions
from mmjax.workdir import WorkDir

SHOP = Dialogue(
    "shop",
    (
        Turn(0, "你好 "),
        Turn(1, "好"),
        Turn(0, "", (Photo("p", file=BLANK), Photo("lost"))),
        Turn(0, "我要退货"),
        Turn(1, "退了", references=("好了",)),
    ),
    roles=("customer", "agent"),
)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    text = presets.sinusoidal(
        layers=1, width=16, heads=2, feed_forward=32, max_positions=64, attention_dropout=0.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "transresnet", text)
        yield


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_character_tokenizer(["你好吗我要退货了的"], 400, folder)
    return folder


def task_of(vocabulary, model=None, **options) -> ResponseRankingTask:
    task = ResponseRankingTask(RankingOptions(**options), TransResNetOptions(**(model or {})))
    task.load(vocabulary)
    return task


def signs(vocabulary, ids) -> str:
    tokenizer = load_tokenizer(vocabulary)
    names = {tokenizer.cls_id: "<", tokenizer.sep_id: ">"}
    return "".join(names.get(i) or tokenizer.decode([i]) for i in ids.tolist())


def batch_of(task, source):
    """Every example of the source."""
    index = build_index(task, source)
    rows = np.arange(len(index))
    given = task, [source], [index], EvalPlan(rows, len(rows)), rows
    return HostBatches(*given, seed=0, fields=None, cached_examples=0)(0)


# What is read


def test_a_context_is_every_turn_before_and_a_response_the_turn_itself(vocabulary):
    task = task_of(vocabulary)
    assert [e.sub for e in task.examples(SHOP)] == [1, 3, 4]
    made = task.featurize(SHOP, 4, None)
    assert signs(vocabulary, made["context"]) == "<你好>好>我要退货>"
    assert signs(vocabulary, made["response"]) == "<退了>"
    assert task.references(SHOP, 4) == ("退了", "好了")
    agent = task_of(vocabulary, role="agent", answers="last")
    assert [e.sub for e in agent.examples(SHOP)] == [4]


def test_the_oldest_tokens_of_a_context_and_the_last_of_a_response_are_dropped(vocabulary):
    task = task_of(vocabulary, context_max_length=7, response_max_length=3)
    for example in task.examples(SHOP):
        made = task.featurize(SHOP, example.sub, None)
        assert {name: len(made[name]) for name in ("context", "response")} == example.lengths
    assert signs(vocabulary, made["context"]) == "<>我要退货>"
    assert signs(vocabulary, made["response"]) == "<退>"


def test_a_dialogue_in_which_nobody_answers_or_to_nothing_is_skipped(vocabulary):
    task = task_of(vocabulary)
    with pytest.raises(SkipRecord, match="nobody answers"):
        list(task.examples(Dialogue("d", (Turn(0, "你"), Turn(1, " ")))))
    silent = Dialogue("d", (Turn(0, ""), Turn(1, "好")))
    with pytest.raises(SkipRecord, match="nothing is said before"):
        list(task.examples(silent))
    shown = Dialogue("d", (Turn(0, "", (Photo("p", file=BLANK),)), Turn(1, "好")))
    for one in (task, task_of(vocabulary, images=True)):  # all are judged on the same examples
        (example,) = one.examples(shown)
        assert signs(vocabulary, one.featurize(shown, example.sub, None)["context"]) == "<>"


def test_the_last_photo_that_could_be_had_is_seen(vocabulary):
    task = task_of(vocabulary, images=True, image=ImageOptions(size=8))
    seen = {sub: task.featurize(SHOP, sub, None) for sub in (1, 3)}
    assert [bool(seen[sub]["has_image"]) for sub in (1, 3)] == [False, True]
    assert seen[1]["image"].max() == 0 and seen[3]["image"].min() > 0
    assert task.photos and not task.independent
    assert not task_of(vocabulary).photos


def test_equal_responses_are_no_negatives_unless_they_are_asked_to_be(vocabulary):
    source = ListSource([Dialogue(f"d{k}", (Turn(0, "你"), Turn(1, "好"))) for k in range(2)])
    for masked in (True, False):
        rows = batch_of(task_of(vocabulary, mask_equal_responses=masked), source)
        assert rows["keys"].shape == (2, int(masked))
        assert len(np.unique(rows["keys"])) <= 1


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({"context_max_length": 100}, {}, "asks for 100 tokens, but the encoder has 64 positions"),
        (
            {},
            {"hidden_dim": 15, "fusion": "transformer_sum"},
            "hidden_dim=15 does not divide among the 2 heads",
        ),
        (
            {"images": True, "image": ImageOptions(size=8)},
            {},
            r"image\.size=8 is too small: this network needs",
        ),
        ({}, {"text": "bert-bsae"}, "is no encoder"),
    ],
)
def test_options_that_do_not_fit_are_named(vocabulary, options, model, message):
    sizes = {"context_max_length": 32, "response_max_length": 16}
    with pytest.raises(UserError, match=message):
        task_of(vocabulary, model, **{**sizes, **options}).module()


@pytest.mark.parametrize("fusion", ["sum", "transformer_concat"])
def test_with_photos_the_network_has_their_branch(vocabulary, fusion):
    model = {"image": "resnet-tiny", "fusion": fusion, "hidden_dim": 8}
    image = ImageOptions(size=32)
    task = task_of(vocabulary, model, images=True, image=image, context_max_length=32)
    batch = batch_of(task, ListSource([SHOP]))
    init = functools.partial(task.module().init, train=False)
    made = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), batch))
    assert set(made["batch_stats"]) == {"image_tower", "image_norm"}
    named = {"context_tower", "response_tower", "text_head", "image_tower", "image_norm"}
    fused = {"fusion"} if fusion != "sum" else set()
    assert set(made["params"]) == named | {"image_heads_0"} | fused


# How it is judged


def test_hits_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(12, 4)).astype(np.float32)
    own = rng.integers(0, 12, 40)
    contexts = (responses[own] + rng.normal(size=(40, 4))).astype(np.float32)
    said = [Dialogue(f"d{k}", (Turn(0, "a"), Turn(1, f"是的好吧{'abcdefghijkl'[k]}"))) for k in own]
    source = ListSource(said)
    index = dataclasses.replace(
        build_index(None, ListSource([])),
        record=np.arange(40),
        sub=np.ones(40, np.int32),
        keys={"response": own.astype(np.uint64)},
    )

    def predict(name, examples):
        return contexts[examples] if name == "context" else responses[own[examples]]

    def references(dialogue, turn):
        return (dialogue.turns[turn].text,)

    judge = HitsEvaluator(references, pool=5).reading(source)
    found = judge.evaluate(index, predict)
    scores = np.float64(contexts) @ np.float64(responses[np.unique(own)].T)
    gold = np.unique(own, return_inverse=True)[1]
    rank = (scores > scores[np.arange(40), gold][:, None]).sum(1)
    for k in (1, 5, 10):
        assert found.metrics[f"hits@{k}"] == pytest.approx(100 * (rank < k).mean())
    assert found.metrics["mrr"] == pytest.approx((1 / (rank + 1)).mean())
    drawn = drawn_candidates(gold, len(np.unique(own)), 5)
    best = np.take_along_axis(scores, drawn, 1).argmax(1)
    assert found.metrics["hits@1/5"] == pytest.approx(100 * (best == 0).mean())
    assert found.chance["hits@1/5"] == 20
    assert set(found.metrics) == set(judge.metric_names)
    # Of what is chosen all but the last character is right anyway.
    metric = GenerationMetric()
    texts = [references(said[list(own).index(np.unique(own)[k])], 1)[0] for k in scores.argmax(1)]
    right = [references(dialogue, 1) for dialogue in said]
    want = metric.compute(metric.update(metric.init(), answers(texts, right), {}))
    assert 0 < want["bleu"] < 100
    assert found.metrics["bleu@chosen"] == pytest.approx(want["bleu"])


def test_the_candidates_of_a_context_are_always_the_same_and_never_twice():
    gold = np.array([0, 3, 9])
    drawn = drawn_candidates(gold, 10, 4)
    np.testing.assert_array_equal(drawn, drawn_candidates(gold, 10, 4))
    assert drawn.shape == (3, 4) and (drawn[:, 0] == gold).all()
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    whole = drawn_candidates(gold, 10, 100)
    assert all(sorted(row) == list(range(10)) for row in whole.tolist())
    assert drawn_candidates(np.array([0]), 1, 100).tolist() == [[0]]


# From training to an answer


def echoes(count: int, seed: int) -> list[Dialogue]:
    """A question names one of six things, and the answer that thing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        a, b = rng.choice(list("你好我要退货"), 2)
        made.append(Dialogue(f"d{i}", (Turn(0, f"{a}{b}"), Turn(1, f"{b}{b}"))))
    return made


def run(config, tmp_path, name):
    config.data.data_dir = str(tmp_path / "data")
    config.loader.threads = 1
    system, workdir = make_system(to_dict(config)), WorkDir(tmp_path / name)
    workdir.path.mkdir()
    system.train(workdir)
    return system, workdir, read_result(str(workdir.path / "result.json"))


def test_it_learns_and_nearest_neighbours_are_ranked_by_it(tmp_path, monkeypatch):
    sources = {
        split: ListSource(echoes(count, seed), f"list:{split}")
        for seed, (split, count) in enumerate({"train": 96, "dev": 40, "test": 40}.items())
    }

    def opened(options, split, **_):
        return sources[split]

    monkeypatch.setattr("mmjax.task_data.open_source", opened)
    monkeypatch.setattr("mmjax.baselines.unlearned.open_source", opened)
    sizes = {"context_max_length": 16, "response_max_length": 16}

    config = respond.get_config("model=transresnet,demo")
    config.task.update(**sizes, pool=3)
    config.model.update(vocab_size=300, hidden_dim=16, head_dropout=0.0)
    config.train.update(global_batch_size=32, total_epochs=None, total_steps=60, length_window=1)
    config.optim.learning_rate = 1e-2
    config.eval.update(every_epochs=None, batch_size=40, metric="hits@1/3")
    config.observe.tensorboard = False
    system, workdir, result = run(config, tmp_path, "ranker")
    assert result.metrics["dev"]["hits@1"] > 90
    answer = system.predict(workdir, "dev", 2)[0]
    assert answer["answer"] == answer["references"][0] and len(answer["top"]) == 2

    place = f"run://{workdir.path}"
    config = respond.get_config(f"model=knn,demo,encoder={place},ranker={place}")
    config.task.update(**sizes)
    config.eval.batch_size = 40
    config.knn.top = 1000  # more than there are
    system, workdir, result = run(config, tmp_path, "knn")
    assert result.task == "response"
    assert result.metrics["test"]["exact"] > 90
    assert {"bleu", "dialogue", "ids"} <= set(result.per_example["test"])
    saved = json.loads((workdir.path / "result.json").read_text())
    assert [p["kind"] for p in saved["parents"]] == ["encoder", "ranker"]

    found = system.predict(workdir, "test", 3)
    assert [len({t["response"] for t in answer["top"]}) for answer in found] == [3] * 40
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(answer) + "\n" for answer in found))
    assert read_answers(file, "generation")[0]["id"] == "d0#1"

    config.knn.ranker = f"run://{tmp_path / 'nothing'}"
    with pytest.raises(UserError, match="there is no artifact in"):
        run(config, tmp_path, "wrong")
    about = tmp_path / "ranker" / "artifact" / "artifact.json"
    about.write_text(about.read_text().replace('"response_ranking"', '"intent"'))
    config.knn.ranker = place
    with pytest.raises(UserError, match=r"config\.knn\.\w+=run://.* has learned the task 'intent'"):
        run(config, tmp_path, "other")
