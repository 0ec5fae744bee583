"""k-NN over contexts: whose responses are candidates, and which of them is the answer."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from configs import respond
from mmjax.artifacts import write_artifact
from mmjax.asked_network import open_run, open_weights_of
from mmjax.baselines.knn_encoder import PretrainedEncoderTask
from mmjax.config import build_sections, to_dict
from mmjax.data.index import build_index
from mmjax.data.schema import Dialogue, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer, train_character_tokenizer
from mmjax.errors import UserError
from mmjax.models import presets
from mmjax.options import DataOptions, EvalOptions, LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.programs import config_sections, make_task
from mmjax.systems import make_system
from mmjax.tasks.response_ranking import RankingExamples, RankingOptions


def chats(count, prefix, turns=2):
    """Dialogues whose answers tell whose they are."""
    return [
        Dialogue(
            f"{prefix}{i}",
            tuple(Turn(t % 2, f"{prefix}{i}.{t}") for t in range(turns)),
            roles=("customer", "agent"),
        )
        for i in range(count)
    ]


SOURCES = {"train": ListSource(chats(30, "a"), "list:train"), "dev": ListSource(chats(7, "b"), "b")}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_character_tokenizer(["ab.0123456789"], 300, folder)
    return folder


class Fake:
    """A network that says what it is told to: predictor -> split -> outputs."""

    def __init__(self, vocabulary, outputs):
        self.task = RankingExamples(RankingOptions())
        self.task.load(vocabulary)
        self.outputs = outputs

    def split(self, source):
        return Split(source, build_index(self.task, source))

    def ask(self, predictor, source, examples=None):
        (name,) = (name for name, s in SOURCES.items() if s.fingerprint == source.fingerprint)
        found = self.outputs[predictor][name]
        return found if examples is None else found[examples]


def vectors(seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(len(source), 5)).astype(np.float32)
        for name, source in SOURCES.items()
    }


def system_of(vocabulary, monkeypatch, *, ranker=None, photos=None, images=False, **knn):
    monkeypatch.setattr("mmjax.baselines.unlearned.open_source", lambda o, s, **_: SOURCES[s])
    config = respond.get_config("model=knn,demo,encoder=some/folder")
    config.task.images = images
    config.knn.update(image_weights="some/folder", **knn)
    system = make_system(to_dict(config))
    system.__dict__["_encoder"] = Fake(vocabulary, {"text": vectors(0)})
    system.__dict__["_ranker"] = ranker
    system.__dict__["_seer"] = photos
    return system


def brute_force(pool, queries, k, distance):
    """Numbers of the k nearest, in float64."""
    pool, queries = np.float64(pool), np.float64(queries)
    scores = {
        "l2": -np.square(queries[:, None] - pool).sum(-1),
        "inner_product": queries @ pool.T,
    }
    return np.argsort(-scores[distance], axis=1)[:, :k]


def said(answers):
    return [[t["response"] for t in answer["top"]] for answer in answers]


@pytest.mark.parametrize("distance", ["l2", "inner_product"])
def test_the_candidates_are_the_responses_of_the_nearest_contexts(
    vocabulary, monkeypatch, distance
):
    system = system_of(vocabulary, monkeypatch, top=4, distance=distance)
    own = vectors(0)
    nearest = brute_force(own["train"], own["dev"], 4, distance)
    found = system.predict(None, "dev", 10)
    assert said(found) == [[f"a{i}.1" for i in row] for row in nearest]
    assert [a["answer"] for a in found] == [f"a{row[0]}.1" for row in nearest]
    figures = system.evaluate(None, "dev")
    assert figures.metrics["exact"] == 0 and figures.metrics["length"] > 3


def test_a_ranker_chooses_among_them_and_never_another(vocabulary, monkeypatch):
    theirs = {"context": vectors(1), "response": vectors(2)}
    system = system_of(vocabulary, monkeypatch, ranker=Fake(vocabulary, theirs), top=6)
    own = vectors(0)
    nearest = brute_force(own["train"], own["dev"], 6, "l2")
    scores = theirs["context"]["dev"] @ theirs["response"]["train"].T
    want = [row[np.argsort(-scores[i, row])] for i, row in enumerate(nearest)]
    assert said(system.predict(None, "dev", 6)) == [[f"a{i}.1" for i in row] for row in want]


def test_more_come_by_the_photo_where_both_have_one(vocabulary, monkeypatch):
    seen = vectors(3)
    present = {
        "train": np.arange(30) % 3 == 0,
        "dev": np.arange(7) != 2,
    }
    photos = {n: {"vector": seen[n], "present": present[n]} for n in seen}
    system = system_of(
        vocabulary,
        monkeypatch,
        photos=Fake(vocabulary, {"image": photos}),
        images=True,
        top=2,
        image_top=3,
    )
    own = vectors(0)
    by_text = brute_force(own["train"], own["dev"], 2, "l2")
    with_photo = np.flatnonzero(present["train"])
    by_photo = with_photo[brute_force(seen["train"][with_photo], seen["dev"], 3, "l2")]
    for i, texts in enumerate(said(system.predict(None, "dev", 10))):
        numbers = [*by_text[i], *(by_photo[i] if present["dev"][i] else ())]
        assert texts == [f"a{k}.1" for k in dict.fromkeys(numbers)]


def test_a_training_dialogue_is_no_neighbour_of_itself(vocabulary, monkeypatch):
    system = system_of(vocabulary, monkeypatch, top=40)
    for i, texts in enumerate(said(system.predict(None, "train", 40))):
        assert len(texts) == 29 and f"a{i}.1" not in texts


def test_what_is_not_named_is_asked_for():
    with pytest.raises(UserError, match=r"config\.knn\.encoder names nothing"):
        make_system(to_dict(respond.get_config("model=knn,demo")))
    config = respond.get_config("model=knn,demo,encoder=some/folder,images=resnet-18")
    with pytest.raises(UserError, match=r"images=True needs config\.knn\.image_weights"):
        make_system(to_dict(config))


def test_vectors_are_the_mean_over_all_tokens_of_the_last_layer(tmp_path, vocabulary):
    """Special ones too, and without padding; `transformers` says what they are."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = load_tokenizer(vocabulary)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = BertModel(
        BertConfig(vocab_size=tokenizer.vocab_size, intermediate_size=32, **shape),
        add_pooling_layer=False,
    ).eval()
    bert.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)

    ranking = RankingOptions(context_max_length=12, role="agent")
    task = PretrainedEncoderTask(ranking, str(tmp_path), None)
    task.load(tmp_path)
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    options = {
        "data": DataOptions(data_dir=str(tmp_path / "data")),
        "eval": EvalOptions(batch_size=8),
        "loader": LoaderOptions(threads=1),
    }
    source = ListSource(chats(3, "a", turns=4))
    with jax.set_mesh(mesh):
        network = open_weights_of(task, options, mesh)
        found = network.ask("text", source)
    with pytest.raises(UserError, match="holds no example for this task: 1 x nobody answers"):
        network.split(ListSource(chats(1, "d", turns=1)))
    split = Split(source, build_index(task, source))
    for record, turn, vector in zip(split.index.record, split.index.sub, found, strict=True):
        ids = task.featurize(source[int(record)], int(turn), None)["context"]
        with torch.no_grad():
            hidden = bert(torch.tensor(ids[None].astype(np.int64))).last_hidden_state
        np.testing.assert_allclose(vector, hidden[0].mean(0), atol=2e-5)


def test_a_finished_ranker_is_asked_about_the_responses_of_one_role(
    tmp_path, vocabulary, monkeypatch
):
    sizes = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32}
    monkeypatch.setitem(presets.PRESETS, "transresnet", presets.sinusoidal(**sizes))
    config = to_dict(respond.get_config("model=transresnet,demo,role=customer"))
    config["data"]["data_dir"] = str(tmp_path / "data")
    options = build_sections(config, config_sections(config))
    mesh = make_mesh(MeshOptions(), jax.devices()[:1])
    task = make_task(config, options)
    task.load(vocabulary)
    with jax.set_mesh(mesh):
        trained = open_weights_of(task, options, mesh).variables
        write_artifact(
            tmp_path / "artifact", trained, config=config, preprocessing=vocabulary, parents=[]
        )
        asked = {"role": "agent"}
        place = f"run://{tmp_path}"
        network = open_run(place, "knn.ranker", "response_ranking", options, mesh, asked)
    assert network.split(ListSource(chats(2, "a", turns=4))).index.sub.tolist() == [1, 3, 1, 3]
