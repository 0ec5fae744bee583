"""The loop alone, with a toy step: order, cadence, patience, the best, stops, and going on."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax import trainer
from mmjax.errors import UserError
from mmjax.observe.metrics_log import MetricsLog, read_metrics
from mmjax.parallel import distributed
from mmjax.train_state import TrainState
from mmjax.trainer import LoopState, Preempted, Schedule


class Killed(BaseException):
    """The process is gone."""


class Events(list):
    """What happened, in order; may end in a kill."""

    def __init__(self, kill_at: int | None = None):
        super().__init__()
        self._kill_at = kill_at

    def add(self, event: str) -> None:
        if self._kill_at is not None and len(self) >= self._kill_at:
            raise Killed
        self.append(event)


class Store:
    """`CheckpointStore` in memory; after a kill the save under way may still land, or not."""

    def __init__(self, name: str, disk: dict[int, Any], events: Events):
        self.name, self.disk, self.events = name, disk, events
        self.current = max(disk, default=None)
        self._pending = None
        self.error = None

    def save(self, step, tree, host, keep):
        self.wait()
        self.events.add(f"{self.name} {step}")
        self.disk.pop(step, None)
        self._pending = (step, tree, json.dumps(host), keep)
        self.current = step

    def poll(self):
        if self.error is not None:
            raise self.error

    def wait(self):
        if self._pending is not None:
            self.events.add(f"{self.name} {self._pending[0]} whole")
            self.land()

    def land(self):
        if self._pending is None:
            return
        step, tree, host, keep = self._pending
        self._pending = None
        self.disk[step] = (tree, host)
        if isinstance(keep, int):
            keep = sorted(s for s in self.disk if s <= step)[-keep:]
        for old in [s for s in self.disk if s not in {*keep, step}]:
            del self.disk[old]

    def hosts(self):
        return [json.loads(host) for _, host in self.disk.values()]

    def check(self, step):
        if step not in self.disk:
            raise UserError(f"checkpoint {step} is missing")


class Scalar:
    """A metric on its way from the device: records when the host reads it."""

    def __init__(self, value: float, event: str, events: Events):
        self._value, self._event, self._events = value, event, events

    def __array__(self, dtype=None, copy=None):
        self._events.add(self._event)
        return np.asarray(self._value)


class Log(MetricsLog):
    """A kill while the file is written again leaves nothing of it."""

    def __init__(self, folder: Any, kept: int, events: Events):
        super().__init__(folder, kept)
        self._events, self._disk = events, folder

    def write(self, step, values, timing):
        try:
            self._events.add(f"metrics {step} {sorted(values)}")
        except Killed:
            super().write(step, values, timing)
            max(self._disk.iterdir()).write_text("")
            raise
        super().write(step, values, timing)


class Watcher:
    def __init__(self, events: Events):
        self.events = events

    def scalars(self, step, values):
        kind = {"train", "dev"} & {name.partition("/")[0] for name in values}
        self.events.add(f"line {step} {' '.join(kind)}")

    def flush(self):
        self.events.add("flush")


@dataclasses.dataclass
class Lab:
    """A toy run: parameters are numbers, a batch is its number, dev values are given."""

    folder: Any
    schedule: Schedule
    dev: list[float] = dataclasses.field(default_factory=lambda: [0.0])
    bad: frozenset[int] = frozenset()  # batches whose gradient is not finite
    watched: bool = False

    def __post_init__(self):
        self.checkpoints: dict[int, Any] = {}
        self.best: dict[int, Any] = {}

    def run(self, kill_at: int | None = None, lands: bool = False, **changes: Any) -> LoopState:
        """One start of the process: from the newest checkpoint, if there is one.

        Args:
          kill_at: number of events after which it is killed.
          lands: whether the save that is under way then still comes to its end.
        """
        self.events = events = Events(kill_at)
        store = Store("save", self.checkpoints, events)
        best = Store("best", self.best, events)
        state, loop = toy_state(0, 1.0), LoopState()
        if self.checkpoints:
            state, host = self.checkpoints[max(self.checkpoints)]
            loop = LoopState(**json.loads(host))
        try:
            self.state, loop = self._train(state, loop, store, best, changes)
        except Killed:
            if lands:
                best.land()
                store.land()
            raise
        return loop

    def _train(self, state, loop, store, best, changes):
        return trainer.train(
            **{
                "state": state,
                "loop": loop,
                "train_step": self._train_step,
                "batches": self._batches,
                "waited": lambda: 0.0,
                "evaluate": self._evaluate,
                "best_metric": "value",
                "higher_is_better": True,
                "schedule": self.schedule,
                "checkpoints": store,
                "best": best,
                "log": Log(self.folder, loop.lines, self.events),
                "writers": [Watcher(self.events)] if self.watched else [],
                "batch_size": 1,
                **changes,
            }
        )

    def lines(self) -> list[tuple[int, dict[str, float]]]:
        return [(line["step"], line["values"]) for line in read_metrics(self.folder)]

    def outcome(self, loop: LoopState) -> dict[str, Any]:
        """All that must not depend on kills."""
        host = dataclasses.asdict(dataclasses.replace(loop, seconds=0.0))
        tree, saved = self.checkpoints[max(self.checkpoints)]
        return {
            "state": (int(self.state.step), self.state.params),
            "saved": (int(tree.step), tree.params, {**json.loads(saved), "seconds": 0.0}),
            "loop": host,
            "best": self.best[loop.best_step][0],
            "lines": self.lines(),
        }

    def _batches(self, start: int):
        for k in itertools.count(start):
            self.events.add(f"batch {k}")
            yield k

    def _train_step(self, state: TrainState, batch: int):
        self.events.add(f"step {batch}")
        skipped = batch in self.bad
        params = state.params if skipped else state.params * 1.1 + batch
        value = float("nan") if skipped else float(params)
        loss = Scalar(value, f"read {batch}", self.events)
        return toy_state(int(state.step) + 1, params), {"loss": loss, "skipped": float(skipped)}

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        self.events.add(f"evaluate {int(state.step)}")
        return {"value": self.dev[int(state.step) % len(self.dev)]}


def toy_state(step: int, params: float) -> TrainState:
    return TrainState(np.int32(step), params, {}, None, None, None)


def schedule(**changes: Any) -> Schedule:
    default = {
        "total": 6,
        "eval_every": 3,
        "checkpoint_every": 2,
        "log_every": 2,
        "patience": None,
        "max_skipped": 3,
        "eval_first": False,
        "keep": 2,
    }
    return Schedule(**{**default, **changes})


def did(lab: Lab, kind: str) -> list[int]:
    """Steps of the events `kind N`."""
    found = (event.split() for event in lab.events)
    return [int(words[1]) for words in found if words[0] == kind and len(words) == 2]


def test_the_order_of_a_run(tmp_path):
    lab = Lab(tmp_path, schedule(total=4, eval_every=2), watched=True)
    lab.run()
    assert [e for e in lab.events if "whole" not in e and "metrics" not in e] == [
        *("batch 0", "step 0"),
        # The host reads a step when the next one has been given to the device...
        *("batch 1", "step 1", "read 0"),
        # ... but for what must come before an evaluation or a save.
        *("read 1", "line 2 train", "evaluate 2", "line 2 dev", "best 2", "flush"),
        *("save 2", "batch 2", "step 2"),
        *("batch 3", "step 3", "read 2"),
        *("read 3", "line 4 train", "evaluate 4", "line 4 dev", "flush"),
        "save 4",
    ]


def test_the_host_never_waits_for_the_step_it_has_just_dispatched(tmp_path):
    lab = Lab(tmp_path, schedule(total=20, eval_every=None, checkpoint_every=100, log_every=3))
    lab.run()
    for k in range(19):
        assert lab.events.index(f"read {k}") > lab.events.index(f"step {k + 1}")


@pytest.mark.parametrize(
    ("changes", "evaluated", "saved"),
    [
        ({}, [3, 6], [2, 4, 6]),
        ({"eval_first": True}, [0, 3, 6], [2, 4, 6]),
        ({"total": 7}, [3, 7], [2, 4, 6, 7]),
        ({"total": 8}, [3, 6, 8], [2, 4, 6, 8]),
        ({"eval_every": None}, [6], [2, 4, 6]),
        ({"total": 0}, [0], [0]),
        ({"total": 0, "eval_first": True}, [0], [0]),
        ({"checkpoint_every": 100}, [3, 6], [6]),
    ],
)
def test_cadence(tmp_path, changes, evaluated, saved):
    lab = Lab(tmp_path, schedule(**changes))
    lab.run()
    assert did(lab, "evaluate") == evaluated
    assert did(lab, "save") == saved


def test_lines_hold_means_over_the_steps_since_the_last_line(tmp_path):
    lab = Lab(tmp_path, schedule(total=5, eval_every=None), bad=frozenset({1}))
    lab.run()
    p, losses = 1.0, []
    for k in range(5):
        if k != 1:
            p = p * 1.1 + k
            losses.append(p)
    wanted = [
        (2, {"train/loss": losses[0], "train/skipped_steps": 1.0}),
        (4, {"train/loss": (losses[1] + losses[2]) / 2, "train/skipped_steps": 0.0}),
        (5, {"train/loss": losses[3], "train/skipped_steps": 0.0}),
        (5, {"dev/value": 0.0}),
    ]
    assert lab.lines() == wanted


@pytest.mark.parametrize(
    ("higher_is_better", "dev", "best"),
    [(True, [1, 3, 2, 3], 2), (False, [5, 3, 4, 3], 2), (True, [2, 1, 3, 1], 3)],
)
def test_the_best_is_the_first_of_the_best_values(tmp_path, higher_is_better, dev, best):
    lab = Lab(tmp_path, schedule(total=4, eval_every=1), [0, *dev])
    loop = lab.run(higher_is_better=higher_is_better)
    assert (loop.best_step, loop.best_value) == (best, dev[best - 1])
    assert loop.evaluations_without_best == 4 - best
    assert best in lab.best


def judged_thrice(lab: Lab, **changes: Any) -> LoopState:
    """A run whose states have values for "value", and for two tasks of their own."""

    def evaluate(state: TrainState) -> dict[str, float]:
        value = lab._evaluate(state)["value"]
        return {"value": value, "a": -value, "b": abs(value - 4)}

    return lab.run(evaluate=evaluate, own_metrics={"a": True, "b": False}, **changes)


def test_the_best_of_every_task_is_kept_beside_the_best_of_all(tmp_path):
    dev = [0, 3, 5, 1, 4, 2, 4]
    lab = Lab(tmp_path, schedule(eval_every=1), dev)
    loop = judged_thrice(lab)
    assert (loop.best_step, loop.best_value) == (2, 5)
    assert {n: tuple(kept) for n, kept in loop.own_best.items()} == {"a": (3, -1), "b": (4, 0)}
    assert loop.evaluations_without_best == 4
    assert {2, 3, 4} <= set(lab.best)

    for kill_at in range(1, len(lab.events), 2):
        killed = Lab(tmp_path / str(kill_at), schedule(eval_every=1), dev)
        with contextlib.suppress(Killed):
            judged_thrice(killed, kill_at=kill_at)
        for _, host in killed.checkpoints.values():
            assert LoopState(**json.loads(host)).best_steps <= set(killed.best)
        assert killed.outcome(judged_thrice(killed)) == lab.outcome(loop)


def test_a_task_s_figure_that_is_no_number_ends_the_run(tmp_path):
    lab = Lab(tmp_path, schedule())
    evaluate = {"evaluate": lambda state: {"value": 1.0, "a": float("nan")}}
    with pytest.raises(UserError, match="a on dev is not a number at step 3"):
        lab.run(own_metrics={"a": True}, **evaluate)


def test_patience_ends_the_run_after_that_many_evaluations_without_a_new_best(tmp_path):
    lab = Lab(tmp_path, schedule(total=20, eval_every=2, patience=2), [0, 0, 5, 0, 4, 0, 3, 0, 9])
    loop = lab.run()
    assert did(lab, "evaluate") == [2, 4, 6]
    assert int(lab.state.step) == 6 and loop.best_step == 2
    # It has ended: the same command makes no step more.
    lab.run()
    assert lab.events == []


def test_a_run_that_ended_does_nothing_when_started_again(tmp_path):
    lab = Lab(tmp_path, schedule())
    first = lab.outcome(lab.run())
    assert lab.outcome(lab.run()) == first
    assert lab.events == []


def test_a_longer_run_goes_on_as_if_it_had_been_so_from_the_start(tmp_path):
    long = Lab(tmp_path / "long", schedule(total=12), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9])
    short = Lab(tmp_path / "short", schedule(total=6), long.dev)
    short.run()
    short.schedule = long.schedule
    assert short.outcome(short.run()) == long.outcome(long.run())


def test_a_run_whose_length_was_cut_is_judged_where_it_is(tmp_path):
    lab = Lab(tmp_path, schedule(eval_every=None))
    with pytest.raises(Killed):
        lab.run(kill_at=18)
    at = max(lab.checkpoints)
    lab.schedule = schedule(eval_every=None, total=1)
    for _ in range(2):
        loop = lab.run()
        assert loop.best_step == loop.evaluated_step == at
        assert json.loads(lab.checkpoints[at][1])["best_step"] == at
        assert [step for step, values in lab.lines() if "dev/value" in values] == [at]


def test_steps_that_are_not_finite_stop_the_run_in_the_end(tmp_path):
    lab = Lab(tmp_path, schedule(total=9, max_skipped=3), bad=frozenset({1, 2, 4, 5, 6}))
    with pytest.raises(UserError, match="3 steps in a row up to step 7 "):
        lab.run()
    # The count is part of the checkpoint: a new start comes to the same end.
    with pytest.raises(UserError, match="3 steps in a row up to step 7 "):
        lab.run()


def test_single_steps_that_are_not_finite_are_counted_and_passed_over(tmp_path):
    lab = Lab(tmp_path, schedule(total=6, log_every=6, max_skipped=2), bad=frozenset({1, 3}))
    lab.run()
    (line,) = (values for _, values in lab.lines() if "train/loss" in values)
    assert line["train/skipped_steps"] == 2 and np.isfinite(line["train/loss"])


def test_a_dev_value_that_is_no_number_stops_the_run(tmp_path):
    lab = Lab(tmp_path, schedule(), [float("nan")])
    with pytest.raises(UserError, match="value on dev is not a number at step 3"):
        lab.run()


def test_a_failed_save_stops_the_run_at_the_next_step(tmp_path):
    lab = Lab(tmp_path, schedule(total=10, eval_every=None))

    def failing(state, batch):
        if batch == 4:
            store.error = UserError("checkpoint 4 could not be saved")
        return lab._train_step(state, batch)

    store = Store("save", lab.checkpoints, Events())
    with pytest.raises(UserError, match="checkpoint 4"):
        lab.run(checkpoints=store, train_step=failing)
    assert did(lab, "step") == [0, 1, 2, 3, 4]


def test_a_missing_best_state_is_known_at_the_start(tmp_path):
    lab = Lab(tmp_path, schedule())
    lab.run()
    lab.best.clear()
    lab.schedule = schedule(total=9)
    with pytest.raises(UserError, match="is missing"):
        lab.run()
    assert lab.events == []


def test_asked_to_stop_it_saves_once_and_goes_on(tmp_path, monkeypatch):
    calm = Lab(tmp_path / "calm", schedule(total=9))
    wanted = calm.outcome(calm.run())
    lab = Lab(tmp_path / "asked", schedule(total=9))
    for stop_at in (0, 0, 3, 4, 4, 9):
        monkeypatch.setattr(
            distributed.StopRequest, "agreed", lambda self, step, at=stop_at: step >= at
        )
        before = dict(lab.checkpoints)
        if stop_at < 9:
            with pytest.raises(Preempted, match=f"stopped at step {stop_at} of 9"):
                lab.run()
            # A checkpoint that is already there is left alone: nothing is lost if a kill follows.
            assert all(lab.checkpoints.get(s, tree) is tree for s, tree in before.items())
            assert max(lab.checkpoints) == stop_at
    assert lab.outcome(lab.run()) == wanted


@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"eval_every": 1, "checkpoint_every": 2},
        {"eval_every": 2, "checkpoint_every": 3, "keep": 1},
        {"eval_every": None, "checkpoint_every": 1, "eval_first": True, "log_every": 4},
    ],
)
def test_killed_at_any_event_it_ends_as_if_it_had_not_been(tmp_path, changes, lands):
    dev, bad = [1.0, 2.0, 3.0, 3.0, 5.0, 4.0, 6.0], frozenset({3})
    calm = Lab(tmp_path / "calm", schedule(**changes), dev, bad)
    wanted = calm.outcome(calm.run())
    for kill_at in range(len(calm.events)):
        lab = Lab(tmp_path / f"killed{kill_at}", schedule(**changes), dev, bad)
        with pytest.raises(Killed):
            lab.run(kill_at, lands)
        assert_every_checkpoint_has_its_best(lab)
        # The newest may turn out to be damaged: then the one before it is used.
        older = Lab(tmp_path / f"older{kill_at}", schedule(**changes), dev, bad)
        shutil.copytree(lab.folder, older.folder)
        older.checkpoints, older.best = dict(lab.checkpoints), dict(lab.best)
        older.checkpoints.pop(max(older.checkpoints, default=None), None)
        for continued in (lab, older):
            assert continued.outcome(continued.run()) == wanted


SCHEDULES = st.builds(
    schedule,
    total=st.integers(0, 12),
    eval_every=st.none() | st.integers(1, 5),
    checkpoint_every=st.integers(1, 5),
    log_every=st.integers(1, 5),
    patience=st.none() | st.integers(1, 3),
    eval_first=st.booleans(),
    keep=st.integers(1, 3),
)


@given(
    plan=SCHEDULES,
    dev=st.lists(st.integers(0, 3).map(float), min_size=1, max_size=13),
    bad=st.frozensets(st.integers(0, 11), max_size=4),
    kills=st.lists(st.tuples(st.integers(0, 70), st.booleans(), st.booleans()), max_size=6),
)
@settings(deadline=None)
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(
    tmp_path_factory, plan, dev, bad, kills
):
    plan = dataclasses.replace(plan, max_skipped=12)
    calm = Lab(tmp_path_factory.mktemp("calm"), plan, dev, bad)
    wanted = calm.outcome(calm.run())
    lab = Lab(tmp_path_factory.mktemp("killed"), plan, dev, bad)
    for kill_at, lands, damaged in kills:
        with contextlib.suppress(Killed):
            lab.run(kill_at, lands)
        if damaged and len(lab.checkpoints) > 1:
            del lab.checkpoints[max(lab.checkpoints)]
        assert_every_checkpoint_has_its_best(lab)
    assert lab.outcome(lab.run()) == wanted


def assert_every_checkpoint_has_its_best(lab: Lab) -> None:
    for _, host in lab.checkpoints.values():
        assert json.loads(host)["best_step"] in {None, *lab.best}
