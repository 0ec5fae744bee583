"""What `--mode=export` writes gives in `transformers` what the model gives here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn
from safetensors.numpy import load_file

from configs import intent as intent_config
from mmjax import config as config_lib
from mmjax import export as export_lib
from mmjax.data.featurize import collate
from mmjax.data.images import ImageOptions
from mmjax.data.perturb_photos import BLANK
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.tokenizers import load_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.export import write_export
from mmjax.models import presets
from mmjax.models.dual_encoder import DualEncoder
from mmjax.models.pixels import normalize
from mmjax.models.resnet import ResNetConfig
from mmjax.systems import make_system
from mmjax.tasks.intent import IntentOptions, intent_task
from mmjax.tasks.intent import ModelOptions as IntentModel
from mmjax.tasks.intent_examples import turns_before_share
from mmjax.tasks.retrieval import ModelOptions as RetrievalModel
from mmjax.tasks.retrieval import RetrievalOptions, RetrievalTask
from mmjax.tasks.retrieval_examples import Query
from mmjax.workdir import WorkDir
from tests.parity import test_tokenizer_families as families

WORDS = (
    *("we", "went", "out", "where", "to", "the", "park", "nice", "lovely", "hello"),
    *("friend", "look", "at", "this", "photo", "of", "mine"),
)
ABOUT = {"label": "a model", "dataset": "some dialogues", "figures": {"f1": 50.0}}
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def talks(count: int, seed: int = 0) -> list[Dialogue]:
    """Dialogues of up to nine turns, most of which share a photo."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        turns = [
            Turn(k % 2, " ".join(rng.choice(WORDS, rng.integers(1, 9))))
            for k in range(rng.integers(1, 10))
        ]
        photo = Photo(f"p{i}", tuple(map(str, rng.choice(WORDS, 3))), file=BLANK)
        share = [Turn(0, "", (photo,))] if i % 4 else []
        found.append(Dialogue(f"d{i}", (*turns, *share)))
    return found


TALKS = talks(6)
SHARING = [talk for talk in TALKS if talk.turns[-1].photos]
SAID = [" ".join(np.random.default_rng(i).permutation(WORDS)) for i in range(60)]
SAID += ["0", "1"] * 30


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preprocessing")
    train_tokenizer(SAID, 340, folder)
    return folder


def weights_of(kind: type, config: Any, family: Any, folder: Path) -> Path:
    """A folder of `transformers` with a tokenizer of the family."""
    folder.mkdir(exist_ok=True)
    settings = family(folder, SAID * 4)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config.vocab_size = load_tokenizer(folder).vocab_size
    kind(config).save_pretrained(folder)
    return folder


def batch_of(task: Any, dialogues: list[Dialogue]) -> dict[str, Any]:
    features = [
        task.featurize(dialogue, example.sub, None)
        for dialogue in dialogues
        for example in task.examples(dialogue)
    ]
    longest = {n: max(len(f[n]) for f in features) for n in task.ragged}
    padded = {n: task.ragged[n].padded_length(longest[n]) for n in task.ragged}
    return collate(features, features[0], task.ragged, padded) | {
        "weight": np.ones(len(features), np.float32)
    }


def random_variables(module: Any, batch: Any) -> Any:
    """Large weights: every detail of the computation counts."""
    rng = np.random.default_rng(0)
    boxed = jax.eval_shape(lambda: module.init(jax.random.key(0), batch, train=False))

    def draw(path: tuple, x: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        noise = rng.normal(size=x.shape).astype(np.float32)
        if "variance" in name:
            return 1 + 0.2 * np.abs(noise)
        if "batch_stats" in name:
            return 0.1 * noise
        return 1 + 0.2 * noise if "scale" in name else 0.15 * noise

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(boxed))


def exported(
    task: Any, folder: Path, chosen: dict[str, float] | None = None, dialogues: Any = TALKS
) -> tuple[Any, ...]:
    """(module, variables, batch of the dialogues), the model written into `folder`."""
    module, batch = task.module(), batch_of(task, dialogues)
    variables = random_variables(module, batch)
    write_export(folder, task.exports(variables, chosen or {}), ABOUT)
    return module, variables, batch


def run_card(folder: Path, turns: list[Any]) -> Any:
    """What the code in the folder's card gives for these turns."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code, places = re.subn(r'"\."(?=\)?  # this one)', repr(str(folder)), code)
    code, dialogues = re.subn(r"turns = \[.*\]", f"turns = {turns!r}", code)
    assert (places, dialogues) == (1, 1)
    space: dict[str, Any] = {}
    exec(code, space)
    return space["probability"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def judged(task: Any, variables: Any, batch: Any) -> list[tuple[list[Turn], np.ndarray]]:
    """Of `TALKS` in one piece: the merged turns, and the probability after each of them."""
    odds = np.asarray(jax.jit(task.predictors()["share"].fn)(variables, batch))
    found, row = [], 0
    for dialogue in TALKS:
        turns = [turn for turn in dialogue.turns if turn.text]
        rows = odds[row : row + len(list(task.examples(dialogue)))]
        row += len(rows)
        if task.options.prefix == "shared":
            rows = rows[:, : len(turns)].T
        if rows.shape == (len(turns), 1):
            found.append((turns, sigmoid(rows[:, 0])))
    assert len(found) > 2
    return found


# Intent


def test_a_trained_run_is_exported_as_it_is_evaluated(tmp_path):
    """Two steps with averaged adapters; with checkpoints, and from the artifact alone."""
    for split, seed in (("train", 1), ("dev", 2)):
        lines = [json.dumps(line(d)) for d in talks(16, seed)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    config = intent_config.get_config("demo,dataset=dialogue_folder")
    config.data.update(data_dir=str(tmp_path / "data"), manual_dir=str(tmp_path))
    config.task.max_length = 24
    config.model.update(vocab_size=340, hidden_dim=48, unroll=1)
    config.train.update(global_batch_size=8, total_epochs=None, total_steps=2, length_window=1)
    config.eval.update(every_epochs=None, first=False, test=False)
    config.optim.update(ema_decay=0.5, learning_rate=0.05)
    config.optim.lora.update(pattern="attention/(query|value)/kernel", also_train=("h",))
    config.observe.tensorboard = False
    system, workdir = make_system(config_lib.to_dict(config)), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    workdir.claim(config_lib.to_dict(config), system.identity())
    system.train(workdir)
    (folder,) = system.export(workdir)
    assert folder == str(tmp_path / "run" / "export" / "classifier")
    tensors = load_file(Path(folder) / "model.safetensors")

    told = transformers.AutoConfig.from_pretrained(folder)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert told.mmjax["threshold"] == result["metrics"]["dev"]["threshold"]
    assert told.mmjax["threshold_chosen_on_dev"]
    card = (Path(folder) / "README.md").read_text()
    assert f"| f1@threshold | {result['metrics']['dev']['f1@threshold']:.4g} |" in card
    for answer in system.predict(workdir, "dev", 1)[:3]:
        turns = [(turn["speaker"], turn["text"]) for turn in answer["turns"]]
        for j, turn in enumerate(answer["turns"]):
            assert run_card(Path(folder), turns[: j + 1]) == pytest.approx(
                turn["probability"], abs=2e-6
            )

    shutil.copytree(tmp_path / "run" / "artifact", tmp_path / "alone" / "artifact")
    shutil.rmtree(tmp_path / "data")
    fresh = make_system(config_lib.to_dict(config))
    (again,) = fresh.export(WorkDir(tmp_path / "alone"))
    for name, tensor in load_file(Path(again) / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, tensors[name], name)


def line(dialogue: Dialogue) -> dict[str, Any]:
    turns = [
        {
            "speaker": turn.speaker,
            "text": turn.text,
            "photos": [{"id": p.id, "labels": list(p.labels)} for p in turn.photos],
        }
        for turn in dialogue.turns
    ]
    return {"id": dialogue.id, "turns": turns}


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ENCODERS = {
    "bert": (
        transformers.BertModel,
        transformers.BertConfig(**SMALL, type_vocab_size=3),
        families.bert,
        transformers.BertForSequenceClassification,
    ),
    "albert": (
        transformers.AlbertModel,
        transformers.AlbertConfig(**SMALL, embedding_size=16),
        families.albert,
        transformers.AlbertForSequenceClassification,
    ),
}


def encoder_task(name: str, folder: Path, prefix: str = "separate", **model: Any) -> Any:
    weights = weights_of(*ENCODERS[name][:3], folder / "weights")
    options = {"text": "weights", "weights": str(weights), "hidden_dim": 20, **model}
    task = intent_task(IntentOptions(prefix=prefix, max_length=40), IntentModel(**options))
    task.load(weights)
    return task


@pytest.mark.parametrize("name", ENCODERS)
def test_a_classifier_gives_the_same_logits(name, tmp_path):
    task = encoder_task(name, tmp_path)
    module, variables, batch = exported(task, tmp_path / "export", {"threshold": 0.3})
    folder = tmp_path / "export" / "classifier"
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert isinstance(model, ENCODERS[name][3])
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = jax.jit(lambda v, b: module.apply(v, b, train=False))(variables, batch)["logits"]
    segments = np.minimum(batch["speaker"]["ids"], model.config.type_vocab_size - 1)
    with torch.no_grad():
        actual = model.eval()(
            torch.tensor(batch["text"]["ids"]).long(),
            torch.tensor(batch["text"]["mask"]).long(),
            torch.tensor(segments).long(),
        ).logits
    np.testing.assert_allclose(actual.numpy(), expected[:, 0], **TOLERANCE)
    assert np.ptp(expected[:, 0], axis=0).min() > 0.1  # the texts matter
    assert model.config.id2label == {0: "no_photo", 1: "photo_follows"}
    assert model.config.label2id == {"no_photo": 0, "photo_follows": 1}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.mmjax["threshold"] == 0.3
    assert model.config.mmjax["max_length"] == 40
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == 40


@pytest.mark.parametrize(
    ("prefix", "model", "folders"),
    [
        ("separate", {}, ["classifier"]),
        ("separate", {"activation": "relu"}, ["encoder", "head"]),
        ("separate", {"hidden_dim": 40}, ["encoder", "head"]),
        ("shared", {}, ["encoder", "head"]),
    ],
)
def test_the_cards_code_gives_the_same_probabilities(prefix, model, folders, tmp_path):
    task = encoder_task("bert", tmp_path, prefix, **model)
    _, variables, batch = exported(task, tmp_path / "export")
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == folders
    folder = tmp_path / "export" / folders[0]
    if folders[0] == "encoder":
        assert "no classifier of transformers: " in (folder / "README.md").read_text()
    longest = 0
    for turns, expected in judged(task, variables, batch)[:3]:
        said = [(turn.speaker, turn.text) for turn in turns]
        longest = max(longest, sum(1 + len(text.split()) for _, text in said))
        if prefix == "shared":
            np.testing.assert_allclose(run_card(folder, said), expected, **TOLERANCE)
            continue
        for j in {0, len(said) - 1}:
            np.testing.assert_allclose(
                run_card(folder, said[: j + 1]), expected[j], err_msg=str(said[j]), **TOLERANCE
            )
    assert prefix == "shared" or longest > 40  # the oldest tokens are dropped


def test_the_card_scores_the_last_turns_of_a_long_dialogue_as_the_run_does(tmp_path):
    task = encoder_task("bert", tmp_path, "shared")
    _, variables, batch = exported(task, tmp_path / "export")
    odds = np.asarray(jax.jit(task.predictors()["share"].fn)(variables, batch))
    row, long = 0, 0
    for dialogue in TALKS:
        examples = list(task.examples(dialogue))
        row += len(examples)
        if len(examples) > 1:
            long += 1
            said = [(turn.speaker, turn.text) for turn in turns_before_share(dialogue)[0]]
            expected = sigmoid(odds[row - 1, : examples[-1].lengths["place"]])
            found = run_card(tmp_path / "export" / "encoder", said)
            np.testing.assert_allclose(found, expected, **TOLERANCE)
    assert long


@pytest.mark.parametrize("pretrained", [True, False])
def test_an_encoder_decoder_answers_with_the_same_odds(pretrained, tmp_path, fitted, monkeypatch):
    sizes = {"num_layers": 2, "num_heads": 4, "d_kv": 8, "d_model": 32, "d_ff": 48}
    if pretrained:
        weights = weights_of(
            transformers.T5ForConditionalGeneration,
            transformers.T5Config(**sizes),
            families.t5,
            tmp_path / "weights",
        )
        model, read = IntentModel(text="weights", weights=str(weights)), weights
    else:
        tiny = presets.t5(layers=2, width=32, heads=4, head_dim=8, feed_forward=48)
        monkeypatch.setitem(presets.ENCODER_DECODER_PRESETS, "tiny", tiny)
        model, read = IntentModel(text="tiny"), fitted
    task = intent_task(IntentOptions(max_length=60), model)
    task.load(read)
    _, variables, batch = exported(task, tmp_path / "export", {"threshold": 0.2})
    folder = tmp_path / "export" / "text_to_text"
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert isinstance(loaded, transformers.T5ForConditionalGeneration)
    for turns, expected in judged(task, variables, batch)[:3]:
        for j in {0, len(turns) - 1}:
            actual = run_card(folder, [turn.text for turn in turns[: j + 1]])
            np.testing.assert_allclose(actual, expected[j], **TOLERANCE)


# Retrieval


def sentence_vectors(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """What sentence-transformers' files of a folder say, done with transformers and numpy."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    modules = json.loads((folder / "modules.json").read_text())
    kinds = [module["type"].removeprefix("sentence_transformers.models.") for module in modules]
    assert kinds[:2] == ["Transformer", "Pooling"]
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": max_length
    }
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state.numpy()
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == hidden.shape[-1]
    mask = inputs["attention_mask"].numpy()[..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    assert pooling["pooling_mode_mean_tokens"] != pooling["pooling_mode_cls_token"]
    x = mean if pooling["pooling_mode_mean_tokens"] else hidden[:, 0]
    for module, kind in list(zip(modules, kinds, strict=True))[2:]:
        if kind == "Dense":
            dense = load_file(folder / module["path"] / "model.safetensors")
            sizes = json.loads((folder / module["path"] / "config.json").read_text())
            assert sizes["activation_function"] == "torch.nn.modules.linear.Identity"
            assert dense["linear.weight"].shape == (sizes["out_features"], sizes["in_features"])
            x = x @ dense["linear.weight"].T + dense["linear.bias"]
        else:
            assert kind == "Normalize"
            x = unit(x)
    return x


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed(module: Any, variables: Any, batch: Any, method: Any) -> np.ndarray:
    return np.asarray(jax.jit(lambda v, b: module.apply(v, b, method=method))(variables, batch))


def asking() -> list[tuple[str, str]]:
    """Query and labels of each of `SHARING`."""
    return [
        (
            " ".join(turn.text for turn in dialogue.turns if turn.text),
            ", ".join(dialogue.turns[-1].photos[0].labels),
        )
        for dialogue in SHARING
    ]


@pytest.fixture
def tiny_presets(monkeypatch):
    tiny = presets.bert(layers=2, width=32, heads=4, feed_forward=48, max_positions=40)
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)
    for stem in ("large", "small"):
        network = ResNetConfig((1, 2), (8, 16), "basic", stem=stem, stem_width=8)
        monkeypatch.setitem(presets.IMAGE_PRESETS, f"tiny-{stem}", network)


def retrieval_task(
    fitted: Path, candidate: str, keep: str = "end", query: Query = "both", **model: Any
) -> Any:
    options = RetrievalOptions(
        candidate=candidate,
        query=query,
        query_max_length=20,
        label_max_length=6,
        keep=keep,
        image=ImageOptions(size=64),
    )
    task = RetrievalTask(options, RetrievalModel(text="tiny", **model))
    task.load(fitted)
    return task


@pytest.mark.parametrize(
    ("model", "folders"),
    [
        ({"joint_dim": 24}, ["labels", "query", "scores"]),
        ({"joint_dim": 24, "shared": True, "learn_scale": True}, ["labels", "query", "scores"]),
        ({"joint_dim": None, "shared": True, "pooling": "mean"}, ["query", "scores"]),
    ],
)
def test_text_towers_give_the_same_vectors(model, folders, fitted, tiny_presets, tmp_path):
    task = retrieval_task(fitted, "labels", keep="start" if model["joint_dim"] else "end", **model)
    module, variables, batch = exported(task, tmp_path, dialogues=SHARING)
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    texts = asking()
    queries = sentence_vectors(tmp_path / "query", [query for query, _ in texts], 20)
    np.testing.assert_allclose(
        queries, embed(module, variables, batch, DualEncoder.embed_query), **TOLERANCE
    )
    place = tmp_path / ("labels" if "labels" in folders else "query")
    length = 6 if "labels" in folders else 20
    if length == 20:  # the query's folder keeps more of them
        batch = batch | {"photo": photo_batch(task, texts)}
    photos = sentence_vectors(place, [labels for _, labels in texts], length)
    np.testing.assert_allclose(
        photos, embed(module, variables, batch, DualEncoder.embed_photo), **TOLERANCE
    )
    told = json.loads((tmp_path / "scores" / "config.json").read_text())
    scale = module.apply(variables, method=DualEncoder._scale)
    assert told["logit_scale"] == pytest.approx(float(scale), rel=1e-6)


@pytest.mark.parametrize(
    ("query", "said"),
    [("sharer", "by the one who shares, "), ("both", "by both, "), ("marked", '"me:" before')],
)
def test_the_card_of_a_query_says_whose_turns_it_is_made_of(
    query, said, fitted, tiny_presets, tmp_path
):
    task = retrieval_task(fitted, "labels", query=query, joint_dim=24, shared=True)
    exported(task, tmp_path, dialogues=SHARING)
    assert said in (tmp_path / "query" / "README.md").read_text()


def photo_batch(task: Any, texts: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    rows = [task._clip(labels, 20, "start") for _, labels in texts]
    length = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, length - len(row))) for row in rows])
    return {"ids": ids, "mask": np.arange(length) < np.array([len(r) for r in rows])[:, None]}


@pytest.mark.parametrize("candidate", ["pixels", "both"])
def test_photos_get_the_same_vectors(candidate, fitted, tiny_presets, tmp_path):
    task = retrieval_task(fitted, candidate, joint_dim=24, image="tiny-large")
    module, variables, batch = exported(task, tmp_path, dialogues=SHARING)
    rng = np.random.default_rng(3)
    rows = len(batch["has_image"])
    batch |= {
        "image": rng.integers(0, 256, (rows, 64, 64, 3)).astype(np.uint8),
        "has_image": np.arange(rows) > 0,
    }
    expected = embed(module, variables, batch, DualEncoder.embed_photo)
    tower = transformers.AutoModel.from_pretrained(tmp_path / "image").eval()
    pixels = np.asarray(normalize(batch["image"])).transpose(0, 3, 1, 2)
    with torch.no_grad():
        seen = tower(torch.tensor(pixels)).pooler_output[..., 0, 0].numpy()
    parts = {"image": seen * batch["has_image"][:, None]}
    if candidate == "both":
        parts["labels"] = sentence_vectors(tmp_path / "labels", [t for _, t in asking()], 6)
    told = json.loads((tmp_path / "scores" / "config.json").read_text())
    head = load_file(tmp_path / "scores" / "model.safetensors")
    joined = np.concatenate([parts[name] for name in told["photo_parts"]], axis=-1)
    vectors = unit(joined @ head["photo_head.weight"].T + head["photo_head.bias"])
    np.testing.assert_allclose(vectors, expected, **TOLERANCE)


def test_a_network_without_a_form_there_is_refused_before_anything_is_written(
    fitted, tiny_presets, tmp_path
):
    task = retrieval_task(fitted, "pixels", joint_dim=24, image="tiny-small")
    with pytest.raises(UserError, match=r"stem='small' has no form"):
        exported(task, tmp_path / "export", dialogues=SHARING)
    assert not (tmp_path / "export").exists()


# Writing


def test_an_unfinished_export_is_no_model(fitted, tiny_presets, tmp_path, monkeypatch):
    task = retrieval_task(fitted, "labels", joint_dim=24)
    exported(task, tmp_path, dialogues=SHARING)
    assert len(list(tmp_path.glob("*/config.json"))) == 3
    write, written = export_lib._write, []

    def full_disk(folder: Any, *rest: Any) -> None:
        if len(written) == 2:
            raise OSError("no space left")
        written.append(folder.name)
        write(folder, *rest)

    monkeypatch.setattr(export_lib, "_write", full_disk)
    with pytest.raises(UserError, match=r"cannot be written.*no space left"):
        exported(task, tmp_path, dialogues=SHARING)
    assert not list(tmp_path.glob("*/config.json"))
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        transformers.AutoModel.from_pretrained(tmp_path / "query")
