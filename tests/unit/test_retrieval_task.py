"""Photo retrieval: what is asked and what is looked for, in every dialogue a user may bring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.examples import SkipRecord
from mmjax.data.index import build_index
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer
from mmjax.errors import UserError
from mmjax.tasks import task_module
from mmjax.tasks.retrieval import (
    ModelOptions,
    RetrievalOptions,
    RetrievalTask,
    RetrievalText,
    query_text,
)

DOG, CAT = Photo("dog", ("Dog", "Grass")), Photo("cat", ("Cat",))
NO_DRAW = np.random.default_rng(0)


def talk(*turns, name="d") -> Dialogue:
    """Turns as (speaker, text) or (speaker, photo, ...)."""
    made = []
    for speaker, *said in turns:
        photos = tuple(x for x in said if isinstance(x, Photo))
        made.append(Turn(speaker, "".join(x for x in said if isinstance(x, str)), photos))
    return Dialogue(name, tuple(made))


CHAT = talk((0, "we went out "), (1, "where?"), (0, " to the park"), (0, DOG), (1, "nice!"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a tokenizer fitted on a few words."""
    folder = tmp_path_factory.mktemp("preprocessing")
    words = "we went out where to the park nice dog grass cat tree boat sea sun hello friend"
    rng = np.random.default_rng(0)
    said = [" ".join(rng.permutation(words.split())) for _ in range(40)]
    source = ListSource([talk((0, text), (0, DOG), name=str(i)) for i, text in enumerate(said)])
    RetrievalTask(RetrievalOptions(), ModelOptions(vocab_size=330)).fit(source, folder)
    return folder


def task(fitted, options=None, **model) -> RetrievalTask:
    made = RetrievalTask(
        options or RetrievalOptions(), ModelOptions(text="bert-tiny", joint_dim=8, **model)
    )
    made.load(fitted)
    return made


def text_of(fitted, ids) -> str:
    return load_tokenizer(fitted)._processor.decode([int(i) for i in ids])


# What is asked


def test_the_query_is_what_the_sharer_or_both_said_before_the_share():
    assert query_text(CHAT, 0, "sharer") == "we went out to the park"
    assert query_text(CHAT, 0, "both") == "we went out where? to the park"


def test_nothing_that_is_said_with_or_after_the_share_is_asked():
    chat = talk((0, "before"), (0, "with it", DOG), (0, "after"))
    assert query_text(chat, 0, "both") == "before"


def test_each_shared_photo_is_an_example_with_what_was_said_before_it():
    chat = talk((0, "one"), (0, DOG), (1, "two"), (1, CAT, DOG))
    found = list(RetrievalText(RetrievalOptions(query="both")).texts(chat))
    assert [(sub, query, labels) for sub, query, labels, _ in found] == [
        (0, "one", "Dog, Grass"),
        (1, "one two", "Cat"),
        (2, "one two", "Dog, Grass"),
    ]
    assert [keys["photo"] for *_, keys in found] == ["dog", "cat", "dog"]
    sharer = RetrievalText(RetrievalOptions(query="sharer"))
    assert [query for _, query, _, _ in sharer.texts(chat)] == ["one", "two", "two"]


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (talk((0, "hello"), (1, "hi")), "no photo is shared"),
        (talk(), "no photo is shared"),
        (talk((0, DOG), (1, "nice")), "nothing was said before the photo"),
        (talk((0, "  "), (1, "\n"), (0, DOG)), "nothing was said before the photo"),
        (talk((1, "only the other spoke"), (0, DOG)), "nothing was said before the photo"),
        (talk((0, "look"), (0, Photo("p"))), "the photo has no labels"),
        (talk((0, "look"), (0, Photo("p", ("", " ")))), "the photo has no labels"),
    ],
)
def test_a_dialogue_without_an_example_is_skipped_with_the_reason(fitted, chat, reason):
    for made in (RetrievalText(RetrievalOptions()), task(fitted)):
        with pytest.raises(SkipRecord, match=f"^{reason}$"):
            list(made.examples(chat))


def test_an_example_that_is_no_use_does_not_take_others_with_it():
    chat = talk((0, "look"), (0, Photo("bare")), (0, DOG))
    assert [e.sub for e in RetrievalText(RetrievalOptions()).examples(chat)] == [1]


def test_emoji_half_emoji_and_strange_spaces_are_text_like_any_other(fitted):
    strange = "🐕‍🦺 \ud83d\u00a0ｐａｒｋ\u200b ﷽ \x00"
    chat = talk((0, strange), (0, Photo("🐈", ("Kočka 🐈", "דוב"))))
    made = task(fitted)
    (example,) = made.examples(chat)
    features = made.featurize(chat, example.sub, NO_DRAW)
    assert example.lengths == {name: len(ids) for name, ids in features.items()}
    assert (
        build_index(made, ListSource([talk((0, "a"), (0, DOG)), chat])).lengths["query"].size == 2
    )


# What the network reads


def test_the_index_knows_the_lengths_that_featurizing_makes(fitted):
    made = task(fitted, RetrievalOptions(query="both", query_max_length=8, label_max_length=5))
    chats = [talk((0, "we went out " * n), (1, "hello"), (0, DOG, CAT)) for n in (0, 1, 3, 9)]
    for chat in chats:
        for example in made.examples(chat):
            features = made.featurize(chat, example.sub, NO_DRAW)
            assert example.lengths == {name: len(ids) for name, ids in features.items()}
            assert len(features["query"]) <= 8 and len(features["photo"]) <= 5


@pytest.mark.parametrize("keep", ["start", "end"])
def test_of_a_long_history_the_chosen_end_is_kept(fitted, keep):
    turns = [(k % 2, f"turn {k}") for k in range(5000)]
    chat = talk((0, "first words"), *turns, (0, "last words"), (0, DOG))
    made = task(fitted, RetrievalOptions(query="both", query_max_length=20, keep=keep))
    tokenizer = load_tokenizer(fitted)
    ids = made.featurize(chat, 0, NO_DRAW)["query"]
    whole = tokenizer.encode(query_text(chat, 0, "both"))
    assert len(ids) == 20 and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
    np.testing.assert_array_equal(ids[1:-1], whole[:18] if keep == "start" else whole[-18:])


def test_the_labels_are_read_in_their_order_with_the_separator(fitted):
    made = task(fitted, RetrievalOptions(label_separator=" / "))
    ids = made.featurize(CHAT, 0, NO_DRAW)["photo"]
    np.testing.assert_array_equal(ids[1:-1], load_tokenizer(fitted).encode("Dog / Grass"))


def test_what_decides_the_examples_is_in_the_identity(fitted):
    base = task(fitted).identity
    for change in (
        {"query": "both"},
        {"query_max_length": 64},
        {"label_max_length": 64},
        {"label_separator": " "},
    ):
        assert task(fitted, RetrievalOptions(**change)).identity != base
    assert base["tokenizer"] == load_tokenizer(fitted).fingerprint


# What is learned


def batch_of(made: RetrievalTask, chats: list[Dialogue]) -> dict:
    from mmjax.data.loader import Loader
    from mmjax.data.plan import EvalPlan
    from mmjax.options import LoaderOptions, MeshOptions
    from mmjax.parallel.mesh import make_mesh

    source = ListSource(chats)
    index = build_index(made, source)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    plan = EvalPlan(np.arange(len(index)), len(index) + 2)
    return Loader(made, [source], [index], plan, mesh, LoaderOptions()).host_batch(0)


SAME = [
    talk((0, "we went out"), (0, DOG), name="0"),
    talk((0, "to the park"), (0, DOG), name="1"),  # the same photo
    talk((0, "nice"), (0, Photo("dog2", ("Grass", "Dog"))), name="2"),  # the same things
    talk((0, "hello friend"), (0, CAT), name="3"),
]


@pytest.mark.parametrize(
    ("masked", "negatives"),
    [
        # Of row i, which columns are negatives.
        (True, [{3}, {3}, {3}, {0, 1, 2}]),
        (False, [{2, 3}, {2, 3}, {0, 1, 3}, {0, 1, 2}]),
    ],
)
def test_equal_photos_are_no_negatives_nor_equal_labels_where_asked(fitted, masked, negatives):
    made = task(fitted, RetrievalOptions(mask_equal_labels=masked), logit_scale=2.0)
    batch = batch_of(made, SAME)
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(2, 6, 8))
    outputs = {"query": jnp.asarray(rows, jnp.float32), "photo": jnp.asarray(columns, jnp.float32)}
    found, values = made.objective()(
        outputs | {"scale": jnp.float32(2.0), "bias": jnp.float32(0)}, batch
    )

    scores = 2.0 * rows @ columns.T
    want = 0.0
    for i in range(4):
        for of in (scores, scores.T):
            others = [of[i, j] for j in (i, *negatives[i])]
            want += np.log(np.exp(others).sum()) - of[i, i]
    assert found == pytest.approx(want / 4, rel=1e-5)
    right = [all(scores[i, i] > scores[i, j] for j in negatives[i]) for i in range(4)]
    assert values["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("loss", "want"), [("sh", "sum of hinges"), ("mh", "hardest hinge")], ids=lambda x: str(x)
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_hinges_are_the_papers(fitted, loss, want, reduction):
    options = RetrievalOptions(loss=loss, margin=0.3, reduction=reduction, mask_equal_labels=False)
    made = task(fitted, options)
    chats = [talk((0, "hello"), (0, Photo(f"p{i}", (f"L{i}",))), name=str(i)) for i in range(4)]
    batch = batch_of(made, chats)
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(2, 6, 8)) / 3
    outputs = {"query": jnp.asarray(rows, jnp.float32), "photo": jnp.asarray(columns, jnp.float32)}
    found, _ = made.objective()(
        outputs | {"scale": jnp.float32(1.0), "bias": jnp.float32(0)}, batch
    )
    scores, total = rows @ columns.T, 0.0
    for i in range(4):
        for of in (scores, scores.T):
            hinges = [max(0.0, 0.3 - of[i, i] + of[i, j]) for j in range(4) if j != i]
            total += sum(hinges) if loss == "sh" else max(hinges)
    assert found == pytest.approx(total / (4 if reduction == "mean" else 1), rel=1e-5)


def test_the_model_reads_the_batch_and_its_predictors_agree_with_it(fitted):
    made = task(fitted, pooling="mean")
    batch = batch_of(made, SAME)
    module = made.module()
    variables = module.init(jax.random.key(0), batch, train=False)
    outputs = module.apply(variables, batch, train=False)
    real = batch["weight"] > 0
    for name, predictor in made.predictors().items():
        np.testing.assert_allclose(
            predictor.fn(variables, {f: batch[f] for f in predictor.features})[real],
            outputs[name][real],
            rtol=1e-6,
            atol=1e-6,
        )
        norm = np.linalg.norm(outputs[name][real], axis=-1)
        np.testing.assert_allclose(norm, 1, rtol=1e-5)


def test_padding_tokens_and_rows_change_nothing(fitted):
    """The loss of a batch, whatever stands where there is nothing."""
    made = task(fitted, pooling="mean", dropout=0.0)
    batch = batch_of(made, SAME)
    module = made.module()
    variables = module.init(jax.random.key(0), batch, train=False)

    def loss(batch):
        return made.objective()(module.apply(variables, batch, train=False), batch)[0]

    other = jax.tree.map(np.copy, batch)
    for side in ("query", "photo"):
        where = ~other[side]["mask"]
        assert where.any()
        other[side]["ids"][where] = 7
    np.testing.assert_allclose(loss(other), loss(batch), rtol=1e-6)
    real = jax.tree.map(lambda x: x[:4], batch)
    np.testing.assert_allclose(loss(real), loss(batch), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"text": "bert-huge"}, {}, r"config\.model\.text='bert-huge' is no encoder: there are"),
        ({"labels": "bret"}, {}, r"config\.model\.labels='bret' is no encoder"),
        ({"text": "weights"}, {}, r'config\.model\.text="weights" needs config\.model\.weights'),
        ({"labels": "weights"}, {}, r'labels="weights" needs config\.model\.label_weights'),
        ({"shared": True, "labels": "bert-base"}, {}, "shared=True needs one kind of tower"),
        ({}, {"query_max_length": 600}, "asks for 600 tokens, but the encoder has 512"),
    ],
)
def test_towers_that_cannot_be_are_named(fitted, model, options, message):
    made = RetrievalTask(
        RetrievalOptions(**options), ModelOptions(**{"text": "bert-tiny", **model})
    )
    made.load(fitted)
    with pytest.raises(UserError, match=message):
        made.module()


def test_label_weights_alone_are_refused():
    with pytest.raises(UserError, match=r"label_weights needs config\.model\.weights"):
        RetrievalTask(RetrievalOptions(), ModelOptions(label_weights="x", shared=True))


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match=r"task_name='retreival' is no task \(did you mean"):
        task_module("retreival")


# What it answers


def test_answers_are_sorted_and_say_where_the_right_photo_stands(fitted):
    made = task(fitted)
    chats = [*SAME, talk((0, "sea"), (0, CAT), (0, "sun"), (0, DOG), name="4")]
    source = ListSource(chats)
    split = Split(source, build_index(made, source))
    assert split.ids() == ["0", "1", "2", "3", "4", "4#1"]
    rng = np.random.default_rng(0)
    vectors = {"query": rng.normal(size=(6, 4)), "photo": rng.normal(size=(6, 4))}
    answers = made.answers(split, lambda name, examples: vectors[name][examples], top=2)
    assert [a["id"] for a in answers] == split.ids()
    assert [a["photo"] for a in answers] == ["dog", "dog", "dog2", "cat", "cat", "dog"]
    assert answers[5]["query"] == "sea sun" and answers[5]["labels"] == ["Dog", "Grass"]
    # One content per text a model reads: "Dog, Grass", "Grass, Dog", "Cat", first seen at 0, 2, 3.
    contents = {"dog": 0, "dog2": 2, "cat": 3}
    for i, answer in enumerate(answers):
        score = {p: vectors["query"][i] @ vectors["photo"][e] for p, e in contents.items()}
        ranked = sorted(score, key=score.get, reverse=True)
        assert [t["photo"] for t in answer["top"]] == ranked[:2]
        assert answer["above"] == ranked.index(answer["photo"])
        np.testing.assert_allclose(
            [t["score"] for t in answer["top"]], [score[p] for p in ranked[:2]], atol=1e-5
        )


def test_training_is_answered_among_as_many_photos_as_a_judged_split_has(fitted):
    made = task(fitted, RetrievalOptions(train_pool=4))
    photos = [Photo(f"p{i}", (f"Thing {i}",)) for i in range(10)]
    chats = [talk((0, "look"), (0, photo), name=f"d{i}") for i, photo in enumerate(photos)]
    rng = np.random.default_rng(0)
    vectors = {"query": rng.normal(size=(10, 4)), "photo": rng.normal(size=(10, 4))}

    def answers(name: str) -> list[dict]:
        source = ListSource(chats, name)
        split = Split(source, build_index(made, source))
        return made.answers(split, lambda side, examples: vectors[side][examples], top=10)

    judged, learned = answers("list:dev"), answers("list:train")
    assert [a["id"] for a in learned] == [a["id"] for a in judged] == [f"d{i}" for i in range(10)]
    assert all(len(a["top"]) == 10 for a in judged)
    scores = [{t["photo"]: t["score"] for t in a["top"]} for a in judged]
    rounds = [frozenset(t["photo"] for t in a["top"]) for a in learned]
    assert sorted(map(len, set(rounds))) == [3, 3, 4] and len(frozenset.union(*rounds)) == 10
    for i, answer in enumerate(learned):
        ranked = sorted(rounds[i], key=scores[i].get, reverse=True)
        assert [t["photo"] for t in answer["top"]] == ranked
        assert answer["above"] == ranked.index(f"p{i}")
