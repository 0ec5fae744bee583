"""Configs: every mistake is named, no key takes a default's place silently, None can be given."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Literal

import pytest
from absl import flags
from ml_collections import config_flags

from mmjax.baselines.bm25_system import Bm25Options
from mmjax.baselines.knn_options import KnnOptions
from mmjax.config import (
    build,
    build_sections,
    duration,
    identity,
    judging,
    judging_keys,
    limited,
    operational,
    parse_variant,
    section,
    to_dict,
)
from mmjax.decoding.options import DecodingOptions
from mmjax.errors import UserError
from mmjax.optim.build import OptimOptions
from mmjax.options import LOOP_SECTIONS, EvalOptions, TrainOptions, new_config
from mmjax.tasks import task_module
from mmjax.tasks.response_ranking import RankingOptions

REPOSITORY = Path(__file__).resolve().parents[2]

# Every config file, with variants that together reach each of its branches.
VARIANTS = {
    "dialogue": [
        "",
        "size=tiny,response=jddc21,rewrite=jddc21/annotated,response_weight=2,packed=512",
        "weights=some/folder,images=resnet-18,image_weights=some/folder,init_from=run://somewhere",
        "size=xl,role=agent,copies=false,rewrite_weight=0.5",
    ],
    "intent": [
        "",
        "demo",
        "demo,prefix=shared",
        "model=albert,weights=some/folder",
        "model=t5,size=3b",
        "packed=512,prefix=shared",
        "size=tiny,prefix=shared,dataset=dialogue_folder",
        "text=minilm,weights=some/folder,init_from=run://somewhere",
    ],
    "rerank": [
        "",
        "candidates=run://somewhere,demo",
        "candidates=run://somewhere,text=minilm,weights=some/folder,query=marked",
    ],
    "respond": [
        "",
        "demo",
        "size=xl,weights=some/folder,role=agent",
        "dataset=jddc_pairs,size=tiny,packed=512,init_from=run://somewhere",
        "images=resnet-18,image_weights=some/folder",
        "model=transresnet",
        "model=transresnet,demo,images=resnet-18,image_weights=some/folder",
        "model=transresnet,weights=some/folder,dataset=jddc_pairs",
        "model=knn,encoder=some/folder",
        "model=knn,demo,encoder=run://a,ranker=run://a,images=resnet-18,image_weights=some/folder",
    ],
    "rewritable": [
        "",
        "model=transresnet,init_from=run://somewhere",
        "model=transresnet,images,image_weights=some/folder",
        "weights=some/folder,dataset=jddc21/annotated",
    ],
    "retrieval": [
        "",
        "demo",
        "text=bert-tiny",
        "text=bert,weights=some/folder",
        "text=minilm,weights=some/folder",
        "model=bm25",
        "model=bm25,demo",
        "dataset=dialogue_folder",
        "demo,model=de_img,init_from=run://somewhere",
        "model=de_label,text=minilm,weights=some/folder",
        "image=resnet-50,image_weights=some/folder,text=bert-tiny",
    ],
    "rewrite": [
        "",
        "model=unchanged,dataset=utterance_rewrite",
        "dataset=utterance_rewrite,size=tiny,copies=false",
        "weights=some/folder,images=resnet-18,image_weights=some/folder,init_from=run://somewhere",
    ],
}


@dataclasses.dataclass(frozen=True)
class Options:
    width: int = limited(8, low=1)
    rate: float = limited(0.5, above=0, below=1)
    share: float | None = operational(None, low=0, high=1)
    kind: Literal["a", "bee"] = "a"
    other: Literal["x", "y"] | None = None
    name: str | None = None
    names: tuple[str, ...] = ("one",)
    on: bool = True


def sections_of(config: dict) -> dict[str, type]:
    task = task_module(config["task_name"])
    if config["system"] == "bm25":
        names = ("data", "eval")
        return {n: LOOP_SECTIONS[n] for n in names} | {"task": task.OPTIONS, "bm25": Bm25Options}
    if config["system"] == "knn":
        names = ("data", "eval", "loader", "mesh")
        own = {"task": RankingOptions, "knn": KnnOptions}
        return {n: LOOP_SECTIONS[n] for n in names} | own
    if config["system"] == "unchanged":
        return {n: LOOP_SECTIONS[n] for n in ("data", "eval")} | {"task": task.OPTIONS}
    return LOOP_SECTIONS | {
        "task": task.OPTIONS,
        "model": task.MODEL_OPTIONS,
        "optim": OptimOptions,
        **getattr(task, "SECTIONS", {}),
    }


def from_command_line(*overrides: str, variant: str = "demo"):
    values = flags.FlagValues()
    file = REPOSITORY / "configs" / "retrieval.py"
    argv = ["program", f"--config={file}:{variant}", *overrides]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return to_dict(holder.value)


def test_every_config_file_is_listed_here():
    assert set(VARIANTS) == {p.stem for p in (REPOSITORY / "configs").glob("[!_]*.py")}


@pytest.mark.parametrize(
    ("name", "variant"), [(name, v) for name, variants in VARIANTS.items() for v in variants]
)
def test_every_variant_builds_and_comes_through_json_unchanged(name, variant):
    config = to_dict(importlib.import_module(f"configs.{name}").get_config(variant))
    built = build_sections(config, sections_of(config))
    again = json.loads(json.dumps(config))
    assert build_sections(again, sections_of(again)) == built
    for section_name, options in built.items():
        assert to_dict(section(options)) == config[section_name]


def test_a_section_gives_back_its_dataclass():
    options = Options(width=3, share=0.25, kind="bee", other="y", name="n", names=("p", "q"))
    assert build(Options, section(options), "s") == options
    assert build(Options, to_dict(section(options)), "s") == options


def test_a_switch_with_a_choice_beside_it_takes_both_and_nothing_else():
    for value in (True, False, "never"):
        assert build(DecodingOptions, {"early_stopping": value}, "d").early_stopping == value
    with pytest.raises(UserError, match=r'"nevr"|did you mean "never"'):
        build(DecodingOptions, {"early_stopping": "nevr"}, "d")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, r'config\.s\.widht does not exist \(did you mean "width"\?\)'),
        ({"zzz": 3}, r"config\.s\.zzz does not exist \(there are: kind, name, "),
        ({"width": "3"}, r"config\.s\.width='3' is of type str, not int"),
        ({"width": 3.0}, r"config\.s\.width=3\.0 is of type float, not int"),
        ({"width": True}, r"config\.s\.width=True is of type bool, not int"),
        ({"on": 1}, r"config\.s\.on=1 is of type int, not bool"),
        ({"rate": True}, r"config\.s\.rate=True is of type bool, not float"),
        ({"width": None}, r"config\.s\.width must have a value"),
        ({"kind": "be"}, r'config\.s\.kind=\'be\' is not a choice \(did you mean "bee"\?\)'),
        ({"other": "z"}, r"config\.s\.other='z' is not a choice \(there are: x, y\)"),
        ({"name": 5}, r"config\.s\.name=5 is of type int, not str"),
        ({"width": 0}, r"config\.s\.width=0 must be at least 1"),
        ({"rate": 0.0}, r"config\.s\.rate=0\.0 must be above 0"),
        ({"rate": 1}, r"config\.s\.rate=1\.0 must be below 1"),
        ({"rate": float("nan")}, r"config\.s\.rate=nan must be a finite number"),
        ({"share": 1.5}, r"config\.s\.share=1\.5 must be at most 1"),
        ({"share": float("inf")}, r"config\.s\.share=inf must be a finite number"),
        (7, r"config\.s=7 must be a section"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(UserError, match=message):
        build(Options, values, "s")


def test_whole_numbers_are_good_for_floats_and_lists_for_tuples():
    built = build(Options, {"share": 1, "names": ["p", "q"]}, "s")
    assert built.share == 1.0 and isinstance(built.share, float)
    assert built.names == ("p", "q")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trian": {}}, r'config\.trian does not exist \(did you mean "train"\?\)'),
        ({"seed": "one"}, r"config\.seed='one' is of type str, not int"),
        ({"label": None}, r"config\.label must have a value"),
        ({"train": 3}, r"config\.train=3 must be a section"),
    ],
)
def test_a_wrong_section_is_named(change, message):
    config = to_dict(new_config(label="x", system="network", task_name="retrieval")) | change
    with pytest.raises(UserError, match=message):
        build_sections(config, LOOP_SECTIONS)


def test_a_misspelt_key_cannot_be_set_in_a_config_file():
    config = new_config(label="x", system="network", task_name="retrieval")
    with pytest.raises((AttributeError, KeyError)):
        config.train.total_step = 5


@pytest.mark.parametrize(
    ("override", "section_name", "key", "value"),
    [
        ("--config.train.total_steps=5", "train", "total_steps", 5),
        ("--config.train.total_epochs=None", "train", "total_epochs", None),
        ("--config.train.total_epochs=2", "train", "total_epochs", 2),
        ("--config.train.total_epochs=0.5", "train", "total_epochs", 0.5),
        ("--config.optim.clip_norm=None", "optim", "clip_norm", None),
        ("--config.optim.ema_decay=0.99", "optim", "ema_decay", 0.99),
        ("--config.data.manual_dir=/some/folder", "data", "manual_dir", "/some/folder"),
        ("--config.data.manual_dir=some folder", "data", "manual_dir", "some folder"),
        ("--config.model.weights=owner/name-v2", "model", "weights", "owner/name-v2"),
        ("--config.model.labels=bert-tiny", "model", "labels", "bert-tiny"),
        ("--config.eval.patience=3", "eval", "patience", 3),
    ],
)
def test_keys_that_may_be_none_are_set_and_unset_on_the_command_line(
    override, section_name, key, value
):
    config = from_command_line(override)
    assert config[section_name][key] == value
    built = build_sections(config, sections_of(config))
    assert getattr(built[section_name], key) == value


def test_a_run_in_epochs_can_become_one_in_steps_on_the_command_line():
    config = from_command_line("--config.train.total_epochs=None", "--config.train.total_steps=7")
    options = build(TrainOptions, config["train"], "train")
    steps = duration(options, "total", batch_size=4, examples_per_epoch=100, path="train")
    assert steps == 7


def test_a_wrong_type_on_the_command_line_is_named():
    config = from_command_line("--config.train.total_steps=3.5")
    with pytest.raises(UserError, match=r"config\.train\.total_steps=3\.5 is of type float"):
        build_sections(config, sections_of(config))


def in_steps(batch_size=4, examples_per_epoch=10, name="total", **values):
    options = TrainOptions(**values) if name == "total" else EvalOptions(**values)
    return duration(
        options,
        name,
        batch_size=batch_size,
        examples_per_epoch=examples_per_epoch,
        path="train" if name == "total" else "eval",
    )


def test_durations_in_any_unit():
    assert in_steps() is None
    assert in_steps(total_steps=7) == 7
    assert in_steps(total_examples=28) == 7
    assert in_steps(total_epochs=2.0) == 5
    assert in_steps(total_epochs=0.01) == 1  # something is done
    assert in_steps(total_steps=0) == 0
    assert in_steps(name="every", every_epochs=1.0, examples_per_epoch=8) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_steps": 5, "total_epochs": 1.0}, "total_steps and config.train.total_epochs are"),
        ({"total_steps": -1}, "config.train.total_steps is -1: it must be positive"),
        ({"total_epochs": -0.5}, "config.train.total_epochs is -0.5"),
        ({"name": "every", "every_steps": 0}, "config.eval.every_steps is 0"),
        (
            {"name": "every", "every_steps": 1, "every_examples": 4},
            "every_steps and config.eval.every_examples",
        ),
    ],
)
def test_durations_that_contradict_themselves_are_named(values, message):
    with pytest.raises(UserError, match=message):
        in_steps(**values)


def test_variants_take_the_type_of_their_default():
    parse = lambda text: parse_variant(text, model="a", width=3, rate=0.5, demo=False)  # noqa: E731
    assert vars(parse("")) == {"model": "a", "width": 3, "rate": 0.5, "demo": False}
    assert vars(parse("demo,width=5,rate=1,model=b=c")) == {
        "model": "b=c",
        "width": 5,
        "rate": 1.0,
        "demo": True,
    }
    assert parse("demo=false").demo is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle=b", r"variant 'modle' of the config does not exist \(did you mean \"model\"\?\)"),
        ("model", "variant model needs a value"),
        ("width=x", "variant width='x' is not of type int"),
        ("demo=maybe", "variant demo is a switch"),
    ],
)
def test_a_mistyped_variant_is_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_variant(text, model="a", width=3, demo=False)


@pytest.mark.parametrize(
    ("config", "variant", "message"),
    [
        (
            "respond",
            "model=transresnet,size=large",
            "size of the config is read with model=gpt, an",
        ),
        ("respond", "model=transresnet,packed=512", "variant packed of the config"),
        ("respond", "encoder=folder", "variant encoder of the config is read with model=knn"),
        ("respond", "model=knn,weights=folder", "model=gpt or transresnet, and not with model=knn"),
        ("rewrite", "model=unchanged,size=xl", "variant size of the config is read with model=gpt"),
    ],
)
def test_a_variant_that_would_be_ignored_is_refused(config, variant, message):
    with pytest.raises(UserError, match=message):
        importlib.import_module(f"configs.{config}").get_config(variant)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("modle=bm25", "did you mean"),
        ("model=bm26", r'model=\'bm26\' of the config does not exist \(did you mean "bm25"\?\)'),
        ("text=bret", "text='bret' of the config does not exist"),
        ("text=minilm", "needs its weights"),
    ],
)
def test_a_mistyped_variant_of_the_retrieval_config_is_named(variant, message):
    with pytest.raises(UserError, match=message):
        importlib.import_module("configs.retrieval").get_config(variant)


@pytest.mark.parametrize("name", ["dialogue", "respond", "rewrite"])
def test_photos_are_normalised_by_kept_statistics_where_there_are_some(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    assert get_config("images=resnet-18").model.batch_norm == "global"
    for given in ("image_weights=some/folder", "init_from=run://somewhere"):
        assert get_config(f"images=resnet-18,{given}").model.batch_norm == "frozen"


def test_what_is_read_is_learned_where_rewriting_starts_from_nothing():
    get_config = importlib.import_module("configs.rewrite").get_config
    assert get_config("size=tiny").model.read_weight > 0
    for given in ("weights=some/folder", "init_from=run://somewhere"):
        started = get_config(f"size=tiny,{given}")
        assert started.model.read_weight == 0 and started.optim.ema_decay is None


def test_identity_is_what_a_run_is_and_not_how_it_is_carried_out():
    base = from_command_line()
    sections = sections_of(base)

    def differing(*overrides):
        a, b = (identity(c, sections) for c in (base, from_command_line(*overrides)))
        assert a.keys() == b.keys()
        return {key for key in a if a[key] != b[key]}

    for operation in (
        "--config.train.total_epochs=3",
        "--config.train.max_skipped_steps=3",
        "--config.eval.every_epochs=1",
        "--config.eval.batch_size=16",
        "--config.checkpoint.keep=5",
        "--config.data.data_dir=elsewhere",
        "--config.data.manual_dir=elsewhere",
        "--config.loader.threads=1",
        "--config.mesh.fsdp=2",
        "--config.observe.log_every_steps=1",
        "--config.label=another name",
    ):
        assert differing(operation) == set(), operation
    for change, key in (
        ("--config.seed=1", "seed"),
        ("--config.data.dataset=photochat", "data.dataset"),
        ("--config.train.global_batch_size=32", "train.global_batch_size"),
        ("--config.eval.metric=mrr", "eval.metric"),
        ("--config.task.query=sharer", "task.query"),
        ("--config.model.pooling=cls", "model.pooling"),
        ("--config.optim.learning_rate=0.1", "optim.learning_rate"),
    ):
        assert differing(change) == {key}


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 3
    cache: int = operational(7)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()


def test_operational_keys_of_a_nested_section_are_no_identity_either():
    values = {"part": {"inner": {"size": 4, "cache": 8}}}
    assert identity(values, {"part": Outer}) == {"part.inner": {"size": 4}}


def test_keys_for_judging_are_identity_that_evaluation_may_change():
    @dataclasses.dataclass(frozen=True)
    class Options:
        ties: str = judging("expected")
        loss: str = "ce"

    values = {"task": {"ties": "expected", "loss": "ce"}}
    assert identity(values, {"task": Options}) == {"task.ties": "expected", "task.loss": "ce"}
    assert judging_keys({"task": Options}) == {"task.ties"}
