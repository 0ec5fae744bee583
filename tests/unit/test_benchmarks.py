"""Each benchmark runs on little, says what its figures depend on, and its table follows from it."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import document, input_pipeline, seeking, tables
from benchmarks.timing import alternate, compare
from mmjax.errors import UserError
from mmjax.observe.chips import CHIPS

SAID = "we went out where to the park nice dog grass cat tree boat sea sun hello friend"


def picture(number: int, width: int = 60, height: int = 40) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()


def said(number: int) -> str:
    return " ".join(np.random.default_rng(number).permutation(SAID.split()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of twelve captioned photos."""
    folder = tmp_path_factory.mktemp("photos")
    lines = []
    for i in range(12):
        (folder / f"{i}.jpg").write_bytes(picture(i))
        captions = [said(10 * i + j) for j in range(3)]
        lines.append({"file_name": f"{i}.jpg", "captions": captions, "labels": ["Dog", "Cat"]})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A folder of dialogues without photos."""
    folder = tmp_path_factory.mktemp("dialogues")
    lines = []
    for i in range(30):
        photo = {"id": str(i), "labels": ["Dog", SAID.split()[i % 9]]}
        turns = [{"speaker": "Ann", "text": said(i)}, {"speaker": "Ann", "photos": [photo]}]
        lines.append({"turns": turns})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def check(path, rounds):
    """The document has the form that `benchmarks.document` describes."""
    found = document.read(path)
    assert found["command"].startswith(f"python -m benchmarks.{found['benchmark']} --")
    assert found["machine"]["machine"] and found["machine"]["cpu"]
    assert {"python", "mmjax", "jax", "numpy"} <= found["versions"].keys()
    assert [len(found["load_average"][k]) for k in ("before", "after")] == [3, 3]
    assert found["settings"]["rounds"] == rounds and found["cases"]
    for case in found["cases"]:
        assert case["name"] and case["unit"] and case["clock"] and case["amount"] > 0
        for values in case["contenders"].values():
            assert len(values["seconds"]) == rounds and min(values["seconds"]) > 0
            for kind in ("rate", "ratio"):
                assert values[kind]["low"] <= values[kind]["median"] <= values[kind]["high"]
        reference = case["contenders"][case["reference"]]
        assert reference["ratio"] == {"median": 1, "low": 1, "high": 1}
    return found


def test_decoding_compares_mmjax_with_every_peer_on_each_size(photos, tmp_path):
    pytest.importorskip("cv2", reason="see benchmarks/requirements.txt")
    from benchmarks import decoding

    out = tmp_path / "decoding.json"
    decoding.main([f"--photos={photos}", "--count=3", "--rounds=2", f"--out={out}"])
    found = check(out, rounds=2)
    assert len(found["cases"]) == 4 and found["settings"]["photos"] == 3
    for case in found["cases"]:
        differences = {k: v["extra"]["difference"] for k, v in case["contenders"].items()}
        assert differences.pop("Pillow") == 0
        # The same photo, upright, in the same order of colours, whoever decodes it.
        assert all(0 <= d < 8 for d in differences.values()), differences
        assert len(differences) == 4


def test_photos_are_spread_over_the_folder_and_one_without_any_is_a_users_error(photos, tmp_path):
    pytest.importorskip("cv2", reason="see benchmarks/requirements.txt")
    from benchmarks import decoding

    names = sorted(path.name for path in photos.glob("*.jpg"))
    wanted = [(photos / name).read_bytes() for name in (names[0], names[-1])]
    assert decoding.read_photos(str(photos), 2) == wanted
    assert len(decoding.read_photos(str(photos), 99)) == 12
    with pytest.raises(UserError, match=r"holds no \.jpg file"):
        decoding.read_photos(str(tmp_path), 2)


def test_enlarged_photos_are_as_large_as_they_are_called():
    pytest.importorskip("cv2", reason="see benchmarks/requirements.txt")
    from benchmarks import decoding

    for width, height, wanted in ((60, 40, (1024, 683)), (30, 60, (512, 1024))):
        data = decoding.enlarged(picture(0, width, height))
        assert Image.open(io.BytesIO(data)).size == wanted


def test_the_search_is_compared_with_exact_ones_that_find_the_same(tmp_path):
    pytest.importorskip("faiss", reason="see benchmarks/requirements.txt")
    from benchmarks import topk

    out = tmp_path / "topk.json"
    topk.main(["--queries=5", "--pool=5000", "--dim=16", "--k=3", "--rounds=2", f"--out={out}"])
    for case in check(out, rounds=2)["cases"]:
        assert [x["extra"]["same ids"] for x in case["contenders"].values()] == [1, 1, 1]
    with pytest.raises(UserError, match="--k=9"):
        topk.main(["--queries=5", "--pool=8", "--k=9"])


SMALL_STEP = ("--batch_size=2", "--length=8", "--rounds=1", "--repeat=1", "--product=64")


@pytest.mark.slow
def test_a_step_is_compared_part_by_part_with_pytorchs(tmp_path):
    from benchmarks import train_step

    out = tmp_path / "train_step.json"
    train_step.main(["--preset=bert-tiny", *SMALL_STEP, f"--out={out}"])
    found = check(out, rounds=1)
    best, *parts = found["cases"]
    assert best["unit"] == "GFLOP/s" and len(parts) == len(train_step.CASES)
    for case in found["cases"]:
        assert case["reference"] == "PyTorch" and len(case["contenders"]) == 3
    for case in parts:
        for values in case["contenders"].values():
            extra, rows = values["extra"], values["rate"]["median"]
            assert extra["GFLOP/s"] == pytest.approx(case["flops"] * rows / 2 / 1e9)
            highest = max(x["rate"]["high"] for x in best["contenders"].values())
            assert extra["of the best product's"] == pytest.approx(extra["GFLOP/s"] / highest)


@pytest.mark.slow
def test_a_compiled_step_is_pytorchs_step():
    from benchmarks.contenders import TorchContender

    network, batch = small_networks()["encoder-decoder"]
    plain = TorchContender(network, batch).step(0.0)()
    compiled = TorchContender(network, batch, compiled=True).step(0.0)()
    for name in ("loss", "grad_norm"):
        assert float(compiled[name]) == pytest.approx(float(plain[name]), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--preset=none"], "--preset=none: one of bert-tiny"),
        (["--cases=step,all"], "--cases names 'all': there are output"),
        (["--contenders=loop,jax"], "--contenders names 'jax'"),
        (["--contenders=unrolled"], 'lacks "pytorch"'),
        (
            ["--contenders=pytorch,compiled"],
            "C\\+\\+ compiler, and there is no 'none-such'",
        ),
    ],
)
def test_a_comparison_that_cannot_be_made_is_a_users_error(arguments, reason, monkeypatch):
    from benchmarks import train_step

    monkeypatch.setenv("CXX", "none-such")
    with pytest.raises(UserError, match=reason):
        train_step.main(arguments)


def small_networks():
    """One of each kind, with a batch."""
    from benchmarks.networks import Encoder, TextToText, Writer
    from mmjax.models.presets import bert, gpt2, t5

    sizes = {"layers": 1, "width": 32, "heads": 4, "feed_forward": 48, "vocab_size": 97}
    networks = {
        "encoder": Encoder(bert(**sizes), "bert"),
        "encoder-decoder": TextToText(t5(**sizes, head_dim=6), "t5"),
        "decoder": Writer(gpt2(**sizes, max_positions=16), "gpt2"),
    }
    return {name: (network, network.batch(3, 16, 4)) for name, network in networks.items()}


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder", "decoder"])
def test_a_step_of_pytorch_is_the_same_step_of_the_same_network(kind, tmp_path):
    from benchmarks.contenders import MmjaxContender, TorchContender
    from mmjax.parallel.rules import unbox
    from mmjax.pretrained.folder import load_folder
    from mmjax.pretrained.loading import load_transformer
    from mmjax.train_state import abstract_params

    network, batch = small_networks()[kind]
    theirs = network.torch_module(0.0)
    theirs.network.save_pretrained(tmp_path)
    target = unbox(abstract_params(network.module(0.0, unrolled=True), batch))
    params, report = load_transformer(
        load_folder(tmp_path), target["network"], type(network.config)
    )
    assert not report.initialised and not report.left_over
    loaded = {"network": params}
    if "head" in target:
        weight, bias = (p.detach().numpy() for p in theirs.head.parameters())
        loaded["head"] = {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}
    ours = MmjaxContender(network, batch).step(0.0, {"params": loaded})
    peers = TorchContender(network, batch).step(0.0, theirs)
    # The later ones show that the updates are the same; Adam makes much of the smallest gradients,
    # whose last bits are each machine's own.
    for tolerance in (1e-5, 3e-4, 3e-4):
        found, expected = ours(), peers()
        for name in ("loss", "grad_norm"):
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=tolerance)


def test_what_pytorch_trains_has_the_presets_size_and_dropout():
    import torch

    from benchmarks.networks import NETWORKS
    from mmjax.train_state import abstract_params, count

    for name in ("bert-tiny", "bert-base", "t5-base", "gpt2-small"):
        network = NETWORKS[name]
        ours = abstract_params(network.module(0.1, unrolled=False), network.batch(1, 8, 2))
        with torch.device("meta"):
            theirs = network.torch_module(network.dropout)
        config = getattr(network.config, "encoder", network.config)
        padding = (config.padded_vocab_size - config.vocab_size) * config.width
        assert count(ours) - padding == sum(p.numel() for p in theirs.parameters())
        rates = {m.p for m in theirs.modules() if isinstance(m, torch.nn.Dropout)}
        assert rates == {0.1} == {network.dropout}


@pytest.mark.parametrize("beams", [1, 3])
def test_transformers_writes_the_same_answers_as_mmjax(beams, tmp_path, monkeypatch):
    from benchmarks import generation
    from mmjax.models.presets import gpt2

    small = gpt2(layers=1, width=32, heads=2, vocab_size=97, max_positions=16)
    monkeypatch.setitem(generation.CAUSAL_PRESETS, "gpt2-tiny", small)
    generation.save_random("gpt2-tiny", tmp_path)
    sizes = {"batch": 2, "prompt": 5, "new": 4, "beams": beams}
    found = generation.by_mmjax(tmp_path, **sizes)()
    assert found.shape == (2, 4)
    np.testing.assert_array_equal(found, generation.by_transformers(tmp_path, **sizes)())


@pytest.mark.slow
def test_writing_is_compared_with_transformers(tmp_path):
    from benchmarks import generation

    out = tmp_path / "generation.json"
    small = ["--presets=gpt2-tiny", "--batch_sizes=1,2", "--beams=1,2", "--prompt=4", "--new=3"]
    generation.main([*small, "--rounds=1", f"--out={out}"])
    found = check(out, rounds=1)
    assert [case["amount"] for case in found["cases"]] == [3, 3, 6, 6]
    for wrong in ("--presets=gpt", "--beams=0"):
        with pytest.raises(UserError):
            generation.main([wrong])


@pytest.mark.slow
def test_scan_is_compared_with_pytorchs_loop_over_texts(tmp_path):
    from benchmarks import scan

    out = tmp_path / "scan.json"
    small = ["--pool=5", "--batch_size=3", "--regions=2", "--words=4", "--dim=8", "--rounds=1"]
    scan.main([*small, f"--out={out}"])
    found = check(out, rounds=1)
    assert [case["amount"] for case in found["cases"]] == [25, 3]
    for case in found["cases"]:
        assert case["reference"] == scan.REFERENCE and len(case["contenders"]) == 2
        assert all(values["extra"]["MiB at most"] >= 0 for values in case["contenders"].values())
    with pytest.raises(UserError, match="--words=0"):
        scan.main(["--words=0"])


def test_pytorchs_loop_over_texts_ranks_as_scan_does_and_learns():
    torch = pytest.importorskip("torch", reason="see benchmarks/requirements.txt")

    from benchmarks import scan
    from mmjax.models.stacked_cross_attention import StackedCrossAttention

    sizes = (3, 20, 8)
    texts, photos = scan.towers(30, *sizes)
    wanted = scan.text_by_text(
        torch.from_numpy(texts["words"]), texts["mask"].sum(1), torch.from_numpy(photos["regions"])
    )
    found = StackedCrossAttention()(texts, photos)
    np.testing.assert_allclose(found, wanted.T, rtol=1e-5, atol=1e-5)
    ours, theirs = scan.mmjax_ranking(30, *sizes), scan.ranking(30, *sizes)
    np.testing.assert_array_equal(ours(), theirs())
    assert np.isfinite(scan.step(4, *sizes)())


SMALL = ("--vocab_size=330", "--batch_size=8", "--rounds=2")


def test_the_pipeline_is_compared_with_decoding_and_tokenizing_alone(photos, tmp_path):
    out = tmp_path / "input_pipeline_photos.json"
    own = ["--dataset=photo_folder", f"--manual_dir={photos}", "--candidate=both", "--side=32"]
    input_pipeline.main([*own, f"--data_dir={tmp_path}", *SMALL, "--batches=99", f"--out={out}"])
    found = check(out, rounds=2)
    assert [case["amount"] for case in found["cases"]] == [32, 32]  # whole batches of 36 captions
    for case in found["cases"]:
        assert case["reference"] == "decoding and tokenizing alone" and len(case["contenders"]) == 3


def test_the_work_that_is_done_alone_is_that_of_the_batches(photos, tmp_path):
    from benchmarks.prepared import open_training, training_loader, training_plan

    task, tokenizer, split = open_training(
        "photo_folder", str(photos), str(tmp_path), candidate="both", side=32, vocab_size=330
    )
    plan = training_plan(split, 8)
    batch = training_loader(task, split, plan).host_batch(0)
    for row, (query, labels, data) in enumerate(
        input_pipeline.inputs(task, split, plan.batch(0).example)
    ):
        for name, text in (("query", query), ("photo", labels)):
            ids = batch[name]["ids"][row][batch[name]["mask"][row]]
            np.testing.assert_array_equal(ids[1:-1], tokenizer.encode(text))
        made = input_pipeline.squash(input_pipeline.decode_image(data, shortest=32), 32)
        np.testing.assert_array_equal(batch["image"][row], made)


def test_the_pipeline_of_texts_and_seeking_run_on_dialogues_without_photos(dialogues, tmp_path):
    own = ["--dataset=dialogue_folder", f"--manual_dir={dialogues}", f"--data_dir={tmp_path}"]
    texts, places = tmp_path / "input_pipeline_texts.json", tmp_path / "seeking.json"
    input_pipeline.main([*own, *SMALL, "--batches=2", f"--out={texts}"])
    seeking.main([*own, *SMALL, f"--out={places}"])
    assert {case["reference"] for case in check(texts, 2)["cases"]} == {"tokenizing alone"}
    for case in check(places, 2)["cases"]:
        assert list(case["contenders"]) == ["batch 0", "batch 1", "batch 100,000"]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """A folder of dialogues of one to five turns before a photo is shared."""
    folder = tmp_path_factory.mktemp("conversations")
    lines = []
    for i in range(24):
        turns = [{"speaker": "AB"[j % 2], "text": said(5 * i + j)} for j in range(1 + i % 5)]
        share = {"speaker": "A", "photos": [{"id": str(i), "labels": ["Dog"]}]}
        lines.append({"turns": [*turns, share]})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


INTENT = {
    "dataset": "dialogue_folder",
    "preset": "bert-tiny",
    "vocab_size": 330,
    "max_length": 64,
    "batch_size": 16,
    "window": 2,
}


def test_a_dialogues_cost_is_told_for_both_forms(conversations, tmp_path, monkeypatch):
    from benchmarks import intent_cost, training

    stepped = []  # in place of the step, whose compilation is tested elsewhere
    monkeypatch.setattr(training.Training, "step", lambda self, batch: stepped.append(batch))
    chip = dataclasses.replace(CHIPS["TPU v4"], peak_flops=1e12)
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, chip)
    out = tmp_path / "intent_cost.json"
    own = [f"--{name}={value}" for name, value in INTENT.items()]
    own += [f"--manual_dir={conversations}", f"--data_dir={tmp_path}", "--shapes=1", "--rounds=1"]
    intent_cost.main([*own, f"--out={out}"])
    (case,) = check(out, rounds=1)["cases"]
    # Each form once to begin with, and once in the only round.
    assert ["turn" in batch for batch in stepped] == [False, True, False, True]
    assert case["amount"] == 24 and " 24 dialogues with 70 turns" in case["name"]
    separate, shared = (case["contenders"][f"prefix={x}"] for x in ("separate", "shared"))
    for values in (separate, shared):
        extra = values["extra"]
        assert 0 <= extra["padding"] < 1 and 0 < extra["timed"] <= 1
        rate = values["rate"]["median"]
        assert extra["turns per second"] == pytest.approx(rate * 70 / 24)
        assert extra["GFLOP/s"] == pytest.approx(rate * extra["GFLOP per dialogue"])
        peak = 1e12 * jax.device_count()
        assert extra["of the peak"] == pytest.approx(extra["GFLOP/s"] * 1e9 / peak)
    ratio = separate["extra"]["GFLOP per dialogue"] / shared["extra"]["GFLOP per dialogue"]
    assert shared["extra"]["FLOPs saved"] == pytest.approx(ratio) and ratio > 1
    assert separate["extra"]["tokens per dialogue"] > shared["extra"]["tokens per dialogue"]


def test_an_epoch_costs_what_its_batches_cost(conversations, tmp_path):
    from benchmarks import intent_cost

    places = {"manual_dir": str(conversations), "data_dir": str(tmp_path), "weights": None}
    epoch = intent_cost.Epoch("separate", argparse.Namespace(**INTENT, **places))
    batches = [epoch._loader.host_batch(k) for k in range(70 // 16)]
    share = len(batches) * 16 / 70
    texts = [batch["text"] for batch in batches]
    assert epoch.tokens * share == pytest.approx(sum(x["ids"].size for x in texts))
    assert epoch.real_tokens * share == pytest.approx(sum(x["mask"].sum() for x in texts))
    flops = [epoch.training.flops(batch) for batch in batches]
    assert epoch.flops * share == pytest.approx(sum(flops))

    shapes = epoch.dearest(99)
    assert len(shapes) > 1 and epoch.share(shapes) == 1
    for shape in shapes:
        assert epoch.batch(shape)["text"]["ids"].shape == (16, dict(shape)["text"])
    # A second for every step, in the first round, and two in the next.
    found = epoch.seconds({shape: [1.0, 2.0] for shape in shapes})
    assert found == pytest.approx([len(batches) / share, 2 * len(batches) / share])
    # Where one shape alone is timed, the others go as fast by their FLOPs.
    of_shape = [f for f, x in zip(flops, texts, strict=True)
                if x["ids"].shape[1] == dict(shapes[0])["text"]]  # fmt: skip
    alone = epoch.seconds({shapes[0]: [3.0]})
    assert alone == pytest.approx([3.0 * len(of_shape) * sum(flops) / sum(of_shape) / share])


def test_fewer_examples_than_a_batch_is_a_users_error(dialogues, tmp_path):
    own = ["--dataset=dialogue_folder", f"--manual_dir={dialogues}", f"--data_dir={tmp_path}"]
    with pytest.raises(UserError, match="has 30 examples, fewer than a batch of 31"):
        seeking.main([*own, "--vocab_size=330", "--batch_size=31"])


def test_contenders_take_turns_and_the_first_round_does_not_count():
    turns = []
    wall, cpu = alternate({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=3)
    assert "".join(turns) == "abc" + "abc" + "cba" + "abc"
    assert [len(seconds[name]) for seconds in (wall, cpu) for name in "abc"] == [3] * 6


def test_ratios_are_taken_round_by_round():
    # The third round was slow for both: a ratio of medians over unpaired rounds would not be 2.
    found = compare(
        {"slow": [4.0, 2.0, 40.0], "fast": [2.0, 1.0, 20.0]}, amount=8, reference="slow"
    )
    assert found["contenders"]["fast"]["ratio"] == {"median": 2, "low": 2, "high": 2}
    assert found["contenders"]["slow"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert found["contenders"]["fast"]["rate"] == {"median": 4, "low": 0.4, "high": 8}


MADE_UP = {
    "benchmark": "decoding",
    "command": "python -m benchmarks.decoding --photos=DIR",
    "date": "2000-01-01",
    "machine": {"machine": "2 cores, 4 GiB", "cpu": "A processor"},
    "versions": {"python": "3.11.0", "numpy": "2.1.0"},
    "load_average": {"before": [0.25, 1.0, 1.0], "after": [0.75, 1.0, 1.0]},
    "settings": {"rounds": 2},
    "cases": [
        {
            "name": "to 64 x 64",
            "unit": "photos per second",
            "clock": "CPU",
            "extra": {"difference": "of |values|"},
            **compare({"Ours": [0.5, 0.25], "Theirs": [1.0, 1.0]}, amount=600, reference="Theirs"),
        }
    ],
}
for name, apart in (("Ours", 1.5), ("Theirs", 0.0)):
    MADE_UP["cases"][0]["contenders"][name]["extra"] = {"difference": apart}


def test_the_table_is_drawn_from_the_file_into_the_page_and_twice_is_once(tmp_path):
    (tmp_path / "decoding.json").write_text(json.dumps(MADE_UP))
    page = tmp_path / "README.md"
    page.write_text("Above.\n\n<!-- report:decoding -->\nold\n<!-- /report -->\n\nBelow.\n")
    tables.main([f"--results={tmp_path}", f"--update={page}"])
    text = page.read_text()
    assert text.startswith("Above.\n") and text.endswith("\nBelow.\n") and "old" not in text
    assert (
        "|  | photos per second | lowest to highest | ratio to Theirs | lowest to highest |" in text
    )
    assert "| Ours | 1,800 | 1,200 to 2,400 | 3.00 | 2.00 to 4.00 | 1.50 |" in text
    assert "| Theirs | 600 | 600 to 600 | 1 |  | 0 |" in text
    assert "`python -m benchmarks.decoding --photos=DIR`" in text and "A processor" in text
    assert "python 3.11.0" in text and "difference: of |values|." in text
    tables.main([f"--results={tmp_path}", f"--update={page}"])
    assert page.read_text() == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("cases"),
        lambda found: found.pop("command"),
        lambda found: found["cases"][0].pop("unit"),
        lambda found: found["cases"][0]["contenders"]["Ours"].pop("ratio"),
    ],
)
def test_a_file_of_another_form_is_a_users_error(tmp_path, damage):
    found = json.loads(json.dumps(MADE_UP))
    damage(found)
    (tmp_path / "x.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"x\.json is no result of a benchmark"):
        document.read(tmp_path / "x.json")


def test_a_folder_without_results_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.json file"):
        tables.main([f"--results={tmp_path}"])


def test_the_kept_results_are_those_in_the_page():
    """No figure in the page is written by hand, and none is out of date."""
    page = (tables.HERE / "README.md").read_text()
    for path in sorted((tables.HERE / "results").glob("*.json")):
        block = f"<!-- report:{path.stem} -->\n{tables.markdown(document.read(path))}\n<!--"
        assert block in page, f"{path.name}: run python -m benchmarks.tables"
