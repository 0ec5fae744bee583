"""Where metrics can be watched: TensorBoard through CLU, Weights & Biases. One interface."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from mmjax import storage
from mmjax.errors import UserError
from mmjax.options import ObserveOptions


class Writer(Protocol):
    """Receives metrics as they come; may lose the last ones when the process is killed."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Values of one step."""

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3]."""

    def flush(self) -> None:
        """Makes what was received visible."""

    def close(self) -> None:
        """No more values."""


def make_writers(options: ObserveOptions, workdir: str, config: dict[str, Any]) -> list[Writer]:
    """The writers that the config asks for; the libraries are imported only here."""
    writers: list[Writer] = []
    if options.tensorboard:
        writers.append(TensorBoardWriter(workdir))
    if options.wandb_project is not None:
        writers.append(WandbWriter(options.wandb_project, workdir, config))
    return writers


class TensorBoardWriter:
    """TensorBoard events in `workdir`, written by CLU."""

    def __init__(self, workdir: str):
        # Its start-up lines mean nothing to a reader of the training log.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            from clu import metric_writers
        except ImportError as error:
            raise UserError(
                f"TensorBoard needs clu, tensorflow and tensorboard ({error}): install "
                "requirements.txt, or set config.observe.tensorboard=False."
            ) from error
        self._writer = metric_writers.SummaryWriter(workdir)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._writer.write_scalars(step, values)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._writer.write_images(step, {name: pixels[None]})

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run, continued under the same id when the run continues."""

    def __init__(self, project: str, workdir: str, config: dict[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "config.observe.wandb_project is set, but wandb is not installed: "
                "`pip install wandb`, or set it to None."
            ) from error
        name = os.path.normpath(workdir.replace("://", "/")).replace(os.sep, "-").strip("-.")
        # Its own files need a real folder; None is one that it chooses.
        folder = None if storage.is_remote(workdir) else workdir
        self._run = wandb.init(
            project=project, name=name, id=name, resume="allow", dir=folder, config=config
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        import wandb

        self._run.log({name: wandb.Image(pixels)}, step=step)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()
