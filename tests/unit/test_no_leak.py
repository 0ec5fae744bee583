"""Nothing that gives the answer away is read: not the photo's description, not a held-out split.

PhotoChat's description of a photo names a person of whom the dialogue speaks; whoever reads it has
found the photo without understanding a word.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs.retrieval import get_config
from mmjax.baselines.bm25 import Bm25
from mmjax.config import to_dict
from mmjax.data.index import build_index
from mmjax.data.loader import Loader
from mmjax.data.schema import SPLITS
from mmjax.data.sources import ListSource, open_dataset
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer
from mmjax.metrics.retrieval import ranking_from_scores
from mmjax.systems import make_system
from mmjax.tasks.retrieval import ModelOptions, RetrievalOptions, RetrievalTask, RetrievalText
from mmjax.workdir import WorkDir
from tfds_builders.photochat import demo_dialogues, release

MARK = "Zebediah"
DESCRIPTIONS = (
    f"The photo has your uncle {MARK}. Objects in the photo: Dog, Hat",
    f"{MARK}. Objects in the photo: Cat, Tree",
    f"{MARK} {MARK}\n\nThe photo has your {MARK}. Objects in the photo: Boat",
    f"{MARK}Objects in the photo: Cake, Table",
)
LABELS = {"Dog, Hat", "Cat, Tree", "Boat", "Cake, Table"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in the release's form with the mark wherever only its label list may be read."""
    folder, data = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("data")
    for name in release.published():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]")
    for number, split in enumerate(SPLITS):
        records = []
        for k in range(12):
            told = demo_dialogues.dialogue("train", 12 * number + k)
            records.append(
                {
                    "dialogue": [
                        {
                            "message": turn.text,
                            "share_photo": bool(turn.photos),
                            "user_id": turn.speaker,
                        }
                        for turn in told.turns
                    ],
                    "dialogue_id": k,
                    "photo_description": DESCRIPTIONS[k % len(DESCRIPTIONS)],
                    "photo_url": f"https://example.org/{MARK}/{k}.jpg",
                    "photo_id": f"{split}/{MARK}-{k % 8}",
                    MARK: MARK,
                }
            )
        (folder / split / f"{split}_00.json").write_text(json.dumps(records))
    return {
        split: open_dataset("photochat", split, data_dir=data, manual_dir=folder)
        for split in SPLITS
    }


def without_mark(text: str) -> str:
    assert text
    assert MARK.lower() not in text.lower()
    return text


def test_no_text_of_a_description_outside_its_labels_reaches_a_feature(prepared, tmp_path):
    task = RetrievalTask(
        RetrievalOptions(query="both"), ModelOptions(text="bert-tiny", vocab_size=400)
    )
    task.fit(prepared["train"], tmp_path)
    decode = load_tokenizer(tmp_path)._processor.decode
    assert decode(load_tokenizer(tmp_path).encode(MARK).tolist()) == MARK  # it would be seen
    for split in SPLITS:
        source = prepared[split]
        index = build_index(task, source)
        assert len(index) == 12
        for record, sub in zip(index.record, index.sub, strict=True):
            features = task.featurize(source[int(record)], int(sub), np.random.default_rng(0))
            assert set(features) == {"query", "photo"}
            without_mark(decode(features["query"][1:-1].tolist()))
            assert without_mark(decode(features["photo"][1:-1].tolist())) in LABELS


def test_no_text_of_a_description_outside_its_labels_reaches_bm25(prepared, monkeypatch, tmp_path):
    read = []
    fit, scores = Bm25.fit, Bm25.scores
    monkeypatch.setattr(Bm25, "fit", lambda self, texts: read.append(texts) or fit(self, texts))
    monkeypatch.setattr(
        Bm25, "scores", lambda self, texts: read.append(texts) or scores(self, texts)
    )
    monkeypatch.setattr("mmjax.data.splits.open_dataset", lambda name, split, **_: prepared[split])
    config = get_config("model=bm25")
    config.data.data_dir = str(tmp_path)
    make_system(to_dict(config)).evaluate(WorkDir(tmp_path / "run"), "dev")
    documents, queries = read
    assert {without_mark(text) for text in documents} == LABELS
    assert len(documents) == 8 and len(queries) == 12
    for text in queries:
        without_mark(text)


@pytest.mark.parametrize("split", SPLITS)
def test_the_candidates_are_the_photos_of_the_split_and_no_others(prepared, split):
    task, source = RetrievalText(RetrievalOptions()), prepared[split]
    data = Split(source, build_index(task, source))
    own = {photo.id for dialogue in source for turn in dialogue.turns for photo in turn.photos}
    assert len(own) == 8
    pool = task.pool(data)
    scores = np.zeros((12, len(pool.content_of)))
    answers = task.told(data, ranking_from_scores(scores, pool.gold, 100))
    for answer in answers:
        assert {found["photo"] for found in answer["top"]} == own
        assert len(answer["top"]) == len(own)


def test_the_splits_of_the_demo_have_no_photo_in_common():
    photos = {
        split: {
            photo.id
            for _, told in demo_dialogues.read(None, split)
            for turn in told.turns
            for photo in turn.photos
        }
        for split in SPLITS
    }
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert photos[a] and photos[b] and not photos[a] & photos[b]


class Watched(ListSource):
    """Notes who is read; the test split may be read only after the ledger says so."""

    def __init__(self, split, read, allowed):
        told = [demo_dialogues.dialogue(split, i) for i in range(12)]
        super().__init__(told, name=f"photochat/demo:{split}")
        self._split, self._read, self._may_be_read = split, read, allowed

    def __getitem__(self, i):
        assert self._split != "test" or self._may_be_read, "test was read before it was its turn"
        self._read.append(self._split)
        return super().__getitem__(i)


def test_training_reads_the_train_split_and_test_comes_last(monkeypatch, tmp_path):
    read, allowed, trained_on, fitted_on = [], [], [], []
    sources = {split: Watched(split, read, allowed) for split in SPLITS}
    monkeypatch.setattr("mmjax.data.splits.open_dataset", lambda name, split, **_: sources[split])

    look, fit = WorkDir.look_at_test, RetrievalTask.fit
    monkeypatch.setattr(
        WorkDir, "look_at_test", lambda self, why: allowed.append(why) or look(self, why)
    )

    def watched_fit(self, source, folder):
        read.clear()
        fit(self, source, folder)
        fitted_on.extend(read)

    class WatchedLoader(Loader):
        def batches(self, start=0, stop=None):
            if stop is None:  # the endless stream of training
                trained_on.extend(source.name for source in self._host.sources)
            return super().batches(start, stop)

    monkeypatch.setattr(RetrievalTask, "fit", watched_fit)
    monkeypatch.setattr("mmjax.task_data.Loader", WatchedLoader)

    config = get_config("demo")
    config.data.data_dir = str(tmp_path / "data")
    config.model.vocab_size, config.task.query_max_length = 330, 16
    config.train.total_epochs, config.train.total_steps = None, 2
    config.train.global_batch_size = config.eval.batch_size = 8
    config.eval.every_epochs, config.eval.first = None, False
    config.observe.tensorboard = False
    workdir = WorkDir(tmp_path / "run")
    make_system(to_dict(config)).train(workdir)

    assert set(fitted_on) == {"train"}
    assert trained_on == ["photochat/demo:train"]
    assert set(read) == set(SPLITS)
    # One look, entered before test was read for the first time, and counted.
    assert len(allowed) == workdir.looks() == 1
    assert json.loads((workdir.path / "result.json").read_text())["test_looks"] == 1
