"""Decodes the records of a prepared dataset: `tf.train.Example` messages as TFDS writes them.

TFDS' own decoder walks the whole tree of features for each record and makes an array of each
field; that took ten times as long as all the rest of reading (`benchmarks/input_pipeline.py`).
Here the tree is walked once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Values = Mapping[str, Any]  # of the message: key -> tf.train.Feature


class ExampleDecoder:
    """Encoded message -> {"id": bytes, "turns": {"text": [...], ...}, ...}.

    A sequence is a list; a sequence of sequences, or of vectors, a list of lists.
    """

    def __init__(self, tensors: Mapping[str, Any]):
        """
        Args:
          tensors: `FeaturesDict.get_tensor_info()`: names -> shape and type, nested.

        Raises:
          ValueError: a shape that no dataset of mmjax has.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        self._parse = tf_example_pb2.Example.FromString
        self._fields = [(path, _reader("/".join(path), info)) for path, info in _leaves(tensors)]

    def __call__(self, data: bytes) -> dict[str, Any]:
        values = self._parse(data).features.feature
        record: dict[str, Any] = {}
        for path, read in self._fields:
            place = record
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = read(values)
        return record


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    for name, node in tree.items():
        if isinstance(node, Mapping):
            yield from _leaves(node, (*path, name))
        else:
            yield (*path, name), node


def _reader(key: str, info: Any) -> Callable[[Values], Any]:
    """What reads the field `key` out of a message."""
    kind = np.dtype(info.np_dtype).kind
    values_of = {"i": _ints, "u": _ints, "b": _ints, "f": _floats}.get(kind, _texts)
    shape = tuple(info.shape)
    if shape == ():
        return lambda values: values_of(values[key])[0]
    if shape == (None,):
        return lambda values: list(values_of(values[key]))
    if len(shape) == 2 and shape[0] is None and shape[1] is not None:
        return lambda values: _cut(values_of(values[key]), itertools.repeat(shape[1]))
    if shape == (None, None):
        flat, lengths = f"{key}/ragged_flat_values", f"{key}/ragged_row_lengths_0"
        return lambda values: _cut(values_of(values[flat]), _ints(values[lengths]))
    raise ValueError(f"field {key} has the shape {shape}, which is not read here")


def _cut(values: Any, lengths: Any) -> list[list[Any]]:
    """`values` in pieces of these lengths, as far as they reach."""
    pieces, start = [], 0
    for length in lengths:
        if start >= len(values) and length:
            break
        pieces.append(list(values[start : start + length]))
        start += length
    return pieces


def _ints(feature: Any) -> Any:
    return feature.int64_list.value


def _floats(feature: Any) -> Any:
    return feature.float_list.value


def _texts(feature: Any) -> Any:
    return feature.bytes_list.value
