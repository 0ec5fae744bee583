"""Boxes as regions: they follow the pixels, are pooled by area, and are part of what is seen."""

from __future__ import annotations

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.retrieval import get_config
from mmjax.config import build
from mmjax.data.boxes import BadBoxError, box_regions, largest_boxes
from mmjax.data.images import WHOLE, ImageOptions, Part, PhotoReader
from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.perturb import perturbed
from mmjax.data.photos import BytesPhoto
from mmjax.data.plan import EvalPlan, TrainPlan
from mmjax.data.regions import RegionOptions
from mmjax.data.schema import Box, Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.models.box_pooling import pool_boxes
from mmjax.models.pixels import mirror, network_boxes
from mmjax.options import LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask

SIZE = 32


def png(image: np.ndarray) -> BytesPhoto:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return BytesPhoto(file.getvalue())


# Where boxes are


def drawn(height: int, width: int, left: int, top: int, right: int, bottom: int) -> Photo:
    """A white rectangle on black, and its box."""
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    box = Box("it", left / width, top / height, (right - left) / width, (bottom - top) / height)
    return Photo("p", boxes=(box,), file=png(image))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "photo",
    [
        drawn(120, 200, 30, 20, 90, 70),
        drawn(200, 120, 70, 90, 120, 150),
        drawn(40, 900, 440, 5, 470, 30),  # whose far ends are cut before it is resized
    ],
    ids=["wide", "tall", "line"],
)
@pytest.mark.parametrize(
    ("options", "draws"),
    [
        (ImageOptions(size=64), 1),
        (ImageOptions(size=64, fit="crop"), 1),
        (ImageOptions(size=64, augment="crop"), 25),
    ],
    ids=["squash", "crop", "random"],
)
def test_a_rectangle_in_the_pixels_is_where_its_box_says(photo, options, draws, mirrored):
    corners = largest_boxes(photo.boxes, 1)
    compared = 0
    for seed in range(draws):
        view = PhotoReader(options)(photo.file, np.random.default_rng(seed))
        boxes, mask = box_regions(corners, view.part, 2)
        rows = jnp.array([mirrored])
        pixels = mirror(jnp.asarray(view.pixels[None]), rows)[0]
        batch = {"boxes": boxes[None], "box_mask": mask[None], "mirror": rows}
        whole, box = np.asarray(network_boxes(batch, train=True))[0] * options.size
        np.testing.assert_array_equal(whole, np.multiply(WHOLE, options.size))
        ys, xs = np.nonzero(np.asarray(pixels)[..., 0] > 127)
        if not mask[1]:
            assert not len(xs)
        elif min(box[2:] - box[:2]) >= 2:  # of what is smaller the pixels do not tell where it ends
            found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(found, box, atol=1)
            compared += 1
    assert compared >= draws / 5


def test_boxes_end_where_the_part_ends_and_are_left_out_beyond_it():
    part = Part(0.5, 0.0, 1.0, 0.5)
    boxes = np.array(
        [
            (0.25, 0.25, 0.75, 0.75),  # over its corner
            (0.0, 0.0, 0.5, 1.0),  # it ends where the part begins
            (0.6, 0.5, 0.9, 0.9),
            (0.6, 0.1, 0.7, 0.2),  # within
        ]
    )
    regions, mask = box_regions(boxes, part, 5)
    assert mask.tolist() == [True, True, True, False, False] and regions.dtype == np.float32
    wanted = [(0, 0, 1, 1), (0, 0.5, 0.5, 1), (0.2, 0.2, 0.4, 0.4), (0,) * 4, (0,) * 4]
    np.testing.assert_allclose(regions, wanted, atol=1e-6)


def test_the_largest_boxes_come_first_in_whatever_order_they_are():
    small, large = Box("a", 0.1, 0.1, 0.2, 0.2), Box("b", 0.0, 0.0, 0.5, 0.5)
    twins = Box("c", 0.0, 0.6, 0.3, 0.1), Box("d", 0.6, 0.0, 0.1, 0.3)
    boxes = (small, *twins, large)
    found = largest_boxes(boxes, 3)
    np.testing.assert_allclose(found[0], (0, 0, 0.5, 0.5))
    np.testing.assert_allclose(found[1], (0.1, 0.1, 0.3, 0.3))
    np.testing.assert_array_equal(largest_boxes(boxes[::-1], 3), found)
    assert largest_boxes((), 3).shape == (0, 4) == largest_boxes(boxes, 0).shape


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box("Dog", np.nan, 0, 1, 1), r"box 1 \('Dog'\) holds NaN or infinity"),
        (Box("Dog", 0, 0, np.inf, 1), "holds NaN or infinity"),
        (Box("Dog", 0.5, 0.5, 0, 0.5), "has no area: it is 0 wide and 0.5 high"),
        (Box("Dog", 0.5, 0.5, 0.1, -0.5), "has no area: it is 0.1 wide and -0.5 high"),
        (Box("Dog", 0.5, 0, 0.6, 1), "reaches from 0.5 to 1.1 of its width and from 0 to 1"),
        (Box("Dog", 0, -0.1, 0.5, 0.5), "reaches from 0 to 0.5 of its width and from -0.1 to"),
    ],
)
def test_a_box_that_cannot_be_is_named_with_the_reason(box, message):
    with pytest.raises(BadBoxError, match=message):
        largest_boxes((Box("Cat", 0, 0, 1, 1), box), 1)


def test_a_box_that_stands_over_by_rounding_is_one():
    x, width = np.float32(0.1), np.float32(0.9) + np.float32(1e-7)
    assert len(largest_boxes([Box("Dog", float(x), 0.0, float(width), 1.0)], 1)) == 1


# What is seen there


def test_a_box_is_the_average_of_the_grid_over_its_area():
    """Of a grid that is drawn so finely that every box is made of whole cells."""
    rng, fine = np.random.default_rng(0), 60
    grid = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    start = rng.integers(0, fine, (2, 40, 2))
    end = rng.integers(start + 1, fine + 1)
    boxes = np.concatenate([start, end], axis=-1)
    drawn = grid.repeat(fine // 3, axis=1).repeat(fine // 5, axis=2).astype(np.float64)
    wanted = [
        [cells[y0:y1, x0:x1].mean((0, 1)) for x0, y0, x1, y1 in some]
        for cells, some in zip(drawn, boxes, strict=True)
    ]
    found = jax.jit(pool_boxes)(grid, np.float32(boxes / fine))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    whole = pool_boxes(jnp.asarray(grid), jnp.array([[WHOLE, (0.0,) * 4]] * 2, jnp.float32))
    np.testing.assert_allclose(whole[:, 0], grid.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert not np.asarray(whole[:, 1]).any()  # no area


# What a task makes of it


def pixels(seed: int) -> BytesPhoto:
    return png(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8))


BOXES = (Box("Dog", 0.25, 0.5, 0.5, 0.25), Box("Ball", 0.0, 0.0, 0.1, 0.1))
DOG = Photo("dog", ("Dog",), boxes=BOXES, file=pixels(0))
# The same pixels, with the same boxes under other names; with others; with one that is too small.
TWIN = Photo("twin", boxes=tuple(dataclasses.replace(b, label="") for b in BOXES), file=pixels(0))
OTHER = Photo("other", boxes=BOXES[:1], file=pixels(0))
MORE = Photo("more", boxes=(*BOXES, Box("Fly", 0.9, 0.9, 0.01, 0.01)), file=pixels(0))
BARE = Photo("bare", file=pixels(1))


def talk(photo: Photo, name: str | None = None) -> Dialogue:
    return Dialogue(name or photo.id, (Turn(0, "look there"), Turn(0, "", (photo,))))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three regions: the whole photo and two boxes."""
    return with_image(tmp_path_factory.mktemp("words"))


def with_image(folder, **image) -> RetrievalTask:
    options = RetrievalOptions(
        candidate="boxes",
        image=ImageOptions(size=SIZE, **image),
        regions=RegionOptions(count=3),
    )
    model = ModelOptions(kind="scan", text="gru", image="resnet-tiny", joint_dim=8, min_count=1)
    task = RetrievalTask(options, model)
    task.fit(ListSource([talk(DOG)]), folder)
    return task


def loader(task, chats, plan=None) -> Loader:
    source = chats if isinstance(chats, ListSource) else ListSource(chats)
    index = build_index(task, source)
    plan = plan or EvalPlan(np.arange(len(index)), len(index))
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    return Loader(task, [source], [index], plan, mesh, LoaderOptions(), seed=3)


def test_a_photo_is_seen_whole_and_in_its_boxes_and_one_without_boxes_is_seen_whole(made):
    batch = loader(made, [talk(DOG), talk(BARE)]).host_batch(0)
    wanted = [(0, 0, 1, 1), (0.25, 0.5, 0.75, 0.75), (0, 0, 0.1, 0.1)]
    np.testing.assert_allclose(batch["boxes"][0], wanted, atol=1e-6)
    np.testing.assert_array_equal(batch["boxes"][1], [(0, 0, 1, 1), (0,) * 4, (0,) * 4])
    assert batch["box_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert batch["image"].shape == (2, SIZE, SIZE, 3) and batch["has_image"].all()


def test_in_training_boxes_are_in_the_part_that_is_drawn(tmp_path):
    photo = drawn(60, 60, 0, 0, 30, 60)  # its left half is white
    task = with_image(tmp_path, augment="crop")
    plan = TrainPlan([8], 8, seed=1)
    batch = loader(task, [talk(photo, str(i)) for i in range(8)], plan).host_batch(0)
    white = (batch["image"][..., 0] > 127).mean(axis=(1, 2))
    np.testing.assert_allclose(batch["boxes"][:, 1, 2], white, atol=1 / SIZE)
    assert np.unique(white).size > 2


def test_photos_in_which_the_same_boxes_of_the_same_pixels_are_seen_are_equal(made):
    source = ListSource([talk(p) for p in (DOG, TWIN, OTHER, MORE, BARE)])
    index = build_index(made, source)
    dog, twin, other, more, bare = index.keys["content"]
    assert dog == twin == more and len({dog, other, bare}) == 3
    assert len(made.pool(Split(source, index)).content) == 3
    assert made.key_names == ("photo", "content") and "images" in made.inputs


def test_pixels_of_another_photo_come_with_its_boxes_and_blank_ones_with_none(made):
    """What is left of a control would otherwise be how many things a photo shows, and where."""
    source = ListSource([talk(DOG), talk(BARE)])
    real = loader(made, source).host_batch(0)
    shuffled = loader(made, perturbed_list(source, "images_shuffled")).host_batch(0)
    for name in ("image", "boxes", "box_mask"):
        np.testing.assert_array_equal(shuffled[name], real[name][::-1])
    blank = perturbed_list(source, "images_blanked")
    assert len(set(build_index(made, blank).keys["content"])) == 1
    batch = loader(made, blank).host_batch(0)
    for name in ("image", "boxes", "box_mask"):
        np.testing.assert_array_equal(batch[name][0], batch[name][1])


def perturbed_list(source, name) -> ListSource:
    return ListSource(list(perturbed(source, name)))


def test_a_bad_box_is_named_before_anything_is_trained(made):
    photo = dataclasses.replace(DOG, boxes=(Box("Dog", 0.5, 0.5, 0.0, 0.5),))
    with pytest.raises(UserError, match=r"photo dog: box 0 \('Dog'\) has no area"):
        build_index(made, ListSource([talk(photo)]))


def test_boxes_are_one_word_of_the_config():
    for variant in ("model=scan,regions=boxes,image_weights=x", "model=scan,regions=boxes,demo"):
        config = get_config(variant)
        assert config.task.candidate == "boxes" and config.data.regions is None
        assert config.label.endswith(("(resnet-152, boxes), MH", "from scratch, boxes), SH"))
        assert build(RetrievalOptions, config.task, "task").regions.count == 36
    assert config.optim.frozen == () and get_config(
        "model=scan,regions=boxes,image_weights=x"
    ).optim.frozen == ("^image_tower/",)
    with pytest.raises(UserError, match=r"kind=vsepp does not see config\.task\.candidate=boxes"):
        config = get_config("model=vsepp,regions=boxes,demo")
        RetrievalTask(
            build(RetrievalOptions, config.task, "task"),
            build(ModelOptions, config.model, "model"),
        )
