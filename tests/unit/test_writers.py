"""What can be watched: TensorBoard reads back the figures and the pictures that were written."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mmjax.observe.writers import TensorBoardWriter


def test_tensorboard_reads_back_figures_and_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    writer = TensorBoardWriter(str(tmp_path))
    for step in (3, 7):
        writer.scalars(step, {"dev/recall@1": step / 2})
    writer.image(7, "dev/sample", picture)
    writer.flush()
    writer.close()

    found = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    found.Reload()
    tensors = {e.step: float(make_ndarray(e.tensor_proto)) for e in found.Tensors("dev/recall@1")}
    assert tensors == {3: 1.5, 7: 3.5}
    (event,) = found.Tensors("dev/sample")
    width, height, data = event.tensor_proto.string_val
    assert (event.step, int(width), int(height)) == (7, 30, 20)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
