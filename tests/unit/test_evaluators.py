"""R@K over the photos of a split, against brute force over every query and photo."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmjax.data.index import ExampleIndex, build_index
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.errors import UserError
from mmjax.evaluators import RetrievalEvaluator, TurnEvaluator, candidate_pool
from mmjax.tasks.retrieval import RetrievalOptions, RetrievalText

# (photo, labels) of each example: "a" and "d" are shared twice, "b" and "c" look alike to a model
# that sees labels, "e" has the same labels in another order, which such a model can tell apart.
SHARED = [
    ("a", ("Dog", "Tree")),
    ("b", ("Cat",)),
    ("a", ("Dog", "Tree")),
    ("c", ("Cat",)),
    ("d", ("Boat",)),
    ("e", ("Tree", "Dog")),
    ("d", ("Boat",)),
    ("f", ("Cake",)),
]
PHOTOS = dict(SHARED)


def index_of(shared=SHARED) -> ExampleIndex:
    return build_index(
        RetrievalText(RetrievalOptions()),
        ListSource(
            [
                Dialogue(f"d{i}", (Turn(0, f"text {i}"), Turn(0, "", (Photo(photo, labels),))))
                for i, (photo, labels) in enumerate(shared)
            ]
        ),
    )


class Model:
    """A random vector per example's query and per label text; remembers what it was asked for."""

    def __init__(self, seed=0, width=3):
        rng = np.random.default_rng(seed)
        self.queries = rng.normal(size=(len(SHARED), width)).astype(np.float32)
        # Keyed by the text a model reads: equal labels in equal order, equal vector.
        self.by_text = {
            labels: rng.normal(size=width).astype(np.float32)
            for labels in sorted(set(PHOTOS.values()))
        }
        self.embedded = []

    def photo_of(self, example: int) -> np.ndarray:
        return self.by_text[SHARED[example][1]]

    def __call__(self, name, examples):
        if name == "query":
            return self.queries[examples]
        self.embedded += [SHARED[i][1] for i in examples]
        return np.stack([self.photo_of(i) for i in examples])


def brute_force(model: Model, k: int) -> np.ndarray:
    """Expectation of a hit under random order of equal scores, query by query."""
    result = []
    for query, (own, labels) in zip(model.queries, SHARED, strict=True):
        score = {photo: float(query @ model.by_text[PHOTOS[photo]]) for photo in PHOTOS}
        above = sum(s > score[own] for s in score.values())
        level = [photo for photo in PHOTOS if PHOTOS[photo] == labels]
        assert all(score[p] == score[own] for p in level)
        result.append(min(max(k - above, 0), len(level)) / len(level))
    return np.array(result)


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_that_of_brute_force_over_distinct_photos(seed):
    model = Model(seed)
    evaluation = RetrievalEvaluator(ks=(1, 2, 5)).evaluate(index_of(), model)
    for k in (1, 2, 5):
        want = 100 * brute_force(model, k)
        np.testing.assert_allclose(evaluation.samples[f"recall@{k}"], want, atol=1e-9)
        np.testing.assert_allclose(evaluation.metrics[f"recall@{k}"], want.mean(), atol=1e-9)
    want = sum(100 * brute_force(model, k) for k in (1, 2, 5))
    np.testing.assert_allclose(evaluation.samples["recall_sum"], want, atol=1e-9)
    np.testing.assert_allclose(evaluation.metrics["recall_sum"], want.mean(), atol=1e-9)


def test_the_pool_has_each_photo_once_and_each_content_is_embedded_once():
    index = index_of()
    pool = candidate_pool(index, candidate="photo", content="content")
    assert len(pool.content_of) == len(PHOTOS) == 6
    assert len(pool.content) == len(set(PHOTOS.values())) == 5
    photos = [SHARED[i][0] for i in pool.example_of]
    assert sorted(photos) == sorted(PHOTOS)
    for example, gold in enumerate(pool.gold):
        assert photos[gold] == SHARED[example][0]
    for photo, content in zip(photos, pool.content_of, strict=True):
        assert SHARED[pool.content[content]][1] == PHOTOS[photo]
    model = Model()
    RetrievalEvaluator().evaluate(index, model)
    assert sorted(model.embedded) == sorted(set(PHOTOS.values()))


def test_photos_with_equal_labels_tie_exactly():
    counts = RetrievalEvaluator().evaluate(index_of(), Model()).per_example
    alike = [labels == ("Cat",) for _, labels in SHARED]
    np.testing.assert_array_equal(counts["equal"], np.where(alike, 2, 1))


@pytest.mark.parametrize("ties", ["expected", "pessimistic", "argsort_reversed"])
def test_a_model_that_knows_finds_all_that_can_be_told_apart(ties):
    model = Model(width=8)
    texts = sorted(model.by_text)
    for i, labels in enumerate(texts):
        model.by_text[labels] = np.eye(8, dtype=np.float32)[i]
    model.queries = np.stack([model.photo_of(i) for i in range(len(SHARED))])
    metrics = RetrievalEvaluator(ks=(1, 2), ties=ties).evaluate(index_of(), model).metrics
    assert metrics["recall@2"] == 100.0
    # Two of eight queries look for one of two photos that look alike.
    first = {"expected": 7 / 8, "pessimistic": 6 / 8, "argsort_reversed": 7 / 8}[ties]
    assert metrics["recall@1"] == pytest.approx(100 * first)


def test_a_model_that_says_the_same_of_all_scores_what_chance_does():
    model = Model()
    model.queries[:] = 0
    metrics = RetrievalEvaluator(ks=(1, 3)).evaluate(index_of(), model).metrics
    assert metrics["recall@1"] == pytest.approx(100 / 6)
    assert metrics["recall@3"] == pytest.approx(100 * 3 / 6)


def test_scores_and_embeddings_of_one_model_are_judged_alike():
    index, model = index_of(), Model()
    pool = candidate_pool(index, candidate="photo", content="content")
    contents = np.stack([model.photo_of(i) for i in pool.content])
    a = RetrievalEvaluator().evaluate(index, model)
    b = RetrievalEvaluator().evaluate_scores(index, model.queries @ contents.T)
    assert a.metrics == b.metrics
    for name, values in a.per_example.items():
        np.testing.assert_array_equal(values, b.per_example[name])


def test_an_answer_moved_by_one_is_noticed(monkeypatch):
    """Not a promise of the evaluator but of the tests above: they see a shifted gold index."""

    def shifted(index, **names):
        pool = candidate_pool(index, **names)
        return dataclasses.replace(pool, gold=np.roll(pool.gold, 1))

    monkeypatch.setattr("mmjax.evaluators.candidate_pool", shifted)
    model = Model()
    found = RetrievalEvaluator().evaluate(index_of(), model).samples["recall@1"]
    assert not np.allclose(found, 100 * brute_force(model, 1))


def test_the_metrics_have_the_names_that_are_promised():
    evaluator = RetrievalEvaluator(ks=(1, 7))
    assert set(evaluator.evaluate(index_of(), Model()).metrics) == set(evaluator.metric_names)


def test_a_split_in_which_nothing_is_shared_is_refused_before_anything_is_predicted():
    evaluator = TurnEvaluator(predictor="share", target="share", places="label")
    index = index_of()
    evaluator.check(dataclasses.replace(index, targets={"share": np.array([0, 1] * 4)}))
    with pytest.raises(UserError, match="no dialogue of this split shares a photo"):
        evaluator.check(dataclasses.replace(index, targets={"share": np.zeros(8, np.int64)}))
