"""Couples of things with different labels: as many as there can be, drawn by names alone."""

from __future__ import annotations

import collections

from hypothesis import given
from hypothesis import strategies as st

from mmjax.data.couples import couples

LABELS = st.lists(st.sampled_from("abcde"), max_size=40)


@given(LABELS)
def test_there_are_as_many_couples_as_can_be_and_nobody_is_in_two(labels):
    names = [f"n{i}" for i in range(len(labels))]
    found = couples(names, labels)
    used = [i for couple in found for i in couple]
    assert len(set(used)) == len(used)
    assert all(labels[one] != labels[other] for one, other in found)
    largest = max(collections.Counter(labels).values(), default=0)
    assert len(found) == min(len(labels) // 2, len(labels) - largest)


@given(LABELS, st.randoms(use_true_random=False))
def test_neither_order_nor_who_is_left_over_plays_a_part(labels, random):
    def told(things):
        found = couples([name for name, _ in things], [label for _, label in things])
        return {frozenset((things[a], things[b])) for a, b in found}

    things = [(f"n{i}", label) for i, label in enumerate(labels)]
    found = told(things)
    random.shuffle(things)
    assert told(things) == found
    assert told([thing for thing in things if any(thing in couple for couple in found)]) == found
