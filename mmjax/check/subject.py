"""A config without its data and weights: shapes are all that a compiler asks for.

What a run fits on training data, or finds in a folder of weights, has stand-ins here:

* a folder that is not on this machine is left out, and the network is its preset's, with the
  preset's vocabulary; a folder that is there is read, as a run reads it;
* without weights the vocabulary has as many entries as `config.model.vocab_size` allows, and what
  else a task fits is fitted on one made-up dialogue;
* batches have the greatest lengths that the task allows;
* an epoch has `EXAMPLES` examples, which tells only the learning rate of a step.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mmjax import config as config_lib
from mmjax.data.batches import HostBatches
from mmjax.data.loader import check_divides
from mmjax.data.packing import Packing
from mmjax.data.plan import EvalPlan
from mmjax.data.tokenizer_files import TOKENIZER_CONFIG, FamilyTokenizer
from mmjax.data.tokenizer_words import word_vocabulary
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError
from mmjax.models.presets import CAUSAL_PRESETS, ENCODER_DECODER_PRESETS, PRESETS
from mmjax.parallel import rules
from mmjax.programs import config_sections, make_task
from mmjax.task_data import any_source, any_split

EXAMPLES = 10_000

_SPECIAL = 4  # of a vocabulary of words


@dataclasses.dataclass(frozen=True)
class Subject:
    """Attributes:
    label: the row's name in tables.
    options: sections of the config as dataclasses.
    task: with stand-ins for what is fitted on data.
    notes: which stand-ins there are, a sentence each.
    """

    label: str
    options: Mapping[str, Any]
    task: Any
    notes: Sequence[str]

    def with_batch(self, size: int) -> Subject:
        """The same at another global batch, in training and in evaluation."""
        changed = {
            "train": dataclasses.replace(self.options["train"], global_batch_size=size),
            "eval": dataclasses.replace(self.options["eval"], batch_size=size),
        }
        return dataclasses.replace(self, options={**self.options, **changed})

    def training_batch(self, mesh: Mesh) -> Any:
        """A global batch of training, see `batch`."""
        train = self.options["train"]
        length = train.packed_length
        packing = None if length is None else self.task.packing(length)
        return self.batch(mesh, train.global_batch_size, packing=packing)

    def batch(
        self,
        mesh: Mesh,
        size: int,
        fields: Sequence[str] | None = None,
        packing: Packing | None = None,
    ) -> Any:
        """A global batch as ShapeDtypeStructs, cut over the mesh, each text at its longest.

        Args:
          fields: the features that are made; None: all.
          packing: how examples share rows; None: they do not.

        Raises:
          UserError: it does not divide among the devices.
        """
        check_divides(mesh, size)

        def one(x: np.ndarray) -> jax.ShapeDtypeStruct:
            spec = rules.partition_spec(("batch", *[None] * (x.ndim - 1)))
            shape = (size, *x.shape[1:])
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(one, _largest_row(self.task, fields, packing))


def open_subject(config: Mapping[str, Any]) -> Subject:
    """The subject of a config (plain values, see `mmjax.config.to_dict`).

    Raises:
      UserError: there is no network in it, or it is wrong.
    """
    if config.get("system") != "network":
        raise UserError(
            f"config.system={config.get('system')!r} has no network: there is nothing to compile, "
            "and it runs wherever its data fit into memory."
        )
    config = copy.deepcopy(dict(config))
    notes, preset = [], None
    model = config.get("model", {})
    for key in sorted(key for key in model if key.endswith("weights")):
        if model[key] and not Path(model[key]).is_dir():
            notes.append(f"{model[key]} is no folder here: its preset stands in")
            model[key] = None
            preset = model["text"] if key == "weights" else preset
    options = config_lib.build_sections(config, config_sections(config))
    task = make_task(config, options)
    with tempfile.TemporaryDirectory() as folder:
        if "vocab_size" in model and not model.get("weights"):
            size = _vocabulary(preset, model["vocab_size"])
            _made_up_tokenizer(size).save(folder)
            notes.append(f"a made-up vocabulary of {size:,} entries stands in")
        else:
            task.fit(any_source(task), Path(folder))
        task.load(Path(folder))
    return Subject(config["label"], options, task, tuple(notes))


def _vocabulary(preset: str | None, size: int) -> int:
    """Of the preset whose weights are left out; else `size`."""
    for presets in (PRESETS, CAUSAL_PRESETS):
        if preset in presets:
            return presets[preset].vocab_size
    if preset in ENCODER_DECODER_PRESETS:
        return ENCODER_DECODER_PRESETS[preset].encoder.vocab_size
    return size


def _made_up_tokenizer(size: int) -> Tokenizer:
    """Words that nobody says, and the special tokens that encoders and decoders ask for."""
    words = ["0", "1", *(f"w{n}" for n in range(2, size - _SPECIAL))]
    files = word_vocabulary([" ".join(words)], 1)
    settings = json.loads(files[TOKENIZER_CONFIG])
    settings |= {"tokenizer_class": "GPT2Tokenizer", "mask_token": settings["unk_token"]}
    return FamilyTokenizer({**files, TOKENIZER_CONFIG: json.dumps(settings).encode()})


def _largest_row(
    task: Any, fields: Sequence[str] | None, packing: Packing | None
) -> dict[str, Any]:
    part = next(iter(task.parts.values()))
    split = any_split(part)
    plan = EvalPlan(np.zeros(1, np.int64), 1)
    return HostBatches(
        task,
        [split.source],
        [split.index],
        plan,
        np.arange(1),
        seed=0,
        fields=fields,
        cached_examples=0,
        packing=packing,
        featurizers=[part],
    ).largest()
