"""A threshold is chosen on dev, kept with the run, and judges test, whoever asks and whenever."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from configs.intent import get_config
from mmjax.config import to_dict
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.metrics.base import ratio
from mmjax.metrics.classification import best_threshold, f1_parts
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.workdir import WorkDir


def dialogues(seed, count=24):
    """Who says "look" or "see" shares a photo, mostly."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        said = [str(rng.choice(["well", "fine", "see", "sure"])) for _ in range(4)]
        turns = [Turn(k % 2, text) for k, text in enumerate([*said, "look"][: rng.integers(2, 6)])]
        made.append(Dialogue(f"d{i}", (*turns, Turn(0, "", (Photo("p"),)))))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run: (its system, working directory, result)."""
    sources = {
        split: ListSource(dialogues(seed), f"list:{split}")
        for seed, split in enumerate(("train", "dev", "test"))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmjax.task_data.open_source", lambda options, split, **_: sources[split])
        folder = tmp_path_factory.mktemp("run")
        config = get_config("demo")
        config.task.max_length = 16
        config.model.vocab_size = 300
        config.train.update(global_batch_size=8, total_epochs=None, total_steps=12)
        config.eval.update(every_epochs=None, every_steps=4, batch_size=32)
        config.observe.tensorboard = False
        config.data.data_dir = str(folder / "data")
        config.loader.threads = 1
        system, workdir = make_system(to_dict(config)), WorkDir(folder / "run")
        workdir.path.mkdir()
        system.train(workdir)
        yield system, workdir, read_result(str(workdir.path / "result.json"))


def test_test_is_judged_by_the_threshold_that_is_best_on_dev(run):
    _, _, result = run
    dev, test = (result.per_example[split] for split in ("dev", "test"))
    threshold = best_threshold(np.array(dev["label"]), np.array(dev["probability"]))
    for split, rows in (("dev", dev), ("test", test)):
        assert result.metrics[split]["threshold"] == pytest.approx(threshold, abs=1e-7)
        said = np.array(rows["probability"]) >= threshold
        for name, parts in f1_parts(np.array(rows["label"]), said).items():
            assert result.metrics[split][f"{name}@threshold"] == pytest.approx(ratio(*parts))
    own = best_threshold(np.array(test["label"]), np.array(test["probability"]))
    assert own != pytest.approx(threshold, abs=1e-6)  # it would have been another
    assert result.dataset["sizes"]["test"] == len(test["ids"]) == len(set(test["ids"]))
    assert set(result.intervals["test"]) >= {"precision", "recall", "f1", "f1@threshold"}


def test_the_threshold_stays_with_the_run_and_with_its_artifact(run):
    system, workdir, result = run
    about = json.loads((workdir.path / "artifact" / "artifact.json").read_text())
    assert about["chosen"] == {"threshold": result.metrics["dev"]["threshold"]}
    asked = system.evaluate(workdir, "test").metrics
    for name in ("checkpoints", "best", "preprocessing"):  # only the artifact is left
        shutil.rmtree(workdir.path / name)
    (workdir.path / "preprocessing.ready").unlink()
    alone = system.evaluate(workdir, "test").metrics
    for found in (asked, alone):
        assert found == pytest.approx(result.metrics["test"], abs=1e-9)
