"""The system of a trained network: the steps of a run, and judging what it left."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mmjax import config as config_lib
from mmjax import mixing, storage, train_state, trainer
from mmjax.artifacts import (
    artifact_folder,
    check_artifact,
    parent,
    write_artifact,
)
from mmjax.best_state import best_state, best_step
from mmjax.checkpoint.store import CheckpointStore
from mmjax.data.joined import joined_about, joined_source
from mmjax.data.packed_plan import PackedPlan
from mmjax.data.plan import TrainPlan
from mmjax.data.sources import Source
from mmjax.data.splits import Split
from mmjax.errors import UserError
from mmjax.evaluators import Evaluation, of_part, part_of
from mmjax.export import write_export
from mmjax.first_state import first_state
from mmjax.observe.metrics_log import MetricsLog
from mmjax.observe.writers import Writer, make_writers
from mmjax.parallel import distributed, rules
from mmjax.parallel.agreement import agree
from mmjax.parallel.mesh import make_mesh
from mmjax.programs import check_options, config_sections, make_task, make_training, run_schedule
from mmjax.systems import Judge
from mmjax.task_data import TaskData, remembered, train_loader
from mmjax.tasks.mixture import keys_of
from mmjax.workdir import WorkDir

logger = logging.getLogger(__name__)


class NetworkSystem:
    """A network trained by the one loop (`mmjax.trainer`)."""

    def __init__(self, config: Mapping[str, Any]):
        self._config = config
        self._sections = config_sections(config)
        self._options = config_lib.build_sections(config, self._sections)
        self._task = make_task(config, self._options)
        self._mesh = make_mesh(self._options["mesh"])
        self._parts = {
            name: TaskData(part, self._options_of(name), self._mesh, config["seed"])
            for name, part in self._task.parts.items()
        }
        check_options(self._task, self._options, self._mesh)

    def identity(self) -> Mapping[str, Any]:
        return config_lib.identity(self._config, self._sections)

    def judging_keys(self) -> set[str]:
        return config_lib.judging_keys(self._sections)

    def _options_of(self, part: str) -> Mapping[str, Any]:
        return {**self._options, "data": mixing.data_options(self._options, part)}

    def train(self, workdir: WorkDir) -> None:
        with jax.set_mesh(self._mesh):
            splits = ["dev", "test"] if self._options["eval"].test else ["dev"]
            for split in splits:  # one that is missing is told before the training, not after
                for name, data in self._parts.items():
                    with keys_of(name):
                        data.source(split)
            self._prepare(workdir, fit=True)
            self._check_dev()
            loop = self._fit(workdir)
            step = best_step(workdir, self._options, loop)
            variables, chosen = self._best(workdir, step)
            write_artifact(
                workdir.path / "artifact",
                variables,
                config=self._config,
                preprocessing=workdir.path / "preprocessing",
                parents=self._parents(),
                chosen=chosen,
            )
            evaluations = {}
            for split in splits:
                if split == "test" and distributed.is_main():
                    workdir.look_at_test("the best checkpoint of a finished run")
                evaluations[split] = self._evaluate(variables, chosen, split)
            if distributed.is_main():
                self._write_result(workdir, evaluations, step, loop)

    def evaluate(self, workdir: WorkDir, split: str) -> Evaluation:
        with jax.set_mesh(self._mesh):
            self._prepare(workdir, fit=False)
            return self._evaluate(*self._best(workdir), split)

    def judge(self, workdir: WorkDir) -> Judge:
        """Raises UserError for a mixture: its tasks do not read the same inputs."""
        if "" not in self._parts:
            raise UserError(
                "an audit takes inputs away from the examples of one task, and this run has "
                f"learned {' and '.join(self._parts)}: audit a run of one of them."
            )
        with jax.set_mesh(self._mesh):
            self._prepare(workdir, fit=False)
            state = self._best(workdir)

        def evaluate(split: Split) -> Evaluation:
            with jax.set_mesh(self._mesh):
                return self._first.evaluate(*state, split)

        return Judge(self._task, self._first.split, evaluate)

    def predict(self, workdir: WorkDir, split: str, top: int) -> list[dict[str, Any]]:
        with jax.set_mesh(self._mesh):
            self._prepare(workdir, fit=False)
            variables, chosen = self._best(workdir)
            found = []
            for name, data in self._parts.items():
                here = self._split(name, split)
                answers = data.task.answers(here, data.predict(variables, here), top)
                whose, own = {"task": name} if name else {}, part_of(name, chosen)
                found += [{**whose, **answer, **own} for answer in answers]
            return found

    def page(self, path: Any, split: str, answers: list[dict[str, Any]]) -> None:
        data = self._parts[answers[0]["task"] if "" not in self._parts else ""]
        data.task.page(path, data.split(split), answers, self._config["label"])

    def export(self, workdir: WorkDir) -> list[str]:
        with jax.set_mesh(self._mesh):
            self._prepare(workdir, fit=False)
            variables, chosen = self._best(workdir, like=self._first.any_split())
            models = self._task.exports(jax.tree.map(distributed.to_host, variables), chosen)
        if not distributed.is_main():
            return []
        about = {
            "label": self._config["label"],
            "dataset": " and ".join(self._options_of(n)["data"].dataset for n in self._parts),
            "figures": workdir.figures("dev"),
        }
        return write_export(workdir.path / "export", models, about)

    def _split(self, part: str, split: str) -> Split:
        with keys_of(part):
            return self._parts[part].split(split)

    @property
    def _first(self) -> TaskData:
        """Where any part would do."""
        return next(iter(self._parts.values()))

    # The steps of a run, in order.

    def _prepare(self, workdir: WorkDir, *, fit: bool) -> None:
        """What is fitted on training data: made once, read by every process and every start."""
        folder, ready = workdir.path / "preprocessing", workdir.path / "preprocessing.ready"
        if fit:
            sources = []
            for name, data in self._parts.items():
                with keys_of(name):
                    sources.append(data.source("train"))
            train = joined_source(sources)
            agree(
                "training data",
                {source.name: source.fingerprint for source in sources},
                "give every machine the same files, or a --config.data.data_dir on gs://",
            )
        if fit and distributed.is_main():
            fitted_on = ready.read_text() if ready.exists() else ""
            if not fitted_on:
                with tempfile.TemporaryDirectory() as made:
                    self._fit_preprocessing(train, epath.Path(made))
                    storage.copy_folder(made, folder)
                storage.write_text(ready, train.fingerprint)
            elif fitted_on != train.fingerprint:
                raise UserError(
                    f"{workdir.path} was trained on other data than {train.name} is now: choose "
                    "another --workdir, or give it the data it began with."
                )
        distributed.barrier("preprocessing", distributed.WORK_S)
        if not ready.exists():
            folder = workdir.path / "artifact" / "preprocessing"
            if not folder.exists():
                raise UserError(
                    f"{workdir.path} holds no trained run: train it first (--mode=train with the "
                    "same --config and --workdir)."
                )
            check_artifact(workdir.path / "artifact")
        with storage.local_folder(folder) as here:
            self._task.load(here)

    def _fit_preprocessing(self, train: Source, folder: epath.Path) -> None:
        """Fits it, or takes over what the weights that are taken over were trained with."""
        parent_run = self._options["train"].init_from
        if parent_run is None:
            self._task.fit(train, folder)
            return
        given = artifact_folder(parent_run)
        check_artifact(given)
        with storage.local_folder(given / "preprocessing") as here:
            self._task.check_vocabulary(here)
            storage.copy_folder(here, folder)

    def _check_dev(self) -> None:
        """Raises UserError where dev could not be judged; test is not read before its turn."""
        options = self._options
        kept = dict.fromkeys((options["eval"].metric, *mixing.own_metrics(options)))
        for name, data in self._parts.items():
            with keys_of(name):
                data.check("dev", part_of(name, kept))

    def _fit(self, workdir: WorkDir) -> trainer.LoopState:
        options = self._options
        data = list(self._parts.values())
        weights, seed = mixing.weights(options, self._parts), self._config["seed"]
        loader, plan = train_loader(self._task, data, weights, options, self._mesh, seed)
        examples = sum(len(own.learned.index) for own in data)
        schedule = run_schedule(options, examples, plan.examples_per_batch)
        training = make_training(
            self._task,
            options,
            loader.shapes(),
            self._mesh,
            steps=schedule.total,
            examples=examples,
            per_step=plan.examples_per_batch,
        )
        abstract = training.abstract
        checkpoints = CheckpointStore(workdir.path / "checkpoints")
        latest = checkpoints.latest()
        if latest is None:
            state = first_state(self._task, options, abstract, training.init, seed)
            loop = trainer.LoopState()
        else:
            state, host = checkpoints.restore(latest, abstract)
            loop = trainer.LoopState(**host)
            logger.info("continuing at step %d", latest)
        self._describe(abstract, schedule.total, plan)

        main = distributed.is_main()
        log = MetricsLog(workdir.path / "metrics", loop.lines) if main else None
        writers = make_writers(options["observe"], str(workdir.path), self._config) if main else []
        best = CheckpointStore(workdir.path / "best")
        try:
            _, loop = trainer.train(
                state=state,
                loop=loop,
                train_step=training.step,
                batches=loader.batches,
                waited=lambda: loader.waited,
                evaluate=functools.partial(self._evaluate_state, writers=writers),
                best_metric=options["eval"].metric,
                higher_is_better=options["eval"].higher_is_better,
                schedule=schedule,
                checkpoints=checkpoints,
                best=best,
                log=log,
                writers=writers,
                batch_size=plan.examples_per_batch,
                own_metrics=mixing.own_metrics(options),
            )
        finally:
            for writer in writers:
                writer.close()
            checkpoints.close()
            best.close()
        return loop

    def _describe(self, abstract: Any, steps: int, plan: TrainPlan | PackedPlan) -> None:
        params = abstract.base_variables()["params"]
        logger.info("parameters per device:\n%s", rules.bytes_table(params))
        logger.info(
            "%s parameters, %s trained; %s; %d steps of %.5g examples",
            f"{train_state.count(params):,}",
            f"{train_state.count(abstract.params):,}",
            " and ".join(
                f"{len(train.index)} training examples of {train.source.name}"
                for train in (data.learned for data in self._parts.values())
            ),
            steps,
            plan.examples_per_batch,
        )
        if plan.weights is not None:
            shares = zip(self._parts, np.array(plan.weights) / sum(plan.weights), strict=True)
            logger.info("%s", ", ".join(f"{100 * share:.4g} % {name}" for name, share in shares))
        if isinstance(plan, PackedPlan):
            logger.info(
                "%d rows of %d tokens in an epoch, %d in a step; %.1f %% of the tokens are padding",
                plan.rows,
                plan.limits[0],
                plan.batch_size,
                100 * plan.padding,
            )

    # Judging and predicting.

    def _best(
        self, workdir: WorkDir, step: int | None = None, like: Split | None = None
    ) -> tuple[Any, dict[str, float]]:
        """See `best_state`."""
        return best_state(workdir, self._task, self._parts, self._options, self._mesh, step, like)

    def _evaluate_state(self, state: train_state.TrainState, writers: list[Writer]) -> Any:
        """Metrics on dev; those who watch get a picture of some answers too."""
        variables, step = state.eval_variables(), int(state.step)
        found = {}
        for name, data in self._parts.items():
            split = data.split("dev")
            # What the evaluator asked for is not computed again for the picture.
            predict = remembered(data.predict(variables, split))
            evaluator = data.task.evaluator().reading(split.source).in_training()
            found[name] = evaluator.evaluate(split.index, predict)
            if self._options["observe"].samples:  # on every process: it may ask for predictions
                picture = data.task.sample(split, predict)
                for writer in writers if picture is not None else ():
                    writer.image(step, f"dev/{of_part(name, 'sample')}", picture)
        return dict(mixing.joined(found, self._options).metrics)

    def _evaluate(self, variables: Any, chosen: Mapping[str, float], split: str) -> Evaluation:
        found = {
            name: data.evaluate(variables, part_of(name, chosen), self._split(name, split))
            for name, data in self._parts.items()
        }
        return mixing.joined(found, self._options)

    def _write_result(
        self,
        workdir: WorkDir,
        evaluations: Mapping[str, Evaluation],
        step: int,
        loop: trainer.LoopState,
    ) -> None:
        ids, about, tasks = {split: {} for split in evaluations}, {}, {}
        for name, data in self._parts.items():
            for split, whole in evaluations.items():
                rows = whole.parts.get(name, whole).rows
                ids[split][name] = data.split(split).ids(rows)
            about[name] = data.about({split: len(names[name]) for split, names in ids.items()})
        for name, share in mixing.shares(self._options).items():
            metric = of_part(name, share.metric)
            best = dict(zip(("step", "dev"), loop.own_best[metric], strict=True))
            tasks[name] = {"dataset": about[name], "own_best": {"metric": metric, **best}}
        workdir.write_result(
            config=self._config,
            dataset=joined_about(list(about.values())) if tasks else about[""],
            evaluations=evaluations,
            ids=ids if tasks else {split: names[""] for split, names in ids.items()},
            steps=step,
            seconds=loop.seconds,
            parents=self._parents(),
            tasks=tasks,
        )

    def _parents(self) -> list[dict[str, Any]]:
        model = self._options["model"]
        keys = ("weights", "label_weights", "image_weights")
        folders = {key: getattr(model, key, None) for key in keys}
        runs = {"init_from": self._options["train"].init_from, **self._task.runs}
        folders |= {key: str(artifact_folder(place)) for key, place in runs.items() if place}
        return [parent(key, folder) for key, folder in folders.items() if folder]
