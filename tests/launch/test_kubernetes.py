"""GKE and XPK: what is applied, what is waited for, and what is cleaned up."""

from __future__ import annotations

import json

import pytest

from launch import gke, xpk

COMMON = ["--name=scan", "--project=my-project", "--zone=us-west4-a", "--accelerator=v5litepod-16"]
IMAGE = "--image=us-docker.pkg.dev/my-project/images/mmjax"
RUN = ["--workdir=gs://bucket/scan", "--", "--config=configs/retrieval.py:model=scan"]
TAGGED = "us-docker.pkg.dev/my-project/images/mmjax:0123456789ab"


def run(*options):
    return ["run", *COMMON, IMAGE, *options, *RUN]


def jobset(state=None, restarts=0, suspend=False):
    status = {"terminalState": state, "restarts": restarts}
    return json.dumps({"spec": {"suspend": suspend}, "status": status})


def in_queue(world, launched, stopped=False, suspend=True, state=None):
    """The JobSet that `run --queue=q` applies, as Kueue leaves it in the cluster."""
    record = json.loads(launched(gke, ["manifest", *run("--queue=q")[1:]])[1])
    record["metadata"]["uid"] = "u-1"
    record["metadata"]["annotations"] |= {"mmjax/stopped": "true"} if stopped else {}
    record["spec"]["suspend"] = suspend
    return json.dumps({**record, "status": {"terminalState": state}})


def ended(launched, state, *options):
    """The JobSet that `run` applies, when it has ended."""
    record = json.loads(launched(gke, ["manifest", *run(*options)[1:]])[1])
    return json.dumps({**record, "status": {"terminalState": state}})


def applied(world):
    """The manifests, in order."""
    return [json.loads(c.stdin) for c in world.recorded if "apply" in c.argv]


def test_the_image_is_built_from_one_commit_and_named_after_it(world, launched):
    assert launched(gke, ["setup", *COMMON, IMAGE])[0] == 0
    archive, build = world.calls
    assert "archive --format=tar.gz" in archive
    assert "code-0123456789ab.tar.gz" in build
    assert f"--substitutions=_IMAGE={TAGGED}" in build


def test_the_jobset_has_a_pod_per_host_and_restarts_after_preemption_only(world, launched):
    world.answer("get jobset")
    world.answer("get jobset", jobset())
    world.answer("get jobset", jobset(restarts=1))
    world.answer("get jobset", jobset("Completed", 1))
    code, _, said = launched(gke, run("--relaunches=5", "--spot", "--queue=q"))
    assert code == 0
    assert "restarts: 1" in said
    (manifest,) = applied(world)
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 5
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    # A failure of these codes is final; 75, 69, 137 and a lost node are not among them.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 3, 130]
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["image"] == TAGGED
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][-2:] == ["--workdir=gs://bucket/scan", "--distributed=on"]


def test_several_slices_are_a_job_each_and_one_run(world, launched):
    _, out, _ = launched(gke, ["manifest", *run("--slices=3")[1:]])
    (replicated,) = json.loads(out)["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 3
    assert replicated["template"]["spec"]["parallelism"] == 4
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"][-1] == "--distributed=on"
    assert launched(xpk, run("--cluster=c", "--slices=3"))[0] == 0
    assert "--num-slices=3" in world.calls_of("workload create")[0]


def test_a_stopped_run_goes_on_with_as_many_slices(world, launched):
    stopped = json.loads(launched(gke, ["manifest", *run("--slices=2")[1:]])[1])
    stopped["spec"]["suspend"] = True
    world.answer("get jobset", json.dumps(stopped))
    code, _, said = launched(gke, run("--slices=3"))
    assert (code, "other arguments" in said) == (2, True)
    assert not world.calls_of("patch")


def test_the_manifest_alone_can_be_had(world, launched):
    code, out, _ = launched(gke, ["manifest", *run()[1:]])
    assert code == 0
    assert json.loads(out)["kind"] == "JobSet"
    assert world.calls == []


def pod(exit_code, when="2026-01-01T00:00:00Z"):
    ended = {"terminated": {"exitCode": exit_code, "finishedAt": when}}
    return {"status": {"containerStatuses": [{"state": ended}]}}


def test_the_exit_code_of_a_failed_jobset_is_that_of_its_pods(world, launched):
    pods = [pod(137, "2026-01-01T00:00:02Z"), pod(1, "2026-01-01T00:00:01Z"), {"status": {}}]
    world.answer("get jobset")
    world.answer("get jobset", jobset("Failed"))
    world.answer("get pods", json.dumps({"items": pods}))
    code, _, _ = launched(gke, run())
    assert code == 1
    assert world.calls_of("kubectl logs")


def test_secrets_go_through_standard_input(world, launched, env_file):
    world.answer("get jobset")
    world.answer("get jobset", json.dumps({"metadata": {"uid": "u-1"}}))
    world.answer("get jobset", jobset("Completed"))
    code, out, said = launched(gke, run(f"--env_file={env_file}"))
    assert code == 0
    # The secret goes with the JobSet, which a week after its end goes by itself.
    (patch,) = world.calls_of("patch secret scan-env")
    reference = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "scan"}
    assert json.dumps({**reference, "uid": "u-1"}, separators=(",", ":")) in patch
    secret, manifest = applied(world)
    assert secret["stringData"] == {"WANDB_API_KEY": "s3cr3t=value"}
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert "s3cr3t" not in out + said + "".join(world.calls) + json.dumps(manifest)
    code, out, _ = launched(gke, run(f"--env_file={env_file}", "--dry_run"))
    assert (code, "s3cr3t" in out, f"(from {env_file})" in out) == (0, False, True)


def test_what_could_not_be_applied_is_deleted(world, launched, env_file):
    world.answer("apply")  # the secret
    world.answer("apply", code=1)
    code, _, said = launched(gke, run(f"--env_file={env_file}"))
    assert code == 2
    assert "deleting what is left" in said
    assert world.calls_of("kubectl delete jobset scan --ignore-not-found")
    assert world.calls_of("kubectl delete secret scan-env --ignore-not-found")


def test_a_clean_up_that_fails_says_what_may_still_cost_money(world, launched, env_file):
    world.answer("apply")  # the secret
    world.answer("apply", code=7)
    world.answer("delete", code=1, times=2)
    code, _, said = launched(gke, run(f"--env_file={env_file}"))
    assert (code, "failed with exit code 7" in said.splitlines()[-1]) == (2, True)
    by_hand = "Delete it: kubectl delete"
    assert f"scan MAY STILL COST MONEY. {by_hand} jobset scan --ignore-not-found" in said
    assert f"scan-env may still exist. {by_hand} secret scan-env --ignore-not-found" in said


def test_delete_tries_the_secret_too_and_tells_the_first_failure(world, launched):
    world.answer("delete jobset", code=7)
    code, _, said = launched(gke, ["delete", *COMMON])
    assert (code, "failed with exit code 7" in said) == (2, True)
    assert world.calls_of("kubectl delete secret scan-env --ignore-not-found")


@pytest.mark.parametrize("state", ["Failed", "Completed"])
def test_the_same_command_runs_again_what_has_ended(world, launched, env_file, state):
    world.answer("get jobset", ended(launched, state, f"--env_file={env_file}"))
    world.answer("get jobset", json.dumps({"metadata": {"uid": "u-2"}}))
    world.answer("get jobset", jobset("Completed"))
    code, _, said = launched(gke, run(f"--env_file={env_file}"))
    assert (code, f"scan has ended ({state})" in said) == (0, True)
    steps = ["delete jobset scan", "delete secret scan-env", "apply"]
    places = [next(i for i, c in enumerate(world.calls) if s in c) for s in steps]
    assert places == sorted(places)
    # The Jobs and the Secret of the new one have the names of the old ones.
    assert all("--cascade=foreground" in call for call in world.calls_of("delete"))


def test_what_has_ended_and_cannot_be_deleted_is_not_applied_again(world, launched):
    world.answer("get jobset", ended(launched, "Failed"))
    world.answer("delete jobset", code=1)
    assert launched(gke, run())[0] == 2
    assert not world.calls_of("apply")


def test_what_has_ended_and_was_another_run_is_kept_with_its_logs(world, launched):
    world.answer("get jobset", ended(launched, "Failed", "--slices=2"))
    code, _, said = launched(gke, run())
    assert (code, "has run another commit or other arguments" in said) == (2, True)
    assert not world.calls_of("apply") and not world.calls_of("delete")


def test_a_jobset_that_runs_already_is_left_alone(world, launched):
    world.answer("get jobset", jobset())
    code, _, said = launched(gke, run())
    assert code == 2
    assert "exists already" in said
    assert not world.calls_of("apply")
    assert not world.calls_of("delete")


def test_stop_suspends_and_run_continues(world, launched):
    world.answer("get jobset", jobset())
    assert launched(gke, ["stop", *COMMON])[0] == 0
    assert '"suspend":true' in world.calls[-1]
    stopped = json.loads(launched(gke, ["manifest", *run()[1:]])[1])
    stopped["spec"]["suspend"] = True
    world.answer("get jobset", json.dumps(stopped), times=2)
    world.answer("get jobset", jobset("Completed"))
    code, _, said = launched(gke, [*run(), "--config.seed=3"])
    assert (code, "another commit or other arguments" in said) == (2, True)
    assert launched(gke, run())[0] == 0
    assert world.calls_of('"suspend":false')
    assert not world.calls_of("apply")


def test_a_run_that_is_suspended_meanwhile_ends_with_75(world, launched):
    world.answer("get jobset")
    world.answer("get jobset", jobset(suspend=True))
    assert launched(gke, run())[0] == 75


def test_a_run_that_kueue_holds_is_queued_and_watched_until_its_end(world, launched):
    world.answer("get jobset")
    world.answer("get jobset", in_queue(world, launched), times=3)
    world.answer("get jobset", in_queue(world, launched, suspend=False))
    world.answer("get jobset", in_queue(world, launched))  # Kueue took the quota away again
    world.answer("get jobset", in_queue(world, launched, suspend=False, state="Completed"))
    code, _, said = launched(gke, run("--queue=q"))
    assert code == 0
    told = [line.split()[2] for line in said.splitlines() if "restarts" in line]
    assert told == ["queued,", "running,", "queued,", "Completed,"]
    assert "stopped" not in said


def test_a_second_run_does_not_go_past_kueue(world, launched):
    world.answer("get jobset", in_queue(world, launched))
    code, _, said = launched(gke, run("--queue=q"))
    assert (code, "exists already" in said) == (2, True)
    assert not world.calls_of("patch")


def test_stop_takes_the_quota_away_and_run_asks_for_it_again(world, launched):
    workloads = json.dumps({"items": [{"metadata": {"name": "jobset-scan-1"}}]})
    world.answer("get jobset", in_queue(world, launched, suspend=False))
    world.answer("get workloads", workloads, times=2)
    assert launched(gke, ["stop", *COMMON])[0] == 0
    assert "job-uid=u-1" in world.calls_of("get workloads")[0]
    assert world.calls[-2:] == [
        "kubectl annotate jobset scan mmjax/stopped=true --overwrite",
        "kubectl patch workloads.kueue.x-k8s.io jobset-scan-1 --type=merge "
        '\'--patch={"spec":{"active":false}}\'',
    ]
    world.answer("get jobset", in_queue(world, launched, stopped=True), times=2)
    code, _, said = launched(gke, run("--queue=q"))  # stopped again while it is watched
    assert (code, "stopped as asked" in said) == (75, True)
    assert world.calls_of('jobset-scan-1 --type=merge \'--patch={"spec":{"active":true}}')
    assert world.calls_of("annotate jobset scan mmjax/stopped-")
    assert not world.calls_of("suspend")


def test_stop_before_kueue_has_seen_the_jobset_marks_nothing(world, launched):
    world.answer("get jobset", in_queue(world, launched))
    world.answer("get workloads", '{"items": []}')
    code, _, said = launched(gke, ["stop", *COMMON])
    assert (code, "no Workload" in said) == (2, True)
    assert not world.calls_of("annotate")


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(world, launched):
    world.answer("get jobset")
    world.answer("get jobset", code=1, times=3)
    world.answer("get jobset", jobset("Completed"))
    assert launched(gke, run())[0] == 0


@pytest.mark.parametrize("verb", ["run", "stop", "delete", "status", "logs"])
def test_a_cluster_of_another_project_is_left_alone_unless_it_is_named(world, launched, verb):
    wanted = run() if verb == "run" else [verb, *COMMON]
    world.answer("current-context", "gke_other_us-west4-a_cluster\n")
    code, _, said = launched(gke, wanted)
    assert (code, "is of no cluster of my-project" in said) == (2, True)
    assert world.calls == ["kubectl config current-context"]
    world.answer("get jobset")
    world.answer("get jobset", jobset("Completed"))
    assert launched(gke, [verb, "--context=mine", *wanted[1:]])[0] == 0
    own = [call for call in world.calls[1:] if call.startswith("kubectl")]
    assert own
    assert all(call.startswith("kubectl --context=mine ") for call in own)


@pytest.mark.parametrize("verb", ["stop", "delete", "status", "logs"])
def test_other_verbs_of_gke(world, launched, verb):
    assert launched(gke, [verb, *COMMON])[0] == 0
    assert all(call.startswith("kubectl") for call in world.calls)


def listed(name, state):
    """XPK's table; what a workload has no value for is empty."""
    names = ("Jobset Name", "Created Time", "Priority", "TPU VMs Needed", "TPU VMs Running/Ran")
    names += ("TPU VMs Done", "Status", "Status Message", "Status Time")
    cells = (name, "2026-01-01T00:00:00Z", "", "4", "4", "<none>", state, "Jobs  are so", "today")
    widths = [max(map(len, column)) + 3 for column in zip(names, cells, strict=True)]
    rows = (
        "".join(map(str.ljust, row, widths)).rstrip()  # columns three blanks apart
        for row in (names, cells)
    )
    return "\n".join(["[XPK] Workload List Output:", *rows, "[XPK] Exiting XPK cleanly", ""])


def test_xpk_restarts_after_preemption_and_waits_for_the_end(world, launched):
    code, _, _ = launched(xpk, run("--cluster=c", "--relaunches=5"))
    assert code == 0
    _, create, wait = world.calls
    assert "--max-restarts=5 --restart-on-exit-codes=75,69" in create
    assert f"--docker-image={TAGGED}" in create
    assert "--tpu-type=v5litepod-16" in create
    assert "'--command=python -m mmjax.main --config=configs/retrieval.py:model=scan" in create
    assert "--wait-for-job-completion=scan" in wait


def test_an_xpk_workload_that_failed_is_told(world, launched):
    world.answer("wait-for-job", code=125)
    world.answer("get pods", code=1)
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "scan failed" in said) == (1, True)


@pytest.mark.parametrize(("codes", "expected"), [([75, 75], 75), ([69, 2], 2), ([], 1)])
def test_the_exit_code_of_a_failed_xpk_workload_is_that_of_its_pods(
    world, launched, codes, expected
):
    world.answer("wait-for-job", code=125)
    world.answer("get pods .*jobset-name=scan", json.dumps({"items": [pod(c) for c in codes]}))
    assert launched(xpk, run("--cluster=c"))[0] == expected


def test_an_xpk_workload_that_could_not_be_created_is_deleted_alone(world, launched):
    world.answer("workload create", code=1)
    assert launched(xpk, run("--cluster=c"))[0] == 2
    # Without its name, all workloads of the cluster would go.
    assert "--workload=scan" in world.calls_of("workload delete")[0]


def test_an_xpk_workload_that_is_there_is_left_alone(world, launched):
    world.answer("workload list", listed("scan", "Admitted"))
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "exists already (Admitted)" in said) == (2, True)
    world.answer("workload list", "scan   today\n")  # a table of another form
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "exists already (state unknown)" in said) == (2, True)
    assert not world.calls_of("delete")
    world.answer("workload list", listed("scan-2", "Admitted"))
    assert launched(xpk, run("--cluster=c"))[0] == 0


def test_the_same_command_runs_an_xpk_workload_again_that_has_ended(world, launched):
    world.answer("workload list", listed("scan", "Finished"), times=3)  # its name is free late
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "scan has ended" in said) == (0, True)
    assert world.slept == [xpk.DELETION_SECONDS] * 2
    steps = ["workload delete", "workload create"]
    places = [next(i for i, c in enumerate(world.calls) if s in c) for s in steps]
    assert places == sorted(places)


def test_an_xpk_workload_that_stays_after_its_deletion_is_not_made_again(world, launched):
    world.answer("workload list", listed("scan", "Finished"), times=99)
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "still there after its deletion" in said) == (2, True)
    assert not world.calls_of("workload create")


def test_an_xpk_clean_up_that_fails_says_what_may_still_cost_money(world, launched):
    world.answer("workload create", code=7)
    world.answer("workload delete", code=1)
    code, _, said = launched(xpk, run("--cluster=c"))
    assert (code, "failed with exit code 7" in said.splitlines()[-1]) == (2, True)
    assert "scan MAY STILL COST MONEY. Delete it: xpk workload delete --cluster=c" in said


def test_xpk_gets_secrets_as_a_file(world, launched, env_file):
    assert launched(xpk, run("--cluster=c", f"--env_file={env_file}"))[0] == 0
    assert f"--env-file={env_file}" in world.calls[1]
    assert "s3cr3t" not in repr(world.recorded)


@pytest.mark.parametrize("verb", ["stop", "delete", "status", "logs"])
def test_other_verbs_of_xpk(world, launched, verb):
    assert launched(xpk, [verb, "--cluster=c", *COMMON])[0] == 0
    assert "scan" in world.calls[0]
