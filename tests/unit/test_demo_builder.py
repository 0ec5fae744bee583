"""The demo: frozen, unseen combinations in dev and test, words that say little by themselves."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict

import bm25s
import numpy as np
import pytest

from mmjax.data.schema import Dialogue
from tfds_builders.photochat import demo_dialogues, demo_scenes
from tfds_builders.photochat.demo_scenes import KINDS, PROPS, SCENES, scene


def words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())


def before_share(dialogue: Dialogue, speakers=(0, 1)) -> str:
    turns = itertools.takewhile(lambda turn: not turn.photos, dialogue.turns)
    return " ".join(turn.text for turn in turns if turn.speaker in speakers)


def photo(dialogue: Dialogue):
    (shared,) = [photo for turn in dialogue.turns for photo in turn.photos]
    return shared


@pytest.fixture(scope="module")
def told() -> dict[str, list[Dialogue]]:
    return {split: [d for _, d in demo_dialogues.read(None, split)] for split in SCENES}


def test_the_demo_is_frozen():
    assert demo_dialogues.digest() == demo_dialogues.DIGEST, (
        "the generated demo changed: results are not comparable any more; if that is wanted, write "
        "the new digest down and raise the builder's version"
    )


def test_no_pair_of_kind_and_colour_is_in_two_splits():
    pairs = {
        split: {(shown.kind, shown.colour) for shown in (scene(split, i) for i in range(number))}
        for split, number in SCENES.items()
    }
    assert pairs["train"].isdisjoint(pairs["dev"])
    assert pairs["train"].isdisjoint(pairs["test"])
    assert pairs["dev"].isdisjoint(pairs["test"])
    assert sum(map(len, pairs.values())) == len(KINDS) * len(demo_scenes.COLOURS)


def test_every_kind_and_every_colour_of_test_is_trained_on():
    train = [scene("train", i) for i in range(SCENES["train"])]
    test = [scene("test", i) for i in range(SCENES["test"])]
    for field in ("kind", "colour", "setting", "prop", "amount", "place"):
        assert {getattr(s, field) for s in test} <= {getattr(s, field) for s in train}


@pytest.mark.parametrize("split", SCENES)
def test_scenes_can_be_drawn_and_told_apart(split):
    scenes = [scene(split, index) for index in range(SCENES[split])]
    assert len({shown.id for shown in scenes}) == len(scenes)
    seen = {
        (s.kind, s.colour, s.setting, s.place, s.amount, s.prop, s.prop_colour, s.prop_place)
        for s in scenes
    }
    # Photos to choose from differ in what can be said of them; of training photos, nearly all do.
    assert len(seen) == len(scenes) if split != "train" else len(seen) > 0.99 * len(scenes)
    for shown in scenes:
        number = {"two": 2, "three": 3}.get(shown.amount, 1)
        assert Counter(thing.kind for thing in shown.things) == {shown.kind: number, shown.prop: 1}
        for thing in shown.things:
            assert 0 < thing.x < 1
            assert thing.size / 2 < thing.y < 1 - thing.size / 2


def test_a_scene_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        scene("dev", SCENES["dev"])


def test_labels_name_kinds_only(told):
    names = {name.capitalize() for name in KINDS + PROPS}
    for split in told:
        assert {label for d in told[split] for label in photo(d).labels} == names


def test_no_allusion_uses_a_word_of_the_labels():
    said = demo_dialogues._phrases()
    allusions = [
        text
        for group in ("kind", "colour", "setting", "place", "amount")
        for texts in said[group].values()
        for text in texts
    ]
    allusions += [text for key in ("subject_colour", "prop_colour", "chat") for text in said[key]]
    for text in allusions:
        assert set(words(text)).isdisjoint(KINDS + PROPS), text


def test_every_dialogue_leads_up_to_one_photo_of_its_scene(told):
    for split, dialogues in told.items():
        assert len({d.id for d in dialogues}) == len(dialogues)
        for dialogue in dialogues:
            shares = [turn for turn in dialogue.turns if turn.photos]
            assert len(shares) == 1
            assert (shares[0].speaker, shares[0].text) == (0, "")
            assert before_share(dialogue, (0,))
            index = int(photo(dialogue).id.rsplit("-", 1)[1])
            assert photo(dialogue).labels == scene(split, index).labels


def test_scenes_are_told_in_different_words(told):
    texts = [before_share(d) for split in SCENES for d in told[split]]
    assert len(set(texts)) == len(texts) == sum(SCENES.values())


def test_another_telling_of_a_scene_has_the_same_photo_and_other_words():
    once, again = (demo_dialogues.dialogue("train", 7, telling) for telling in (0, 1))
    assert photo(once) == photo(again)
    assert before_share(once) != before_share(again)
    assert once.id != again.id


def recall_at_10(scores: np.ndarray) -> float:
    gold = np.diag(scores)[:, None]
    above, equal = (scores > gold).sum(1), (scores == gold).sum(1)
    return float(np.mean(np.clip(10 - above, 0, equal) / equal))


def bm25_recall(dialogues: list[Dialogue]) -> float:
    index = bm25s.BM25(method="lucene")
    index.index([words(" ".join(photo(d).labels)) for d in dialogues], show_progress=False)
    queries = [[w for w in words(before_share(d)) if w in index.vocab_dict] for d in dialogues]
    none = np.zeros(len(dialogues))
    return recall_at_10(np.stack([index.get_scores(q) if q else none for q in queries]))


def learned_recall(train: list[Dialogue], test: list[Dialogue]) -> float:
    """Naive Bayes of the labels given the sharer's words: the simplest thing that learns."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for dialogue in train:
        said = set(words(before_share(dialogue, (0,))))
        overall.update(said)
        for label in photo(dialogue).labels:
            counts[label].update(said)

    def likelihood(label: str, said: set[str]) -> float:
        total, everything = counts[label].total(), overall.total()
        return sum(
            math.log((counts[label][w] + 0.5) / total * everything / (overall[w] + 0.5))
            for w in said
            if w in overall
        )

    scores = []
    for dialogue in test:
        said = set(words(before_share(dialogue, (0,))))
        score = {label: likelihood(label, said) for label in counts}
        scores.append([sum(score[label] for label in photo(d).labels) for d in test])
    return recall_at_10(np.round(np.array(scores), 9))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_words_say_something_and_learning_says_twice_as_much(told, split):
    """With 240 photos chance is 10/240: BM25 is above three times chance and below five."""
    chance = 10 / SCENES[split]
    bm25 = bm25_recall(told[split])
    assert 3 * chance < bm25 < 5 * chance
    assert learned_recall(told["train"], told[split]) > 1.5 * bm25


@pytest.mark.parametrize("split", ["dev", "test"])
def test_labels_alone_cannot_do_well(told, split):
    """Whoever knows each photo's subject exactly, and nothing else, finds at most this many."""
    kinds = Counter(scene(split, i).kind for i in range(SCENES[split]))
    ceiling = sum(min(10, n) for n in kinds.values()) / SCENES[split]
    assert ceiling < 0.4
    assert learned_recall(told["train"], told[split]) < 0.4


def could_say(shown: demo_scenes.Scene) -> set[str]:
    """All that the sharer might say of a scene."""
    say = demo_dialogues._phrases()
    texts = {text.format(label=shown.kind) for text in say["literal"]}
    for key in ("kind", "setting", "amount", "place"):
        texts.update(say[key][getattr(shown, key)])
    for key, colour in (("subject_colour", shown.colour), ("prop_colour", shown.prop_colour)):
        for text, name in itertools.product(say[key], say["colour"][colour]):
            told = text.format(colour=name)
            texts.add(told[0].upper() + told[1:])
    return texts


@pytest.mark.parametrize("split", ["dev", "test"])
def test_whoever_sees_the_whole_scene_and_understands_every_word_finds_the_photo(told, split):
    """An oracle: of the photos of which all that was said is true, one in random order."""
    possible = [could_say(scene(split, i)) for i in range(SCENES[split])]
    hints = set().union(*possible)
    untrue = [hints - texts for texts in possible]
    scores = np.array(
        [
            [
                -sum(turn.text in others for turn in dialogue.turns if turn.speaker == 0)
                for others in untrue
            ]
            for dialogue in told[split]
        ]
    )
    assert (np.diag(scores) == 0).all()
    assert recall_at_10(scores) > 0.95
    assert np.mean(1 / (scores == 0).sum(1)) > 0.7  # R@1


def scene_of(dialogue: Dialogue) -> demo_scenes.Scene:
    split, index = photo(dialogue).url.split("/")[-2:]
    return scene(split, int(index))


def seen_recall(train: list[Dialogue], test: list[Dialogue], fields: tuple[str, ...]) -> float:
    """Naive Bayes of what a scene shows, given the sharer's words."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for dialogue in train:
        said, shown = set(words(before_share(dialogue, (0,)))), scene_of(dialogue)
        overall.update(said)
        for field in fields:
            counts[field, getattr(shown, field)].update(said)
    seen = [[(field, getattr(scene_of(d), field)) for field in fields] for d in test]
    everything = overall.total()
    scores = []
    for dialogue in test:
        said = set(words(before_share(dialogue, (0,)))) & overall.keys()
        likelihood = {
            value: sum(
                math.log((count[w] + 0.5) / count.total() * everything / (overall[w] + 0.5))
                for w in said
            )
            for value, count in counts.items()
        }
        scores.append([sum(likelihood[value] for value in values) for values in seen])
    return recall_at_10(np.round(np.array(scores), 9))


def test_what_only_pixels_show_can_be_learned_from_the_training_dialogues(told):
    """The words of unseen pairs of kind and colour were all learned with other pairs."""
    labels = learned_recall(told["train"], told["test"])
    setting = seen_recall(told["train"], told["test"], ("kind", "setting"))
    whole = seen_recall(
        told["train"],
        told["test"],
        ("kind", "colour", "setting", "place", "amount", "prop_colour"),
    )
    assert setting > 2 * labels
    assert whole > 0.9
