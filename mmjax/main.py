"""The command line: `python -m mmjax.main --config=configs/retrieval.py[:variant] ...`

Exit codes: 0 done; 1 a bug in mmjax (with a traceback); 2 bad input (with one sentence); 3 it does
not fit (`--mode=check`); 69 another process of the run, or its bucket, was lost; 75 it was asked to
stop (SIGTERM; Ctrl-C in training) and has saved what there was: the same command continues it, as
it does after 69; 130 Ctrl-C where there was nothing to save.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmjax.errors import (
    EXIT_DOES_NOT_FIT,
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    UserError,
)

MODES = ("train", "eval", "predict", "audit", "export", "check")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with a variant after a colon: configs/retrieval.py:model=bm25"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives (local or gs://). Default: runs/<config>-<variant>."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_SPLIT = flags.DEFINE_enum("split", "dev", ("train", "dev", "test"), "For eval, predict and audit.")
_TOP = flags.DEFINE_integer("top", 10, "Candidates per answer, for predict.", lower_bound=1)
_AUDIT = flags.DEFINE_list("audit", [], "What --mode=audit takes away. Default: all that applies.")
_INTENT = flags.DEFINE_string(
    "intent",
    None,
    "RUN/predictions/dev.jsonl of an intent run, to be shown on the page of a retrieval run.",
)
_TOPOLOGY = flags.DEFINE_list(
    "topology",
    [],
    "For check: a TPU slice to compile for, such as v3:4x4, or several for --sweep; local: these "
    "devices. Default: what the config names (config.mesh.slice).",
)
_SLICES = flags.DEFINE_integer("slices", 1, "For check: how many such slices.", lower_bound=1)
_SWEEP = flags.DEFINE_bool("sweep", False, "For check: a table over slices and batches.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "For --sweep. Default: the config's.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "auto", "auto, on or off: connect to the other processes of this run."
)
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 300, "Seconds until all processes of the run must have started.", lower_bound=1
)
_LOST_AFTER = flags.DEFINE_integer(
    "lost_after",
    100,
    "Seconds after which a process that gives no sign is taken for dead, and all end.",
    lower_bound=1,
)


def run() -> None:
    """Entry point of the console script and of `python -m mmjax.main`."""
    app.run(lambda argv: sys.exit(_guarded(main, argv)), flags_parser=_parse)


def main(argv: Sequence[str]) -> int:
    """Does what the flags say; returns the exit code."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options are written --name=value.")
    if _CONFIG.value is None:
        raise UserError("--config=FILE is missing, such as --config=configs/retrieval.py:demo.")
    _start_log()
    # Imported late: a mistyped flag is answered at once.
    from mmjax import config as config_lib
    from mmjax.observe.environment import versions
    from mmjax.parallel import distributed, ending

    config = config_lib.to_dict(_CONFIG.value)
    if _MODE.value == "check":
        return _check(config)
    _connect()
    with ending.together():
        command = {"--mode": _MODE.value, "--split": _SPLIT.value, "--workdir": _workdir()}
        distributed.describe(versions(), config, command)
        return _do(config)


def _connect() -> None:
    from mmjax.parallel import distributed

    distributed.start(
        _DISTRIBUTED.value, start_timeout_s=_START_TIMEOUT.value, lost_after_s=_LOST_AFTER.value
    )


def _do(config: dict[str, Any]) -> int:
    from mmjax import trainer
    from mmjax.parallel import distributed
    from mmjax.systems import make_system
    from mmjax.workdir import WorkDir

    system = make_system(config)
    workdir = WorkDir(_workdir())
    if _MODE.value == "train":
        with workdir.locked() if distributed.is_main() else contextlib.nullcontext():
            if distributed.is_main():
                workdir.claim(config, system.identity())
            workdir.check_shared()
            try:
                system.train(workdir)
            except trainer.Preempted as stop:
                print(f"mmjax: {stop}; the same command continues.", file=sys.stderr)
                return EXIT_PREEMPTED
            _print_result(workdir)
        return 0
    workdir.check(system.identity(), free=system.judging_keys())
    if _MODE.value == "audit":
        _audit(system, workdir, config["eval"]["metric"])
    elif _MODE.value == "export":
        for folder in system.export(workdir):
            print(f"a model for transformers: {folder}")
    elif _MODE.value == "eval":
        evaluation = system.evaluate(workdir, _SPLIT.value)
        # Entered when there is something to see, and before it is seen.
        if _SPLIT.value == "test" and distributed.is_main():
            looks = workdir.look_at_test("--mode=eval")
            logging.getLogger(__name__).info(
                "look number %d at a test split from this working directory", looks
            )
        for name, value in evaluation.metrics.items():
            print(f"{_SPLIT.value}/{name}  {value:.2f}")
    else:
        from mmjax import storage
        from mmjax.answers import read_answers
        from mmjax.observe.intent_page import beside

        # Before the work: a file that is not there is told at once.
        intent = read_answers(_INTENT.value, "intent") if _INTENT.value else None
        answers = system.predict(workdir, _SPLIT.value, _TOP.value)
        if _SPLIT.value == "test" and distributed.is_main():
            workdir.look_at_test("--mode=predict")
        pixels = config["data"]["pixels"]
        name = _SPLIT.value if pixels == "real" else f"{_SPLIT.value}-{pixels}"
        folder = workdir.path / "predictions"
        by_task: dict[str | None, list] = {}  # a mixture tells of which task an answer is
        for answer in answers:
            by_task.setdefault(answer.get("task"), []).append(answer)
        for task, found in by_task.items() if distributed.is_main() else ():
            path = folder / (f"{name}.jsonl" if task is None else f"{name}-{task}.jsonl")
            folder.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(answer, ensure_ascii=False) for answer in found)
            storage.write_text(path, "".join(f"{line}\n" for line in lines))
            print(f"{len(found)} answers in {path}")
            page = path.with_suffix(".html")
            if intent is not None:
                found = beside(found, intent, _INTENT.value)
            system.page(page, _SPLIT.value, found)
            if page.exists():
                print(f"the page to look at: {page}")
    return 0


def _check(config) -> int:
    """Writes nothing but `check.json`, and that where a --workdir is given."""
    from mmjax.check import run as check
    from mmjax.parallel import distributed

    names = _TOPOLOGY.value or check.named_slices(config)
    if check.LOCAL in names:
        _connect()
    if _SWEEP.value:
        found = check.sweep(config, names, _SLICES.value, _BATCH_SIZES.value)
    else:
        found = check.check(config, names, _SLICES.value)
    print(found.text)
    if _WORKDIR.value and distributed.is_main():
        path = check.write(_WORKDIR.value, found)
        print(f"the same as numbers: {path}")
    return EXIT_DOES_NOT_FIT if found.fits is False else 0


def _audit(system, workdir, metric: str) -> None:
    from mmjax import audit
    from mmjax.parallel import distributed

    audit.check_names(_AUDIT.value)
    found = audit.audit(system.judge(workdir), _SPLIT.value, metric, _AUDIT.value)
    if not distributed.is_main():
        return
    if _SPLIT.value == "test":
        workdir.look_at_test("--mode=audit")
    audit.write_audit(workdir.path / "audit", found)
    print(audit.table(found), end="")


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags and loads the config; what is wrong with them is one sentence."""
    parsed: list[str] = []
    code = _guarded(lambda a: parsed.extend(_parse_flags(a)) or 0, argv)
    if code:
        sys.exit(code)
    return parsed


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
    except (KeyError, AttributeError) as error:
        raise UserError(_unknown_key(argv, error)) from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(f"the command line or the config file is wrong: {last}.") from error
    file = Path(_config_argument(argv).partition(":")[0])
    if _CONFIG.present and not file.is_file():
        raise UserError(f"--config={file}: there is no such file.")
    return rest


def _unknown_key(argv: Sequence[str], error: Exception) -> str:
    """Names the override that does not exist, and the closest key that does."""
    from mmjax.config import suggestion

    config = flags.FLAGS["config"].parser.parse(_config_argument(argv))
    for override in (a for a in argv if a.lstrip("-").startswith("config.")):
        section, path = config, override.lstrip("-").partition("=")[0].split(".")
        for depth, name in enumerate(path[1:], start=1):
            if name not in section:
                return f"{'.'.join(path[: depth + 1])} does not exist{suggestion(name, section)}."
            section = section[name]
    return f"the config file is wrong: {error}."


def _guarded(function, argv: Sequence[str]) -> int:
    try:
        return function(argv)
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mmjax: interrupted; what was saved is kept.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        from mmjax import storage

        told = storage.as_told(error)
        if told is None:
            raise
        print(f"mmjax: {told}", file=sys.stderr)
        return told.exit_code


def _config_argument(argv: Sequence[str]) -> str:
    """What the command line says after --config=."""
    arguments = " ".join(argv).replace("--config ", "--config=").split()
    found = (a.partition("=")[2] for a in arguments if a.lstrip("-").startswith("config="))
    return next(found, "")


def _workdir() -> str:
    return _WORKDIR.value or _default_workdir()


def _default_workdir() -> str:
    """runs/<config>-<variant>, a path in the variant shortened to its last part."""
    file, _, variant = _config_argument(sys.argv).partition(":")
    parts = [Path(file).stem]
    for item in filter(None, variant.split(",")):
        key, equals, choice = item.partition("=")
        parts.append(f"{key}_{Path(choice).name}" if equals else key)
    return str(Path("runs") / "-".join(parts))


def _start_log() -> None:
    """What mmjax says goes to the terminal; of the libraries, only warnings do."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("mmjax")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def _print_result(workdir) -> None:
    path = workdir.path / "result.json"
    if not path.exists():
        return
    result = json.loads(path.read_text())
    for split, metrics in result["metrics"].items():
        shown = "  ".join(f"{k} {v:.2f}" for k, v in metrics.items())
        print(f"{split}:  {shown}")
    print(f"results in {path}")


if __name__ == "__main__":
    run()
