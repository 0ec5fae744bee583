"""The records of one split of a prepared TFDS dataset, read by number without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from mmjax.data.example_proto import ExampleDecoder
from mmjax.data.quiet import quiet
from mmjax.errors import UserError


class Records:
    """Random access through TFDS' `as_data_source`.

    Cheap to pickle: a worker process opens the files itself, when it first reads.

    Attributes:
      name: "photochat/release:train".
      fingerprint: of the content, hexadecimal.
    """

    def __init__(self, folder: Any, split: str):
        self._folder, self._split = os.fspath(folder), split
        self._records, self._decode = None, None
        info = self._open().info
        rows = info.splits[split]
        self.name = f"{info.full_name.rsplit('/', 1)[0]}:{split}"
        self._length = rows.num_examples
        content = {
            "name": info.full_name,
            "split": split,
            "shards": list(rows.shard_lengths),
            "bytes": rows.num_bytes,
            "source": dict(info.metadata or {}),
        }
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Record number `i`: bytes for texts, a column per field of a sequence."""
        if not -self._length <= i < self._length:
            raise IndexError(f"{self.name} has {self._length} records, index {i} is out of range")
        try:
            if self._records is None:
                self._records, self._decode = self._open_records()
            return self._decode(self._records[int(i) % self._length])
        except RuntimeError as error:  # array_record keeps a hash of every chunk
            raise damaged(self._folder, error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None, "_decode": None}

    def _open_records(self) -> tuple[Any, ExampleDecoder]:
        """Encoded records, and what decodes one."""
        import tensorflow_datasets as tfds

        builder = self._open()
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source(self._split, deserialize_method=raw)
        return records, ExampleDecoder(builder.info.features.get_tensor_info())

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        with quiet():
            return tfds.builder_from_directory(self._folder)


def damaged(folder: Any, reason: Any) -> UserError:
    """The error for prepared data that cannot be read: they can always be made again."""
    why = str(reason).splitlines()[0]
    return UserError(
        f"The prepared data in {folder} are damaged ({why}); delete that folder and "
        "run the command again."
    )
