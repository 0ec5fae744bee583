"""Photo-sharing intent: which turns are asked about, what is read of each, and what is kept."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs.intent import get_config
from mmjax.data.examples import SkipRecord
from mmjax.data.featurize import collate
from mmjax.data.index import build_index
from mmjax.data.plan import TrainPlan
from mmjax.data.schema import SPLITS, Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.evaluators import TurnEvaluator
from mmjax.models.encoder_decoder import EncoderDecoder
from mmjax.models.presets import bert, t5
from mmjax.models.text_to_text import TextToText
from mmjax.models.turn_classifier import TurnClassifier, TurnClassifierConfig
from mmjax.steps import _at_once, _in_parts
from mmjax.task_data import packed_plan
from mmjax.tasks.intent import IntentOptions, IntentTask, ModelOptions, intent_task
from mmjax.tasks.intent_examples import (
    IntentExamples,
    IntentTexts,
    pieces,
    turns_before_share,
)
from tfds_builders.photochat import release

DOG = Photo("dog", ("Dog",))
PREFIXES = ("separate", "shared")


def talk(*turns, name="d") -> Dialogue:
    """Turns as (speaker, text) or (speaker, text, photo)."""
    return Dialogue(name, tuple(Turn(who, text, tuple(photos)) for who, text, *photos in turns))


CHAT = talk(
    *((0, "we went "), (0, " out"), (1, "where?"), (1, "  "), (0, "to the park"), (1, "nice!")),
    *((0, "", DOG), (1, "lovely"), (0, "", Photo("cat"))),
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("preprocessing")
    words = "we went out where to the park nice lovely hello friend look at this photo of mine"
    rng = np.random.default_rng(0)
    train_tokenizer([" ".join(rng.permutation(words.split())) for _ in range(40)], 330, folder)
    return folder


def examples_of(fitted, prefix="separate", max_length=512) -> IntentExamples:
    return IntentExamples(IntentOptions(prefix, max_length), load_tokenizer(fitted))


def task_of(fitted, **options) -> IntentTask:
    made = intent_task(IntentOptions(**options), ModelOptions(text="bert-tiny"))
    made.load(fitted)
    return made


def random_talks(count, seed=0, longest=14):
    rng = np.random.default_rng(seed)
    words = ["we", "went", "out", "where", "to", "the", "park", "nice", "lovely", "zzzz", "🐕"]
    talks = []
    for i in range(count):
        said = [
            (int(rng.integers(2)), " ".join(rng.choice(words, rng.integers(1, 9))))
            for _ in range(rng.integers(1, longest))
        ]
        talks.append(talk(*said, *([(0, "", DOG)] if rng.random() < 0.8 else []), name=f"d{i}"))
    return talks


# Which turns are asked about


def test_a_turn_of_a_long_dialogue_is_made_of_the_turns_that_are_read(fitted, monkeypatch):
    """Else a dialogue of n turns would cost n^2 tokenisations."""
    made = examples_of(fitted, max_length=16)
    long = talk(*((i % 2, "nice") for i in range(5000)))
    encode, calls = made.tokenizer.encode, []
    monkeypatch.setattr(made.tokenizer, "encode", lambda text: calls.append(text) or encode(text))
    features = made.features(long, 4999)
    assert len(features["text"]) == 16
    assert len(calls) <= 15
    assert features["speaker"][-1] == 1


def test_consecutive_turns_of_a_speaker_are_one_and_nothing_from_the_share_on_is_used():
    turns, shared = turns_before_share(CHAT)
    assert [(turn.speaker, turn.text) for turn in turns] == [
        (0, "we went out"),
        (1, "where?"),
        (0, "to the park"),
        (1, "nice!"),
    ]
    assert shared
    with_text = talk((0, "look"), (1, "at what"), (0, "at this", DOG))
    assert [turn.text for turn in turns_before_share(with_text)[0]] == ["look", "at what"]


def test_every_turn_is_asked_about_once_and_only_the_last_is_positive(fitted):
    for prefix in PREFIXES:
        made = examples_of(fitted, prefix)
        for chat, labels in ((CHAT, [0, 0, 0, 1]), (talk((0, "hello"), (1, "nice")), [0, 0])):
            features = [made.features(chat, e.sub) for e in made.examples(chat)]
            assert np.concatenate([f["label"] for f in features]).tolist() == labels
    one = list(examples_of(fitted).examples(talk((1, "look"), (0, "", DOG))))
    assert [(e.sub, e.targets) for e in one] == [(0, {"share": 1})]


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (talk((0, "", DOG), (1, "nice")), "nothing was said before the photo"),
        (talk((1, " \n"), (0, "with it", DOG)), "nothing was said before the photo"),
        (talk((0, ""), (1, " ")), "nothing was said"),
        (talk(), "nothing was said"),
    ],
)
def test_a_dialogue_in_which_nothing_is_said_is_skipped_with_the_reason(fitted, chat, reason):
    with pytest.raises(SkipRecord, match=f"^{reason}$"):
        list(examples_of(fitted).examples(chat))


# What is read


def test_the_text_is_that_of_bert_with_the_speakers_as_segments(fitted):
    made, t = examples_of(fitted), load_tokenizer(fitted)
    words = [list(t.encode(text)) for text in ("we went out", "where?", "to the park")]
    found = made.features(CHAT, 2)
    want = [t.cls_id]
    speaker = [0]
    for turn, ids in enumerate(words):
        want += [*ids, t.sep_id]
        speaker += [turn % 2] * (len(ids) + 1)
    assert found["text"].tolist() == want and found["speaker"].tolist() == speaker
    assert found["place"].tolist() == [0] and found["label"].tolist() == [0]
    assert made.features(CHAT, 3)["label"].tolist() == [1]


def test_of_a_long_history_the_oldest_tokens_are_dropped(fitted):
    whole = examples_of(fitted).features(CHAT, 3)
    for room in (4, 5, 9):
        cut = examples_of(fitted, max_length=room).features(CHAT, 3)
        assert cut["text"][0] == whole["text"][0]
        np.testing.assert_array_equal(cut["text"][1:], whole["text"][1 - room :])
        np.testing.assert_array_equal(cut["speaker"][1:], whole["speaker"][1 - room :])
        assert cut["speaker"][0] == cut["speaker"][1]  # [CLS] is of the first turn that is left


def test_in_the_shared_form_a_score_is_read_from_the_sep_that_closes_each_turn(fitted):
    found, t = examples_of(fitted, "shared").features(CHAT, 0), load_tokenizer(fitted)
    np.testing.assert_array_equal(found["text"], examples_of(fitted).features(CHAT, 3)["text"])
    assert len(found["place"]) == 4 and (found["text"][found["place"]] == t.sep_id).all()
    np.testing.assert_array_equal(found["turn"][found["place"]], np.arange(4))
    np.testing.assert_array_equal(found["turn"][found["place"][:-1] + 1], np.arange(1, 4))
    assert found["turn"][0] == 0 and (np.diff(found["turn"]) >= 0).all()


@pytest.mark.parametrize("max_length", [4, 7, 20, 64])
def test_a_dialogue_beyond_the_length_is_read_in_pieces_that_score_every_turn_once(max_length):
    rng = np.random.default_rng(0)
    room = max_length - 1
    for _ in range(200):
        lengths = rng.integers(0, 12, rng.integers(1, 40))
        assert pieces(lengths, max_length, "separate") == [
            range(i, i + 1) for i in range(len(lengths))
        ]
        found = pieces(lengths, max_length, "shared")
        assert [turn for piece in found for turn in piece] == list(range(len(lengths)))
        new = [sum(lengths[turn] + 1 for turn in piece) for piece in found]
        assert new[0] <= room or len(found[0]) == 1
        for size, piece in zip(new[1:], found[1:], strict=True):
            assert size <= room // 2 or len(piece) == 1
        if sum(lengths + 1) <= room:
            assert len(found) == 1


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("max_length", [5, 12, 33, 512])
def test_where_a_turn_stands_tells_nothing_of_what_comes_after_it(fitted, prefix, max_length):
    """Else the place alone would say that the photo cannot come yet: it follows the last turn."""
    made = examples_of(fitted, prefix, max_length)

    def read(chat):
        """What the score of each turn is read from: (place, all that the tokens up to it are)."""
        found = []
        for example in made.examples(chat):
            features = made.features(chat, example.sub)
            for place in features["place"]:
                seen = slice(None) if prefix == "separate" else slice(place + 1)
                tokens = [features[name][seen].tolist() for name in made.token_features]
                found.append((int(place), tokens))
        return found

    for chat in random_talks(30, seed=1, longest=30):
        turns = turns_before_share(chat)[0]
        whole = read(chat)
        for kept in range(1, len(turns)):
            begun = talk(*((turn.speaker, turn.text) for turn in turns[:kept]), (0, "", DOG))
            assert read(begun) == whole[:kept]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_index_knows_lengths_and_labels_of_what_featurizing_makes(fitted, prefix):
    made = task_of(fitted, prefix=prefix, max_length=20)
    for chat in [CHAT, *random_talks(40)]:
        for example in made.examples(chat):
            features = made.featurize(chat, example.sub, None)
            assert example.lengths == {name: len(x) for name, x in features.items()}
            assert set(features) == set(made.ragged) <= set(made.cached)
            assert example.targets == {"share": features["label"][-1]}
            assert features["place"].max() < len(features["text"]) <= 20
            assert all(len(x) <= made.ragged[name].buckets[-1] for name, x in features.items())


def test_unknown_words_half_emoji_and_turns_without_a_token_are_turns_like_any_other(fitted):
    strange = talk((0, "ﷺ𝄞 \ud83d"), (1, "\u200b"), (2, "ЖЖЖ"), (0, "", DOG))
    for prefix in PREFIXES:
        made = examples_of(fitted, prefix)
        labels = [made.features(strange, e.sub)["label"] for e in made.examples(strange)]
        assert np.concatenate(labels).tolist() == [0, 0, 1]


def test_t5_is_told_in_words_and_the_turns_are_joined_by_a_written_mark(fitted):
    t = load_tokenizer(fitted)
    made = IntentTexts(IntentOptions(), t)
    text = "predict share intent: we went out [SEP] where? [SEP] to the park"
    found = made.features(CHAT, 2)
    assert found["text"].tolist() == [*t.encode(text), t.eos_id] and found["label"] == [0]
    assert made.features(CHAT, 3)["label"] == [1]
    prompt = t.encode("predict share intent:")
    cut = IntentTexts(IntentOptions(max_length=len(prompt) + 4), t).features(CHAT, 2)
    np.testing.assert_array_equal(cut["text"], [*prompt, *found["text"][-4:]])
    for max_length in (len(prompt) + 3, 512):
        made = IntentTexts(IntentOptions(max_length=max_length), t)
        for chat in random_talks(20):
            for example in made.examples(chat):
                features = made.features(chat, example.sub)
                assert example.lengths == {name: len(x) for name, x in features.items()}
                assert example.targets == {"share": features["label"][-1]}
    with pytest.raises(UserError, match=r"max_length=4 has no room .* give at least"):
        IntentTexts(IntentOptions(max_length=4), t)


# The released dataset


@pytest.fixture(scope="module")
def released(shared_data, tmp_path_factory):
    """prefix, split -> (task, index) of the released dialogues."""
    folder = shared_data("photochat")
    files = {name: (folder / name, digest) for name, digest in release.published().items()}
    sources = {split: ListSource([d for _, d in release.read(files, split)]) for split in SPLITS}
    fitted = tmp_path_factory.mktemp("tokenizer")
    said = (turn.text for dialogue in sources["dev"]._dialogues for turn in dialogue.turns)
    train_tokenizer(said, 4000, fitted)

    @functools.cache
    def find(prefix, split):
        task = intent_task(IntentOptions(prefix), ModelOptions())
        task.load(fitted)
        return task, build_index(task, sources[split])

    return find


@pytest.mark.parametrize(
    ("split", "negative", "positive"),
    [("train", 68_757, 10_286), ("dev", 6_800, 1_000), ("test", 6_743, 1_000)],
)
def test_the_release_has_the_examples_that_were_counted_before(released, split, negative, positive):
    for prefix in PREFIXES:
        _, index = released(prefix, split)
        assert int(index.targets["share"].sum()) == positive
        assert int(index.lengths["place"].sum()) == negative + positive
        assert not index.skipped


def test_always_yes_on_the_release_has_the_f1_of_the_share_of_positives(released):
    task, index = released("separate", "test")
    found = task.evaluator().evaluate(index, lambda name, rows: np.ones((len(rows), 1))).metrics
    figures = [round(found[name], 1) for name in ("precision", "recall", "f1")]
    assert figures == [12.9, 100.0, 22.9]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_less_than_15_percent_of_an_epochs_tokens_are_padding(released, prefix):
    config = get_config(f"prefix={prefix}")
    task, index = released(prefix, "train")
    assert config.task.max_length == task.options.max_length == 512
    lengths, size = index.lengths["text"], config.train.global_batch_size
    plan = TrainPlan([len(index)], size, 0, window=config.train.length_window, lengths=[lengths])
    real = padded = 0
    for k in range(0, len(index) // size, 5):  # batches all over an epoch
        rows = lengths[plan.batch(k).example]
        real += rows.sum()
        padded += size * task.ragged["text"].padded_length(int(rows.max()))
    assert 1 - real / padded < 0.15


@pytest.mark.parametrize("prefix", PREFIXES)
def test_less_than_1_percent_is_where_examples_share_rows(released, prefix):
    task, index = released(prefix, "train")
    packing = task.packing(512)
    plan = packed_plan([Split(ListSource([]), index)], packing, 8, seed=0)
    assert plan.padding < 0.01
    assert plan.rows * 512 >= index.lengths["text"].sum()


# What is learned

TINY = bert(layers=2, width=32, heads=4, feed_forward=64, vocab_size=400, max_positions=64)
STILL = dataclasses.replace(TINY, dropout=0.0, attention=TINY.attention.copy(dropout=0.0))
MODEL = TurnClassifier(TurnClassifierConfig(STILL, hidden_dim=16))


def batch_of(task, dialogues, rows=None) -> dict:
    features = [
        task.featurize(dialogue, example.sub, None)
        for dialogue in dialogues
        for example in task.examples(dialogue)
    ]
    features += [None] * ((rows or len(features)) - len(features))
    padded = {name: 64 if name in ("text", "speaker", "turn") else 16 for name in task.ragged}
    batch = collate(features, features[0], task.ragged, padded)
    return batch | {"weight": np.array([f is not None for f in features], np.float32)}


@functools.cache
def params_of(prefix):
    rng = np.random.default_rng(0)
    ids = {"ids": np.zeros((1, 64), np.int32), "mask": np.ones((1, 64), bool)}
    batch = dict.fromkeys(("text", "speaker", "place"), ids)
    batch |= {"turn": ids} if prefix == "shared" else {}
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), batch, train=False))["params"]
    # Larger weights than at the start: differences show.
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.value.shape) / 3, x.value.dtype),
        shapes,
        is_leaf=lambda x: hasattr(x, "value"),
    )


@jax.jit
def apply(params, batch):
    return MODEL.apply({"params": params}, batch, train=False)


def logits_of(prefix, batch):
    return np.asarray(apply(params_of(prefix), batch)["logits"])


def test_the_score_of_a_prefix_is_read_from_cls_through_two_layers(fitted):
    batch = batch_of(task_of(fitted, max_length=64), [CHAT])
    params = params_of("separate")
    inside = jax.jit(
        functools.partial(MODEL.apply, train=False, capture_intermediates=True, mutable=True)
    )
    _, state = inside({"params": params}, batch)
    (hidden,) = state["intermediates"]["text_tower"]["__call__"]
    first = np.asarray(hidden)[:, 0].astype(np.float64)  # [CLS]
    for layer, activation in (("hidden", np.tanh), ("head", lambda x: x)):
        first = activation(first @ params[layer]["kernel"] + params[layer]["bias"])
    np.testing.assert_allclose(logits_of("separate", batch)[:, 0], first, atol=1e-5)


def test_what_is_said_later_changes_no_earlier_score_not_in_the_last_bit(fitted):
    task = task_of(fitted, prefix="shared", max_length=64)
    said = [turn.text for turn in turns_before_share(CHAT)[0]]
    whole = logits_of("shared", batch_of(task, [CHAT]))[0]
    assert len({tuple(row) for row in whole[:4]}) == 4
    for changed in range(1, 4):
        for other in ("lovely", "look at this photo of mine hello friend hello"):
            chat = talk(
                *((i % 2, other if i >= changed else text) for i, text in enumerate(said)),
                (0, "", DOG),
            )
            found = logits_of("shared", batch_of(task, [chat]))[0]
            np.testing.assert_array_equal(found[:changed], whole[:changed])
            assert (found[changed:4] != whole[changed:4]).any(axis=1).all()
    # The turn itself and what was said before count.
    first = talk((0, "lovely"), *((i % 2, text) for i, text in enumerate(said) if i), (0, "", DOG))
    found = logits_of("shared", batch_of(task, [first]))[0]
    assert (found[:4] != whole[:4]).any(axis=1).all()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_padding_tokens_places_and_rows_change_nothing(fitted, prefix):
    task = task_of(fitted, prefix=prefix, max_length=64, positive_weight=3.0, focal_gamma=1.0)
    chats = [CHAT, *random_talks(3, longest=6)]
    batch = batch_of(task, chats, rows=40)

    def loss(batch):
        return float(task.objective()(apply(params_of(prefix), batch), batch)[0])

    other = jax.tree.map(np.copy, batch)
    for name in task.ragged:
        real = other[name]["mask"] & (other["weight"] > 0)[:, None]
        other[name]["ids"][~real] = 1
    assert loss(other) == pytest.approx(loss(batch), rel=1e-6)
    real = jax.tree.map(lambda x: x[batch["weight"] > 0], batch)
    assert len(real["weight"]) < 40
    assert loss(real) == pytest.approx(loss(batch), rel=1e-6)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(fitted):
    task = task_of(fitted, prefix="shared", max_length=64, positive_weight=3.0)
    batch = batch_of(task, random_talks(6, longest=5), rows=8)
    how, given = (MODEL, task.objective()), (params_of("shared"), {}, batch, jax.random.key(0))
    whole, values, _ = jax.jit(functools.partial(_at_once, *how))(*given)
    parts, in_parts, _ = jax.jit(functools.partial(_in_parts, *how, 4))(*given)
    assert in_parts["loss"] == pytest.approx(float(values["loss"]), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts, whole)


def test_an_encoder_with_too_few_positions_is_named(fitted):
    with pytest.raises(UserError, match=r"max_length=600 is more than the encoder's 512 positions"):
        task_of(fitted, max_length=600).module()


@pytest.fixture(scope="module")
def taught(fitted):
    """A small network in T5's form that was taught three prefixes.

    (config, variables, the batch of these, what the predictors say of it).
    """
    task = intent_task(IntentOptions(max_length=64), ModelOptions(text="t5-small"))
    task.load(fitted)
    sizes = {"layers": 1, "width": 16, "heads": 2, "head_dim": 8, "feed_forward": 32}
    network = t5(**sizes, vocab_size=400, dropout=0.0)
    module = TextToText(dataclasses.replace(task.module().config, model=network))
    task.module = lambda: module
    chats = [talk((0, "hello friend"), (1, "look at this"), (0, "", DOG)), talk((0, "lovely park"))]
    batch = batch_of(task, chats)
    tx, objective = optax.adam(2e-2), task.objective()

    def loss(variables):
        return objective(module.apply(variables, batch, train=False), batch)[0]

    @jax.jit
    def learn(key):
        variables = nn.unbox(module.init(key, batch, train=False))

        def step(_, carry):
            variables, state = carry
            updates, state = tx.update(jax.grad(loss)(variables), state)
            return optax.apply_updates(variables, updates), state

        return jax.lax.fori_loop(0, 150, step, (variables, tx.init(variables)))[0]

    variables = learn(jax.random.key(0))
    found = {
        name: np.asarray(jax.jit(predictor.fn)(variables, batch))
        for name, predictor in task.predictors().items()
    }
    return module.config, variables, batch, found


def test_t5_learns_to_write_its_answer(taught):
    _, _, batch, found = taught
    labels = batch["label"]["ids"][:, 0]
    assert sorted(labels) == [0, 0, 1]
    np.testing.assert_array_equal(found["share"] > 0, labels[:, None] == 1)
    np.testing.assert_array_equal(found["written"], labels[:, None] == 1)


def test_t5_scores_by_the_first_word_in_which_the_answers_differ(taught):
    config, variables, batch, found = taught
    zero, one = config.answers
    same = next(k for k in range(len(zero)) if zero[k] != one[k])
    text = batch["text"]

    @jax.jit
    def whole(params):
        rows = jnp.tile(jnp.array([config.start, *one[:-1]])[None], (len(text["ids"]), 1))
        given = (text["ids"], text["mask"], rows, jnp.ones(rows.shape, bool))
        return jax.nn.log_softmax(EncoderDecoder(config.model).apply({"params": params}, *given))

    log_p = whole(variables["params"]["model"])
    want = log_p[:, same, one[same]] - log_p[:, same, zero[same]]
    np.testing.assert_allclose(found["share"][:, 0], want, atol=1e-4)
    # Written is "1" where each of its words is the likeliest after those before.
    likeliest = (log_p.argmax(-1) == np.array(one)).all(-1)
    np.testing.assert_array_equal(found["written"][:, 0], likeliest)


def test_a_form_that_t5_does_not_have_is_refused():
    with pytest.raises(UserError, match=r'prefix="shared" needs an encoder'):
        intent_task(IntentOptions("shared"), ModelOptions(text="t5-base"))


# How it is judged


def odds(chat, turn) -> float:
    return float(np.random.default_rng([len(chat.id), int(chat.id[1:] or 0), turn]).normal())


def split_of(task, dialogues) -> tuple[Split, object]:
    source = ListSource(dialogues)
    split = Split(source, build_index(task, source))

    def predict(name, rows):
        """Log-odds that depend on the dialogue and the turn alone; noise where nothing counts."""
        assert name == "share"
        found = np.full((len(rows), task.most_places), 9.0, np.float32)
        for row, example in enumerate(rows):
            chat = source[int(split.index.record[example])]
            for place in range(split.index.lengths["place"][example]):
                found[row, place] = odds(chat, int(split.index.sub[example]) + place)
        return found

    return split, predict


def test_both_forms_are_judged_on_the_same_turns_and_alike(fitted):
    chats = random_talks(30, seed=5)
    found = {}
    for prefix in PREFIXES:
        task = task_of(fitted, prefix=prefix, max_length=24)
        split, predict = split_of(task, chats)
        evaluation = task.evaluator().evaluate(split.index, predict)
        found[prefix] = (evaluation, split.ids(evaluation.rows))
        assert len(split.index) > len(chats)  # several pieces
    (a, ids), (b, other_ids) = found.values()
    assert ids == other_ids and len(set(ids)) == len(ids)
    assert a.metrics == b.metrics and set(a.metrics) == set(task.evaluator().metric_names)
    for name, values in a.per_example.items():
        np.testing.assert_array_equal(values, b.per_example[name])
    turns = [len(turns_before_share(chat)[0]) for chat in chats]
    np.testing.assert_array_equal(np.bincount(a.groups), turns)
    ends = np.cumsum(turns) - 1
    assert set(np.flatnonzero(a.per_example["label"])) == {
        end for end, chat in zip(ends, chats, strict=True) if chat.turns[-1].photos
    }


def test_a_threshold_is_chosen_on_the_split_unless_it_is_given(fitted):
    task = task_of(fitted)
    split, predict = split_of(task, random_talks(30, seed=6))
    chosen = task.evaluator().evaluate(split.index, predict).metrics
    assert chosen["f1@threshold"] >= chosen["f1"]
    fixed = dataclasses.replace(task.evaluator(), threshold=0.9)
    found = fixed.evaluate(split.index, predict).metrics
    assert found["threshold"] == 0.9 and found["f1"] == chosen["f1"]
    assert found["f1@threshold"] < chosen["f1@threshold"]
    assert isinstance(fixed, TurnEvaluator) and fixed.chosen == ("threshold",)


def test_a_split_in_which_no_photo_is_shared_is_refused(fitted):
    split, predict = split_of(task_of(fitted), [talk((0, "hello"), (1, "nice"), name="d1")])
    with pytest.raises(UserError, match="no dialogue of this split shares a photo"):
        task_of(fitted).evaluator().evaluate(split.index, predict)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_answers_have_a_probability_after_every_turn(fitted, prefix):
    task = task_of(fitted, prefix=prefix, max_length=24)
    chats = random_talks(5, seed=7)
    split, predict = split_of(task, chats)
    answers = json.loads(json.dumps(task.answers(split, predict, top=10)))
    assert [answer["id"] for answer in answers] == [chat.id for chat in chats]
    for answer, chat in zip(answers, chats, strict=True):
        turns, shared = turns_before_share(chat)
        assert answer["shared_after"] == (len(turns) - 1 if shared else None)
        assert [turn["text"] for turn in answer["turns"]] == [turn.text for turn in turns]
        want = [1 / (1 + np.exp(-odds(chat, i))) for i in range(len(turns))]
        np.testing.assert_allclose([t["probability"] for t in answer["turns"]], want, rtol=1e-5)
