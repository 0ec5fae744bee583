"""Can a query be rewritten: what is read of a dialogue, what is learned, and how it is judged."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from sklearn.metrics import f1_score

from configs import rewritable as config_file
from mmjax.config import to_dict
from mmjax.data.batches import HostBatches
from mmjax.data.examples import SkipRecord
from mmjax.data.images import ImageOptions
from mmjax.data.index import build_index
from mmjax.data.perturb_photos import BLANK
from mmjax.data.plan import EvalPlan
from mmjax.data.schema import Dialogue, Photo, Turn
from mmjax.data.sources import ListSource
from mmjax.data.tokenizers import load_tokenizer, train_character_tokenizer
from mmjax.errors import UserError
from mmjax.models import presets
from mmjax.results import read_result
from mmjax.systems import make_system
from mmjax.tasks.rewritable import RewritableModelOptions, RewritableOptions, rewritable_task
from mmjax.workdir import WorkDir

SHOP = Dialogue(
    "shop",
    (
        Turn(0, "衣服"),
        Turn(1, "好"),
        Turn(0, "退货", (Photo("p", file=BLANK),), rewrites=("退衣服",)),
        Turn(1, "好的"),
        Turn(0, "好", rewrites=()),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    sizes = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "bert-base", presets.bert(**sizes, max_positions=64))
        patch.setitem(presets.PRESETS, "transresnet", presets.sinusoidal(**sizes))
        yield


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    train_character_tokenizer(["衣服好退货的"], 300, folder)
    return folder


def task_of(vocabulary, kind, model=None, **options):
    texts = {"encoder": "bert-base", "trans_resnet": "transresnet"}
    task = rewritable_task(
        RewritableOptions(**{"context_max_length": 32, **options}),
        RewritableModelOptions(kind=kind, text=texts[kind], hidden_dim=8, **(model or {})),
    )
    task.load(vocabulary)
    return task


def signs(vocabulary, ids) -> str:
    tokenizer = load_tokenizer(vocabulary)
    names = {tokenizer.cls_id: "<", tokenizer.sep_id: ">"}
    return "".join(names.get(i) or tokenizer.decode([i]) for i in ids.tolist())


def test_every_query_that_annotators_saw_is_read_with_what_was_said_before(vocabulary):
    task = task_of(vocabulary, "encoder")
    found = list(task.examples(SHOP))
    assert [(e.sub, e.targets["rewritable"]) for e in found] == [(2, 1), (4, 0)]
    made = task.featurize(SHOP, 2, None)
    assert signs(vocabulary, made["text"]) == "<衣服>好>退货>"
    assert made["speaker"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert made["place"].tolist() == [0] and made["label"].tolist() == [1]
    assert {name: len(made[name]) for name in task.ragged} == found[0].lengths
    other = task_of(vocabulary, "trans_resnet").featurize(SHOP, 4, None)
    assert signs(vocabulary, other["context"]) == "<衣服>好>退货>好的>好>"
    assert other["label"].tolist() == [0]


def test_a_dialogue_that_nobody_was_asked_about_is_skipped_and_so_is_an_empty_query(vocabulary):
    task = task_of(vocabulary, "encoder")
    with pytest.raises(SkipRecord, match="of no turn is it known"):
        list(task.examples(Dialogue("d", (Turn(0, "衣"), Turn(1, "好")))))
    with pytest.raises(SkipRecord, match="the query is empty"):
        list(task.examples(Dialogue("d", (Turn(0, "衣"), Turn(0, " ", rewrites=())))))


def test_an_encoder_is_read_at_cls_by_one_linear_layer_and_sees_no_photo(vocabulary):
    task = task_of(vocabulary, "encoder")
    params = shapes(task)["params"]
    assert set(params) == {"text_tower", "head"}
    assert params["head"]["kernel"].shape == (16, 2)
    with pytest.raises(UserError, match=r"images=True needs a network that sees"):
        task_of(vocabulary, "encoder", images=True)
    with pytest.raises(UserError, match=r"context_max_length=65 is more than .* 64 positions"):
        task_of(vocabulary, "encoder", context_max_length=65).module()


def test_trans_resnet_is_read_at_its_context_and_may_see_the_photo(vocabulary):
    assert set(shapes(task_of(vocabulary, "trans_resnet"))["params"]) == {
        *("context_tower", "text_head", "head")
    }
    options = {"images": True, "image": ImageOptions(size=32)}
    task = task_of(vocabulary, "trans_resnet", {"image": "resnet-tiny"}, **options)
    assert {"image_tower", "image_norm", "image_heads_0"} < set(shapes(task)["params"])
    assert bool(task.featurize(SHOP, 2, None)["has_image"])  # the query's own


def shapes(task):
    source = ListSource([SHOP])
    index = build_index(task, source)
    rows = np.arange(2)
    given = task, [source], [index], EvalPlan(rows, 2), rows
    batch = HostBatches(*given, seed=0, fields=None, cached_examples=0)(0)
    init = functools.partial(task.module().init, train=False)
    return nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), batch))


def queries(count, seed):
    """What is asked can be rewritten where it names a thing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        thing = bool(rng.random() < 0.6)
        query = Turn(0, "退衣" if thing else "好的", rewrites=("退货",) if thing else ())
        made.append(Dialogue(f"d{i}", (Turn(1, "好"), query)))
    return made


def made_of(tmp_path, monkeypatch, **changed):
    """(system, working directory); `changed`: other records of a split."""
    sources = {
        split: ListSource(changed.get(split, queries(48, seed)), f"list:{split}")
        for seed, split in enumerate(("train", "dev", "test"))
    }
    monkeypatch.setattr("mmjax.task_data.open_source", lambda options, split, **_: sources[split])
    config = config_file.get_config("model=transresnet")
    config.task.context_max_length = 16
    config.model.update(vocab_size=300, hidden_dim=8)
    config.train.update(global_batch_size=16, total_epochs=None, total_steps=30, length_window=1)
    config.optim.learning_rate = 1e-2
    config.eval.update(every_epochs=None, batch_size=48)
    config.observe.tensorboard = False
    config.data.data_dir = str(tmp_path / "data")
    config.loader.threads = 1
    system, workdir = make_system(to_dict(config)), WorkDir(tmp_path / "run")
    workdir.path.mkdir()
    return system, workdir


def test_it_learns_to_decide(tmp_path, monkeypatch):
    system, workdir = made_of(tmp_path, monkeypatch)
    system.train(workdir)
    result = read_result(str(workdir.path / "result.json"))
    assert result.metrics["dev"]["f1@weighted"] > 95

    found = system.predict(workdir, "dev", 1)
    label = [answer["rewritable"] for answer in found]
    said = [answer["probability"] > 0.5 for answer in found]
    want = 100 * f1_score(label, said, average="weighted")
    assert result.metrics["dev"]["f1@weighted"] == pytest.approx(want)
    assert found[0]["turns"][-1]["text"] in ("退衣", "好的")


def test_a_split_with_one_answer_alone_is_the_users_error(vocabulary):
    task = task_of(vocabulary, "encoder")
    source = ListSource([d for d in queries(20, 0) if d.turns[1].rewrites])
    with pytest.raises(UserError, match="have the same label, yes"):
        task.evaluator().evaluate(build_index(task, source), None)


def test_such_a_dev_split_is_refused_before_the_first_step(tmp_path, monkeypatch):
    only_yes = [d for d in queries(20, 0) if d.turns[1].rewrites]
    system, workdir = made_of(tmp_path, monkeypatch, dev=only_yes)
    monkeypatch.setattr("mmjax.network.train_loader", None)
    with pytest.raises(UserError, match="have the same label, yes"):
        system.train(workdir)
