"""The demo on labels, shrunk until a run takes seconds.

Random numbers (dropout), and evaluations, checkpoints and lines of metrics at different steps.

    tests/end_to_end/tiny_config.py[:ema]
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import retrieval
from mmjax.config import parse_variant


def get_config(variant: str = "") -> ConfigDict:
    """`ema`: evaluate with averaged parameters."""
    arg = parse_variant(variant, ema=False)
    config = retrieval.get_config("demo,model=de_label")
    config.task.update(query_max_length=16, label_max_length=16)
    config.model.update(joint_dim=16, vocab_size=500, shared=True, dropout=0.1)
    config.train.update(global_batch_size=8, total_epochs=None, total_steps=24)
    config.eval.update(every_epochs=None, every_steps=6)
    config.checkpoint.every_steps = 4
    config.loader.threads = 1
    config.observe.update(log_every_steps=3, tensorboard=False)
    if arg.ema:
        config.optim.ema_decay = 0.9
    return config
