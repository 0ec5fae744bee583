"""A closer look at proposed photos: what is read, what is learned from, and how it is judged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs.rerank import get_config
from mmjax.config import to_dict
from mmjax.data.candidates import CandidateSource, candidates_file
from mmjax.data.examples import SkipRecord
from mmjax.data.index import build_index
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.metrics.retrieval import rank_counts_from_scores, recall_at_k
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.tasks.rerank import STRIDE, RerankOptions, RerankTask
from mmjax.tasks.retrieval_examples import query_text
from mmjax.tasks.text_classifier import ModelOptions
from mmjax.workdir import WorkDir
from tests.page_reader import Page

COLOURS = ("red", "green", "blue", "black", "white", "brown")


def dialogues(count=12, seed=0, photos=8, red=0.0):
    """Somebody names a colour and shares a photo of it, of which there are two of each colour.

    Args:
      red: how often, beside its share of the rest.
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        k = int(rng.integers(2 if rng.random() < red else photos))
        colour = COLOURS[k // 2]
        photo = Photo(f"p{k}", (colour, "thing"))
        said = (Turn(1, "what is it"), Turn(0, f"it is {colour}"), Turn(0, "", (photo,)))
        made.append(Dialogue(f"d{i}", said))
    return made


def predictions(source: ListSource, scores: np.ndarray, pool: list[Photo], top: int) -> list[dict]:
    """What `--mode=predict` writes for scores [N, P] of a source with one photo per dialogue."""
    lines = []
    for i, row in enumerate(scores):
        (own,) = (k for k, photo in enumerate(pool) if photo.id == _own(source[i]).id)
        best = np.argsort(-row, kind="stable")[:top]
        lines.append(
            {
                "id": source[i].id,
                "photo": pool[own].id,
                "above": int((row > row[own]).sum()),
                "equal": int((row == row[own]).sum()),
                "top": [
                    {"photo": pool[k].id, "labels": list(pool[k].labels), "score": float(row[k])}
                    for k in best
                ],
            }
        )
    return lines


def write(folder, split, lines):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def _own(dialogue: Dialogue) -> Photo:
    return dialogue.turns[-1].photos[0]


def _pool(source: ListSource) -> list[Photo]:
    found = {_own(source[i]).id: _own(source[i]) for i in range(len(source))}
    return [found[name] for name in sorted(found)]


@pytest.fixture
def proposed(tmp_path):
    """A source, random scores of it, and their file: (source, scores, pool, file)."""
    source = ListSource(dialogues(), "list:dev")
    pool = _pool(source)
    # Photos with the same labels have the same score, as a retriever that reads labels gives them.
    by_labels = {photo.labels: k for k, photo in enumerate(pool)}
    scores = np.random.default_rng(1).normal(size=(len(source), len(pool)))
    scores = scores[:, [by_labels[photo.labels] for photo in pool]].round(6)
    return source, scores, pool, write(tmp_path, "dev", predictions(source, scores, pool, 4))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["what is it", "it is red", "green blue black white brown thing", "me: you:"]
    train_tokenizer([f"{a} {b}" for a in words for b in words], 300, folder)
    return folder


def task_of(tokenizer, **options) -> RerankTask:
    made = RerankTask(
        RerankOptions(candidates="run://none", **{"max_length": 64, **options}),
        ModelOptions(text="bert-tiny"),
    )
    made.load(tokenizer)
    return made


def test_what_looks_alike_is_proposed_once_and_counted(proposed):
    source, scores, pool, file = proposed
    found = CandidateSource(source, file, top=4)
    for i in range(len(source)):
        (proposal,) = found[i].proposals
        best = [pool[k] for k in np.argsort(-scores[i], kind="stable")[:4]]
        assert [p.labels for p in proposal.photos] == list(dict.fromkeys(p.labels for p in best))
        assert list(proposal.scores) == sorted(proposal.scores, reverse=True)
        alike = [sum(p.labels == photo.labels for p in pool) for photo in proposal.photos]
        assert list(proposal.alike) == alike


def test_a_dialogue_without_an_answer_is_refused_where_it_is_judged(proposed):
    source, _, _, file = proposed
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"no answer to 1 of the 12 shared photos of .*such as d11"):
        CandidateSource(source, file, top=4)
    learned = CandidateSource(source, file, top=4, negatives=1)
    assert learned[11].proposals == (None,) and any(learned[i].proposals[0] for i in range(11))


def test_every_share_of_a_dialogue_needs_its_answer(tmp_path):
    shares = tuple(Turn(0, "", (Photo(name, (name,)),)) for name in ("p0", "p1"))
    source = ListSource([Dialogue("d", (Turn(0, "look"), *shares))], "list:dev")
    line = {"photo": "p0", "above": 0, "equal": 1, "top": [{"photo": "p0", "score": 1.0}]}
    file = write(tmp_path, "dev", [{**line, "id": "d"}])
    with pytest.raises(UserError, match=r"no answer to 1 of the 2 shared photos .* such as d#1"):
        CandidateSource(source, file, top=1)
    write(tmp_path, "dev", [{**line, "id": "d"}, {**line, "id": "d#1", "photo": "p1"}])
    assert None not in CandidateSource(source, file, top=1)[0].proposals


def test_training_sees_the_shared_photo_and_others_that_look_different(proposed):
    source, _, _, file = proposed
    found = CandidateSource(source, file, top=4, negatives=1)
    again = CandidateSource(source, file, top=4, negatives=1)
    judged, learned = CandidateSource(source, file, top=4), 0
    for i in range(len(source)):
        (proposal,) = found[i].proposals
        assert found[i] == again[i]
        # What was not found is no lesson: all that was proposed would be worse than it.
        assert (proposal is None) == (judged[i].proposals[0].right < 0)
        if proposal is not None:
            learned += 1
            labels = [photo.labels for photo in proposal.photos]
            assert labels[proposal.right] == _own(source[i]).labels
            assert len(labels) == len(set(labels)) <= 2
    assert 0 < learned < len(source)
    assert found.fingerprint == again.fingerprint
    assert found.fingerprint != CandidateSource(source, file, top=4).fingerprint


def test_a_pair_is_the_end_of_the_dialogue_and_the_start_of_the_labels(proposed, tokenizer):
    source, _, _, file = proposed
    dialogue = CandidateSource(source, file, top=4)[0]
    task, words = task_of(tokenizer), load_tokenizer(tokenizer)
    features = task.featurize(dialogue, 1, None)
    query = words.encode(query_text(source[0], 0, "sharer"))
    labels = words.encode(", ".join(dialogue.proposals[0].photos[1].labels))
    want = [words.cls_id, *query, words.sep_id, *labels, words.sep_id]
    assert features["text"].tolist() == want
    segments = [0] * (len(query) + 2) + [1] * (len(labels) + 1)
    assert features["speaker"].tolist() == segments

    short = task_of(tokenizer, max_length=8, label_max_length=2).featurize(dialogue, 1, None)
    assert short["text"].tolist() == [
        words.cls_id, *query[-3:], words.sep_id, *labels[:2], words.sep_id
    ]  # fmt: skip


def test_the_index_knows_the_lengths_that_featurizing_makes(proposed, tokenizer):
    source, _, _, file = proposed
    task, found = task_of(tokenizer), CandidateSource(source, file, top=4)
    index = build_index(task, found)
    for record, sub, length in zip(index.record, index.sub, index.lengths["text"], strict=True):
        assert len(task.featurize(found[int(record)], int(sub), None)["text"]) == length
    assert set(index.sub // STRIDE) == {0}


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_ranks_are_those_of_all_photos_with_the_proposed_ones_sorted_anew(
    proposed, tokenizer, ties
):
    source, scores, pool, file = proposed
    task, found = task_of(tokenizer, ties=ties), CandidateSource(source, file, top=4)
    index = build_index(task, found)
    rng = np.random.default_rng(2)
    fit = {labels: rng.normal() for labels in {photo.labels for photo in pool}}
    labels = [
        found[int(r)].proposals[0].photos[int(s)].labels
        for r, s in zip(index.record, index.sub, strict=True)
    ]
    given = {
        "fit": np.array([fit[name] for name in labels], np.float32),
        "proposed": np.zeros(len(labels), np.float32),
    }
    evaluation = task.evaluator().evaluate(index, lambda name, examples: given[name][examples])

    # By hand: what stands among the first four, with all that looks like it, goes to the front.
    final = scores - 1000
    for i, row in enumerate(scores):
        front = {pool[k].labels for k in np.argsort(-row, kind="stable")[:4]}
        for k, photo in enumerate(pool):
            if photo.labels in front:
                final[i, k] = np.float32(fit[photo.labels])
    gold = np.array([pool.index(_own(source[i])) for i in range(len(source))])
    counts = rank_counts_from_scores(final, gold)
    for k in (1, 5, 10):
        want = 100 * recall_at_k(counts, k, ties).mean()
        assert evaluation.metrics[f"recall@{k}"] == pytest.approx(want)
    front = [(final[i, k] > -500) for i, k in enumerate(gold)]
    assert evaluation.metrics["proposed_recall"] == pytest.approx(100 * np.mean(front))


def test_the_mix_is_chosen_where_it_is_asked_for_and_kept_elsewhere(proposed, tokenizer):
    source, _, _, file = proposed
    task, found = task_of(tokenizer), CandidateSource(source, file, top=4)
    index = build_index(task, found)
    # The proposer is right here, the network says nothing: the more of it the better.
    right = index.targets["right"].astype(np.float32)
    given = {"fit": -0.3 * right, "proposed": right}
    chosen = task.evaluator().evaluate(index, lambda name, e: given[name][e]).metrics
    assert chosen["mix"] > 1
    assert chosen["recall@1@mixed"] >= chosen["recall@1"]
    fixed = type(task.evaluator())(mix=0.0).evaluate(index, lambda name, e: given[name][e]).metrics
    assert fixed["recall@1@mixed"] == fixed["recall@1"]


def test_what_has_no_labels_and_who_said_nothing_is_answered_and_ranked_like_the_others(
    tmp_path, tokenizer
):
    """A run that sees pixels, or reads both speakers, proposes for them too."""
    plain = dialogues()
    unlabelled = Turn(0, "", (Photo("bare"),))
    silent = Turn(0, "", (Photo("shared in silence", ("pink",)),))
    plain[3] = Dialogue("d3", (*plain[3].turns[:2], unlabelled))
    plain[7] = Dialogue("d7", (plain[7].turns[0], silent))
    source = ListSource(plain, "list:dev")
    pool = _pool(source)
    by_labels = {photo.labels: k for k, photo in enumerate(pool)}
    scores = np.random.default_rng(1).normal(size=(len(source), len(pool)))
    scores = scores[:, [by_labels[photo.labels] for photo in pool]].round(6)
    top = len(pool)
    file = write(tmp_path, "dev", predictions(source, scores, pool, top))
    task, found = task_of(tokenizer), CandidateSource(source, file, top=top)
    index = build_index(task, found)
    split = Split(found, index)
    rng = np.random.default_rng(2)
    fit = {labels: np.float32(rng.normal()) for labels in by_labels}
    of_pair = np.array(
        [
            fit[found[int(r)].proposals[0].photos[int(s)].labels]
            for r, s in zip(index.record, index.sub, strict=True)
        ]
    )
    answers = task.answers(split, lambda name, examples: of_pair[examples], 2)
    # Everything was proposed, so that the network's scores alone say the ranks.
    assert [answer["id"] for answer in answers] == [dialogue.id for dialogue in plain]
    for dialogue, answer in zip(plain, answers, strict=True):
        own = _own(dialogue)
        assert (answer["photo"], answer["labels"]) == (own.id, list(own.labels))
        assert answer["above"] == sum(fit[photo.labels] > fit[own.labels] for photo in pool)
        assert answer["equal"] == sum(fit[photo.labels] == fit[own.labels] for photo in pool)
        best = sorted(fit.values(), reverse=True)[:2]
        assert [photo["score"] for photo in answer["top"]] == pytest.approx(best)
        assert [fit[tuple(photo["labels"])] for photo in answer["top"]] == best
    assert answers[7]["asked"] == [] and answers[7]["query"] == ""
    task.page(tmp_path / "page.html", split, answers, "t")
    about = Page(tmp_path / "page.html").inside["dd"]
    assert about[:2] == ["list:dev", str(len(pool))]


def test_a_score_that_is_no_number_is_no_good_rank(proposed, tokenizer):
    source, _, _, file = proposed
    task = task_of(tokenizer)
    index = build_index(task, CandidateSource(source, file, top=4))
    fit = np.full(len(index), np.nan, np.float32)
    with pytest.raises(ValueError, match="no finite number"):
        task.evaluator().evaluate(index, lambda name, examples: fit[examples])


def test_a_photo_that_nobody_proposed_for_is_skipped(tokenizer):
    with pytest.raises(SkipRecord, match="proposed"):
        list(task_of(tokenizer).examples(dialogues(1)[0]))


def test_whose_turns_are_whose_is_said_in_words():
    turns = [(1, "hello"), (0, "hi "), (0, "so"), (1, "yes"), (0, "look")]
    dialogue = Dialogue("d", (*(Turn(*t) for t in turns), Turn(0, "", (Photo("p", ("Dog",)),))))
    assert query_text(dialogue, 0, "marked") == "you: hello me: hi so you: yes me: look"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 1, is no answer"),
        ("[1]", "line 1, is no answer"),
        ("", "holds no answer"),
        ('{"id": "d0"}', "d0 is not one of photo retrieval"),
        ('{"id": "d0", "photo": "p0", "above": 0, "equal": 1, "top": [{"photo": "p0", '
         '"score": NaN}]}', "no finite number"),
        ('{"id": "d0", "photo": "zz", "above": 0, "equal": 1, "top": [{"photo": "p0", '
         '"score": 1}]}', "'zz', which list:dev does not have"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_answer_is_named_with_the_line(tmp_path, line, message):
    (tmp_path / "dev.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        CandidateSource(ListSource(dialogues(), "list:dev"), tmp_path / "dev.jsonl", top=1)


def test_too_few_candidates_are_told(proposed):
    source, _, _, file = proposed
    with pytest.raises(UserError, match="--top=6"):
        CandidateSource(source, file, top=6)


def test_a_run_that_did_not_answer_is_told_how(tmp_path):
    with pytest.raises(UserError, match=r"--mode=predict --split=train"):
        candidates_file(f"run://{tmp_path}", "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"candidates": ""}, "names no run"), ({"label_max_length": 62}, "no room")],
)
def test_options_that_cannot_be_are_named(tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        RerankTask(
            RerankOptions(**{"candidates": "run://x", "max_length": 64, **options}),
            ModelOptions(text="bert-tiny"),
        )


def test_it_learns_which_photos_are_shared(tmp_path, monkeypatch):
    sources = {
        split: ListSource(dialogues(60, seed, photos=12, red=0.9), f"list:{split}")
        for seed, split in enumerate(("train", "dev", "test"))
    }
    monkeypatch.setattr("mmjax.task_data.open_source", lambda options, split, **_: sources[split])
    for split, source in sources.items():
        pool = _pool(source)
        scores = np.random.default_rng(3).normal(size=(len(source), len(pool)))
        write(tmp_path / "other", split, predictions(source, scores, pool, 8))
    config = get_config("demo")
    config.task.update(
        candidates=str(tmp_path / "other"), top=8, negatives=3, max_length=32, label_max_length=8
    )
    config.model.vocab_size = 300
    config.train.update(global_batch_size=32, total_epochs=None, total_steps=20, length_window=1)
    config.eval.update(every_epochs=None, batch_size=64)
    config.observe.tensorboard = False
    config.data.data_dir = str(tmp_path / "data")
    config.loader.threads = 1
    system, workdir = make_system(to_dict(config)), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    system.train(workdir)
    metrics = read_result(str(workdir.path / "result.json")).metrics["dev"]
    # Nearly all of them are red, and there are two of those.
    assert metrics["recall@5"] > 80
    assert metrics["recall@1"] > 40

    answers = system.predict(workdir, "dev", 3)
    assert [answer["id"] for answer in answers] == [f"d{i}" for i in range(60)]
    found = [answer["labels"] in [photo["labels"] for photo in answer["top"]] for answer in answers]
    assert 100 * np.mean(found) > 80
