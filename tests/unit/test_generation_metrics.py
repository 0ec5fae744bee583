"""BLEU, ROUGE, exact match and distinct-n against brute force and, for BLEU, two libraries."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import nltk.translate.bleu_score as nltk_bleu
import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer
from rouge_score import tokenizers as rouge_tokenizers

from mmjax.data.chinese import characters, words
from mmjax.metrics.base import Metric
from mmjax.metrics.bleu import (
    bleu_counts,
    bleu_sample,
    corpus_bleu,
    sentence_bleu,
    single_order_bleu,
)
from mmjax.metrics.bootstrap import bootstrap_interval, paired_bootstrap
from mmjax.metrics.distinct import distinct, ngram_hashes, own_distinct
from mmjax.metrics.generation import GenerationMetric, answers
from mmjax.metrics.rouge import rouge_f

SAID = [
    "亲，[数字x]天内可以退货的哦#E-s[数字x]",
    "请您稍等，正在查询",
    "好的",
    "",
    "这款商品今天能发货，预计明天送达，请您耐心等待。",
]
RIGHT = [
    ["[数字x]天内可以退的", "亲，可以退货哦#E-s[数字x]", "可以"],
    ["请您稍等一下，正在为您查询哦"],
    ["好的", "嗯"],
    ["不客气"],
    ["您好，这款商品今天可以发货，明天能送达。", "请耐心等待，预计明天送达"],
]
RNG = np.random.default_rng(0)


def made_up(count: int) -> tuple[list[str], list[list[str]]]:
    """Texts of few characters, so that they have n-grams in common."""

    def text() -> str:
        return "".join(RNG.choice(["你", "我", "他", "。", "[数字x]"], RNG.integers(3, 15)))

    return [text() for _ in range(count)], [
        [text() for _ in range(RNG.integers(1, 4))] for _ in range(count)
    ]


def computed(said, right) -> dict[str, float]:
    metric = GenerationMetric()
    return metric.compute(metric.update(metric.init(), answers(said, right), {}))


@pytest.mark.parametrize(("name", "cut"), [("bleu", characters), ("bleu@word", words)])
def test_bleu_is_sacrebleus_of_the_corpus_whatever_is_a_token(name, cut):
    hypotheses = [" ".join(cut(text)) for text in SAID]
    most = max(map(len, RIGHT))
    streams = [
        [" ".join(cut(texts[k])) if k < len(texts) else None for texts in RIGHT]
        for k in range(most)
    ]
    expected = sacrebleu.corpus_bleu(hypotheses, streams, tokenize="none", force=True).score
    assert computed(SAID, RIGHT)[name] == pytest.approx(expected, abs=1e-9)


def test_bleu_is_nltks_too():
    said, right = made_up(80)
    # nltk counts an n-gram of an answer that is too short to have one.
    long = [k for k, text in enumerate(said) if len(characters(text)) >= 4]
    said, right = [said[k] for k in long], [right[k] for k in long]
    counts = bleu_counts([characters(t) for t in said], [[characters(t) for t in r] for r in right])
    expected = 100 * nltk_bleu.corpus_bleu(
        [[characters(t) for t in r] for r in right], [characters(t) for t in said]
    )
    assert corpus_bleu(counts.sum(0)[None])[0] == pytest.approx(expected, abs=1e-9)


def test_bleu_of_one_order_is_nltks_with_method1_for_every_pair():
    # Also answers without a match, and those too short to have an n-gram.
    said, right = made_up(40)
    said, right = [*said, *SAID, "你", "嗯嗯"], [*right, *RIGHT, ["你我他。你"], ["好的"]]
    counts = bleu_counts([characters(t) for t in said], [[characters(t) for t in r] for r in right])
    smoothing = nltk_bleu.SmoothingFunction(epsilon=0.1).method1

    def expected(weights) -> list[float]:
        return [
            100
            * nltk_bleu.corpus_bleu(
                [[characters(t) for t in texts]], [characters(text)], weights, smoothing
            )
            for text, texts in zip(said, right, strict=True)
        ]

    found = computed(said, right)
    for n in (2, 3, 4):
        single = expected(tuple(float(k == n) for k in (1, 2, 3, 4)))
        np.testing.assert_allclose(single_order_bleu(counts, n), single, atol=1e-9)
        assert found[f"bleu{n}@single"] == pytest.approx(np.mean(single))
    assert (counts[:, 3] == 0).any() and (counts[:, 7] == 0).any()
    np.testing.assert_allclose(corpus_bleu(counts, "method1"), expected((0.25,) * 4), atol=1e-9)
    with pytest.raises(ValueError, match="no order 5: 1 to 4"):
        single_order_bleu(counts, 5)


def test_the_mean_of_bleu_is_over_answers_by_sacrebleus_own():
    cut = [" ".join(characters(text)) for text in SAID]
    right = [[" ".join(characters(text)) for text in texts] for texts in RIGHT]
    own = [
        sacrebleu.sentence_bleu(text, texts, tokenize="none", use_effective_order=True).score
        for text, texts in zip(cut, right, strict=True)
    ]
    assert computed(SAID, RIGHT)["bleu@mean"] == pytest.approx(np.mean(own))


def test_bleu_from_its_definition():
    answer, reference = list("甲乙丙丁戊甲乙"), list("甲乙丙丁己甲乙甲")
    precisions = []
    for n in (1, 2, 3, 4):
        mine, theirs = (
            Counter(tuple(t[k : k + n]) for k in range(len(t) - n + 1)) for t in (answer, reference)
        )
        precisions.append(sum((mine & theirs).values()) / sum(mine.values()))
    expected = 100 * math.exp(1 - 8 / 7) * math.prod(precisions) ** 0.25
    counts = bleu_counts([answer], [[reference]])
    assert sentence_bleu(counts)[0] == pytest.approx(expected, abs=1e-9)


def test_a_masked_number_is_one_token_in_bleu():
    counts = bleu_counts([characters("退[数字x]元")], [[characters("退[数字x]天")]])
    assert counts[0].tolist() == [2, 1, 0, 0, 3, 2, 1, 0, 3, 3]


def test_a_short_answer_alone_is_judged_by_the_orders_that_it_has():
    counts = bleu_counts([list("好的")], [[list("好的")]])
    assert corpus_bleu(counts)[0] == 0
    assert sentence_bleu(counts)[0] == pytest.approx(100)


def test_without_smoothing_an_order_without_a_match_makes_bleu_zero():
    counts = bleu_counts([list("甲乙丙丁")], [[list("甲丙乙丁")]])
    assert corpus_bleu(counts, "none")[0] == 0
    assert corpus_bleu(counts)[0] > 0


def test_tokens_that_look_like_white_space_are_tokens():
    counts = bleu_counts([["\x1c", "\u2028", "甲"]], [[["\x1c", "\u2028", "甲"]]])
    assert counts[0, :4].tolist() == [3, 2, 1, 0]


def longest_common(a: list[str], b: list[str]) -> int:
    """By trying every subsequence of the shorter one."""
    a, b = sorted((a, b), key=len)
    for size in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, size):
            rest = iter(b)
            if all(token in rest for token in chosen):
                return size
    return 0


def f_of(matches: int, a: int, b: int) -> float:
    return 100 * 2 * matches / (a + b) if a + b and matches else 0.0


def test_rouge_from_its_definition_for_the_best_reference():
    said, right = made_up(20)
    expected = []
    for text, texts in zip(said, right, strict=True):
        answer, scores = characters(text)[:10], []
        for reference in (characters(t)[:10] for t in texts):
            row = []
            for n in (1, 2):
                mine, theirs = (
                    Counter(tuple(t[k : k + n]) for k in range(len(t) - n + 1))
                    for t in (answer, reference)
                )
                matches = sum((mine & theirs).values())
                row.append(f_of(matches, sum(mine.values()), sum(theirs.values())))
            row.append(f_of(longest_common(answer, reference), len(answer), len(reference)))
            scores.append(row)
        expected.append(np.max(scores, 0))

    def cut(text: str) -> list[str]:
        return characters(text)[:10]

    found = rouge_f(said, right, cut)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert 0 < found.mean() < 100


def test_chinese_is_not_lost_to_rouges_own_tokenizer():
    assert rouge_f(["好的"], [["好的"]], characters).tolist() == [[100, 100, 100]]


def test_rouge_l_is_googles_also_of_texts_of_ten_thousand_characters():
    said, right = made_up(20)

    class Characters(rouge_tokenizers.Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return characters(text)

    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Characters())
    expected = [
        100 * max(scorer.score(r, text)["rougeL"].fmeasure for r in texts)
        for text, texts in zip(said, right, strict=True)
    ]
    np.testing.assert_allclose(rouge_f(said, right, characters, ("rougeL",))[:, 0], expected)
    long = "退换货" * 3333
    assert rouge_f([long], [[f"{long}吗", ""]], characters, ("rougeL",)) > 99.9
    assert rouge_f([""], [["好"]], characters, ("rougeL",)) == 0


def test_rouge_of_a_summary_takes_each_sentence():
    # The second sentence comes first: a subsequence of the whole text has only one of them.
    answer, reference = "明天发货。今天付款。", "今天付款。明天发货。"
    whole, by_sentence = rouge_f([answer], [[reference]], characters, ("rougeL", "rougeLsum"))[0]
    assert whole == pytest.approx(50)
    assert by_sentence == pytest.approx(100)


def test_distinct_in_its_definitions():
    said = ["好的好的", "好"]
    tokens = [list(text) for text in said]
    bigrams = ngram_hashes(tokens, 2)
    assert distinct(ngram_hashes(tokens, 1)) == pytest.approx(100 * 2 / 5)
    assert distinct(bigrams) == pytest.approx(100 * 2 / 3)
    assert distinct(bigrams, 5) == pytest.approx(100 * 2 / 5)
    np.testing.assert_allclose(own_distinct(tokens, 2), [100 * 2 / 3, 0])
    found = computed(said, [["好"], ["好"]])
    assert found["distinct2"] == pytest.approx(100 * 2 / 3)
    assert found["distinct2@tokens"] == pytest.approx(40)
    assert found["distinct1@mean"] == pytest.approx(75)


def test_distinct_counts_as_many_as_a_set_of_ngrams():
    said = [characters(text) for text in made_up(200)[0]]
    for n in (1, 2):
        grams = [tuple(t[k : k + n]) for t in said for k in range(len(t) - n + 1)]
        assert distinct(ngram_hashes(said, n)) == pytest.approx(100 * len(set(grams)) / len(grams))


def test_an_answer_is_exact_where_it_is_any_of_the_references_but_for_white_space():
    assert computed(["好 的", "好", ""], [["嗯", "好的"], ["好吧"], [""]])["exact"] == (
        pytest.approx(200 / 3)
    )


def test_it_keeps_the_contract_of_a_metric():
    metric = GenerationMetric()
    assert isinstance(metric, Metric)
    whole = metric.update(metric.init(), answers(SAID, RIGHT), {})
    halves = [
        metric.update(metric.init(), answers(SAID[part], RIGHT[part]), {})
        for part in (slice(0, 2), slice(2, None))
    ]
    assert metric.compute(metric.merge(*halves)) == pytest.approx(metric.compute(whole))
    padded = metric.update(
        metric.init(),
        answers([*SAID, "填充"], [*RIGHT, ["填充"]]),
        {"weight": np.array([1, 1, 1, 1, 1, 0])},
    )
    assert metric.compute(padded) == pytest.approx(metric.compute(whole))
    assert set(metric.compute(whole)) == set(metric.names)
    with pytest.raises(ValueError, match="no answers"):
        metric.compute(metric.init())


def test_no_reference_is_an_error():
    with pytest.raises(ValueError, match="without a reference"):
        computed(["好"], [[]])
    with pytest.raises(ValueError, match="2 texts and 1 lists"):
        answers(["好", "好"], [["好"]])


def test_samples_give_the_figures_back():
    metric = GenerationMetric()
    state = metric.update(metric.init(), answers(SAID, RIGHT), {})
    figures = metric.compute(state)
    for name, sample in metric.samples(state).items():
        low, high = bootstrap_interval(sample, samples=200)
        assert low <= figures[name] <= high, name


def test_the_interval_of_bleu_is_that_of_drawing_the_corpus_anew():
    said, right = made_up(20)
    tokens = [characters(t) for t in said], [[characters(t) for t in r] for r in right]
    sample = bleu_sample(bleu_counts(*tokens))
    rng = np.random.default_rng(3)
    figures = []
    for drawn in rng.integers(20, size=(50, 20)):
        counts = bleu_counts([tokens[0][k] for k in drawn], [tokens[1][k] for k in drawn])
        figures.append(corpus_bleu(counts.sum(0)[None])[0])
    found = bootstrap_interval(sample, samples=50, seed=3)
    np.testing.assert_allclose(found, np.quantile(figures, [0.025, 0.975]), atol=1e-9)


def test_two_systems_are_compared_on_the_same_draws():
    said, right = made_up(40)
    better = [
        texts[0] if k % 2 else text for k, (text, texts) in enumerate(zip(said, right, strict=True))
    ]
    first, second = (
        bleu_sample(
            bleu_counts([characters(t) for t in side], [[characters(t) for t in r] for r in right])
        )
        for side in (better, said)
    )
    difference, low, high = paired_bootstrap(first, second, samples=200)
    assert difference == pytest.approx(first.value - second.value)
    assert 0 < low < difference < high
    with pytest.raises(ValueError, match="differ in number"):
        paired_bootstrap(first, second.ordered(np.arange(3)))
