"""Photo retrieval where photos are seen: by their pixels alone, or beside their labels."""

from __future__ import annotations

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax.data.examples import SkipRecord
from mmjax.data.images import ImageOptions, decode_image, squash
from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.photos import BytesPhoto
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.models.pixels import MEAN, STD, mirror, normalize
from mmjax.options import LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask

SIZE = 32


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)


def stored(seed: int) -> BytesPhoto:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return BytesPhoto(file.getvalue())


DOG = Photo("dog", ("Dog",), file=stored(0))
TWIN = Photo("twin", ("Dog", "Sofa"), file=stored(0))  # the same pixels under another name
CAT = Photo("cat", ("Cat",), file=stored(1))
BARE = Photo("bare", (), file=stored(2))
LOST = Photo("lost", ("Boat",))
UNKNOWN = Photo("unknown")


def talk(photo: Photo, name: str, text: str = "look at the park") -> Dialogue:
    return Dialogue(name, (Turn(0, text), Turn(0, "", (photo,))))


CHATS = [talk(photo, str(i)) for i, photo in enumerate((DOG, TWIN, CAT, BARE, LOST))]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preprocessing")
    words = ["look", "at", "the", "park", "dog", "cat", "sofa", "boat", "nice", "hello", "friend"]
    rng = np.random.default_rng(0)
    said = [" ".join(rng.permutation(words)) for _ in range(40)]
    source = ListSource([talk(DOG, str(i), text) for i, text in enumerate(said)])
    RetrievalTask(RetrievalOptions(), ModelOptions(vocab_size=320)).fit(source, folder)
    return folder


def task(fitted, candidate="both", square=None, **model) -> RetrievalTask:
    options = RetrievalOptions(
        candidate=candidate,
        query_max_length=16,
        label_max_length=16,
        image=square or ImageOptions(size=SIZE),
    )
    chosen = {"text": "bert-tiny", "image": "resnet-tiny", "joint_dim": 8, "pooling": "mean"}
    made = RetrievalTask(options, ModelOptions(**{**chosen, **model}))
    made.load(fitted)
    return made


def loader(made, chats, plan=None, **options) -> Loader:
    source = ListSource(chats)
    index = build_index(made, source)
    plan = plan or EvalPlan(np.arange(len(index)), len(index))
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    return Loader(made, [source], [index], plan, mesh, LoaderOptions(**options), seed=3)


# What is an example


@pytest.mark.parametrize(
    ("candidate", "kept", "reason"),
    [
        ("labels", ["dog", "twin", "cat", "lost"], "the photo has no labels"),
        ("pixels", ["dog", "twin", "cat", "bare"], "the photo could not be had"),
        ("both", ["dog", "twin", "cat", "bare", "lost"], "has no labels and could not be had"),
    ],
)
def test_a_photo_is_a_candidate_where_something_of_it_is_seen(fitted, candidate, kept, reason):
    made = task(fitted, candidate)
    found = []
    for photo in (DOG, TWIN, CAT, BARE, LOST):
        with contextlib.suppress(SkipRecord):
            found += [e.keys["photo"] for e in made.examples(talk(photo, photo.id))]
    assert found == kept
    with pytest.raises(SkipRecord, match=reason):
        list(made.examples(talk(UNKNOWN, "d")))


def test_a_dialogue_whose_photo_is_missing_keeps_its_labels(fitted):
    batch = loader(task(fitted), CHATS).host_batch(0)
    np.testing.assert_array_equal(batch["has_image"], [True, True, True, True, False])
    assert (batch["image"][4] == 0).all()
    assert batch["photo"]["mask"][4].sum() > 2


def test_the_network_gets_the_photos_square(fitted):
    batch = loader(task(fitted, "pixels"), CHATS[:3]).host_batch(0)
    assert batch["image"].dtype == np.uint8 and "photo" not in batch
    for row, chat in zip(batch["image"], CHATS[:3], strict=True):
        wanted = squash(decode_image(chat.turns[1].photos[0].file.read()), SIZE)
        np.testing.assert_array_equal(row, wanted)


def test_photos_are_mirrored_in_training_alone_and_the_same_ones_each_time(fitted):
    made = task(fitted, "pixels", ImageOptions(size=8, mirror=True))
    chats = [talk(Photo(str(i), file=stored(0)), str(i)) for i in range(40)]
    assert not loader(made, chats).host_batch(0)["mirror"].any()
    plan = TrainPlan([40], 40, seed=1)
    first, second = (loader(made, chats, plan).host_batch(0)["mirror"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert 8 < first.sum() < 32
    assert (loader(made, chats, plan).host_batch(1)["mirror"] != first).any()


def test_random_parts_are_those_of_seed_epoch_and_example(fitted):
    made = task(fitted, "pixels", ImageOptions(size=8, augment="crop"))
    plan = TrainPlan([4], 4, seed=1)
    batches = [loader(made, CHATS[:4], plan).host_batch(k) for k in (0, 0, 1)]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    order = [np.argsort(plan.batch(k).example) for k in (0, 1)]
    assert (
        (batches[0]["image"][order[0]] != batches[2]["image"][order[1]]).any(axis=(1, 2, 3)).all()
    )


def test_worker_processes_make_the_same_batches(fitted):
    made = task(fitted, "both", ImageOptions(size=8, augment="crop", mirror=True))
    plan = TrainPlan([5], 3, seed=1)
    wanted = [loader(made, CHATS, plan).host_batch(k) for k in range(4)]
    found = [jax.device_get(b) for b in loader(made, CHATS, plan, workers=2).batches(0, 4)]
    for a, b in zip(wanted, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_not_asked_for_is_not_decoded(fitted, monkeypatch):
    made = task(fitted)
    monkeypatch.setattr(made, "_read_photo", lambda *_: pytest.fail("decoded"))
    source = ListSource(CHATS)
    index = build_index(made, source)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    plan, fields = EvalPlan(np.arange(5), 5), made.predictors()["query"].features
    Loader(made, [source], [index], plan, mesh, LoaderOptions(), fields=fields).host_batch(0)


def test_a_photo_that_breaks_later_is_the_users_error(fitted):
    broken = Photo("p", file=BytesPhoto(stored(0).data[:60]))
    with pytest.raises(UserError, match="photo p cannot be read any more"):
        loader(task(fitted, "pixels"), [talk(broken, "d")]).host_batch(0)


# What is learned


def test_blank_photos_leave_the_labels_to_learn_from(fitted):
    """A control: with pixels masked as equal by themselves, there would be no negative left."""
    grey = stored(5)
    chats = [talk(Photo(f"p{i}", (f"L{i % 3}",), file=grey), str(i)) for i in range(6)]
    keys = loader(task(fitted), chats).host_batch(0)["keys"][:, 1]
    assert (keys[:, None] == keys[None, :]).tolist() == [
        [i % 3 == j % 3 for j in range(6)] for i in range(6)
    ]


def test_photos_with_the_same_pixels_are_no_negatives_of_each_other(fitted):
    made = task(fitted, "pixels", logit_scale=2.0)
    batch = loader(made, CHATS[:4]).host_batch(0)
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(2, 4, 8))
    outputs = {"query": jnp.asarray(rows, jnp.float32), "photo": jnp.asarray(columns, jnp.float32)}
    found, _ = made.objective()(
        outputs | {"scale": jnp.float32(2.0), "bias": jnp.float32(0)}, batch
    )
    scores, want = 2.0 * rows @ columns.T, 0.0
    others = [[0, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    for i in range(4):
        for of in (scores, scores.T):
            want += np.log(np.exp(of[i, others[i]]).sum()) - of[i, i]
    assert found == pytest.approx(want / 4, rel=1e-5)


@pytest.mark.parametrize("candidate", ["pixels", "both"])
def test_predictors_agree_with_the_model_and_vectors_have_length_one(fitted, candidate):
    made = task(fitted, candidate)
    batch = loader(made, CHATS).host_batch(0)
    module = made.module()
    variables = module.init(jax.random.key(0), batch, train=False)
    outputs = module.apply(variables, batch, train=False)
    for name, predictor in made.predictors().items():
        found = predictor.fn(variables, {f: batch[f] for f in predictor.features})
        np.testing.assert_allclose(found, outputs[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)


def test_both_labels_and_pixels_reach_the_vector_and_a_missing_photo_does_not(fitted):
    made = task(fitted)
    batch = loader(made, CHATS).host_batch(0)
    module = made.module()
    variables = module.init(jax.random.key(0), batch, train=False)

    def embedded(**changed):
        return np.asarray(module.apply(variables, {**batch, **changed}, train=False)["photo"])

    before = embedded()
    other = embedded(image=255 - batch["image"])
    assert (np.abs(other - before).max(axis=1) > 1e-4).tolist() == [True] * 4 + [False]
    ids = np.where(batch["photo"]["mask"], 5, 0)
    assert (
        np.abs(embedded(photo={**batch["photo"], "ids": ids}) - before).max(axis=1) > 1e-4
    ).all()


def test_training_moves_the_running_statistics_and_a_missing_photo_does_not(fitted):
    made = task(fitted, batch_norm="global")
    batch = loader(made, CHATS, TrainPlan([5], 5, seed=0)).host_batch(0)
    module = made.module()
    variables = module.init(jax.random.key(0), batch, train=False)

    def statistics(batch):
        _, changed = module.apply(
            variables,
            batch,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return changed["batch_stats"]

    before, after = variables["batch_stats"], statistics(batch)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert any(jax.tree.leaves(moved))
    lost = ~batch["has_image"]
    other = batch["image"].copy()
    other[lost] = 200
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        after,
        statistics({**batch, "image": other}),
    )


def test_pixels_are_normalised_and_mirrored_as_stated():
    image = np.stack([pixels(0), pixels(1)])
    want = (image / 255.0 - MEAN) / STD
    np.testing.assert_allclose(normalize(jnp.asarray(image)), want, rtol=1e-5, atol=1e-6)
    assert normalize(jnp.asarray(image), jnp.bfloat16).dtype == jnp.bfloat16
    turned = mirror(jnp.asarray(image), jnp.array([True, False]))
    np.testing.assert_array_equal(turned[0], image[0][:, ::-1])
    np.testing.assert_array_equal(turned[1], image[1])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image": "resnet-51"}, r"config\.model\.image='resnet-51' is no encoder: there are"),
        ({"image": "weights"}, r'image="weights" needs config\.model\.image_weights'),
        ({"joint_dim": None}, r"config\.model\.joint_dim must have a value"),
    ],
)
def test_image_towers_that_cannot_be_are_named(fitted, model, message):
    with pytest.raises(UserError, match=message):
        task(fitted, "both", **model).module()


def test_a_batch_that_does_not_divide_into_groups_is_named_before_anything_is_trained(fitted):
    made = task(fitted, "both", batch_norm="groups", batch_norm_group=32)
    made.check_batch(64)
    with pytest.raises(UserError, match=r"global_batch_size=48 does not divide .*=32"):
        made.check_batch(48)


def test_photos_too_small_for_the_network_are_named(fitted):
    with pytest.raises(
        UserError, match=r"config\.task\.image\.size=8 is too small.* needs \d+ pixels"
    ):
        task(fitted, "both", ImageOptions(size=8), image="resnet-50").module()


# What it answers


def test_the_pool_embeds_equal_content_once(fitted):
    for candidate, contents in (("pixels", 3), ("both", 5), ("labels", 4)):
        made = task(fitted, candidate)
        source = ListSource([chat for chat in CHATS if known(made, chat)])
        pool = made.pool(Split(source, build_index(made, source)))
        assert len(pool.content) == contents, candidate


def known(made, chat) -> bool:
    try:
        return bool(list(made.examples(chat)))
    except SkipRecord:
        return False


def test_a_picture_of_answers_is_made_from_what_was_computed_already(fitted):
    made = task(fitted)
    source = ListSource(CHATS)
    split = Split(source, build_index(made, source))
    rng, asked = np.random.default_rng(0), []

    def predict(name, examples):
        asked.append((name, len(examples)))
        return rng.normal(size=(len(examples), 4)).astype(np.float32)

    picture = made.sample(split, predict)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert asked == [("query", 5), ("photo", len(made.pool(split).content))]


def test_the_page_of_answers_shows_every_dialogue(fitted, tmp_path):
    made = task(fitted)
    source = ListSource(CHATS)
    split = Split(source, build_index(made, source))
    rng = np.random.default_rng(0)
    answers = made.answers(split, lambda _, examples: rng.normal(size=(len(examples), 4)), top=5)
    assert answers[0]["asked"] == [0] and answers[0]["sharer"] == 0
    made.page(tmp_path / "page.html", split, answers, "a model")
    text = (tmp_path / "page.html").read_text()
    assert "a model" in text and all(chat.id in text for chat in CHATS)
