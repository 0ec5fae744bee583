"""What TFDS and TensorFlow say while they start means nothing to a reader of a training log."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from absl import logging as absl_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars and warnings about data, drops what TFDS and TensorFlow say otherwise.

    The environment variables act only before TensorFlow is first imported, which is the case
    unless the caller imported it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

    def ours(record: logging.LogRecord) -> bool:
        chatter = "tensorflow_datasets" in record.pathname and record.levelno < logging.ERROR
        return not chatter

    logger = absl_logging.get_absl_logger()
    logger.addFilter(ours)
    try:
        yield
    finally:
        logger.removeFilter(ours)
