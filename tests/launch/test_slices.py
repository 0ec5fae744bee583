"""TPU VMs and queued resources, from creation to deletion, and every way in which that can fail."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from launch import queued, slices, tpu_vm, watching
from launch.commands import Commands

COMMON = ["--name=scan", "--project=my-project", "--zone=us-west4-a"]
RUN = [
    *COMMON,
    "--accelerator=v5litepod-16",
    "--workdir=gs://bucket/scan",
    "--",
    "--config=configs/retrieval.py:model=scan",
]
HOSTS = 4
TARGETS = pytest.mark.parametrize("target", [tpu_vm, queued], ids=["tpu_vm", "queued"])


def train(*options):
    return ["train", *options, *RUN]


def workers(state, code=None, stopped=False, count=HOSTS):
    record = {"host": "w", "state": state, "code": code, "stopped": stopped}
    return "".join(f"STATUS {json.dumps(record)}\n" for _ in range(count))


def tell_status(world, state, code=None, times=1, **more):
    world.answer(r"worker\.py status", workers(state, code, **more), times=times)


def queue_in(state):
    return json.dumps([{"name": "projects/p/queuedResources/scan", "state": {"state": state}}])


def group(target):
    return "queued-resources" if target is queued else "tpu-vm"


@TARGETS
def test_training_creates_sets_up_runs_and_deletes(world, launched, target):
    tell_status(world, "running")
    tell_status(world, "exited", 0)
    log = {"next": 6, "more": False, "text": "hello\n"}
    world.answer(r"worker\.py logs", f"LOG {json.dumps(log)}\n")
    code, out, _ = launched(target, train())
    assert code == 0
    assert out.startswith("hello\n")
    steps = ["create", "archive", "mkdir", "scp", "setup", "start", "logs", "status", "delete"]
    places = [next(i for i, c in enumerate(world.calls) if s in c) for s in steps]
    assert places == sorted(places)
    assert world.machines == {}
    start = world.calls_of("worker.py start")[0]
    assert "--worker=all" in start
    assert "--config=configs/retrieval.py:model=scan --workdir=gs://bucket/scan" in start
    assert "--distributed=on" in start
    assert "--worker=0" in world.calls_of("worker.py logs")[0]


@TARGETS
@pytest.mark.parametrize("failure", ["create ", "scp ", "worker.py setup", "worker.py start"])
def test_whatever_step_fails_nothing_is_left_that_costs_money(world, launched, target, failure):
    left = {"scan": "CREATING"} if failure == "create " else {}
    world.answer(failure, code=1, err="no quota\n", machines=left)
    code, _, said = launched(target, train())
    assert code == 2
    assert "failed with exit code 1" in said
    assert world.machines == {}
    assert world.calls_of(f"{group(target)} delete")


@TARGETS
def test_keep_leaves_what_failed_and_says_so(world, launched, target):
    world.answer(r"worker\.py start", code=1)
    code, _, said = launched(target, train("--keep"))
    assert (code, set(world.machines)) == (2, {"scan"})
    assert "goes on costing money" in said


@TARGETS
def test_a_machine_that_was_there_before_is_never_deleted(world, launched, target):
    world.machines = {"scan": "READY"}
    code, _, said = launched(target, train())
    assert code == 2
    assert "scan exists already (state READY)" in said
    assert world.machines == {"scan": "READY"}
    assert not world.calls_of(" create ")


@TARGETS
def test_a_deletion_that_fails_says_how_to_delete_by_hand(world, launched, target):
    tell_status(world, "exited", 0)
    world.answer(" delete ", code=1, times=9)
    code, _, said = launched(target, train())
    assert code == 0
    assert "MAY STILL COST MONEY" in said
    assert f"gcloud compute tpus {group(target)} delete scan --project=my-project" in said


def test_what_a_failed_creation_leaves_late_is_found_too(world, launched):
    world.answer(" create ", code=1, machines={"scan": "CREATING"})
    world.answer(" list ", "[]", times=2)  # the second time, the list is behind
    code, _, _ = launched(tpu_vm, train())
    assert (code, world.machines) == (2, {})


@TARGETS
@pytest.mark.parametrize("gone", ["PREEMPTED", None], ids=["preempted", "vanished"])
def test_a_machine_that_is_taken_away_is_replaced_and_the_run_goes_on(
    world, launched, target, gone
):
    state = {"PREEMPTED": "SUSPENDED"}.get(gone, gone) if target is queued else gone
    world.answer(r"worker\.py logs", code=1, machines={"scan": state})
    tell_status(world, "exited", 0)
    code, _, said = launched(target, train("--spot", "--relaunches=3"))
    assert code == 0
    assert "relaunch 1 of 3" in said
    assert len(world.calls_of(" create ")) == 2
    assert len(world.calls_of("worker.py setup")) == 2
    assert all("--spot" in call for call in world.calls_of(" create "))
    # A name that is still taken must be freed first, and the last machine is deleted at the end.
    assert len(world.calls_of(f"{group(target)} delete")) == (2 if state else 1)
    assert world.machines == {}


def test_a_run_that_saved_itself_goes_on_where_its_machine_is_still_there(world, launched):
    tell_status(world, "exited", 75)
    tell_status(world, "exited", 0)
    code, _, _ = launched(tpu_vm, train("--relaunches=1"))
    assert code == 0
    assert len(world.calls_of(" create ")) == 1
    assert len(world.calls_of("worker.py setup")) == 1
    assert len(world.calls_of("worker.py start")) == 2


def test_relaunches_are_bounded_and_end_with_75(world, launched):
    tell_status(world, "exited", 75, times=9)
    code, _, said = launched(tpu_vm, train("--relaunches=2"))
    assert code == 75
    assert len(world.calls_of("worker.py start")) == 3
    assert "2 relaunches are used up" in said
    assert world.machines == {}


def test_a_run_that_lost_a_process_goes_on_too(world, launched):
    tell_status(world, "exited", 69)
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train("--relaunches=1"))
    assert (code, "a process of the run, or its bucket, was lost" in said) == (0, True)


@pytest.mark.parametrize("exit_code", [1, 2, 3, 137])
def test_any_other_exit_code_is_reported_and_not_tried_again(world, launched, exit_code):
    tell_status(world, "exited", exit_code, times=9)
    code, _, _ = launched(tpu_vm, train("--relaunches=9"))
    assert code == exit_code
    assert len(world.calls_of("worker.py start")) == 1
    assert world.machines == {}


def test_a_run_that_was_asked_to_stop_is_not_started_again(world, launched):
    tell_status(world, "exited", 75, stopped=True)
    code, _, said = launched(tpu_vm, train("--relaunches=9"))
    assert code == 75
    assert "stopped as asked" in said
    assert len(world.calls_of("worker.py start")) == 1


@pytest.mark.parametrize(
    ("first", "others", "expected"),
    [
        (("exited", 75), ("exited", 69), 75),
        (("exited", 0), ("lost", None), 75),
        (("lost", None), ("lost", None), 75),
        (("exited", 75), ("exited", 137), 137),  # that one had to be killed
    ],
    ids=["a peer lost", "one lost", "all lost", "killed"],
)
def test_a_run_that_was_asked_to_stop_is_not_started_again_however_it_ended(
    world, launched, first, others, expected
):
    mixed = workers(*first, stopped=True, count=1) + workers(*others, count=HOSTS - 1)
    world.answer(r"worker\.py status", mixed)
    code, _, _ = launched(tpu_vm, train("--relaunches=9"))
    assert code == expected
    assert len(world.calls_of("worker.py start")) == 1
    assert world.machines == {}


def test_a_run_that_was_asked_to_stop_is_not_started_again_where_workers_hang(
    world, launched, monkeypatch
):
    monkeypatch.setattr(watching, "LOOKS_AFTER_END", 1)
    mixed = workers("lost", stopped=True, count=1) + workers("running", count=HOSTS - 1)
    world.answer(r"worker\.py status", mixed, times=2)
    code, _, said = launched(tpu_vm, train("--relaunches=9"))
    assert (code, "others hang: all are stopped" in said) == (75, True)
    assert len(world.calls_of("worker.py start")) == 1


def test_no_capacity_for_the_replacement_is_tried_again_too(world, launched):
    world.answer(" create ", machines={"scan": "READY"})
    world.answer(" create ", code=1)
    world.answer(r"worker\.py logs", code=1, machines={"scan": None})
    tell_status(world, "exited", 0)
    code, _, _ = launched(tpu_vm, train("--spot", "--relaunches=3"))
    assert code == 0
    assert len(world.calls_of(" create ")) == 3


@pytest.mark.parametrize("relaunched", [False, True], ids=["first", "replacement"])
def test_workers_that_still_boot_are_asked_again(world, launched, relaunched):
    if relaunched:
        world.answer("mkdir")
        world.answer(r"worker\.py logs", code=1, machines={"scan": "PREEMPTED"})
    world.answer("mkdir", code=255, times=3)
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train("--relaunches=1"))
    assert (code, "they may still boot" in said) == (0, True)
    assert world.slept.count(slices.BOOT_SECONDS) == 3
    assert world.machines == {}


def test_workers_that_never_boot_are_given_up_and_deleted(world, launched):
    world.answer("mkdir", code=255, times=99)
    assert launched(tpu_vm, train())[0] == 2
    assert sum(world.slept) <= 600
    assert world.machines == {}


@pytest.mark.parametrize(
    "complaint",
    [
        "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) PERMISSION_DENIED: Permission 'tpu.nodes.get' "
        "denied\n- '@type': type.googleapis.com/google.rpc.ErrorInfo\n",
        "ERROR: There was a problem refreshing your current auth tokens: Reauthentication failed. "
        "cannot prompt during non-interactive execution.\nPlease run:\n\n  $ gcloud auth login\n",
    ],
    ids=["no right", "log in again"],
)
def test_what_google_refuses_is_told_at_once_and_whole(world, launched, complaint):
    world.answer("mkdir", code=1, err=complaint, times=99)
    code, _, said = launched(tpu_vm, train())
    assert (code, len(world.calls_of("mkdir")), world.slept) == (2, 1, [])
    assert complaint.strip() in said
    assert "`gcloud auth login`, or ask for a role" in said.splitlines()[-1]
    assert world.machines == {}


@pytest.mark.parametrize("looks", [slices.KEY_LOOKS - 1, 99], ids=["new", "wrong"])
def test_a_key_that_is_refused_gets_a_minute_to_become_known(world, launched, looks):
    complaint = "me@192.0.2.1: Permission denied (publickey).\nERROR: return code [255].\n"
    world.answer("mkdir", code=255, err=complaint, times=looks)
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train())
    assert code == (0 if looks < slices.KEY_LOOKS else 2)
    assert ("`ssh-add ~/.ssh/google_compute_engine`" in said) == (code == 2)
    assert len(world.calls_of("mkdir")) == slices.KEY_LOOKS
    assert said.count("Permission denied (publickey)") == 1
    assert world.machines == {}


def test_a_machine_that_is_taken_away_while_it_boots_is_replaced(world, launched):
    world.answer("mkdir", code=255, machines={"scan": "PREEMPTED"})
    tell_status(world, "exited", 0)
    assert launched(tpu_vm, train("--relaunches=1"))[0] == 0
    assert len(world.calls_of(" create ")) == 2


@TARGETS
@pytest.mark.parametrize("failure", [" list ", " delete ", "scp ", r"worker\.py start"])
def test_what_fails_in_a_relaunch_for_a_while_is_tried_again(world, launched, target, failure):
    for step in ("scp ", r"worker\.py start"):
        world.answer(step)  # the first attempt
    world.answer(" list ", "[]")  # before it is created
    if target is queued:
        world.answer(" list ", queue_in("ACTIVE"))
    world.answer(r"worker\.py logs", code=1, machines={"scan": "TERMINATED"})
    world.answer(" list ", queue_in("SUSPENDED"))  # it is gone
    world.answer(failure, code=1, times=2)
    tell_status(world, "exited", 0)
    code, _, said = launched(target, train("--relaunches=5"))
    assert (code, "relaunch 2 of 5" in said) == (0, True)
    assert len(world.calls_of("worker.py setup")) >= 2
    assert world.machines == {}


def test_a_deletion_is_waited_for_before_the_name_is_used_again(world, launched):
    world.answer(" delete ", machines={"scan": "DELETING"})
    world.answer(r"worker\.py logs", code=1, machines={"scan": "PREEMPTED"})
    tell_status(world, "exited", 0)
    for state in ([], "PREEMPTED", "PREEMPTED", "PREEMPTED", "DELETING", "DELETING"):
        world.answer(" list ", queue_in(state) if state else "[]")
    world.answer(" list ", "[]", machines={"scan": None})
    code, _, _ = launched(tpu_vm, train("--relaunches=1"))
    assert code == 0
    assert world.slept.count(slices.DELETION_SECONDS) == 2
    assert len(world.calls_of(" create ")) == 2


def test_a_list_that_still_shows_the_machine_before_is_asked_again(world, launched):
    world.answer(r"worker\.py logs", code=1, machines={"scan": None})
    for state in ([], [], [], "READY"):  # created, gone, gone; then the list is behind
        world.answer(" list ", queue_in(state) if state else "[]")
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train("--relaunches=2"))
    assert (code, "exists already" in said) == (0, True)
    assert len(world.calls_of(" create ")) == 2


def test_one_failed_worker_stops_those_that_hang(world, launched):
    mixed = workers("exited", 1, count=1) + workers("running", count=HOSTS - 1)
    world.answer(r"worker\.py status", mixed, times=99)
    code, _, said = launched(tpu_vm, train())
    assert code == 1
    assert "all are stopped" in said
    assert world.calls_of("worker.py stop")
    assert world.machines == {}


@pytest.mark.parametrize("ended", [0, 75, 69])
def test_workers_that_hang_after_others_have_ended_are_not_watched_for_ever(
    world, launched, monkeypatch, ended
):
    monkeypatch.setattr(watching, "LOOKS_AFTER_END", 3)
    mixed = workers("exited", ended, count=1) + workers("running", count=HOSTS - 1)
    world.answer(r"worker\.py status", mixed, times=watching.LOOKS_AFTER_END + 1)
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train("--relaunches=1"))
    assert code == 0  # the relaunch, which all have finished
    assert "a worker has ended and others hang: all are stopped" in said
    assert len(world.calls_of("worker.py start")) == 2


def test_a_lost_connection_is_not_a_lost_machine(world, launched, monkeypatch):
    monkeypatch.setattr(watching, "UNANSWERED", 2)
    world.answer(" list ", "[]")  # before it is created
    world.answer(r"worker\.py logs", code=255, times=5)
    world.answer(" list ", code=1, err="network is unreachable\n", times=5)
    tell_status(world, "exited", 0)
    code, _, said = launched(tpu_vm, train("--relaunches=1"))
    assert code == 0
    assert len(world.calls_of("worker.py start")) == 1
    assert "relaunch" not in said
    assert "see to the network" in said


def test_a_machine_that_never_answers_is_given_up_and_deleted(world, launched, monkeypatch):
    monkeypatch.setattr(watching, "UNANSWERED", 2)
    world.answer(r"worker\.py logs", code=255, times=99)
    code, _, said = launched(tpu_vm, train())
    assert code == 2
    assert "does not answer" in said
    assert len(world.calls_of("worker.py logs")) == 3
    assert world.machines == {}


def test_a_worker_without_its_run_means_that_the_machine_restarted(world, launched):
    tell_status(world, "lost")
    tell_status(world, "exited", 0)
    code, _, _ = launched(tpu_vm, train("--relaunches=1"))
    assert code == 0
    assert len(world.calls_of("worker.py start")) == 2


@pytest.mark.parametrize("where", ["create", "follow"])
def test_ctrl_c_leaves_nothing_behind(world, launched, monkeypatch, where):
    def interrupt(*_):
        raise KeyboardInterrupt

    if where == "create":
        create = tpu_vm.TpuVm._create
        monkeypatch.setattr(tpu_vm.TpuVm, "_create", lambda self: (create(self), interrupt()))
    else:
        monkeypatch.setattr(Commands, "sleep", interrupt)
    code, _, _ = launched(tpu_vm, train())
    assert code == 130
    assert world.machines == {}
    assert bool(world.calls_of("worker.py stop")) == (where == "follow")


@pytest.mark.parametrize("behind", [1, 99], ids=["found late", "never found"])
def test_ctrl_c_does_not_believe_a_list_that_is_behind(world, launched, monkeypatch, behind):
    slept = []

    def interrupt_once(self, seconds):
        slept.append(seconds)
        if len(slept) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "sleep", interrupt_once)
    world.answer(" list ", "[]", times=1 + behind)  # before it is created, and after Ctrl-C
    code, _, said = launched(tpu_vm, train())
    assert code == 130
    if behind == 1:
        assert world.machines == {}
    else:
        assert "scan was not found in 3 looks, so nothing was deleted" in said
        assert "turns up later: gcloud compute tpus tpu-vm list" in said


def test_a_run_is_saved_and_its_machine_deleted_where_nobody_reads_about_it(
    world, launched, monkeypatch, dead_output
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Commands, "sleep", interrupt)
    monkeypatch.setattr(sys, "stderr", dead_output)
    code, _, _ = launched(tpu_vm, train())
    assert code == 130
    stop, delete = world.calls_of("worker.py stop"), world.calls_of(" delete ")
    assert [len(stop), len(delete), world.machines] == [1, 1, {}]


def test_a_log_that_nobody_reads_does_not_end_the_run(world, launched, monkeypatch, dead_output):
    log = {"next": 6, "more": False, "text": "hello\n"}
    world.answer(r"worker\.py logs", f"LOG {json.dumps(log)}\n")
    tell_status(world, "exited", 0)
    monkeypatch.setattr(sys, "stdout", dead_output)
    assert launched(tpu_vm, train())[0] == 0


def test_a_terminal_that_hangs_up_twice_does_not_keep_the_run_from_saving(
    world, launched, monkeypatch
):
    def hang_up(*_):
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.getsignal(signal.SIGHUP)  # a run in the background may ignore it
    run, stopped = Commands.run, []

    def hang_up_while_it_stops(self, argv, **more):
        if "worker.py stop" in " ".join(argv):
            hang_up()
            stopped.append(argv)
        run(self, argv, **more)

    monkeypatch.setattr(Commands, "sleep", hang_up)
    monkeypatch.setattr(Commands, "run", hang_up_while_it_stops)
    assert launched(tpu_vm, train())[0] == 130
    assert (len(stopped), world.machines) == (1, {})
    assert signal.getsignal(signal.SIGHUP) == before


def test_run_uses_a_machine_that_is_there_and_leaves_it(world, launched):
    world.machines = {"scan": "READY"}
    tell_status(world, "exited", 2)
    code, _, said = launched(tpu_vm, ["run", *RUN])
    assert code == 2
    assert world.machines == {"scan": "READY"}
    assert "goes on costing money" in said
    assert not world.calls_of("worker.py setup")


def test_run_without_a_machine_says_what_comes_first(world, launched):
    code, _, said = launched(tpu_vm, ["run", *RUN])
    assert code == 2
    assert "scan is not there: `create` and `setup` come first" in said


def test_a_detached_run_is_only_started(world, launched):
    world.machines = {"scan": "READY"}
    assert launched(tpu_vm, ["run", "--detach", *RUN])[0] == 0
    assert not world.calls_of("worker.py status")


@TARGETS
@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_stop_and_delete_of_what_is_not_there_are_no_errors(world, launched, target, verb):
    code, _, said = launched(target, [verb, *COMMON])
    assert code == 0
    assert f"nothing to {verb}" in said


@TARGETS
def test_single_steps(world, launched, target):
    tell_status(world, "exited", 75, times=9)
    slice_ = "--accelerator=v5litepod-16"
    assert launched(target, ["create", slice_, *COMMON])[0] == 0
    assert launched(target, ["setup", slice_, *COMMON])[0] == 0
    code, out, _ = launched(target, ["status", *COMMON])
    assert code == 0
    assert "w: exited with exit code 75" in out
    assert launched(target, ["logs", *COMMON])[0] == 0
    assert launched(target, ["stop", *COMMON])[0] == 0
    assert launched(target, ["delete", *COMMON])[0] == 0
    assert world.machines == {}


def test_secrets_reach_the_workers_as_a_file_and_stand_in_no_command(world, launched, env_file):
    tell_status(world, "exited", 0)
    code, out, said = launched(tpu_vm, train(f"--env_file={env_file}"))
    assert code == 0
    assert f"scp {env_file} scan:mmjax-scan/env" in world.calls_of("scp")[1]
    assert "s3cr3t" not in repr(world.recorded) + out + said


def test_the_queue_is_waited_for_and_a_refusal_is_cleaned_up(world, launched):
    world.answer("list", "[]")
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "FAILED"):
        world.answer("list", queue_in(state))
    code, _, said = launched(queued, ["create", "--accelerator=v5litepod-16", *COMMON])
    assert code == 2
    assert "ended in state FAILED" in said
    assert world.machines == {}
    assert world.slept == [queued.POLL_SECONDS] * 2
    assert world.calls_of("--valid-until-duration=24h")


def test_the_queue_is_left_when_the_time_is_over(world, launched, monkeypatch):
    monkeypatch.setattr(queued, "POLL_SECONDS", 1200)
    wait = ["--wait_hours=1", "--accelerator=v5litepod-16", *COMMON]
    world.answer("list", "[]")
    world.answer("list", queue_in("ACCEPTED"), times=3)
    code, _, said = launched(queued, ["create", *wait])
    assert code == 2
    assert "no capacity for scan within 1 h" in said
    assert world.machines == {}


def test_a_missing_gcloud_is_told_with_how_to_install_it(world, launched, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, said = launched(tpu_vm, ["status", *COMMON])
    assert code == 2
    assert "gcloud is not on the PATH: install the Google Cloud CLI" in said
