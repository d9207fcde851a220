"""The flags that every stage takes besides its own, with what they do, and what `relink cluster --help` says of clusters. Imports nothing."""

LAUNCH = {
    "cluster": "who started the processes: auto (default), none, one, slurm, ompi, mpi4py, tpu, gke, k8s or explicit",
    "coordinator": "HOST:PORT of process 0, the same everywhere; means explicit",
    "processes": "with --coordinator, how many processes run this command",
    "process": "with --coordinator, which one this is, from 0",
    "local_devices": "numbers of the GPUs of this process, commas between (default: those that its starter gives it, else all)",
    "expect_devices": "devices that all processes must have together; anything else is an error before any work",
    "expect_processes": "processes that there must be",
    "init_timeout": "seconds to wait for the other processes at the start (default 300)",
    "heartbeat_timeout": "seconds after which a silent process counts as gone (default 100)",
    "shutdown_timeout": "seconds to wait for the other processes at the end (default 300)",
    "stuck_after": "seconds without any progress after which a process writes its stacks and exits 70, 0 for never (default 0 with one process, else 1800)",
    "stop_within": "seconds from SIGTERM or SIGHUP, which ask to stop at the next safe point, to a forced stop (default 60)",
    "compile_cache": "directory of compiled programs, none, or auto: WORKDIR/xla_cache on GPU and TPU, none on CPU (default auto)",
}
CLUSTER = """auto takes part only where the starter says that there are several processes: tasks of a SLURM step (srun), ranks of Open MPI's mpirun, TPU VMs
of a slice, TPU pods of Kubernetes. mpi4py and k8s are asked by name: the first for any other MPI, the second where pods may read their own job.
Everywhere else, and best on Kubernetes, name the three yourself:
  relink audit --coordinator=host0:1234 --processes=4 --process=0 --workdir=/shared/out
one process sees every GPU of its machine and needs none of this; --cluster=one gives it the runtime of several, for what only works there
SLURM (srun relink ...): one task per node gets all its GPUs, several share them out; a task that then sees other GPUs than SLURM gave it stops before any work
all processes of a command see one workdir on a shared file system; each keeps a log, WORKDIR/logs/STAGE-process-00000.log
  relink cluster --coordinator=host0:1234 --processes=2 --process=0 --expect_devices=8 --workdir=/shared/out"""
