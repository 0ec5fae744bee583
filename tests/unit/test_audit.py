"""An audit scores the same rows with one input taken away, and names the input that earns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs.intent import get_config as intent_config
from configs.retrieval import get_config
from mmjax.audit import SHARED, audit, check_names, table, verdict, write_audit
from mmjax.baselines.bm25_system import Bm25System
from mmjax.config import to_dict
from mmjax.data.index import build_index
from mmjax.data.photos import BytesPhoto
from mmjax.data.schema import SPLITS, Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import TurnEvaluator
from mmjax.systems import Judge, make_system
from mmjax.tasks.intent_examples import turns_before_share
from mmjax.workdir import WorkDir

THINGS = [
    "dog",
    "cat",
    "boat",
    "cake",
    "tree",
    "ball",
    "lamp",
    "shoe",
    "fish",
    "drum",
    "kite",
    "bell",
]


def chats(split: str, count: int = 24) -> ListSource:
    """The sharer names the two things on the photo, and the other one two that are not."""
    made = []
    for i in range(count):
        one, two = THINGS[i % 12], THINGS[(i + 1 + i // 12) % 12]
        other, another = THINGS[(i + 5) % 12], THINGS[(i + 7) % 12]
        turns = (
            *(Turn(0, f"a {one}"), Turn(1, f"{other} {another}"), Turn(0, f"and a {two}")),
            *(Turn(1, "well"), Turn(0, "", (Photo(f"{split}{i}", (one, two)),))),
        )
        made.append(Dialogue(f"{split}/{i}", turns))
    return ListSource(made, f"list:{split}")


def bm25(monkeypatch, tmp_path, sources, query="sharer") -> Judge:
    monkeypatch.setattr("mmjax.data.splits.open_dataset", lambda name, split, **_: sources[split])
    config = get_config("model=bm25")
    config.data.data_dir, config.task.query = str(tmp_path / "data"), query
    return make_system(to_dict(config)).judge(WorkDir(tmp_path / "run"))


def row(found, name: str) -> dict:
    return next(row for row in found["rows"] if row["name"] == name)


def test_labels_earn_the_score_of_bm25_and_order_does_not(monkeypatch, tmp_path):
    judge = bm25(monkeypatch, tmp_path, {split: chats(split) for split in SPLITS})
    found = audit(judge, "dev", "recall_sum")
    assert found["examples"] == 24 and found["full"] > 250
    assert found["chance"] == pytest.approx(100 * 16 / 24)
    dropped = row(found, "labels_dropped")
    # Photos of which nothing is known tie, and nobody is lost: chance, exactly.
    assert dropped["value"] == pytest.approx(found["chance"])
    assert dropped["share"] == pytest.approx(1) and dropped["examples"] == 24
    assert dropped["high"] < 0
    assert row(found, "order_shuffled")["difference"] == 0
    assert row(found, "first_turns_only")["share"] > 0.2
    assert row(found, "speakers_swapped")["share"] > 0.9  # the other one speaks of other things
    pixels = {"images_blanked", "images_shuffled", "images_of_other_labels"}
    assert set(found["skipped"]) == {*pixels, "names_masked", "knowledge_dropped", SHARED}
    assert found["skipped"]["images_blanked"] == "the system does not read the pixels of the photos"
    assert found["skipped"]["names_masked"] == "it changes nothing in these data"
    assert "the labels of the photos (" in found["verdict"].partition("; ")[0]
    assert found["verdict"].endswith("nothing is lost without the order of the messages.")


def test_who_reads_both_speakers_reads_who_says_what_where_it_is_marked(monkeypatch, tmp_path):
    sources = {split: chats(split) for split in SPLITS}
    judge = bm25(monkeypatch, tmp_path, sources, query="both")
    with pytest.raises(UserError, match=r"speakers_swapped: the system does not read who says"):
        audit(judge, "dev", "recall_sum", ["speakers_swapped"])
    marked = bm25(monkeypatch, tmp_path / "marked", sources, query="marked")
    assert row(audit(marked, "dev", "recall_sum", ["speakers_swapped"]), "speakers_swapped")


def test_differences_and_intervals_are_those_of_pairs(monkeypatch, tmp_path):
    judge = bm25(monkeypatch, tmp_path, {split: chats(split) for split in SPLITS})
    found = row(audit(judge, "dev", "recall@1", ["last_turns_only"]), "last_turns_only")
    data = judge.open("dev")
    full = judge.evaluate(data).samples["recall@1"]

    def cut(dialogue):  # the last messages alone, written down anew
        return Dialogue(dialogue.id, (Turn(0, ""), Turn(1, ""), *dialogue.turns[2:]))

    source = ListSource([cut(d) for d in data.source], data.source.name)
    alone = judge.evaluate(Split(source, build_index(judge.task, source))).samples["recall@1"]
    difference = alone - full
    assert found["difference"] == pytest.approx(difference.mean())
    drawn = np.random.default_rng(1).integers(24, size=(20_000, 24))
    low, high = np.quantile(difference[drawn].mean(1), [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=1.0)


def test_an_example_of_which_nothing_is_left_is_still_judged(monkeypatch, tmp_path):
    """The sharer of one dialogue says one thing; with the speakers swapped nobody asks."""
    mute = Dialogue("mute", (Turn(0, "a dog"), Turn(0, "", (Photo("mute", ("dog", "pot")),))))
    spoken = Dialogue("x", (*mute.turns[:1], Turn(1, "", (Photo("x", ("pot",)),))))
    source = ListSource([*chats("dev"), mute, spoken], "list:dev")
    judge = bm25(monkeypatch, tmp_path, {**{s: chats(s) for s in SPLITS}, "dev": source})
    found = audit(judge, "dev", "recall_sum", ["speakers_swapped", "labels_dropped"])
    assert len(judge.open("dev").index) == 25  # whose sharer says nothing never was an example
    assert [row["examples"] for row in found["rows"]] == [25, 25]


def test_photos_that_were_trained_on_are_not_judged(monkeypatch, tmp_path):
    dev = list(chats("dev"))
    known = ListSource([*chats("train"), *dev[:3]], "list:train")
    picture = BytesPhoto(b"the same")

    def with_pixels(dialogue):
        *turns, share = dialogue.turns
        photo = Photo(share.photos[0].id, share.photos[0].labels, file=picture)
        return Dialogue(dialogue.id, (*turns, Turn(0, "", (photo,))))

    train = ListSource([*known, with_pixels(next(iter(chats("other"))))], "list:train")
    source = ListSource([with_pixels(d) if i == 7 else d for i, d in enumerate(dev)], "list:dev")
    judge = bm25(monkeypatch, tmp_path, {"train": train, "dev": source, "test": chats("dev")})
    found = row(audit(judge, "dev", "recall@1", [SHARED]), SHARED)
    kept = np.delete(np.arange(24), [0, 1, 2, 7])  # three by their id, one by its pixels
    values = judge.evaluate(judge.open("dev")).samples["recall@1"]
    assert found["examples"] == 20 and found["value"] == pytest.approx(values[kept].mean())
    assert found["difference"] == pytest.approx(values[kept].mean() - values.mean())
    with pytest.raises(UserError, match="that was trained on"):
        audit(judge, "train", "recall@1", [SHARED])
    judge = bm25(
        monkeypatch, tmp_path, {split: ListSource(dev, f"list:{split}") for split in SPLITS}
    )
    with pytest.raises(UserError, match=r"every photo of the split .* none is left"):
        audit(judge, "dev", "recall@1", [SHARED])


def test_a_perturbation_that_does_not_exist_is_named_with_the_closest():
    with pytest.raises(UserError, match=r'--audit=labels_droped: .*did you mean "labels_dropped"'):
        check_names(["labels_droped"])


def test_the_input_that_earns_is_named_in_one_sentence():
    def told(full, chance, **costs):
        rows = [
            {"takes": takes, "difference": -cost, "low": -cost - 2, "high": -cost + 2}
            | {"share": cost / (full - chance) if chance is not None and full > chance else None}
            for takes, cost in costs.items()
        ]
        return verdict({"full": full, "chance": chance, "rows": rows})

    assert told(62, 2, labels=60, order=0, names=6) == (
        "The score is earned by labels (100 %); less by names (10 %); nothing is lost without "
        "order."
    )
    assert told(62, 2, labels=20, pixels=12) == (
        "No single input earns most of the score; the most is earned by labels (33 %); less by "
        "pixels (20 %)."
    )
    assert told(62, None, labels=50) == "Most is lost without labels (-50.0)."
    assert told(2, 2, labels=0) == "The score is not above chance: no input earns it."
    assert told(62, 2, labels=1) == (
        "Whatever is taken away, the score does not fall by more than its interval."
    )


def test_an_audit_is_written_as_json_and_as_a_table(monkeypatch, tmp_path):
    judge = bm25(monkeypatch, tmp_path, {split: chats(split) for split in SPLITS})
    found = audit(judge, "dev", "recall_sum", ["labels_dropped", "images_blanked"])
    write_audit(WorkDir(tmp_path / "run").path / "audit", found)
    assert json.loads((tmp_path / "run" / "audit" / "dev.json").read_text()) == found
    text = (tmp_path / "run" / "audit" / "dev.md").read_text()
    assert text == table(found) and text.endswith(found["verdict"] + "\n")
    assert "| labels_dropped | 66.7 |" in text and "* images_blanked: skipped" in text


# A trained network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """DE_label with one tower for both sides, which finds equal words before it is trained."""
    sources = {split: chats(split) for split in SPLITS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmjax.task_data.open_source", lambda options, split, **_: sources[split])
        folder = tmp_path_factory.mktemp("run")
        config = get_config("demo,model=de_label")
        config.task.update(query="sharer", query_max_length=16, label_max_length=16)
        config.model.update(vocab_size=330, shared=True, joint_dim=None)
        config.train.update(global_batch_size=8, total_epochs=None, total_steps=0)
        config.eval.update(every_epochs=None, batch_size=8)
        config.observe.update(tensorboard=False, samples=False)
        config.data.data_dir, config.loader.threads = str(folder / "data"), 1
        system, workdir = make_system(to_dict(config)), WorkDir(folder / "run")
        workdir.path.mkdir()
        with pytest.raises(UserError, match="holds no trained run"):
            system.judge(workdir)
        system.train(workdir)
        yield system, workdir


def test_labels_earn_the_score_of_de_label(network):
    system, workdir = network
    judge = system.judge(workdir)
    names = ["labels_dropped", "labels_shuffled", "names_masked", "texts_shuffled", SHARED]
    found = audit(judge, "dev", "recall_sum", names)
    assert found["full"] == pytest.approx(system.evaluate(workdir, "dev").metrics["recall_sum"])
    assert found["full"] > found["chance"] + 80
    assert row(found, "labels_dropped")["value"] == pytest.approx(found["chance"])
    assert row(found, "labels_dropped")["examples"] == 24
    assert row(found, "labels_shuffled")["share"] > 0.7
    assert set(found["skipped"]) == {"names_masked", SHARED}
    assert "the labels of the photos (" in found["verdict"].partition("; ")[0]


# Intent


def test_every_turn_stays_a_row_of_intent_and_what_would_change_that_is_skipped():
    """A rule in the place of a network: a photo follows whoever says "look"."""
    said = ["look", "well", "fine", "sure"]
    made = []
    for i in range(30):
        turns = [Turn(k % 2, said[(i + k) % 4]) for k in range(2 + i % 3)]
        share = [Turn(len(turns) % 2, "", (Photo(f"p{i}"),))] if turns[-1].text == "look" else []
        made.append(Dialogue(f"d{i}", (*turns, *share)))
    source = ListSource(made, "list:dev")

    class Rule:
        inputs = make_system(to_dict(intent_config("demo")))._task.inputs

        def examples(self, dialogue):
            from mmjax.data.examples import Example

            turns, shared = turns_before_share(dialogue)
            for k in range(len(turns)):
                label = int(shared and k == len(turns) - 1)
                yield Example(k, {"label": 1}, {}, {"share": label})

        def remaining(self, dialogue, subs):
            return self.examples(dialogue)

    task = Rule()

    def evaluate(split: Split):
        def predict(name, examples):
            found = []
            for i in examples:
                turns, _ = turns_before_share(split.source[int(split.index.record[i])])
                found.append([4.0 if turns[split.index.sub[i]].text == "look" else -4.0])
            return np.array(found)

        judging = TurnEvaluator(predictor="share", target="share", places="label", threshold=0.5)
        return judging.evaluate(split.index, predict)

    judge = Judge(task, lambda name: Split(source, build_index(task, source)), evaluate)
    found = audit(judge, "dev", "f1")
    rows = judge.evaluate(judge.open("dev")).rows[0]
    positives = sum(bool(d.turns[-1].photos) for d in made) / len(rows)
    assert found["chance"] == pytest.approx(100 * 2 * positives / (1 + positives))
    assert found["examples"] == len(rows)
    assert row(found, "texts_shuffled")["share"] > 0.5
    assert row(found, "order_shuffled")["high"] < 0
    assert row(found, "speakers_swapped")["difference"] == 0
    for name in ("first_turns_only", "last_turns_only"):
        assert found["skipped"][name] == "the examples would no longer be the same ones"
    assert found["skipped"]["labels_dropped"].startswith("the system does not read the labels")


# Real data


def test_masking_names_exposes_a_model_that_is_given_the_whole_description(
    shared_data, monkeypatch, tmp_path
):
    """The project never reads it; here it is read to show that the audit would notice."""
    records = []
    for name in ("dev_00.json", "dev_01.json"):
        records += json.loads((shared_data("photochat") / "dev" / name).read_text())

    def source(whole: bool) -> ListSource:
        made = []
        for record in records:
            text = record["photo_description"]
            labels = (text,) if whole else tuple(text.partition(": ")[2].split(", "))
            photo = Photo(record["photo_id"], labels)
            turns = (
                Turn(t["user_id"], t["message"], (photo,) if t["share_photo"] else ())
                for t in record["dialogue"]
            )
            made.append(Dialogue(f"dev/{record['dialogue_id']}", tuple(turns)))
        return ListSource(made, "photochat:dev")

    lost = {}
    for whole in (True, False):
        judge = bm25(monkeypatch, tmp_path / str(whole), {"dev": source(whole)}, query="both")
        found = audit(judge, "dev", "recall_sum", ["names_masked", "labels_dropped"])
        assert found["examples"] == 1000
        # R@1 + R@5 + R@10 of a thousand candidates that tie.
        assert row(found, "labels_dropped")["value"] == pytest.approx(1.6)
        lost[whole] = row(found, "names_masked")
    assert lost[True]["share"] > 0.35 and lost[True]["high"] < -30
    assert lost[False]["share"] < 0.05
    # Without the names it is hardly better than one that never had them.
    assert abs(lost[True]["value"] - lost[False]["value"]) < 5


def test_a_system_is_opened_once_for_all_perturbations(monkeypatch, tmp_path):
    opened = []
    split = Bm25System._split
    monkeypatch.setattr(
        Bm25System, "_split", lambda self, name: opened.append(name) or split(self, name)
    )
    judge = bm25(monkeypatch, tmp_path, {split: chats(split) for split in SPLITS})
    audit(judge, "dev", "recall_sum")
    assert opened == ["dev", "train"]
