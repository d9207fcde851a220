"""What the environment says of the processes that were started together: who started them, how many, which is this one, whose devices.

Pure functions of a mapping of environment variables, so that every cluster can be rehearsed without one. A process is only ever taken for
one of several where its starter says so; a lone process waits for nobody.

Design note: jax detects the same places. Here the answer is worked out first, because jax gives a SLURM or Open MPI task one GPU, also where
it is the only task of an eight-GPU node (jax-ml/jax#16788), counts the tasks of the job and not of the step, and gives two steps of a job one
port.
"""

import dataclasses
import re
from collections.abc import Mapping

from relink_jax import errors

ALONE = "none"
METHODS = ("auto", ALONE, "one", "slurm", "ompi", "mpi4py", "tpu", "gke", "k8s", "explicit")
_FIRST_PORT, _PORTS = 61440, 4096  # above the ports that Linux gives out by itself
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among those of its command.

    Attributes:
        method: who says so, of `METHODS`; `ALONE` where it runs by itself. why: the same as a sentence.
        coordinator: HOST:PORT of process 0, '' where jax asks for it.
        processes, process: how many, and which one this is; None where jax asks.
        local_devices: numbers of the devices that are this process's; None for all that it sees.
        share: devices that the starter gave this process, 0 where it does not say.
        notice: what the user must know before work starts, '' for nothing.
    """

    method: str = ALONE
    why: str = "nothing in the environment names other processes"
    coordinator: str = ""
    processes: int | None = 1
    process: int | None = 0
    local_devices: tuple[int, ...] | None = None
    share: int = 0
    notice: str = ""


def detected(environment: Mapping[str, str], tpu_vm: bool = False) -> Place:
    """Returns what the environment says, in the order Open MPI, SLURM, TPU pod of Kubernetes, Cloud TPU.

    Args: tpu_vm: whether this machine has TPU chips and their library, which no variable says.
    Raises: UsageError: several processes whose starter does not say how they find each other, or numbers that do not fit.
    """
    if not _has_ompi(environment):
        _refuse_mpi(environment, "OMPI_COMM_WORLD_SIZE")
    for present, place in ((_has_ompi, ompi), (_has_slurm, slurm), (_has_gke, gke)):
        if present(environment):
            found = place(environment)
            return found if found.processes != 1 else Place(why=found.why, notice=found.notice)
    if "SLURM_JOB_ID" not in environment:  # where srun sets it for its own steps
        _refuse_mpi(environment, "PMI_SIZE")
    if tpu_vm and "TPU_SKIP_MDS_QUERY" not in environment:
        return Place("tpu", "this machine has TPU chips; its metadata server names the others", "", None, None)
    if "SLURM_JOB_ID" in environment:
        return _unstepped(environment)
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        told = "a pod of an indexed Kubernetes job, whose size only the cluster's API tells"
        return Place(why=told, notice=f"{told}, so this process runs alone; several take --coordinator, --processes and --process, or --cluster=k8s")
    return Place()


def slurm(environment: Mapping[str, str]) -> Place:
    """Returns the place of a task of a SLURM step; `UsageError` without srun's variables."""
    missing = [name for name in _SLURM if name not in environment]
    if missing:
        raise errors.UsageError(errors.describe("SLURM step", "the environment", "a process that srun started", f"no {missing[0]}"))
    tasks = _count(environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS")
    job, notice = _count(environment, "SLURM_NTASKS"), ""
    if tasks == 1 < job:
        notice = f"SLURM gave this job {job} tasks, but this step has one, so it runs alone"
    process = _count(environment, "SLURM_PROCID") if tasks > 1 else 0
    here = _tasks_here(environment)
    on_cpu = environment.get("JAX_PLATFORMS", "").startswith("cpu")
    on_node = 0 if on_cpu else _count(environment, "SLURM_GPUS_ON_NODE", 0)
    devices = None if on_cpu else _devices(_visible(environment), on_node, here, _count(environment, "SLURM_LOCALID"))
    step = int(environment.get("SLURM_STEP_ID", "0")) if environment.get("SLURM_STEP_ID", "0").isdecimal() else 0
    nodes = re.match(r"(?:[^,\[]|\[[^\]]*\])+", environment["SLURM_STEP_NODELIST"])
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes[0]) if nodes else "localhost"  # rack[1-2]n[07,09],other: rack1n07
    address = _address(environment, host, _count(environment, "SLURM_JOB_ID") + 61 * step)
    return Place("slurm", f"task {process} of {tasks} of a SLURM step", address, tasks, process, devices, on_node // here, notice)


def ompi(environment: Mapping[str, str]) -> Place:
    """Returns the place of a process that Open MPI's mpirun started; `UsageError` without its variables."""
    if not _has_ompi(environment):
        raise errors.UsageError(errors.describe("Open MPI", "the environment", "a process that mpirun started", "no OMPI_MCA_orte_hnp_uri"))
    uri = environment["OMPI_MCA_orte_hnp_uri"]
    host = re.search(r"tcp://(.+?)[,:]|tcp6://\[(.+?)[,\]]", uri)
    job = re.match(r"\d+", uri)
    if host is None or job is None:
        raise errors.UsageError(errors.describe("Open MPI", "OMPI_MCA_orte_hnp_uri", "a job number and a tcp address", "another form"))
    size, rank, here, local = (_count(environment, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK"))
    visible = _visible(environment)
    devices = None if here == 1 else _devices(visible, 0, here, local) if visible else (local,)
    address = _address(environment, host[1] or f"[{host[2]}]", int(job[0]) // 2**12)
    return Place("ompi", f"rank {rank} of {size} of Open MPI", address, size, rank, devices)


def gke(environment: Mapping[str, str]) -> Place:
    """Returns the place of a TPU pod of Kubernetes, one of a slice's or of several slices'; `UsageError` without its variables."""
    if not _has_gke(environment):
        raise errors.UsageError(
            errors.describe("TPU pod", "the environment", "TPU_WORKER_ID, and TPU_PROCESS_ADDRESSES or TPU_WORKER_HOSTNAMES", "not all of them")
        )
    workers = len((environment.get("TPU_PROCESS_ADDRESSES") or environment["TPU_WORKER_HOSTNAMES"]).split(","))
    slices, index = _count(environment, "MEGASCALE_NUM_SLICES", 1), _count(environment, "MEGASCALE_SLICE_ID", 0)
    process, total = _count(environment, "TPU_WORKER_ID") + index * workers, slices * workers
    return Place("gke", f"TPU worker {process} of {total} of Kubernetes", "", total, process)


def _has_ompi(environment: Mapping[str, str]) -> bool:
    return "OMPI_MCA_orte_hnp_uri" in environment


def _has_slurm(environment: Mapping[str, str]) -> bool:
    return all(name in environment for name in _SLURM)


def _has_gke(environment: Mapping[str, str]) -> bool:
    return "TPU_WORKER_ID" in environment and bool(environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES"))


def _refuse_mpi(environment: Mapping[str, str], name: str) -> None:
    size = _count(environment, name, 1)
    if size > 1:
        expected = "--cluster=mpi4py, or --coordinator, --processes and --process, since this MPI does not say where process 0 is"
        raise errors.UsageError(errors.describe(f"{size} processes of MPI", "the environment", expected, "--cluster=auto"))


def _unstepped(environment: Mapping[str, str]) -> Place:
    """Returns the place of a process of a SLURM job that srun did not start, such as a batch script's own."""
    told, tasks = "a process of a SLURM job that srun did not start", _count(environment, "SLURM_NTASKS", 1)
    notice = f"SLURM gave this job {tasks} tasks, but srun did not start this process, so it runs alone" if tasks > 1 else ""
    return Place(why=told, notice=notice)


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Returns the tasks on this node of the step, from lists such as 8(x2),4 with one entry for each run of nodes."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"):
        runs = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in environment.get(name, "").split(",")]
        if all(runs):
            nodes = [int(run[1]) for run in runs if run for _ in range(int(run[2] or 1))]
            return max(1, nodes[min(_count(environment, "SLURM_NODEID", 0), len(nodes) - 1)])
    return 1


def _visible(environment: Mapping[str, str]) -> int:
    """Returns how many GPUs this process may see, 0 where the environment does not say."""
    listed = next((environment[name] for name in _VISIBLE if environment.get(name)), "")
    return 0 if listed in ("", "NoDevFiles", "-1") else len(listed.split(","))


def _devices(visible: int, on_node: int, tasks: int, local: int) -> tuple[int, ...] | None:
    """Returns the numbers of one task's GPUs among those it sees.

    Args:
        visible: GPUs that the task sees, on_node: GPUs of the node, 0 where unknown; tasks: tasks on the node; local: which one this is.
    Raises: UsageError: more tasks than GPUs to share out.
    """
    seen = visible or on_node
    if not seen:
        return None
    if (visible and seen * tasks <= on_node) or (seen < tasks and not on_node):  # its own share already
        return tuple(range(seen))
    share = seen // tasks
    if not share:
        raise errors.UsageError(errors.describe("tasks on this node", "the SLURM step", f"one for each GPU at most, {seen}", f"{tasks}; or JAX_PLATFORMS=cpu"))
    return tuple(range(local * share, (local + 1) * share))


def _address(environment: Mapping[str, str], host: str, number: int) -> str:
    """Returns HOST:PORT of process 0, the port made of a number that all processes know; jax's own variables go before."""
    port = environment.get("JAX_COORDINATOR_PORT") or str(_FIRST_PORT + number % _PORTS)
    return environment.get("JAX_COORDINATOR_ADDRESS") or f"{host}:{port}"


def _count(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise errors.UsageError(errors.describe("number", f"environment variable {name}", "a whole number", "nothing" if not text else "something else"))
    return int(text)
