"""Made-up sessions: what is asked for stands in the knowledge base, and nowhere else."""

from __future__ import annotations

from mmjax.data.schema import SPLITS
from mmjax.data.sources import open_dataset
from tfds_builders.known_products import sessions


def test_every_answer_stands_in_the_knowledge_base_or_is_not_known():
    products = {}
    for split in SPLITS:
        talks = [talk for _, talk in sessions.read(None, split)]
        assert len(talks) == sessions.SIZES[split] * sessions.SESSIONS_EACH
        products[split] = {talk.products[0].id for talk in talks}
        for talk in talks:
            assert talk.targets == (1, 3)
            known = dict(talk.products[0].attributes)
            for asked, answer in zip(talk.turns[::2], talk.turns[1::2], strict=True):
                (name,) = (name for name in sessions.VALUES if name in asked.text)
                assert answer.text == (
                    sessions.KNOWN.format(name, known[name])
                    if name in known
                    else sessions.UNKNOWN.format(name)
                )
                assert not any(value in asked.text for value in known.values())
    assert not products["train"] & (products["dev"] | products["test"])


def test_it_is_frozen_and_comes_back_from_disk(tmp_path):
    assert sessions.digest()[:16] == "e0b4414310f08911"
    source = open_dataset("known_products", "dev", data_dir=tmp_path)
    told = {talk.id: talk for _, talk in sessions.read(None, "dev")}
    assert {talk.id: talk for talk in source} == told
