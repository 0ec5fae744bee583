"""THE training loop. It knows no task, dataset or model; those come in as functions.

What steers a run beside the arrays (best value, patience, sums since the last line of metrics) is
in `LoopState`, saved with every checkpoint, so that a run that continues is bit for bit the run
that was never stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from mmjax.checkpoint.store import CheckpointStore
from mmjax.errors import UserError
from mmjax.observe.metrics_log import MetricsLog
from mmjax.observe.progress import Progress, progress_line
from mmjax.observe.writers import Writer
from mmjax.parallel import distributed
from mmjax.steps import TrainStep
from mmjax.train_state import TrainState

logger = logging.getLogger(__name__)


class Preempted(Exception):  # noqa: N818 - the run is well, it only has to go on later
    """The run was asked to stop and has saved its state."""


@dataclasses.dataclass
class LoopState:
    """Host values that belong to a step; JSON, part of every checkpoint.

    Attributes:
      best_step, best_value: of the dev metric; None before the first evaluation.
      evaluations_without_best: since then.
      own_best: other metric whose best state is kept too -> (step, value).
      evaluated_step: at which the last evaluation was made; None before the first.
      sums, summed: of each metric over the steps since the last line of metrics.
      skipped_in_a_row: steps without a finite gradient, up to now.
      lines: of metrics written, see `mmjax.observe.metrics_log`.
      seconds: of wall time spent, over all process starts.
    """

    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_best: int = 0
    own_best: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    evaluated_step: int | None = None
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    summed: int = 0
    skipped_in_a_row: int = 0
    lines: int = 0
    seconds: float = 0.0

    def __post_init__(self):
        # JSON knows no tuples.
        self.own_best = {name: (step, value) for name, (step, value) in self.own_best.items()}

    @property
    def best_steps(self) -> set[int]:
        """Of all states that are kept for a metric."""
        steps = {step for step, _ in self.own_best.values()}
        return steps if self.best_step is None else {self.best_step, *steps}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When things happen, in steps.

    Attributes:
      total: length of the run.
      eval_every: None: only at the end. See `evaluates`.
      checkpoint_every, log_every: steps between two of them.
      patience: evaluations without a new best after which the run ends early; None: never.
      max_skipped: non-finite steps in a row after which the run stops with an error.
      eval_first: also evaluate the state before the first step.
      keep: latest checkpoints that stay.
    """

    total: int
    eval_every: int | None
    checkpoint_every: int
    log_every: int
    patience: int | None
    max_skipped: int
    eval_first: bool
    keep: int

    def evaluates(self, step: int) -> bool:
        """Whether the state after `step` is judged: the last one always, and none shortly before.

        An epoch is rarely a whole number of steps: one evaluation would be at step 280, and the
        last at 281.
        """
        if step == self.total or not self.eval_every:
            return step == self.total
        return step % self.eval_every == 0 and self.total - step > self.eval_every // 2

    def out_of_patience(self, evaluations_without_best: int) -> bool:
        """Whether the run ends here."""
        return self.patience is not None and evaluations_without_best >= self.patience


def train(
    *,
    state: TrainState,
    loop: LoopState,
    train_step: TrainStep,
    batches: Callable[[int], Iterator[Any]],
    waited: Callable[[], float],
    evaluate: Callable[[TrainState], dict[str, float]],
    best_metric: str,
    higher_is_better: bool,
    schedule: Schedule,
    checkpoints: CheckpointStore,
    best: CheckpointStore,
    log: MetricsLog | None,
    writers: list[Writer],
    batch_size: float,
    own_metrics: Mapping[str, bool] | None = None,
) -> tuple[TrainState, LoopState]:
    """Trains from `state` to `schedule.total`, or until patience ends.

    Args:
      state, loop: first values, or those of a checkpoint.
      batches: device batches from a given step on.
      waited: seconds spent waiting for them so far.
      evaluate: metrics of the dev split.
      log: of process 0; None elsewhere.
      batch_size: examples of a step, on average.
      own_metrics: other metrics whose best states are kept in `best` too -> whether higher is
        better; patience is with `best_metric` alone.

    Raises:
      Preempted: asked to stop; the state is saved.
      UserError: too many non-finite steps, or a checkpoint that could not be saved.
    """
    step = first_step = int(state.step)
    stream = batches(step)
    own = dict(own_metrics or {})
    progress = Progress(step, schedule.total, batch_size)
    began = time.perf_counter() - loop.seconds
    unread: tuple[int, dict[str, jax.Array]] | None = None
    for kept in sorted(loop.best_steps):
        best.check(kept)  # known now, and not when the run is over

    def save() -> None:
        loop.seconds = time.perf_counter() - began
        if log is not None:
            log.close_part()
            loop.lines = log.lines
        checkpoints.save(step, state, dataclasses.asdict(loop), keep=schedule.keep)

    def read(metrics: tuple[int, dict[str, jax.Array]] | None) -> None:
        """Adds a finished step's metrics to the sums, and writes a line when one is due."""
        if metrics is None:
            return
        at, values = metrics
        values = {k: float(v) for k, v in jax.device_get(values).items()}
        skipped = values.pop("skipped")
        loop.skipped_in_a_row = loop.skipped_in_a_row + 1 if skipped else 0
        if skipped:
            logger.warning("step %d: loss or gradient is not finite, no update was made", at)
            if loop.skipped_in_a_row >= schedule.max_skipped:
                raise UserError(
                    f"{loop.skipped_in_a_row} steps in a row up to step {at} had a loss or "
                    "gradient that is not finite, and none of them was applied: look at the data "
                    "of these steps, or lower config.optim.learning_rate in another --workdir."
                )
        else:
            for name, value in values.items():
                loop.sums[name] = loop.sums.get(name, 0.0) + value
        loop.sums["skipped"] = loop.sums.get("skipped", 0.0) + skipped
        loop.summed += 1
        if at % schedule.log_every == 0 or at == schedule.total:
            taken = max(1.0, loop.summed - loop.sums["skipped"])
            means = {k: v / taken for k, v in loop.sums.items() if k != "skipped"}
            means["skipped_steps"] = loop.sums["skipped"]
            loop.sums, loop.summed = {}, 0
            timing = progress.timing(at, waited())
            _report(at, schedule.total, "train", means, timing, log, writers)
        if at == first_step + 1:
            progress.restart(at, waited())  # the first step was mostly compilation

    def evaluate_now() -> None:
        metrics = evaluate(state)
        for name in (best_metric, *own):
            if math.isnan(metrics[name]):
                raise UserError(f"{name} on dev is not a number at step {step}.")
        _report(step, schedule.total, "dev", metrics, {}, log, writers)
        loop.evaluated_step = step
        loop.evaluations_without_best += 1
        if _better(metrics[best_metric], loop.best_value, higher_is_better):
            loop.best_value, loop.best_step = metrics[best_metric], step
            loop.evaluations_without_best = 0
        for name, higher in own.items():
            if _better(metrics[name], loop.own_best.get(name, (0, None))[1], higher):
                loop.own_best[name] = (step, metrics[name])
        if step in loop.best_steps:
            # A best state stays while a checkpoint names it: a run may continue from any of them.
            checkpoints.wait()
            kept = {name: float(value) for name, value in metrics.items()}
            named = [LoopState(**host).best_steps for host in checkpoints.hosts()]
            best.save(step, best_tree(state), kept, keep=loop.best_steps.union(*named))
            best.wait()  # no checkpoint may name it before it is whole
        progress.restart(step, waited())

    with distributed.StopRequest() as stop:
        if step == 0 and loop.evaluated_step is None and schedule.eval_first:
            evaluate_now()
        while step < schedule.total:
            # (1) Stop or preempt? One decision for all processes, at the same step.
            if stop.agreed(step):
                read(unread)
                if checkpoints.current != step:
                    save()
                checkpoints.wait()
                raise Preempted(f"stopped at step {step} of {schedule.total}; the state is saved")
            if schedule.out_of_patience(loop.evaluations_without_best):
                break
            # (2) State and position are saved together, before the next batch is taken and after
            # the step was judged. A save that failed in the background stops the run here and not
            # at its end.
            checkpoints.poll()
            if step and step % schedule.checkpoint_every == 0 and checkpoints.current != step:
                read(unread)
                unread = None
                save()
            # (3) The batch of this step, whatever was read before it.
            batch = next(stream)
            # (4) One update; where it is not finite the compiled step leaves the state alone.
            state, metrics = train_step(state, batch)
            # (5) Metrics of the step before: the device works on this one meanwhile.
            read(unread)
            step, unread = step + 1, (step + 1, metrics)
            # (6) Judge. Before the next save, so that a checkpoint never owes an evaluation.
            if schedule.evaluates(step):
                read(unread)
                unread = None
                evaluate_now()
            # (7) What watches; it may lose lines, and nothing depends on it.
            if step % schedule.log_every == 0:
                for writer in writers:
                    writer.flush()
        if loop.evaluated_step is None:  # no step to make, or the length of the run was cut
            evaluate_now()
            save()
        elif checkpoints.current != step:
            save()
        checkpoints.wait()
    return state, loop


def best_tree(state: TrainState) -> dict[str, Any]:
    """What is kept of the best state: all that evaluation needs."""
    return {"variables": state.eval_variables()}


def _better(value: float, best: float | None, higher_is_better: bool) -> bool:
    return best is None or (value > best if higher_is_better else value < best)


def _report(
    step: int,
    total: int,
    kind: str,
    values: dict[str, float],
    timing: dict[str, float],
    log: MetricsLog | None,
    writers: list[Writer],
) -> None:
    if log is None:
        return
    log.write(step, {f"{kind}/{k}": v for k, v in values.items()}, timing)
    if timing:
        logger.info("%s", progress_line(step, total, values, timing))
    else:
        shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        logger.info("step %d/%d  %s  %s", step, total, kind, shown)
    named = {f"{kind}/{k}": v for k, v in values.items()}
    for writer in writers:
        writer.scalars(step, named | {f"time/{k}": v for k, v in timing.items()})
