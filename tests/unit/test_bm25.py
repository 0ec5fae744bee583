"""BM25: the figures of the real PhotoChat test set, and inputs the library does not expect."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mmjax.baselines.bm25 import VARIANTS, Bm25
from mmjax.errors import UserError
from mmjax.metrics.retrieval import RetrievalMetric, rank_counts_from_scores


@pytest.fixture(scope="module")
def photochat_test(shared_data):
    """(queries, label lists) of the test split: every turn before the share, of both speakers."""
    queries, labels = [], []
    for path in sorted((shared_data("photochat") / "test").glob("*.json")):
        for record in json.loads(path.read_text()):
            said = []
            for turn in record["dialogue"]:
                if turn["share_photo"]:
                    break
                said.append(turn["message"])
            queries.append(" ".join(said))
            labels.append(record["photo_description"].split("Objects in the photo:")[1])
    assert len(queries) == 1000
    return queries, labels


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("lucene", (7.99, 17.32, 23.01)),
        ("robertson", (7.79, 17.29, 22.84)),
        ("atire", (7.83, 17.21, 22.85)),
        ("bm25+", (7.83, 17.21, 22.85)),
    ],
)
def test_recall_on_the_real_test_set(photochat_test, variant, expected):
    queries, labels = photochat_test
    scores = Bm25(variant).fit(labels).scores(queries)
    metric = RetrievalMetric()
    counts = rank_counts_from_scores(scores, np.arange(len(labels)))
    result = metric.compute(metric.update(metric.init(), counts, {}))
    found = [result[f"recall@{k}"] for k in (1, 5, 10)]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_scores_equal_rank_bm25s_where_the_definitions_agree(photochat_test):
    from rank_bm25 import BM25Plus

    queries, labels = (x[:200] for x in photochat_test)
    words = re.compile("[a-z0-9]+").findall
    # Of the two libraries' variants this one has the same idf, delta and k1 + 1 in both.
    other = BM25Plus([words(x.lower()) for x in labels], k1=1.5, b=0.75, delta=0.5)
    found = Bm25("bm25+").fit(labels).scores(queries)
    expected = [other.get_scores(words(x.lower())) for x in queries]
    assert found.max() > 5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_empty_documents_and_unknown_words_score_without_a_crash(variant):
    model = Bm25(variant).fit(["", "a red car", "!?"])
    scores = model.scores(["", "zebra", "red CAR, red", "car red"])
    assert scores.shape == (4, 3) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores[:2], 0)
    assert scores[2].argmax() == scores[3].argmax() == 1
    assert scores[2, 1] > scores[3, 1]  # a repeated word counts twice


def test_documents_without_any_word_score_zero():
    np.testing.assert_array_equal(Bm25().fit(["", "..."]).scores(["car"]), np.zeros((1, 2)))


def test_an_empty_pool_or_an_unknown_variant_is_the_users_error():
    with pytest.raises(UserError, match="pool is empty"):
        Bm25().fit([])
    with pytest.raises(UserError, match="lucene"):
        Bm25("bm26")


def test_token_pattern_decides_what_a_word_is():
    documents = ["红色的车", "ice-cream"]
    assert not Bm25().fit(documents).scores(["车"]).any()
    characters = Bm25(token_pattern=r"[a-z0-9]+|[^\W_a-z0-9]").fit(documents)
    assert characters.scores(["车"])[0].argmax() == 0
