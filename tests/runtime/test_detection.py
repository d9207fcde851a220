"""Every cluster rehearsed by its environment: who is found, where process 0 is, and whose devices are whose."""

import pytest

from relink_jax import errors
from relink_jax.runtime import detection

STEP = {
    "SLURM_JOB_ID": "7001",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[007-008],gpu12",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
}
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "method", "processes", "process"),
    [
        ({}, "none", 1, 0),
        (STEP, "slurm", 8, 5),
        (OMPI, "ompi", 4, 3),
        (GKE, "gke", 4, 2),
        (GKE | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "1"}, "gke", 12, 6),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, "none", 1, 0),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "none", 1, 0),
        (OMPI | STEP, "ompi", 4, 3),  # mpirun inside an allocation
        ({"PMI_SIZE": "1"}, "none", 1, 0),
        (OMPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, "none", 1, 0),
    ],
)
def test_the_starter_says_how_many_and_which(environment, method, processes, process):
    found = detection.detected(environment)
    assert (found.method, found.processes, found.process) == (method, processes, process)
    assert found.notice == ""


def test_a_tpu_machine_asks_its_metadata_server_unless_told_not_to():
    assert detection.detected({}, tpu_vm=True).method == "tpu"
    assert detection.detected({}, tpu_vm=True).processes is None
    assert detection.detected({"TPU_SKIP_MDS_QUERY": "1"}, tpu_vm=True).method == "none"
    assert detection.detected(GKE, tpu_vm=True).method == "gke"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}, "8 tasks, but this step has one"),
        ({"SLURM_STEP_NODELIST": None}, "8 tasks, but srun did not start this process"),
    ],
)
def test_a_lone_process_of_an_allocation_runs_alone_and_says_so(changed, told):
    environment = {name: value for name, value in (STEP | changed).items() if value is not None}
    found = detection.detected(environment)
    assert (found.method, found.processes, found.process, found.local_devices) == ("none", 1, 0, None)
    assert told in found.notice


def test_a_pod_of_an_indexed_job_runs_alone_and_says_what_several_take():
    found = detection.detected({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"})
    assert found.method == "none"
    assert "--coordinator" in found.notice


@pytest.mark.parametrize(
    ("changed", "devices", "share"),
    [
        ({}, (1,), 1),  # one task for each GPU
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "8"}, tuple(range(8)), 8),  # one task per node: the one-GPU trap
        ({"SLURM_GPUS_ON_NODE": "8"}, (2, 3), 2),  # tasks share the GPUs out
        ({"SLURM_STEP_TASKS_PER_NODE": "8,4", "SLURM_GPUS_ON_NODE": "8"}, (2, 3), 2),  # of the second node
        ({"CUDA_VISIBLE_DEVICES": "0"}, (0,), 1),  # --gpus-per-task: its own GPU only, so SLURM_LOCALID would be wrong
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0"}, (0,), 8),  # sees 1 of 8: refused when counted
        ({"SLURM_GPUS_ON_NODE": "0"}, None, 0),
        ({"SLURM_GPUS_ON_NODE": "1", "JAX_PLATFORMS": "cpu"}, None, 0),
    ],
)
def test_each_slurm_task_gets_its_gpus(changed, devices, share):
    found = detection.detected(STEP | changed)
    assert (found.local_devices, found.share) == (devices, share)


def test_more_tasks_than_gpus_are_refused():
    with pytest.raises(errors.UsageError, match="one for each GPU at most, 2, found 4"):
        detection.detected(STEP | {"SLURM_GPUS_ON_NODE": "2"})


@pytest.mark.parametrize(
    ("changed", "devices"),
    [({}, (1,)), ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, None), ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (2, 3))],
)
def test_each_rank_gets_its_gpus_and_a_lone_one_of_a_node_all(changed, devices):
    assert detection.detected(OMPI | changed).local_devices == devices


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("gpu[007-008],x", "gpu007"),
        ("gpu[001,007-015]", "gpu001"),
        ("r[1-2]n[3,4],x", "r1n3"),
        ("a-b", "a-b"),
    ],
)
def test_process_0_is_on_the_first_node_of_the_step(nodes, host):
    assert detection.slurm(STEP | {"SLURM_STEP_NODELIST": nodes}).coordinator.rpartition(":")[0] == host


def test_steps_of_a_job_and_jobs_have_ports_of_their_own_in_range():
    ports = [int(detection.slurm(STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}).coordinator.rpartition(":")[2]) for job in ("1", "2") for step in "012"]
    assert len(set(ports)) == 6
    assert all(61440 <= port < 65536 for port in ports)
    assert detection.slurm(STEP | {"JAX_COORDINATOR_PORT": "4321"}).coordinator == "gpu007:4321"
    assert detection.ompi(OMPI).coordinator == f"10.96.0.1:{61440 + 1531576320 // 4096 % 4096}"
    six = {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620::2]:43370"}
    assert detection.ompi(OMPI | six).coordinator.startswith("[fe80::b9b]:")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, "4 processes of MPI"),  # Open MPI 5 names no process 0
        (STEP | {"OMPI_COMM_WORLD_SIZE": "4"}, "4 processes of MPI"),  # and its daemons are the step's tasks
        ({"PMI_SIZE": "2"}, "--cluster=mpi4py"),
        (STEP | {"SLURM_PROCID": "many"}, "environment variable SLURM_PROCID: expected a whole number"),
        (OMPI | {"OMPI_MCA_orte_hnp_uri": "elsewhere"}, "a job number and a tcp address"),
    ],
)
def test_several_processes_that_cannot_find_each_other_are_refused(environment, told):
    with pytest.raises(errors.UsageError) as raised:
        detection.detected(environment)
    assert told in str(raised.value)
    assert "elsewhere" not in str(raised.value)
    assert "many" not in str(raised.value)
