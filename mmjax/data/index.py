"""The index of a source: which examples a task finds in it, their lengths and keys.

Made by one pass over the source, then cached beside the prepared data. With it every process knows
the padded shape of every global batch and which examples are equal, without reading a record.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from mmjax.data.array_cache import read_arrays, write_arrays
from mmjax.data.examples import Featurizer, SkipRecord
from mmjax.data.sources import Source
from mmjax.errors import UserError

logger = logging.getLogger(__name__)

# Part of the cache's name: raise it when the same task and source would give another index.
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class ExampleIndex:
    """Examples of one source, in the order of its records.

    Attributes:
      record: int64 [N], number of the record in the source.
      sub: int32 [N], which example of that record.
      lengths: name -> int32 [N].
      keys: name -> uint64 [N], hashes of the examples' keys.
      skipped: reason -> number of records without an example.
      targets: name -> int64 [N].
    """

    record: np.ndarray
    sub: np.ndarray
    lengths: Mapping[str, np.ndarray]
    keys: Mapping[str, np.ndarray]
    skipped: Mapping[str, int]
    targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.record)

    def take(self, examples: np.ndarray) -> ExampleIndex:
        """Some of the examples, in the order that is given."""
        columns = {
            name: {key: column[examples] for key, column in getattr(self, name).items()}
            for name in ("lengths", "keys", "targets")
        }
        return dataclasses.replace(
            self, record=self.record[examples], sub=self.sub[examples], **columns
        )


def open_index(
    task: Featurizer, source: Source, *, cache_dir: str, max_skipped_fraction: float
) -> ExampleIndex:
    """The index of `source` for `task`, from the cache or made anew.

    Raises:
      UserError: no example at all, or more records skipped than allowed.
    """
    identity = json.dumps([_FORMAT, source.fingerprint, dict(task.identity)], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    path = epath.Path(cache_dir).expanduser() / "index" / f"{name}.npz"
    index = _read(path)
    if index is None:
        index = build_index(task, source)
        _write(index, path)
    _check_skipped(index, source, max_skipped_fraction)
    return index


def build_index(
    task: Featurizer, source: Source, before: ExampleIndex | None = None
) -> ExampleIndex:
    """One pass over `source`.

    Args:
      before: the index of what `source` was before something was taken away from its dialogues:
        its examples are kept, even those of which nothing is left.
    """
    asked = collections.defaultdict(list)
    for i, example in zip(*((before.record, before.sub) if before else ((), ())), strict=True):
        asked[int(i)].append(int(example))
    record, sub, skipped = [], [], collections.Counter()
    lengths, keys, targets = (collections.defaultdict(list) for _ in range(3))
    for i in range(len(source)):
        if before is not None and i not in asked:
            continue
        try:
            dialogue = source[i]
            found = task.remaining(dialogue, asked[i]) if before else task.examples(dialogue)
            examples = list(found)
        except SkipRecord as reason:
            skipped[str(reason)] += 1
            continue
        for example in examples:
            record.append(i)
            sub.append(example.sub)
            for key, value in example.lengths.items():
                lengths[key].append(value)
            for key, value in example.keys.items():
                keys[key].append(_hash(value))
            for key, value in example.targets.items():
                targets[key].append(value)
    return ExampleIndex(
        record=np.array(record, np.int64),
        sub=np.array(sub, np.int32),
        lengths={k: np.array(v, np.int32) for k, v in lengths.items()},
        keys={k: np.array(v, np.uint64) for k, v in keys.items()},
        skipped=dict(skipped),
        targets={k: np.array(v, np.int64) for k, v in targets.items()},
    )


def dense_keys(indexes: Sequence[ExampleIndex], names: Sequence[str]) -> list[np.ndarray]:
    """Keys as small integers, the same number for the same key in all indexes.

    Returns:
      One int32 [N, K] array per index, columns in the order of `names`.
    """
    if not names:
        return [np.zeros((len(index), 0), np.int32) for index in indexes]
    columns = []
    for name in names:
        together = np.concatenate([index.keys[name] for index in indexes])
        columns.append(np.unique(together, return_inverse=True)[1].astype(np.int32))
    return np.split(np.stack(columns, axis=1), np.cumsum([len(index) for index in indexes])[:-1])


def _hash(text: str) -> int:
    """64 bits: among 10^8 different keys two are equal with probability 0.0003."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _check_skipped(index: ExampleIndex, source: Source, limit: float) -> None:
    count = sum(index.skipped.values())
    reasons = "; ".join(f"{n} x {reason}" for reason, n in index.skipped.items())
    if len(index) == 0:
        what = reasons or "it has no record"
        raise UserError(f"{source.name} holds no example for this task: {what}.")
    if count > limit * len(source):
        raise UserError(
            f"{source.name}: {count} of {len(source)} records hold no example ({reasons}). "
            f"Mend the data, or raise config.data.max_skipped_fraction (now {limit})."
        )
    if count:
        logger.warning("%s: %d of %d records skipped: %s", source.name, count, len(source), reasons)


def _write(index: ExampleIndex, path: epath.Path) -> None:
    arrays = {"record": index.record, "sub": index.sub}
    arrays |= {f"length:{k}": v for k, v in index.lengths.items()}
    arrays |= {f"key:{k}": v for k, v in index.keys.items()}
    arrays |= {f"target:{k}": v for k, v in index.targets.items()}
    arrays["skipped"] = np.frombuffer(json.dumps(dict(index.skipped)).encode(), np.uint8)
    write_arrays(path, arrays)


def _read(path: epath.Path) -> ExampleIndex | None:
    arrays = read_arrays(path)
    if arrays is None:
        return None
    groups = {
        prefix: {k[len(prefix) :]: array for k, array in arrays.items() if k.startswith(prefix)}
        for prefix in ("length:", "key:", "target:")
    }
    return ExampleIndex(
        arrays["record"],
        arrays["sub"],
        groups["length:"],
        groups["key:"],
        json.loads(arrays["skipped"].tobytes()),
        groups["target:"],
    )
