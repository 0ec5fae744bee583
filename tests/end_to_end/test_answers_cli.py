"""Responses from the command line: a run, and its answers in another way than it was judged."""

from __future__ import annotations

from mmjax.answers import read_answers
from mmjax.results import read_result
from tests.end_to_end.test_cli import mmjax

RUN = (
    "--config=configs/respond.py:demo",
    "--config.task.answers=last",
    "--config.task.max_length=24",
    "--config.task.target_max_length=6",
    "--config.task.written_in_training=16",
    "--config.model.vocab_size=400",
    "--config.train.total_epochs=None",
    "--config.train.total_steps=2",
    "--config.train.global_batch_size=16",
    "--config.eval.every_epochs=None",
    "--config.eval.batch_size=256",
    "--config.observe.tensorboard=False",
)
GREEDY = ("--config.task.decoding.max_new_tokens=4",)
BEAMS = ("--config.task.decoding.max_new_tokens=3", "--config.task.decoding.beams=2")


def test_a_run_is_scored_and_answers_also_in_another_way(tmp_path):
    here = (f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'data'}")
    outcome = mmjax(*RUN, *GREEDY, *here)
    assert outcome.code == 0, outcome.err
    result = read_result(str(tmp_path / "run" / "result.json"))
    assert result.task == "response" and result.test_looks == 1
    for split in ("dev", "test"):
        low, high = result.intervals[split]["perplexity"]
        assert low <= result.metrics[split]["perplexity"] <= high
        assert len(result.per_example[split]["bleu"]) == result.dataset["sizes"][split]

    outcome = mmjax(*RUN, *BEAMS, *here, "--mode=predict")
    assert outcome.code == 0, outcome.err
    predictions = tmp_path / "run" / "predictions"
    answers = read_answers(predictions / "dev.jsonl", "generation")
    assert len(answers) == result.dataset["sizes"]["dev"]
    assert all(answer["references"] and answer["turns"] for answer in answers)
    assert (predictions / "dev.html").exists()
