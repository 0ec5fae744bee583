"""Slots: which thing an answer names, and whether another photo would make it less likely."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mmjax.data.index import build_index
from mmjax.data.perturb_photos import BLANK, with_photos
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.errors import UserError
from mmjax.evaluators_generation import GenerationEvaluator
from mmjax.evaluators_slots import SLOT_FIGURES
from mmjax.metrics.bootstrap import as_sums
from mmjax.metrics.slots import Fillers


def test_the_longest_name_counts_and_latin_words_as_a_whole():
    fillers = Fillers(["shirt", "T-shirt", "hat", "衬衫", "长袖衬衫", "rain coat"])
    for text, names in (
        ("A t-shirt, that is a T-SHIRT.", {"t-shirt"}),
        ("shirts and that t-shirts", set()),
        ("a shirt (or hat)", {"shirt", "hat"}),
        ("这件长袖衬衫", {"长袖衬衫"}),
        ("衬衫和长袖衬衫", {"衬衫", "长袖衬衫"}),
        ("my rain coat.", {"rain coat"}),
        ("", set()),
    ):
        assert fillers.named(text) == names, text
    with pytest.raises(ValueError, match="no labels"):
        Fillers([])


def asked(name: str, kind: str, answer: str, question: str = "what is it") -> Dialogue:
    shown = Photo(f"photo of {name}", (kind,))
    return Dialogue(name, (Turn(0, question, (shown,)), Turn(1, answer)))


SOURCE = ListSource(
    [
        asked("a", "Hat", "it is a hat"),
        asked("b", "Shoe", "it is a shoe"),
        asked("c", "Hat", "it is a hat", "and this"),
        asked("d", "Hat", "it is nice"),  # names nothing
        asked("e", "Hat", "no hat but a shoe"),  # names two
        asked("f", "Hat", "it is a shoe"),  # names what is not shown
    ]
)


class Every:
    """All last turns are examples."""

    def examples(self, dialogue):
        from mmjax.data.examples import Example

        yield Example(len(dialogue.turns) - 1, {}, {})


EVALUATOR = GenerationEvaluator(
    decode=lambda ids: SAID[int(ids[0])],
    references=lambda dialogue, sub: (dialogue.turns[sub].text,),
    source=SOURCE,
    read=lambda dialogue, sub: dialogue.turns[:sub],
    sees=True,
)
SAID = ["a hat.", "hat or shoe", "shoe", "hat", "hat", "shoe"]
LOG_P = np.array([[-1, 4], [-2, 4], [-3, 4], [-1, 4], [-1, 4], [-1, 4]], np.float32)
EXCHANGED = LOG_P - np.array([[1, 0], [0, 0], [0.1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
ANSWERS = {
    "written": np.arange(6)[:, None],
    "log_p": LOG_P,
    "log_p@images_of_other_labels": EXCHANGED,
}


def evaluated(evaluator=EVALUATOR):
    index = build_index(Every(), SOURCE)
    return evaluator.evaluate(index, lambda name, examples: ANSWERS[name][examples])


def test_an_answer_is_right_where_it_names_what_is_shown_and_nothing_else():
    found = evaluated()
    assert found.metrics["slot_accuracy"] == pytest.approx(100 / 3)  # "hat"; both; shoe for hat
    assert found.per_example["slot_accuracy"].tolist() == [1, 0, 0, -1, -1, -1]


def test_a_photo_counts_where_the_reference_is_less_likely_beside_another():
    found = evaluated()
    assert found.metrics["swap_lowers"] == pytest.approx(200 / 3)  # the second is as likely
    assert found.per_example["swap_lowers"].tolist() == [1, 0, 1, -1, -1, -1]
    blind = evaluated(dataclasses.replace(EVALUATOR, sees=False))
    assert blind.metrics["swap_lowers"] == 0
    assert blind.metrics["slot_accuracy"] == found.metrics["slot_accuracy"]


def test_figures_are_those_of_their_samples_and_the_same_words_are_drawn_together():
    found = evaluated()
    for name in SLOT_FIGURES:
        assert as_sums(found.samples[name]).value == pytest.approx(found.metrics[name])
    assert len(set(found.groups.tolist())) == 2 and found.groups[2] not in found.groups[[0, 1, 3]]
    assert set(found.metrics) == set(EVALUATOR.metric_names)
    without = evaluated(dataclasses.replace(EVALUATOR, read=None))
    assert not set(SLOT_FIGURES) & set(without.metrics)
    assert without.groups.tolist() == list(range(6))


def test_data_without_slots_are_refused():
    source = ListSource([Dialogue("a", (Turn(0, "hi"), Turn(1, "hello")))])
    index = build_index(Every(), source)
    evaluator = dataclasses.replace(EVALUATOR, source=source)
    with pytest.raises(UserError, match=r"no answer of list:train names what a photo.*slots=False"):
        evaluator.evaluate(index, lambda name, examples: ANSWERS[name][examples])
    with pytest.raises(UserError, match="slots=False"):
        evaluator.check(index)
    dataclasses.replace(evaluator, read=None).check(index)


def test_photos_that_cannot_be_exchanged_are_refused_for_who_sees_before_anything_is_written():
    pair = [asked("a", "Hat", "it is a hat"), asked("b", "Hat", "it is a hat")]
    shown = [with_photos(d, lambda p: dataclasses.replace(p, file=BLANK)) for d in pair]
    source = ListSource(shown)
    index = build_index(Every(), source)
    evaluator = dataclasses.replace(EVALUATOR, source=source)
    with pytest.raises(UserError, match=r"task\.slots in list:train: there are no two photos"):
        evaluator.check(index)
    dataclasses.replace(evaluator, sees=False).check(index)


def test_texts_of_which_none_has_a_slot_have_no_such_figures_while_a_run_is_in_training():
    source = ListSource([SOURCE[i] for i in (3, 0, 4)])  # the first has none
    index = build_index(Every(), source)
    evaluator = dataclasses.replace(EVALUATOR, source=source, in_training_at_most=1)
    found = evaluator.in_training().evaluate(index, lambda name, some: ANSWERS[name][some])
    assert set(found.metrics) == set(EVALUATOR.metric_names) - set(SLOT_FIGURES)
    evaluator.check(index, kept=("bleu",))
    with pytest.raises(UserError, match=r"none of the 1 examples .*written_in_training"):
        evaluator.check(index, kept=("slot_accuracy",))
    more = dataclasses.replace(evaluator, in_training_at_most=3)
    more.check(index, kept=("slot_accuracy",))
