"""Several processes are one run: they begin, compute, stop and end as one.

Real processes on this machine. Where one is killed or asked to stop is counted in calls, never in
time.
"""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys

import pytest

from mmjax.observe.metrics_log import read_metrics
from tests.multiprocess.cluster import Cluster

KILLED = -signal.SIGKILL
EVALUATE = "mmjax.network:NetworkSystem._evaluate_state"
PREPARE = "mmjax.network:NetworkSystem._prepare"
FIT = "mmjax.network:NetworkSystem._fit_preprocessing"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def alone(cluster):
    """The run of one process, which nothing disturbs."""
    assert cluster.run("alone", 1) == [0], cluster.said("alone")
    return cluster.workdir("alone")


def assert_same_run(found, wanted):
    """The same batches; scores to 1e-5, ranks equal.

    On the way values may differ by 1e-4: sums over the batch are made in another order, and Adam
    makes more of it.
    """
    one, other = (read_metrics(workdir / "metrics") for workdir in (wanted, found))
    assert [line["step"] for line in one] == [line["step"] for line in other]
    assert len(one) == 8 + 4  # steps, and evaluations at 0, 3, 6 and 8
    for a, b in zip(one, other, strict=True):
        assert a["values"].keys() == b["values"].keys()
        for name, value in a["values"].items():
            wanted_value = pytest.approx(value, rel=1e-4, abs=1e-5)
            assert b["values"][name] == wanted_value, (a["step"], name)
    results = [json.loads((w / "result.json").read_text()) for w in (wanted, found)]
    assert results[1]["metrics"]["test"] == pytest.approx(results[0]["metrics"]["test"], rel=1e-5)
    ranks = [json.loads((w / "per_example.json").read_text()) for w in (wanted, found)]
    assert ranks[0] == ranks[1]
    return results[1]


def test_stopped_and_continued_on_other_numbers_of_processes_it_is_one_run(cluster, alone):
    stop = {"sign": "SIGTERM"}
    # SIGTERM to one of two, before it judges step 3; then to the one that went on, before step 6.
    codes = cluster.run("steps", 2, fates={1: {"call": (EVALUATE, 2), **stop}})
    assert codes == [75, 75], cluster.said("steps", 1)
    for number in (0, 1):
        assert "the state is saved; the same command continues" in cluster.sentence("steps", number)
    assert cluster.run("steps", 1, fates={0: {"call": (EVALUATE, 1), **stop}}) == [75]
    assert cluster.run("steps", 2) == [0, 0], cluster.said("steps", 1)
    result = assert_same_run(cluster.workdir("steps"), alone)
    assert result["device"]["processes"] == 2
    assert result["test_looks"] == 1


def test_sigterm_to_one_before_the_training_ends_all(cluster):
    """There is nothing to save, and the preparation is not waited for."""
    fate = {"call": (PREPARE, 1), "sign": "SIGTERM"}
    assert cluster.run("early", 2, fates={1: fate}) == [75, 75], cluster.said("early", 1)
    asked = cluster.sentence("early", 1)
    assert asked == "SIGTERM: what was saved is kept; the same command continues."
    assert cluster.sentence("early") == f"process 1 of 2 stopped: {asked}"


def test_sigterm_ends_what_does_not_train(cluster, alone):
    judged = "mmjax.network:NetworkSystem._evaluate"
    fate = {"call": (judged, 1), "sign": "SIGTERM"}
    assert cluster.run("alone", 1, "--mode=eval", fates={0: fate}) == [75], cluster.said("alone")
    assert cluster.sentence("alone").startswith("SIGTERM: what was saved is kept")
    assert "dev/" not in cluster.said("alone")


def test_a_process_that_waits_for_others_in_vain_says_so(cluster):
    assert cluster.run("lonely", 2, "--start_timeout=2", only=0) == [2]
    said = cluster.sentence("lonely")
    assert "process 0 on" in said and "waited 2 s for all 2 processes" in said
    assert "Start the command on every worker" in said
    assert "(is it on every worker?)" in cluster.said("lonely")  # long before the end
    assert cluster.run("lonely", 2, "--start_timeout=2", only=1) == [2]
    assert "process 0 does not answer at 127.0.0.1:" in cluster.sentence("lonely", 1)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            {"fates": {1: {"pretend": ("mmjax:__version__", "9.9")}}},
            r"the same versions \(mmjax: '9.9' there, '.*' here\): install",
        ),
        (
            {"arguments": {1: ["--config.train.total_steps=9"]}},
            r"the same command \(config.train.total_steps: 9 there, 8 here\): start",
        ),
    ],
)
def test_processes_that_differ_end_together_before_anything_is_made(cluster, other, difference):
    assert cluster.run("differ", 2, **other) == [2, 2]
    first, second = (cluster.sentence("differ", number) for number in (0, 1))
    assert re.match(rf"process 1 \(.*\) and process 0 \(.*\) do not have {difference}", first)
    assert second == f"process 0 of 2 stopped: {first}"
    assert not cluster.workdir("differ").exists()


def test_a_bug_in_one_process_ends_all_and_keeps_its_traceback(cluster):
    fates = {1: {"pretend": ("mmjax.network:agree", None)}}
    assert cluster.run("bug", 2, fates=fates) == [1, 1]
    assert "Traceback" in cluster.said("bug", 1)
    assert "process 1 of 2 stopped: TypeError: 'NoneType'" in cluster.sentence("bug")


def test_what_one_process_is_told_all_tell(cluster):
    """The lock is seen by the first process alone."""
    workdir = cluster.workdir("busy")
    workdir.mkdir(parents=True)
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cluster.run("busy", 2) == [2, 2]
    assert cluster.sentence("busy").startswith("another run is working in")
    assert cluster.sentence("busy", 1).startswith("process 0 of 2 stopped: another run is working")


def test_who_has_heard_why_says_so_also_where_a_library_aborts_before_it_can():
    """The service goes away as soon as all have said that they heard, before they know that."""
    end = {"process": 0, "why": "the lock is held", "code": 2}
    program = (
        "import os, threading; from mmjax.parallel import coordination, ending; "
        "ending._LOST_WITHIN_S = 0.1; ending.say_when_aborted('a library has ended it'); "
        "coordination.tell = lambda *_: threading.Event().wait(); "
        f"ending._begin(); threading.Thread(target=ending._follow, args=({end},)).start(); "
        "exec('while ending._verdict is None: pass'); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "mmjax: process 0 of 1 stopped: the lock is held\n"


@pytest.mark.parametrize(("killed", "where"), [(0, FIT), (1, PREPARE)])
def test_a_process_that_is_killed_ends_the_others_with_a_sentence(cluster, killed, where):
    name, other = f"killed{killed}", 1 - killed
    codes = cluster.run(name, 2, "--lost_after=3", fates={killed: {"call": (where, 1)}})
    assert (codes[killed], codes[other]) == (KILLED, 69)
    said = cluster.sentence(name, other)
    assert "another process died" in said and "The same command continues" in said
    # By its own clock it did not wait for long: after 20 s at a barrier a process says so.
    assert "s of at most" not in cluster.said(name, other)


def test_a_process_that_hangs_is_named_when_the_barrier_has_waited_long_enough(cluster):
    fates = {
        0: {"pretend": ("mmjax.parallel.distributed:WORK_S", 2.0)},
        1: {"call": ("mmjax.parallel.distributed:barrier", 1), "sign": "SIGSTOP"},
    }
    # It goes on when the other one has ended: it has heard why by then, or finds itself alone.
    first, hung = cluster.run("hung", 2, fates=fates)
    assert first == 2
    assert hung in (2, 69)
    late = "the barrier 'preprocessing' was not reached by process 1 within 2 s"
    assert cluster.sentence("hung").startswith(late)


@pytest.mark.slow
def test_four_processes_one_of_which_is_killed_while_they_compute(cluster, alone):
    fate = {"call": (EVALUATE, 2)}
    codes = cluster.run("four", 4, "--lost_after=10", fates={2: fate})
    assert codes == [69, 69, KILLED, 69], [cluster.said("four", n)[-2000:] for n in range(4)]
    for number in (0, 1, 3):
        assert "The same command continues" in cluster.sentence("four", number)
    stop = {"call": (EVALUATE, 2), "sign": "SIGTERM"}
    assert cluster.run("four", 4, fates={3: stop}) == [75] * 4
    assert cluster.run("four", 4) == [0] * 4, cluster.said("four", 3)
    assert assert_same_run(cluster.workdir("four"), alone)["device"]["processes"] == 4
