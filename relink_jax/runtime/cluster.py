"""One command on several processes: joins them through `jax.distributed`, checks that all devices are there, and lets go at the end.

With one process and 'auto', nothing is initialised. What `start` found is kept for the whole process: `place`, `index` and `count` tell it
without touching a device.

Design note: jax ends a process from C++ when its peers do not come (exit code 134), so a timer of ours speaks first. A process that failed
must not wait minutes for peers that work on, nor they for it: `leave` gives them a moment to come to their own end and then goes; the
runtime ends whoever still waits for it.
"""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping

from relink_jax import errors
from relink_jax.runtime import detection, logs
from relink_jax.runtime.detection import ALONE, METHODS, Place

FAILED = errors.RelinkError.exit_code  # of a start that may do better the next time
_JAX_NAMES: dict[str, str | None] = {"tpu": "gcetpu", "gke": "gketpu", "k8s": None, "mpi4py": "mpi4py"}  # how jax calls the places that it asks itself
_PACKAGES = {"mpi4py": "mpi4py", "k8s": "kubernetes", "tpu": "libtpu", "gke": "libtpu"}
_MARGIN = 30  # seconds that jax may wait longer than we do
_started: list[Place] = []


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a command says of its processes.

    Attributes:
        method: of `METHODS`. coordinator: HOST:PORT of process 0, for 'explicit'. processes, process: how many, which one this is.
        local_devices: numbers of the devices of this process; None for those that the method gives it.
        expect_devices, expect_processes: what must be there in all, 0 for anything.
        init_timeout, heartbeat_timeout, shutdown_timeout: seconds until peers have come, until a silent one counts as gone, and for all to end.
    """

    method: str = "auto"
    coordinator: str = ""
    processes: int | None = None
    process: int | None = None
    local_devices: tuple[int, ...] | None = None
    expect_devices: int = 0
    expect_processes: int = 0
    init_timeout: int = 300
    heartbeat_timeout: int = 100
    shutdown_timeout: int = 300


def placed(settings: Settings, environment: Mapping[str, str], tpu_vm: bool | None = None) -> Place:
    """Returns the place that settings and environment give this process; initialises nothing.

    Args: tpu_vm: whether this machine has TPU chips; None looks.
    Raises: UsageError: settings that contradict each other or the environment.
    """
    method = "explicit" if settings.coordinator and settings.method == "auto" else settings.method
    if method not in METHODS:
        raise errors.UsageError(errors.describe("cluster", "--cluster", f"one of {', '.join(METHODS)}", f"{method!r}{errors.suggest(method, METHODS)}"))
    if method != "explicit" and (settings.coordinator or settings.processes is not None or settings.process is not None):
        raise errors.UsageError(
            errors.describe("flags of processes", "the command line", "--coordinator, --processes and --process together, or --cluster alone", "others")
        )
    found = _of(method, settings, environment, _has_tpu() if tpu_vm is None else tpu_vm)
    return found if settings.local_devices is None else dataclasses.replace(found, local_devices=settings.local_devices, share=len(settings.local_devices))


def _of(method: str, settings: Settings, environment: Mapping[str, str], tpu_vm: bool) -> Place:
    if method == "auto":
        return detection.detected(environment, tpu_vm)
    if method == ALONE:
        return Place(why="--cluster=none")
    if method == "one":
        return Place("one", "--cluster=one: the runtime of one process", f"127.0.0.1:{_free_port()}")
    if method == "explicit":
        return _explicit(settings)
    if method in ("slurm", "ompi", "gke"):
        return {"slurm": detection.slurm, "ompi": detection.ompi, "gke": detection.gke}[method](environment)
    if importlib.util.find_spec(_PACKAGES[method]) is None:
        raise errors.UsageError(errors.describe("package missing", f"--cluster={method}", f"the package {_PACKAGES[method]}", "none"))
    return Place(method, f"--cluster={method}: jax asks it", "", None, None)


def _explicit(settings: Settings) -> Place:
    host, _, port = settings.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise errors.UsageError(
            errors.describe("coordinator", "--coordinator", "HOST:PORT of process 0", "something else" if settings.coordinator else "nothing")
        )
    total, mine = settings.processes, settings.process
    if total is None or mine is None or not 0 <= mine < total:
        found = f"--processes={total} and --process={mine}".replace("None", "nothing")
        raise errors.UsageError(errors.describe("process", "the command line", "--processes=N and --process=I with I from 0 to N-1", found))
    return Place("explicit", f"process {mine} of {total} by flags", settings.coordinator, total, mine)


def start(settings: Settings, found: Place) -> Place:
    """Joins the processes of a place that `placed` gave, counts devices where it joined or was told what to expect, and returns the place filled in.

    Raises: RelinkError: no runtime there; UsageError: other processes or devices than expected. Where peers do not come in time, the process ends
        with the exit code of that error instead: nothing returns from the runtime then.
    """
    if found.method == ALONE and found.local_devices is None and not settings.expect_devices:
        _check_processes(settings, found)
        return found
    import jax

    if found.local_devices is not None:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, ",".join(map(str, found.local_devices)))
    if found.method != ALONE:
        with contextlib.suppress(AttributeError):  # a jax without that service
            jax.config.update("jax_enable_preemption_service", False)
        with _in_time(found, settings.init_timeout):
            _initialise(settings, found)
        found = dataclasses.replace(found, processes=jax.process_count(), process=jax.process_index())
        _started[:] = [found]
    _check_processes(settings, found)
    if found.method != ALONE or settings.expect_devices:
        _check_devices(settings, found)
    return found


def _initialise(settings: Settings, found: Place) -> None:
    import jax

    asks = found.method in _JAX_NAMES
    try:
        jax.distributed.initialize(
            coordinator_address=found.coordinator or None,
            num_processes=None if asks else found.processes,
            process_id=None if asks else found.process,
            local_device_ids=found.local_devices,
            cluster_detection_method=_JAX_NAMES[found.method] if asks else "deactivate",
            coordinator_bind_address=found.coordinator if found.method == "one" else None,
            initialization_timeout=settings.init_timeout + _MARGIN,
            heartbeat_timeout_seconds=settings.heartbeat_timeout,
            shutdown_timeout_seconds=settings.shutdown_timeout,
        )
    except Exception as error:  # jax, its C++ side and the packages it asks have errors of their own
        raise errors.RelinkError(_unreached(found, _reason(error))) from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "before any JAX" in text or "only be called once" in text:
        return "devices that were counted before"
    if "failed to start" in text.lower() or "in use" in text.lower():
        return "a port that cannot be opened"
    return f"none ({type(error).__name__})"


def _unreached(found: Place, reason: str) -> str:
    total = "all" if found.processes is None else f"{found.processes}"
    return errors.describe("processes not joined", f"--cluster={found.method}", f"{total} processes at one coordinator", f"{reason}; --cluster=none runs alone")


@contextlib.contextmanager
def _in_time(found: Place, seconds: int) -> Iterator[None]:
    """Ends the process in one sentence where the body takes longer than it may."""
    done = threading.Event()

    def wait() -> None:
        if not done.wait(seconds):
            number = "" if found.process is None else f" (process {found.process})"
            print(f"relink{number}: error: {_unreached(found, f'fewer after {seconds} s')}", file=sys.stderr, flush=True)
            os._exit(FAILED)

    threading.Thread(target=wait, name="joining", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _check_processes(settings: Settings, found: Place) -> None:
    if settings.expect_processes and settings.expect_processes != found.processes:
        raise errors.UsageError(errors.describe("processes", "the cluster", f"--expect_processes={settings.expect_processes}", str(found.processes)))


def _check_devices(settings: Settings, found: Place) -> None:
    """Raises `UsageError` where devices are not those that the settings, or else the starter, name."""
    import jax

    total, here, kind = jax.device_count(), jax.local_device_count(), jax.default_backend()
    logs.devices(jax.local_devices()[0].device_kind, here, total)
    if settings.expect_devices and settings.expect_devices != total:
        raise errors.UsageError(errors.describe("devices", "all processes", f"--expect_devices={settings.expect_devices}", f"{total} of kind {kind}"))
    if found.share and not settings.expect_devices and (kind == "cpu" or here != found.share):
        told = f"{found.share} GPUs, which --cluster={found.method} or --local_devices gives it (--expect_devices=N where fewer are meant)"
        raise errors.UsageError(errors.describe("devices", f"process {found.process}", told, f"{here} of kind {kind}"))


def place() -> Place:
    """Returns where this process stands: what `start` found, or alone."""
    return _started[0] if _started else Place()


def index() -> int:
    """Returns the number of this process without touching a device, also where somebody else initialised jax's runtime."""
    if _started:
        return int(_started[0].process or 0)
    jax = sys.modules.get("jax")
    return int(jax.process_index()) if jax is not None and jax.distributed.is_initialized() else 0


def count() -> int:
    """Returns the number of processes of this command."""
    return int(place().processes or 1)


def leave(code: int, wait: float) -> int:
    """Lets go of the other processes and returns `code`, or ends this process with it where they have not come to their end in time.

    Args: wait: seconds for the others, all of which may have something left to do.
    """
    if not _started:
        return code
    import jax

    failed: list[BaseException] = []

    def let_go() -> None:
        try:
            jax.distributed.shutdown()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=let_go, name="leaving", daemon=True)
    thread.start()
    thread.join(wait)
    if count() > 1 and (thread.is_alive() or failed):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    _started.clear()
    return code


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def _has_tpu() -> bool:
    """Returns whether this machine has TPU chips and the library that drives them."""
    chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None
