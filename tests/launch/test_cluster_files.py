"""The Kubernetes files and the image of launch/cluster: their form field by field, and what must agree for processes to find each other."""

import copy
import re

import pytest
import yaml
from fakes import CLUSTER, ROOT
from jobset_fields import CLAIM, JOBSET, problems

from relink_jax.stages import launch_words

FILES = ("gke_gpu.yaml", "gke_tpu.yaml")
FLAGS = {"coordinator", "processes", "process", "expect_devices", "init_timeout", "stop_within", "workdir"}


def read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def parts(jobset):
    """Returns the job, the pod and the container of a JobSet with one of each."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    return job, pod, pod["containers"][0]


def breaches(jobset):
    """Returns what breaks the file's promises: sizes that disagree, rights, restarts, or a stop that has no time."""
    job, pod, container = parts(jobset)
    environment = {one["name"]: one.get("value") for one in container["env"]}
    limits, policy = container["resources"]["limits"], jobset["spec"]["failurePolicy"]
    kind = "google.com/tpu" if "google.com/tpu" in limits else "nvidia.com/gpu"
    words = dict(word.removeprefix("--").partition("=")[::2] for word in container["args"][1:])
    replicated = jobset["spec"]["replicatedJobs"][0]["name"]
    named = {name for text in words.values() for name in re.findall(r"\$\((\w+)\)", text)}
    codes = {code for rule in job["podFailurePolicy"]["rules"] for code in rule.get("onExitCodes", {}).get("values", [])}
    rules = [(rule["action"], rule.get("onJobFailureMessagePatterns")) for rule in policy["rules"]]
    mounts = {one["name"] for one in container["volumeMounts"]}
    locked = container["securityContext"]
    ports = [one["containerPort"] for one in container["ports"]]
    checks = {
        "hosts agree": {str(job["completions"]), str(job["parallelism"])} == {environment["HOSTS"]} and job["completionMode"] == "Indexed",
        "devices agree": int(environment["DEVICES"]) == job["completions"] * int(limits[kind]),
        "process 0 is named": words["coordinator"] == f"$(JOBSET)-{replicated}-0-0.$(JOBSET):{ports[0]}" and jobset["spec"]["network"]["enableDNSHostnames"],
        "each pod knows its number": words["process"] == "$(JOB_COMPLETION_INDEX)" and words["processes"] == "$(HOSTS)",
        "names are defined": named <= {*environment, "JOB_COMPLETION_INDEX"},
        "all pods start over together": job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never" and policy["restartStrategy"] == "BlockingRecreate",
        "final codes end": {2, 65} <= codes and rules[-1] == ("FailJobSet", None) and not {0, 70, 74, 134} & codes,
        "stops go on": 75 in codes and rules[0][0] == "RestartJobSetAndIgnoreMaxRestarts" and policy["maxRestarts"] > 0,
        "a stop has time": pod["terminationGracePeriodSeconds"] > int(words["stop_within"]) + 30,
        "no rights on the cluster": pod["automountServiceAccountToken"] is False and "serviceAccountName" not in pod,
        "no rights on the host": locked == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        and pod["securityContext"]["runAsNonRoot"],
        "mounts are there": mounts == {one["name"] for one in pod["volumes"]} and "work" in mounts,
        "one file system": [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one] == ["relink-work"],
        "flags are relink's": set(words) <= FLAGS,
    }
    return [name for name, holds in checks.items() if not holds]


@pytest.mark.parametrize("name", FILES)
def test_jobsets_have_the_form_and_keep_their_promises(name):
    assert problems(read(name), JOBSET) == []
    assert breaches(read(name)) == []


def test_the_claim_is_shared_and_lies_apart_from_the_jobs():
    claim = read("gke_workdir.yaml")
    assert problems(claim, CLAIM) == []
    assert claim["metadata"]["name"] == "relink-work"
    assert all(read(name)["kind"] == "JobSet" for name in FILES), "deleting a job must not delete the workdir"


def test_the_two_files_differ_only_where_their_devices_do():
    gpu, tpu = (read(name) for name in FILES)
    same = [(one["spec"]["network"], one["spec"]["failurePolicy"], parts(one)[0]["podFailurePolicy"]) for one in (gpu, tpu)]
    assert same[0] == same[1]
    assert parts(gpu)[2]["args"] == parts(tpu)[2]["args"]
    shm = next(one for one in parts(gpu)[1]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    selected = parts(tpu)[1]["nodeSelector"]
    assert {"cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"} == set(selected)
    sides = [int(side) for side in selected["cloud.google.com/gke-tpu-topology"].split("x")]
    assert sides[0] * sides[1] == int(parts(tpu)[2]["env"][2]["value"])


def changed(**paths):
    """Returns a JobSet with values put at paths whose steps __ parts."""
    jobset = copy.deepcopy(read("gke_gpu.yaml"))
    job, pod, container = parts(jobset)
    for path, value in paths.items():
        *steps, last = path.split("__")
        place = {"set": jobset["spec"], "job": job, "pod": pod, "container": container}[steps[0]]
        for step in steps[1:]:
            place = place[int(step) if step.isdecimal() else step]
        place[int(last) if last.isdecimal() else last] = value
    return jobset


@pytest.mark.parametrize(
    "paths",
    [
        {"set__failurepolicy": {"maxRestarts": 1}},
        {"set__failurePolicy__maxRestarts": "5"},
        {"set__failurePolicy__rules__0__action": "Restart"},
        {"set__failurePolicy__rules__0__onJobFailureReasons": ["PodFailure"]},
        {"job__completions": "2"},
        {"job__podFailurePolicy__rules__0__onExitCodes__values": "75"},
        {"pod__terminationGracePeriod": 120},
        {"pod__containers": []},
        {"pod__volumes__0": {"persistentVolumeClaim": {"claim": "x"}, "name": "work"}},
        {"container__securityContext__runasnonroot": True},
        {"container__env__1__value": 2},
        {"container__resources__limits": {"nvidia.com/gpu": True}},
    ],
    ids=lambda paths: next(iter(paths)),
)
def test_a_slip_in_the_form_is_seen(paths):
    assert problems(changed(**paths), JOBSET)


@pytest.mark.parametrize(
    "paths",
    [
        {"job__parallelism": 3},
        {"container__env__2__value": "8"},
        {"set__replicatedJobs__0__name": "host"},
        {"container__ports__0__containerPort": 8475},
        {"container__args__4": "--process=$(TPU_WORKER_ID)"},
        {"job__backoffLimit": 6},
        {"set__failurePolicy__restartStrategy": "Recreate"},
        {"job__podFailurePolicy__rules__0__onExitCodes__values": [2, 75]},
        {"job__podFailurePolicy__rules__0__onExitCodes__values": [2, 65, 70, 75]},
        {"set__failurePolicy__rules": [{"name": "final", "action": "FailJobSet"}]},
        {"pod__terminationGracePeriodSeconds": 60},
        {"pod__automountServiceAccountToken": True},
        {"container__securityContext__readOnlyRootFilesystem": False},
        {"container__args__6": "--init_time=1800"},
    ],
    ids=lambda paths: next(iter(paths)),
)
def test_a_broken_promise_is_seen(paths):
    assert breaches(changed(**paths))


def test_messages_of_kubernetes_choose_the_rule():
    """The wording is that of the Job controller, for an exit code and for a condition of a pod."""
    stopped = read("gke_gpu.yaml")["spec"]["failurePolicy"]["rules"][0]["onJobFailureMessagePatterns"]
    told = [f"Container relink for pod default/relink-worker-0-1-x failed with exit code {code} matching FailJob rule at index 0" for code in (75, 2, 65)]
    told.append("Pod default/relink-worker-0-1-x has condition DisruptionTarget matching FailJob rule at index 1")
    assert [any(re.search(pattern, message) for pattern in stopped) for message in told] == [True, False, False, True]


def test_kubernetes_own_schema_accepts_the_jobs():
    """With the package kubernetes-validate, which carries the schemas (110 MB, so not in the test extra)."""
    validator = pytest.importorskip("kubernetes_validate")
    for name in FILES:
        template = read(name)["spec"]["replicatedJobs"][0]["template"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "relink"}, "spec": template["spec"]}
        validator.validate(job, "1.31", strict=True)
        job["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
        with pytest.raises(validator.ValidationError):
            validator.validate(job, "1.31", strict=True)
    validator.validate(read("gke_workdir.yaml"), "1.31", strict=True)


def test_the_image_holds_what_it_installs_and_runs_as_the_pods_do():
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    copied = {word.rstrip("/") for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert {"setup.py", "pyproject.toml", "README.md", "relink_jax", "configs", "launch", "constraints"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    user = parts(read("gke_gpu.yaml"))[1]["securityContext"]["runAsUser"]
    assert f"USER {user}" in lines
    assert 'ENTRYPOINT ["relink"]' in lines


def test_every_flag_is_one_that_all_stages_take():
    assert FLAGS - {"workdir"} | {"cluster", "expect_processes"} <= set(launch_words.LAUNCH)
