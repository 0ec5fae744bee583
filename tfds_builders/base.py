"""What all dialogue builders share: the schema on disk, the limit on bad records, provenance.

A dataset is named by its content. Where the data comes from files, their digest is compared with
what the prepared data was made from, so that changed files are never taken for the old ones; each
builder says in its `find` how other content gets another config name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format

from mmjax.data.schema import Dialogue, dialogue_features, to_record
from mmjax.data.sources import damaged
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError

Key = str
_SHOWN = 20  # bad records that are logged one by one
Reader = Callable[[Any, str], Iterator[tuple[Key, Dialogue | BadRecordError]]]


@dataclass(frozen=True)
class Origin:
    """Dialogues that can be read, and the digest that names their content.

    `fetch(download_manager)` makes the content available and returns what `read` wants as its
    first argument; it does nothing for data that is already here.
    """

    config: str
    digest: str
    read: Reader
    splits: tuple[str, ...]
    fetch: Callable[[Any], Any] = field(default=lambda download_manager: None)


class DialogueBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes `Dialogue` records as `array_record`; a dataset says only where they come from."""

    VERSION = tfds.core.Version("1.0.0")
    CONFIGS: ClassVar[tuple[str, ...]] = ()  # what a user may write behind the "/"

    def __init__(
        self, *, data_dir: Any, config: str = "", manual_dir: Any = None, max_bad_records: int = 0
    ):
        self._max_bad_records = max_bad_records
        self._origin = self.find(config, manual_dir)
        try:
            super().__init__(
                data_dir=data_dir, config=self._config(self._origin), file_format="array_record"
            )
        except json_format.ParseError as error:  # of what was prepared before
            raise damaged(self.data_path, error) from error

    @classmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        """Where the data of a config is, without reading more than its digest needs.

        Raises `UserError` when the user named a folder that cannot be used.
        """
        raise NotImplementedError

    @property
    def origin(self) -> Origin:
        return self._origin

    def check_prepared(self) -> None:
        """Refuses prepared data made from other content, or with too much left out, or damaged."""
        if not self.info.splits:
            raise damaged(self.data_path, "it has no splits")
        made_from = self.info.metadata["source_digest"]
        if made_from != self._origin.digest:
            raise UserError(
                f"{self.data_path} was prepared from other content ({made_from[:12]}) than what "
                f"is there now ({self._origin.digest[:12]}); delete that folder, or prepare "
                "elsewhere with --config.data.data_dir=DIR."
            )
        skipped = sum(self.info.metadata["skipped_records"].values())
        if skipped > self._max_bad_records:
            raise UserError(
                f"{self.data_path} was prepared without {skipped} records that could not be used; "
                f"accept that with --config.data.max_bad_records={skipped}, or correct the records."
            )

    def _config(self, origin: Origin) -> str | tfds.core.BuilderConfig:
        if any(origin.config == known.name for known in self.BUILDER_CONFIGS):
            return origin.config
        return tfds.core.BuilderConfig(
            name=origin.config, version=self.VERSION, description="Named by its content."
        )

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = {"source_digest": self._origin.digest, "skipped_records": {}}
        return self.dataset_info_from_configs(
            features=dialogue_features(), metadata=tfds.core.MetadataDict(metadata)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        content = self._origin.fetch(dl_manager)
        return {split: self._generate_examples(content, split) for split in self._origin.splits}

    def _generate_examples(
        self, content: Any, split: str
    ) -> Iterator[tuple[Key, Mapping[str, Any]]]:
        skipped = self.info.metadata["skipped_records"]
        skipped[split] = written = 0
        for key, dialogue in self._origin.read(content, split):
            if isinstance(dialogue, BadRecordError):
                skipped[split] += 1
                self._complain(dialogue, sum(skipped.values()))
            else:
                written += 1
                yield key, to_record(dialogue)
        if not written:
            raise UserError(
                f"{self.name}: there is no usable dialogue for {split!r} ({skipped[split]} "
                "records could not be used); add some."
            )

    def _complain(self, bad: BadRecordError, skipped: int) -> None:
        if skipped > self._max_bad_records:
            more = f" ({skipped} such records)" if skipped > 1 else ""
            raise UserError(
                f"{bad}{more}; correct the record, or let records be left out with "
                "--config.data.max_bad_records=N."
            )
        if skipped <= _SHOWN:
            logging.warning("left out: %s%s", bad, " (others follow)" * (skipped == _SHOWN))


def digest_of(parts: Mapping[str, str]) -> str:
    """One digest for a set of named digests, whatever their order."""
    lines = "".join(f"{name}\t{parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()
