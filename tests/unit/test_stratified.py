"""Splits have their sizes, keep proportions, and share no photo."""

from __future__ import annotations

import collections
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.curation import shares as shares_module
from mmjax.curation.shares import shares, table
from mmjax.curation.stratified import stratified_split
from mmjax.curation.whitelist import load_whitelist
from mmjax.errors import UserError

items = st.lists(st.sets(st.sampled_from("abcd")), max_size=30)


@settings(max_examples=60, deadline=None)
@given(items, st.integers(0, 10), st.integers(0, 10), st.integers(0, 10), st.data())
def test_sizes_are_exact_and_the_same_seed_gives_the_same_split(categories, a, b, c, data):
    sizes = {"train": a, "dev": b, "test": c}
    photos = [data.draw(st.sampled_from([f"p{i}", "twice"])) for i in range(len(categories))]
    twice = photos.count("twice") if photos.count("twice") > 1 else 0
    if a + b + c > len(categories) or twice > len(categories) - b - c:
        with pytest.raises(UserError):
            stratified_split(categories, sizes, photos=photos)
        return
    found = stratified_split(categories, sizes, photos=photos, seed=3)
    assert collections.Counter(x for x in found if x) == {s: n for s, n in sizes.items() if n}
    assert found == stratified_split(categories, sizes, photos=photos, seed=3)
    if twice:
        assert {s for s, p in zip(found, photos, strict=True) if p == "twice"} <= {"train", None}


def split_of(categories, sizes, **how):
    found = stratified_split(categories, sizes, **how)
    return {
        name: [own for own, split in zip(categories, found, strict=True) if split == name]
        for name in sizes
    }


def deviation(splits, names):
    """Largest distance of a share from the overall one in points, by numpy alone."""
    of = {s: np.array([[c in own for c in names] for own in rows]) for s, rows in splits.items()}
    overall = np.concatenate(list(of.values())).mean(0)
    return 100 * max(np.abs(rows.mean(0) - overall).max() for rows in of.values())


def test_proportions_are_nearer_than_those_of_a_random_split():
    rng = np.random.default_rng(0)
    names = list("abcd")
    categories = [
        {c for c, p in zip(names, (0.6, 0.4, 0.1, 0.02), strict=True) if rng.random() < p}
        for _ in range(1200)
    ]
    sizes = {"train": 900, "dev": 100, "test": 100}
    splits = split_of(categories, sizes)
    order = rng.permutation(1200)
    random = {"train": order[:900], "dev": order[900:1000], "test": order[1000:1100]}
    random = {s: [categories[i] for i in rows] for s, rows in random.items()}
    assert deviation(splits, names) <= 0.75 < 2 < deviation(random, names)
    found = shares(splits, names)
    assert found.largest_deviation[0] == pytest.approx(deviation(splits, names))


def test_many_rare_categories_reach_the_small_splits_too():
    """Each category has one item in ten for dev, although train always wants more of it."""
    categories = [{f"c{i // 10}"} for i in range(200)]
    splits = split_of(categories, {"train": 160, "dev": 20, "test": 20})
    for name in ("dev", "test"):
        assert len({c for own in splits[name] for c in own}) == 20


def test_another_seed_gives_another_split():
    categories = [{"a"}, {"b"}] * 20
    first = stratified_split(categories, {"train": 20, "dev": 20}, seed=0)
    assert first != stratified_split(categories, {"train": 20, "dev": 20}, seed=1)


@pytest.mark.parametrize(
    ("sizes", "photos", "message"),
    [
        ({"train": 4}, None, "Splits of 4 .train. cannot be made of 3"),
        ({"train": -1}, None, "cannot be made"),
        ({"dev": 1}, ["a", "a", "b"], "No split is called 'train'"),
        ({"train": 1, "dev": 2}, ["a", "a", "b"], "2 items have a photo that repeats"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(sizes, photos, message):
    with pytest.raises(UserError, match=message):
        stratified_split([{"x"}, set(), {"y"}], sizes, photos=photos)


def test_a_split_without_photos_has_no_shares():
    with pytest.raises(UserError, match="'dev' has no photo"):
        shares({"train": [{"a"}], "dev": []}, ["a"])


@pytest.fixture(scope="module")
def released(shared_data):
    """split -> [(photo, its groups)] of the published PhotoChat, read without mmjax's builder."""
    whitelist = load_whitelist()
    found = {}
    for split in ("train", "dev", "test"):
        found[split] = [
            (
                record["photo_id"],
                whitelist.groups_in(record["photo_description"].partition(": ")[2].split(", ")),
            )
            for file in sorted((shared_data("photochat") / split).glob("*.json"))
            for record in json.loads(file.read_text())
        ]
    return found, list(whitelist.groups)


def test_the_released_splits_agree_to_two_points(released):
    found, names = released
    own = shares({s: [groups for _, groups in rows] for s, rows in found.items()}, names)
    # The counts of the paper's table 1, all of train, dev and test.
    counts = {"people": (6376, 606, 615), "food": (4465, 424, 419)}
    counts |= {"animal": (1072, 87, 90), "product": (884, 109, 108)}
    for name, row in counts.items():
        for (split, rows), count in zip(found.items(), row, strict=True):
            assert own.percent[name][split] == pytest.approx(100 * count / len(rows))
    points, category, split = own.largest_deviation
    assert (round(points, 2), category, split) == (1.94, "product", "dev")
    assert "largest deviation: 1.94 points, product in dev" in table(own)


def test_the_released_photos_can_be_split_nearer_and_without_shared_photos(released):
    found, names = released
    every = [row for rows in found.values() for row in rows]
    sizes = {split: len(rows) for split, rows in found.items()}
    dealt = stratified_split([own for _, own in every], sizes, photos=[name for name, _ in every])
    splits = {s: [row for row, x in zip(every, dealt, strict=True) if x == s] for s in sizes}
    assert {s: len(rows) for s, rows in splits.items()} == sizes
    assert deviation({s: [own for _, own in rows] for s, rows in splits.items()}, names) < 0.1
    photos = {s: [name for name, _ in rows] for s, rows in splits.items()}
    for split in ("dev", "test"):
        assert len(set(photos[split])) == 1000
        others = {name for s in sizes if s != split for name in photos[s]}
        assert others.isdisjoint(photos[split])


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert shares_module.run(["--dataset=photochatt", f"--data_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("mmjax: ")
