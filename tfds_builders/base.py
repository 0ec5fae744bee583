"""What all dialogue builders share: the schema on disk, the limit on bad records, provenance.

A dataset is named by its content. Where the data comes from files, their digest is compared with
what the prepared data was made from, so that changed files are never taken for the old ones; each
builder says in its `find` how other content gets another config name.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format

from mmjax.data.records import damaged
from mmjax.data.schema import Dialogue, dialogue_features, to_record
from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.origin import Key, Origin, PhotoOrigin

_SHOWN = 20  # bad records that are logged one by one


class CheckedBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes records as `array_record`, with a limit on bad ones, and refuses other prepared data.

    A kind of record says what its features are (`features`) and how one is written (`record`).
    """

    VERSION = tfds.core.Version("1.1.0")
    RECORDS: ClassVar[str] = "records"

    def __init__(self, *, data_dir: Any, origin: Origin, max_bad_records: int = 0):
        self._max_bad_records = max_bad_records
        self._origin = origin
        try:
            super().__init__(
                data_dir=data_dir, config=self._config(origin), file_format="array_record"
            )
        except json_format.ParseError as error:  # of what was prepared before
            raise damaged(self.data_path, error) from error

    @abc.abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """Of a record."""

    @abc.abstractmethod
    def record(self, key: Key, item: Any) -> Mapping[str, Any]:
        """The record of what the origin reads; raises BadRecordError."""

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
                f"{self.data_path} was prepared without {skipped} {self.RECORDS} that could not be "
                f"used; accept that with --config.data.max_bad_records={skipped}, or correct them."
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
            features=self.features(), metadata=tfds.core.MetadataDict(metadata)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        content = self._origin.fetch(dl_manager)
        return {split: self._generate_examples(content, split) for split in self._origin.splits}

    def _generate_examples(
        self, content: Any, split: str
    ) -> Iterator[tuple[Key, Mapping[str, Any]]]:
        skipped = self.info.metadata["skipped_records"]
        skipped[split] = written = 0
        for key, item in self._origin.read(content, split):
            try:
                if isinstance(item, BadRecordError):
                    raise item
                record = self.record(key, item)
            except BadRecordError as bad:
                skipped[split] += 1
                self._complain(bad, sum(skipped.values()))
            else:
                written += 1
                yield key, record
        if not written:
            raise UserError(
                f"{self.name}: there is nothing usable for {split!r} ({skipped[split]} "
                f"{self.RECORDS} could not be used); add some."
            )

    def _complain(self, bad: BadRecordError, skipped: int) -> None:
        if skipped > self._max_bad_records:
            more = f" ({skipped} such {self.RECORDS})" if skipped > 1 else ""
            raise UserError(
                f"{bad}{more}; correct it, or let {self.RECORDS} be left out with "
                "--config.data.max_bad_records=N."
            )
        if skipped <= _SHOWN:
            logging.warning("left out: %s%s", bad, " (others follow)" * (skipped == _SHOWN))


class DialogueBuilder(CheckedBuilder):
    """Writes `Dialogue` records; a dataset says only where they come from."""

    CONFIGS: ClassVar[tuple[str, ...]] = ()  # what a user may write behind the "/"
    PARTS: ClassVar[tuple[str, ...]] = ()  # of `mmjax.data.annotations.PARTS`, what it says

    def __init__(
        self, *, data_dir: Any, config: str = "", manual_dir: Any = None, max_bad_records: int = 0
    ):
        origin = self.find(config, manual_dir)
        self.asked, self.manual_dir = config, manual_dir
        super().__init__(data_dir=data_dir, origin=origin, max_bad_records=max_bad_records)

    @classmethod
    @abc.abstractmethod
    def find(cls, config: str, manual_dir: Any) -> Origin:
        """Where the data of a config is, without reading more than its digest needs.

        Raises `UserError` when the user named a folder that cannot be used.
        """

    @classmethod
    def has_config(cls, config: str) -> bool:
        """Whether `config` may stand behind the "/"."""
        return config in cls.CONFIGS

    def photos(self) -> PhotoOrigin | None:
        """Where the pixels of its photos are; None: it has none. Asked when it is prepared."""
        return None

    def features(self) -> tfds.features.FeaturesDict:
        return dialogue_features(self.PARTS)

    def record(self, key: Key, item: Dialogue) -> Mapping[str, Any]:
        return to_record(item, self.PARTS)


def digest_of(parts: Mapping[str, str]) -> str:
    """One digest for a set of named digests, whatever their order."""
    lines = "".join(f"{name}\t{parts[name]}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()
