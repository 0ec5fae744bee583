"""Cross-validation: the folds' tests are pooled, with the test of whether it could be chance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmjax.crossval import _dataset, pooled, read_fold, run
from mmjax.errors import UserError


def write(path, scores, gold, top=None):
    photos = [f"p{p}" for p in range(scores.shape[1])]
    rows = []
    for row, right in zip(scores, gold, strict=True):
        order = np.argsort(-row)[:top]
        found = [{"photo": photos[p], "score": float(row[p])} for p in order]
        rows.append(json.dumps({"photo": photos[right], "top": found}))
    path.write_text("\n".join(rows) + "\n")


def test_the_scores_of_a_fold_are_those_that_were_predicted(tmp_path):
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(7, 12)), rng.integers(0, 12, 7)
    write(tmp_path / "test.jsonl", scores, gold)
    found, right = read_fold(tmp_path / "test.jsonl")
    names = sorted(f"p{p}" for p in range(12))
    order = [int(name[1:]) for name in names]
    np.testing.assert_array_equal(found, scores[:, order])
    assert [order[r] for r in right] == gold.tolist()


def test_answers_that_leave_candidates_out_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "test.jsonl", rng.normal(size=(7, 12)), np.zeros(7, int), top=4)
    with pytest.raises(UserError, match="does not hold every candidate"):
        read_fold(tmp_path / "test.jsonl")


def test_pooled_figures_are_those_of_all_queries_together():
    rng = np.random.default_rng(0)
    folds = []
    for photos in (11, 14, 20):
        gold = np.repeat(np.arange(photos), 2)
        folds.append((rng.normal(size=(len(gold), photos)) + np.eye(photos)[gold], gold))
    result = pooled(folds, ks=(1, 5))
    rows = [(row, g) for scores, gold in folds for row, g in zip(scores, gold, strict=True)]
    ranks = [1 + (row > row[g]).sum() for row, g in rows]
    assert result["metrics"]["test"]["recall@5"] == pytest.approx(
        100 * np.mean(np.array(ranks) <= 5)
    )
    assert result["metrics"]["test"]["median_rank"] == pytest.approx(np.median(ranks))
    low, high = result["intervals"]["test"]["recall@5"]
    assert low < result["metrics"]["test"]["recall@5"] < high
    how = result["cross_validation"]
    assert how["queries"] == [22, 28, 40] and how["candidates"] == [11, 14, 20]
    found = how["permutation_test"]["recall@5"]
    assert found["p_value"] < 0.01
    assert found["observed"] == pytest.approx(result["metrics"]["test"]["recall@5"])


@pytest.mark.parametrize("content", [None, '{"photo": "a"', '{"photo": "a", "top": 3}', "[]"])
def test_answers_that_cannot_be_read_are_a_users_error(tmp_path, content):
    if content is not None:
        (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(UserError, match="run the same command again"):
        read_fold(tmp_path / "test.jsonl")


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, capsys):
    photos = ["--config=configs/retrieval.py:model=de_img,dataset=photo_folder"]
    assert run(["--folds=2", f"--workdir={tmp_path}", "--", *photos]) == 2
    assert "--folds must be at least 3" in capsys.readouterr().err
    assert run([f"--workdir={tmp_path}", "--", "--config=configs/retrieval.py:demo"]) == 2
    assert "name a dataset that has folds" in capsys.readouterr().err
    (tmp_path / "fold-9").mkdir()
    assert run([f"--workdir={tmp_path}", "--", *photos]) == 2
    assert "is of another number of folds" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(["--", *photos])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=configs/retrieval.py:demo"],
        ["--config=configs/retrieval.py:dataset=photo_folder/fold-1-of-5"],
        [],
    ],
)
def test_a_dataset_without_folds_is_refused(arguments):
    with pytest.raises(UserError, match="name a dataset that has folds"):
        _dataset(arguments)


def test_the_config_may_stand_apart_from_its_flag():
    assert _dataset(["--config", "configs/retrieval.py:dataset=photo_folder"]) == "photo_folder"


def test_the_dataset_is_the_one_that_was_named_last():
    config = "--config=configs/retrieval.py:model=de_img,dataset=photo_folder"
    assert _dataset([config]) == "photo_folder"
    assert _dataset([config, "--config.data.dataset=other"]) == "other"
