"""Tasks that write text: what is read, what is learned, what is written, and how it is judged."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from configs import respond, rewrite
from mmjax.config import to_dict
from mmjax.data.annotations import Product
from mmjax.data.batches import HostBatches
from mmjax.data.dialogue_marks import dialogue_marks
from mmjax.data.examples import SkipRecord
from mmjax.data.featurize import Ragged, collate
from mmjax.data.images import ImageOptions
from mmjax.data.index import build_index, open_index
from mmjax.data.packing import pack_row
from mmjax.data.photos import BytesPhoto
from mmjax.data.plan import EvalPlan
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.splits import Split
from mmjax.data.tokenizers import load_tokenizer, train_character_tokenizer
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.losses.response import response_loss
from mmjax.metrics.bootstrap import as_sums
from mmjax.metrics.generation import GenerationMetric, answers
from mmjax.models import presets
from mmjax.models.decoder import Decoder
from mmjax.options import DataOptions, EvalOptions, LoaderOptions, MeshOptions
from mmjax.parallel.mesh import make_mesh
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.task_data import TaskData
from mmjax.tasks.generation_examples import GenerationRows
from mmjax.tasks.generation_model import ModelOptions
from mmjax.tasks.response import ResponseOptions, response_task
from mmjax.tasks.rewrite import RewriteOptions, rewrite_task
from mmjax.workdir import WorkDir

SHOP = Dialogue(
    "shop",
    (
        Turn(0, "你好"),
        Turn(1, "好 "),
        Turn(0, "我要退货", rewrites=("我要退你的货", "要退货")),
        Turn(1, "退了", references=("好了",)),
    ),
    roles=("customer", "agent"),
)


def plain(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(data, "PNG")
    return data.getvalue()


def photo(name: str) -> Photo:
    return Photo(name, file=BytesPhoto(plain((250, 0, 0))))


SHOWN = Dialogue(
    "shown",
    (
        Turn(0, "你", (photo("p"),)),
        Turn(0, "", (photo("q"),)),
        Turn(1, "", (Photo("lost"),)),
        Turn(1, "好"),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    network = presets.gpt2(layers=1, width=32, heads=2, max_positions=64, dropout=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.CAUSAL_PRESETS, "gpt2-tiny", network)
        yield


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_character_tokenizer(["你好吗我要退货了的"], 400, folder)
    return folder


def task_of(vocabulary, make=response_task, model=None, **options):
    kind = {response_task: ResponseOptions, rewrite_task: RewriteOptions}[make]
    sizes = {"max_length": 24, "target_max_length": 8}
    sizes["decoding"] = DecodingOptions(max_new_tokens=8)
    task = make(kind(**{**sizes, **options}), ModelOptions(text="gpt2-tiny", **(model or {})))
    task.load(vocabulary)
    return task


def told(vocabulary, ids) -> str:
    tokenizer = load_tokenizer(vocabulary)
    marks = dialogue_marks(tokenizer)
    names = {marks.begin: "<", marks.end: ">", marks.rewrite: "R"}
    names |= dict(zip(marks.speakers, "AB", strict=True))
    return "".join(names.get(i) or tokenizer.decode([i]) for i in ids.tolist())


def row(vocabulary, task, dialogue, sub):
    """The row in signs, 1 where it is learned, and whose it is."""
    made = task.featurize(dialogue, sub, None)
    learned = "".join(map(str, made["response"].tolist()))
    return told(vocabulary, made["text"]), learned, told(vocabulary, made["speaker"])


# Rows


def test_an_answer_follows_what_was_said_and_the_mark_of_who_answers(vocabulary):
    task = task_of(vocabulary)
    assert [e.sub for e in task.examples(SHOP)] == [1, 2, 3]
    assert row(vocabulary, task, SHOP, 1) == ("<A你好B好>", "0000011", "<AAABBB")
    text, learned, speakers = row(vocabulary, task, SHOP, 3)
    assert text == "<A你好B好A我要退货B退了>"
    assert learned == "000000000000111"
    assert speakers == "<AAABBAAAAABBBB"
    assert told(vocabulary, task.featurize(SHOP, 3, None)["reply_speaker"]) == "B"


def test_a_rewrite_follows_its_query_and_the_mark_of_rewrites(vocabulary):
    task = task_of(vocabulary, rewrite_task)
    assert [e.sub for e in task.examples(SHOP)] == [2]
    assert row(vocabulary, task, SHOP, 2) == (
        "<A你好B好A我要退货R我要退你的货>",
        "0000000000001111111",
        "<AAABBAAAAARRRRRRRR",
    )
    assert task.references(SHOP, 2) == ("我要退你的货", "要退货")


def test_the_oldest_is_dropped_and_a_long_text_keeps_its_start(vocabulary):
    task = task_of(vocabulary, max_length=14, target_max_length=4)
    text, learned, speakers = row(vocabulary, task, SHOP, 3)
    assert text == "<好B好A我要退货B退了>"
    assert (learned, speakers) == ("0000000000111", "<ABBAAAAABBBB")
    long = Dialogue("long", (Turn(0, "你" * 10_000), Turn(1, "好" * 10_000)))
    text, learned, _ = row(vocabulary, task, long, 1)
    assert text == "<你你你你你你你你B好好好好"
    assert learned == "00000000001111"


@pytest.mark.parametrize("make", [response_task, rewrite_task])
def test_the_index_knows_the_lengths_that_rows_have(vocabulary, make):
    task = task_of(vocabulary, make, max_length=16)
    for example in task.examples(SHOP):
        made = task.featurize(SHOP, example.sub, None)
        assert made.keys() == task.ragged.keys() == example.lengths.keys()
        for name, length in example.lengths.items():
            assert len(made[name]) == length


def test_who_answers_and_when_can_be_chosen(vocabulary):
    def subs(dialogue, **options):
        return [e.sub for e in task_of(vocabulary, **options).examples(dialogue)]

    assert subs(SHOP, role="agent") == [1, 3]
    assert subs(SHOP, role="agent", answers="last") == [3]
    chosen = Dialogue("c", SHOP.turns, roles=SHOP.roles, targets=(2, 3))
    assert subs(chosen) == [2, 3]
    assert subs(chosen, role="agent") == [3]
    assert subs(chosen, role="customer") == [2]  # not chosen from, and all but the first
    nobody = Dialogue("n", SHOP.turns, roles=SHOP.roles, targets=())
    assert subs(nobody, role="customer") == [2]
    for options in ({}, {"role": "agent"}):
        with pytest.raises(SkipRecord, match="nobody answers"):
            subs(nobody, **options)
    with pytest.raises(SkipRecord, match="nobody in it is called 'shop'"):
        subs(SHOP, role="shop")


def test_images_stand_where_they_occurred_and_lost_ones_nowhere(vocabulary):
    seen = {"model": {"image": "resnet-tiny"}, "image": ImageOptions(size=32)}
    made = task_of(vocabulary, **seen, max_images=3).featurize(SHOWN, 3, None)
    assert made["image_at"].tolist() == [0, 0, 0, 1, 0, 2, 0, 0, 0]
    assert told(vocabulary, made["text"]) == "<A你<A<B好>"
    assert made["has_image"].tolist() == [True, True, False]
    assert made["image"].shape == (3, 32, 32, 3)
    assert made["image"][1, 0, 0].tolist() == [250, 0, 0] and not made["image"][2].any()

    last = task_of(vocabulary, **seen, max_images=1).featurize(SHOWN, 3, None)
    assert last["image_at"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    text = task_of(vocabulary).featurize(SHOWN, 3, None)
    assert told(vocabulary, text["text"]) == "<A你B好>"
    assert set(text) == {"text", "speaker", "response", "reply_speaker"}


def test_an_image_is_there_as_a_whole_or_not_at_all(vocabulary):
    task = task_of(vocabulary)
    for room, places in ((7, [1, 2, 3, 4]), (6, []), (4, [])):
        options = ResponseOptions(max_length=room + 6, target_max_length=4)
        if room < 6:
            with pytest.raises(UserError, match="8 are needed"):
                GenerationRows(options, task.goal, load_tokenizer(vocabulary), vectors=4)
            continue
        rows = GenerationRows(options, task.goal, load_tokenizer(vocabulary), vectors=4)
        asked = Dialogue("a", (Turn(0, "你", (photo("p"),)), Turn(0, "好吗"), Turn(1, "好")))
        found = rows.row(asked, 2)
        image_at = found.tokens["image_at"]
        assert image_at[image_at > 0].tolist() == places
        assert len(found.photos) == bool(places)


def test_a_session_of_images_alone_asks_who_sees_and_who_does_not(vocabulary):
    """All models are judged on the same examples."""
    only = Dialogue("only", (Turn(0, "", (photo("p"),)), Turn(1, "好")))
    seen = {"model": {"image": "resnet-tiny"}, "image": ImageOptions(size=32)}
    assert [e.sub for e in task_of(vocabulary, **seen).examples(only)] == [1]
    blind = task_of(vocabulary)
    assert [e.sub for e in blind.examples(only)] == [1]
    assert told(vocabulary, blind.featurize(only, 1, None)["text"]) == "<B好>"
    silent = Dialogue("silent", (Turn(0, " "), Turn(1, "好")))
    with pytest.raises(SkipRecord, match="nothing is said before"):
        list(blind.examples(silent))


def test_slots_are_judged_by_the_photos_that_may_be_read_and_the_same_for_who_is_blind(vocabulary):
    dialogue = replace(SHOWN, turns=(*SHOWN.turns[:2], Turn(1, "好"), SHOWN.turns[3]))
    seen = {"model": {"image": "resnet-tiny"}, "image": ImageOptions(size=32)}
    for count, names in ((1, ["q"]), (2, ["p", "q"]), (3, ["p", "q"])):
        task = task_of(vocabulary, max_images=count, **seen)
        read = task.read(dialogue, 3)
        assert [photo.id for turn in read for photo in turn.photos] == names
        assert tuple(names) == tuple(p.id for p in task._rows.row(dialogue, 3).photos)
        assert [turn.text for turn in read] == [turn.text for turn in dialogue.turns[:3]]
        assert task_of(vocabulary, max_images=count).read(dialogue, 3) == read


# Knowledge

KNOWN = replace(
    SHOP,
    products=(
        Product("p", "货", (("货", "好"), (" 退", "了 "))),
        Product("q", "", (("你", "我"),)),
    ),
)
ASKS = {"max_length": 60, "knowledge": True, "knowledge_max_length": 20}


def test_what_is_known_is_read_before_the_dialogue_as_nobody_s(vocabulary):
    text, learned, speakers = row(vocabulary, task_of(vocabulary, **ASKS), KNOWN, 1)
    assert text == "<货: 好 ;退: 了 ;你: 我 ;A你好B好>"
    assert speakers == "<" * 19 + "AAABBB" and learned == "0" * 23 + "11"
    assert row(vocabulary, task_of(vocabulary), KNOWN, 1) == row(
        vocabulary, task_of(vocabulary), SHOP, 1
    )


def test_a_fact_is_read_whole_or_not_at_all_and_the_oldest_turns_make_room(vocabulary):
    long = Product("p", "", (("货", "好"), ("退", "了" * 10_000), ("你", "我"), ("要", "的")))
    said = (Turn(0, "你" * 30), *SHOP.turns)
    known = replace(SHOP, turns=said, products=(long,))
    sizes = {"max_length": 36, "knowledge": True, "knowledge_max_length": 13}
    text, _, _ = row(vocabulary, task_of(vocabulary, **sizes), known, 4)
    assert text == "<货: 好 ;你: 我 ;你你你你A你好B好A我要退货B退了>"
    with pytest.raises(UserError, match=r"knowledge_max_length=13 takes more than half of the 24"):
        task_of(vocabulary, **{**sizes, "max_length": 34})


def test_of_what_nothing_is_known_nothing_is_read_and_data_of_nothing_are_refused(vocabulary):
    task = task_of(vocabulary, **ASKS)
    unknown = replace(SHOP, products=(Product("not there"),))
    for dialogue in (SHOP, unknown):
        assert row(vocabulary, task, dialogue, 3) == row(vocabulary, task_of(vocabulary), SHOP, 3)
    with pytest.raises(UserError, match=r"nothing is known of the products of any dialogue of li"):
        task.read_with(ListSource([SHOP, unknown]), "train")
    assert len(task.read_with(ListSource([SHOP, KNOWN]), "train")) == 2
    assert task.inputs == {"knowledge"}


def test_knowledge_is_for_who_writes():
    assert respond.get_config("knowledge").task.knowledge
    assert respond.get_config("demo,knowledge").task.knowledge_max_length == 64
    for key in ("knowledge", "slots"):
        with pytest.raises(UserError, match="model=gpt, and not with model=knn"):
            respond.get_config(f"model=knn,{key}")


# Mistakes


def test_data_without_anything_to_write_are_refused(vocabulary, tmp_path):
    talk = ListSource([Dialogue("d", (Turn(0, "你好"),))])
    for make, reason in ((response_task, "1 x nobody answers"), (rewrite_task, "rewritten")):
        with pytest.raises(UserError, match=f"no example for this task.*{reason}"):
            open_index(
                task_of(vocabulary, make), talk, cache_dir=str(tmp_path), max_skipped_fraction=0
            )


def test_a_vocabulary_without_begin_or_end_is_refused(vocabulary, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((vocabulary / name).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    kept = {k: v for k, v in settings.items() if k not in ("eos_token", "sep_token")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="no token for the end of a dialogue"):
        task_of(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_max_length": 22}, "leaves 2 of config.task.max_length=24"),
        ({"max_length": 65}, r"65 tokens.*64 positions"),
        ({"decoding": DecodingOptions(max_new_tokens=49)}, r"65 tokens.*64 positions"),
    ],
)
def test_sizes_that_cannot_be_are_named(vocabulary, options, message):
    with pytest.raises(UserError, match=message):
        task_of(vocabulary, **options).module()


def test_what_is_seen_before_it_is_read_cannot_be_learned(vocabulary):
    with pytest.raises(UserError, match=r"read_weight=0\.5 .*prefix_lm=True .* one of the two"):
        task_of(vocabulary, model={"prefix_lm": True, "read_weight": 0.5})


# Learning and judging


def batch_of(task, dialogues):
    source = ListSource(dialogues)
    index = build_index(task, source)
    rows = np.arange(len(index))
    plan = EvalPlan(rows, len(index))
    return HostBatches(task, [source], [index], plan, rows, seed=0, fields=None, cached_examples=0)(
        0
    )


@pytest.fixture(scope="module")
def small(vocabulary):
    """(task, module, its variables, a batch)"""
    task = task_of(vocabulary, max_length=16)
    batch = batch_of(task, [SHOP, Dialogue("b", (Turn(1, "要退货吗"), Turn(0, "要")))])
    module = task.module()
    variables = nn.unbox(jax.jit(lambda b: module.init(jax.random.key(0), b, train=False))(batch))
    return task, module, jax.tree.map(lambda x: 20 * x, variables), batch


def test_the_loss_and_the_perplexity_are_of_what_people_wrote_alone(small):
    task, module, variables, batch = small

    @jax.jit
    def compute(variables, batch):
        hidden = module.apply(variables, batch, method=Decoder.hidden)
        losses = response_loss(module.apply(variables, batch, train=False), batch)
        return hidden, losses, task.predictors()["log_p"].fn(variables, batch)

    hidden, (total, weight), found = compute(variables, batch)
    words = variables["params"]["text"]["embeddings"]["word"]["embedding"]
    logits = np.asarray(hidden, np.float64) @ np.asarray(words, np.float64).T
    logits = logits[..., : module.config.text.vocab_size]
    log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_p -= logits.max(-1, keepdims=True)
    want = np.zeros((len(logits), 2))
    for r, (ids, learned) in enumerate(
        zip(batch["text"]["ids"], batch["response"]["ids"], strict=True)
    ):
        for place in np.flatnonzero(learned):
            want[r] += log_p[r, place - 1, ids[place]], 1
    np.testing.assert_allclose(found, want, rtol=1e-4)
    np.testing.assert_allclose(total, -want[:, 0].sum(), rtol=1e-4)
    assert weight == want[:, 1].sum() == 2 + 5 + 3 + 2


def test_what_is_drawn_for_an_example_does_not_depend_on_its_batch(vocabulary, small):
    _, _, variables, batch = small
    drawn = task_of(vocabulary, max_length=16, decoding=DecodingOptions(8, sample=True))
    written = jax.jit(drawn.predictors()["written"].fn)
    found = np.asarray(written(variables, batch))
    np.testing.assert_array_equal(
        written(variables, jax.tree.map(lambda x: x[::-1], batch)), found[::-1]
    )
    np.testing.assert_array_equal(
        written(variables, jax.tree.map(lambda x: x[2:], batch)), found[2:]
    )
    assert len(np.unique(found[:, 0])) > 1  # and one row is no other's


def test_what_is_written_does_not_depend_on_what_people_wrote(small):
    task, _, variables, batch = small
    written = jax.jit(task.predictors()["written"].fn)
    other = dict(batch, text=dict(batch["text"], ids=batch["text"]["ids"].copy()))
    learned = batch["response"]["ids"] > 0
    other["text"]["ids"][learned] = other["text"]["ids"][learned][::-1]
    assert (other["text"]["ids"] != batch["text"]["ids"]).any()
    found = np.asarray(written(variables, batch))
    np.testing.assert_array_equal(found, written(variables, other))
    assert found.shape == (4, 8)
    # And nothing but words and the end.
    marks, tokenizer = task._rows.marks, task._rows.tokenizer
    assert np.isin(found, [*range(4, tokenizer.vocab_size), marks.end, marks.pad]).all()


def test_the_evaluator_s_figures_are_the_metric_s_of_the_texts(vocabulary):
    task = task_of(vocabulary)
    source = ListSource([SHOP, Dialogue("b", (Turn(0, "你"), Turn(1, "很好")))])
    index = build_index(task, source)
    texts = ["好", "我要货", "好了", "你很好"]
    tokenizer, marks = load_tokenizer(vocabulary), dialogue_marks(load_tokenizer(vocabulary))
    ids = np.full((4, 16), marks.pad, np.int32)
    for line, text in zip(ids, texts, strict=True):
        encoded = [*tokenizer.encode(text), marks.end, *tokenizer.encode("你")]
        line[: len(encoded)] = encoded
    log_p = np.array([[-1, 2], [-3, 4], [-0.5, 3], [-2, 3]], np.float32)
    given = {"written": ids, "log_p": log_p}
    asked = []

    def predict(name, examples):
        asked.append((name, examples.tolist()))
        return given[name][examples]

    evaluator = task.evaluator().reading(source)
    found = evaluator.evaluate(index, predict)
    references = [["好"], ["我要退货"], ["退了", "好了"], ["很好"]]
    metric = GenerationMetric()
    state = metric.update(metric.init(), answers(texts, references), {})
    want = metric.compute(state)
    assert found.metrics == {**want, "perplexity": pytest.approx(np.exp(6.5 / 12))}
    assert set(found.metrics) == set(evaluator.metric_names)
    for name, sample in found.samples.items():
        assert as_sums(sample).value == pytest.approx(found.metrics[name]), name
    assert found.groups.tolist() == [0, 0, 0, 1]

    fewer = task_of(vocabulary, written_in_training=2).evaluator().reading(source).in_training()
    asked.clear()
    part = fewer.evaluate(index, predict)
    assert asked == [("written", [0, 3]), ("log_p", [0, 1, 2, 3])]
    assert part.metrics["perplexity"] == found.metrics["perplexity"]
    assert part.rows[0].tolist() == [0, 1]


def test_packed_examples_are_learned_as_alone_with_their_images(vocabulary):
    seen = {"image": "resnet-tiny", "copies": True, "read_weight": 0.5}
    known = {"knowledge": True, "knowledge_max_length": 3}
    task = task_of(vocabulary, model=seen, image=ImageOptions(size=32), max_length=16, **known)
    others = Dialogue("o", (Turn(0, "货", (photo("r"),)), Turn(1, "你好")))
    others = replace(others, products=(Product("p", attributes=(("", ""),)),))
    assert told(vocabulary, task.featurize(others, 1, None)["text"]) == "<: ;A货<B你好>"
    batch = batch_of(task, [SHOWN, others, SHOP])
    module, packing = task.module(), task.packing(40)
    variables = nn.unbox(jax.jit(lambda b: module.init(jax.random.key(0), b, train=False))(batch))
    variables = jax.tree.map(lambda x: 3 * x, variables)
    pairs = [(d, e.sub, e.lengths) for d in (SHOWN, others, SHOP) for e in task.examples(d)]
    rows = []
    for some in (pairs[:2], pairs[2:4], pairs[4:]):
        made = [task.featurize(dialogue, sub, None) for dialogue, sub, _ in some]
        lengths = {n: [found[n] for *_, found in some] for n in packing.lengths}
        rows.append(pack_row(made, lengths, packing))
    ragged = {**packing.ragged, "dialogue": Ragged(0, (40,))}
    packed = collate(rows, rows[0], ragged, dict.fromkeys(ragged, 40))
    packed["weight"] = np.ones(3, np.float32)
    assert packed["has_image"].shape == (3, 4) and packed["has_image"].sum() == 3

    @jax.jit
    def loss(batch):
        return task.objective()(module.apply(variables, batch, train=False), batch)[0]

    np.testing.assert_allclose(loss(packed), loss(batch), rtol=1e-4)


def test_the_photos_of_others_can_be_asked_about_too(vocabulary):
    """The predictor "log_p@..." is the one that would be asked of a source with other pixels."""
    task = task_of(vocabulary, model={"image": "resnet-tiny"}, image=ImageOptions(size=32))
    red, blue = (
        Photo(name, (name,), file=BytesPhoto(plain(colour)))
        for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)))
    )

    def source(*files):
        shown = (replace(p, file=file) for p, file in zip((red, blue), files, strict=True))
        return ListSource([Dialogue(p.id, (Turn(0, "你", (p,)), Turn(1, "好"))) for p in shown])

    own, other = source(red.file, blue.file), source(blue.file, red.file)
    options = {"data": DataOptions(), "eval": EvalOptions(batch_size=2), "loader": LoaderOptions()}
    mesh = make_mesh(MeshOptions())
    with jax.set_mesh(mesh):
        data = TaskData(task, options, mesh, 0)
        split = Split(own, build_index(task, own))
        batch, module, key = batch_of(task, own), task.module(), jax.random.key(0)
        shapes = nn.unbox(jax.eval_shape(functools.partial(module.init, train=False), key, batch))
        rng, drawn = np.random.default_rng(0), {}
        for kind, least in (("params", -1.0), ("batch_stats", 0.5)):
            drawn[kind] = jax.tree.map(
                lambda x, least=least: rng.uniform(least, 1, x.shape).astype(x.dtype), shapes[kind]
            )
        predict, everything = data.predict(drawn, split), np.arange(2)
        plainly = predict("log_p", everything)
        exchanged = predict("log_p@images_of_other_labels", everything)
        want = data.predict(drawn, Split(other, split.index))("log_p", everything)
    np.testing.assert_allclose(exchanged, want, rtol=1e-5)
    assert (np.abs(exchanged - plainly)[:, 0] > 1e-2).all()


def echoes(count: int, seed: int) -> list[Dialogue]:
    """One sign is asked, and answered with another one."""
    asked = np.random.default_rng(seed).choice(list("你好我要"), count)
    given = dict(zip("你好我要", "退货了的", strict=True))
    return [Dialogue(f"d{i}", (Turn(0, a), Turn(1, given[a]))) for i, a in enumerate(asked)]


def test_it_learns_to_answer(tmp_path, monkeypatch):
    sources = {
        split: ListSource(echoes(48, seed), f"list:{split}")
        for seed, split in enumerate(("train", "dev", "test"))
    }
    monkeypatch.setattr("mmjax.task_data.open_source", lambda options, split, **_: sources[split])
    config = respond.get_config("demo")
    config.task.update(max_length=16, target_max_length=4)
    config.task.decoding.max_new_tokens = 4
    config.model.vocab_size = 300
    config.train.update(global_batch_size=16, total_epochs=None, total_steps=200, length_window=1)
    config.optim.learning_rate = 5e-3
    config.eval.update(every_epochs=None, batch_size=48)
    config.observe.tensorboard = False
    config.data.data_dir = str(tmp_path / "data")
    config.loader.threads = 1
    system, workdir = make_system(to_dict(config)), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    system.train(workdir)
    result = read_result(str(workdir.path / "result.json"))
    assert result.metrics["dev"]["exact"] > 80
    assert result.metrics["dev"]["perplexity"] < 2
    assert set(result.per_example["test"]) >= {"bleu", "dialogue", "ids"}

    found = system.predict(workdir, "dev", 1)
    right = [answer["answer"] == answer["references"][0] for answer in found]
    assert 100 * np.mean(right) == pytest.approx(result.metrics["dev"]["exact"])
    assert found[0]["id"] == "d0#1" and len(found[0]["turns"]) == 1
    system.page(tmp_path / "page.html", "dev", found)
    assert "d0#1" in (tmp_path / "page.html").read_text()


def test_queries_that_stay_as_they_are_are_a_row_to_compare_with(tmp_path, monkeypatch):
    source = ListSource([SHOP, Dialogue("b", (Turn(0, "要吗", rewrites=("要吗",)),))])
    monkeypatch.setattr("mmjax.baselines.unlearned.open_source", lambda options, split, **_: source)
    config = rewrite.get_config("model=unchanged")
    config.data.data_dir = str(tmp_path / "data")
    system, workdir = make_system(to_dict(config)), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    system.train(workdir)
    found = read_result(str(workdir.path / "result.json")).metrics["test"]
    metric = GenerationMetric()
    said = answers(["我要退货", "要吗"], [["我要退你的货", "要退货"], ["要吗"]])
    want = metric.compute(metric.update(metric.init(), said, {}))
    assert found == pytest.approx(want)
    assert found["exact"] == 50
    assert [answer["answer"] for answer in system.predict(workdir, "dev", 1)] == said.text.tolist()
