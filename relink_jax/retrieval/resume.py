"""Finished parts of a pass on disk, so that a pass that stops goes on where it was, on the same devices or on others.

A part is a run of consecutive places of the images: one file of what they found, and for counts of studies one of their sums after them. The
sums are written first, so a part that is complete has both. What a pass depends on (embeddings, keys, what is asked) is its identity; parts
of another pass are refused. What decides the bits of its scores (`layout.Shape`) is recorded with it, and a pass that goes on has the same
shape on whatever number of devices; sums are those of all devices. Parts made on another kind of device, by another version of jax, in a
shape that does not fit the memory, or between other scores of the true pairs begin again, and that is said.

Of several processes the first writes, into a directory that all of them see. After each part all may stop (`stopping.check`): a stop repeats
at most one part, and a signal none.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.retrieval import engine, sides
from relink_jax.retrieval import layout as layouts
from relink_jax.retrieval.counted import Records
from relink_jax.retrieval.limits import Limits
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress, stopping
from relink_jax.store import digests, files, shards

T = TypeVar("T")
PARTS = 40  # of a long pass, about; a stop repeats at most one
_PLACES = "places"
_STARTED = "started.json"
_FIELDS: dict[str, type] = {"identity": dict, "scores": str, "made": dict, "shape": dict}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where parts are kept. `identity`: what stands for the records that they depend on; '' for a digest of the records themselves."""

    directory: pathlib.Path
    identity: str = ""

    def __truediv__(self, name: str) -> "Place":
        return Place(self.directory / name, self.identity)


def place(given: pathlib.Path | Place | None) -> Place | None:
    """Returns where parts are kept, None for nowhere."""
    return Place(given) if isinstance(given, pathlib.Path) else given


def on_first(work: Callable[[], None], what: str) -> None:
    """Does `work` on process 0 while the others wait; if it fails there, it fails everywhere.

    Raises: StoreError.
    """
    failed = None
    if not jax.process_index():
        try:
            work()
        except errors.StoreError as error:
            failed = error
    if meshes.agreed(int(failed is not None)):
        raise failed or errors.StoreError(errors.describe(f"{what} failed", "process 0", "what it says itself", "an error"))


def arranged(
    records: Records, mesh: Mesh, layout: layouts.Layout, precision: str, wanted: sides.Wanted, kept: Place | None, what: str
) -> engine.Engine:  # fmt: skip
    """Returns the engine of a pass, in the shape of its finished parts where these can be gone on with.

    Args: kept: the directory that `loop.run` is given. what: the pass in a few words, for the notice that it begins again.
    Raises: UsageError: see `Engine`.
    """
    size = engine.size_of(records, mesh, precision, wanted.k)
    return engine.Engine(records, mesh, layout, precision, wanted.k, shape_of(size, mesh, layout.memory, kept, what))


def shape_of(size: layouts.Size, mesh: Mesh, memory: int, kept: Place | None, what: str) -> layouts.Shape | None:
    """Returns the shape of the parts in a directory; None where there are none, and where they cannot be gone on with and so are removed."""
    path = None if kept is None else kept.directory / "panel-000" / _STARTED
    if kept is None or path is None or not meshes.agreed(int(path.exists())):
        return None
    found = files.read_object(path, _FIELDS, f"parts '{path.parent.name}/{path.name}'")
    try:
        shape = layouts.Shape(**found["shape"])
        known = shape.split in layouts.SPLITS and all(isinstance(one, int) for one in dataclasses.astuple(shape)[1:])
    except TypeError:
        known = False
    why = "in a form that is not known" if not known else _not_here(found["made"], shape, size, memory or meshes.memory(mesh), mesh)
    if meshes.agreed(int(bool(why))):
        _begin_again(kept.directory, what, why)
        return None
    return shape


class Parts:
    """The parts of one panel of a pass in a directory.

    Args: identity: what they depend on. work, wanted: the pass, for its shape. limits: scores that they were counted between.
    Raises: StoreError: parts of another pass there.
    """

    def __init__(self, kept: Place, identity: Mapping[str, Any], work: engine.Engine, wanted: sides.Wanted, limits: Limits, what: str) -> None:
        self.directory, self._what = kept.directory, what
        shape = dataclasses.asdict(work.shape(wanted))
        scores = digests.arrays_digest(dataclasses.asdict(limits))
        wanted_now = {"identity": dict(identity), "scores": scores, "made": _made(work.mesh), "shape": shape}
        on_first(lambda: self._begin(wanted_now), "begin of the parts")

    def finished(self) -> tuple[list[dict[str, np.ndarray]], np.ndarray | None, int]:
        """Returns (what the leading finished parts found, the last sums or None, places that they cover); nothing where the sums are damaged."""
        parts: list[dict[str, np.ndarray]] = []
        done, state = 0, None
        while (part := _verified(self._path("part", len(parts)))) is not None and part[_PLACES][0] == done:
            parts.append(part)
            done = int(part.pop(_PLACES)[1])
        if parts and parts[-1].pop("summed", np.zeros(1))[0]:
            last = _verified(self._path("sums", len(parts) - 1))
            state = None if last is None else last["sums"]
            parts, done = ([], 0) if last is None else (parts, done)
        seen, common = len(parts), meshes.agreed(len(parts))
        if seen != common:
            where = f"parts {self.directory.name!r} on process {jax.process_index()}"
            raise errors.StoreError(errors.describe("parts differ", where, f"{common}, as process 0 sees in a directory of all processes", str(seen)))
        return [{name: array for name, array in part.items() if name != "summed"} for part in parts], state, done

    def write(self, index: int, found: Mapping[str, np.ndarray], first: int, stop: int, sums: np.ndarray | None = None) -> None:
        """Writes part `index` of places `first` to `stop`, its sums first, and drops all sums but those before it; then all processes may stop.

        Raises: StoreError: it cannot be written. StoppedError: see `stopping.check`.
        """
        on_first(lambda: self._write(index, found, first, stop, sums), "write of a part")
        stopping.check(self._what)

    def _write(self, index: int, found: Mapping[str, np.ndarray], first: int, stop: int, sums: np.ndarray | None) -> None:
        if sums is not None:
            _write(self._path("sums", index), {"sums": sums})
        _write(self._path("part", index), {**found, _PLACES: np.array([first, stop], np.int64), "summed": np.array([sums is not None], np.int64)})
        if sums is not None:  # those before the last are for the case that it is damaged
            self._path("sums", index - 2).unlink(missing_ok=True)
            self._path("sums", index - 2).with_suffix(".ok").unlink(missing_ok=True)

    def _path(self, kind: str, index: int) -> pathlib.Path:
        return self.directory / f"{kind}-{index:05d}.safetensors"

    def _begin(self, wanted: Mapping[str, Any]) -> None:
        path = self.directory / _STARTED
        if path.exists():
            found = files.read_object(path, _FIELDS, f"parts '{self.directory.name}/{path.name}'")
            before, now = found["identity"], wanted["identity"]
            changed = sorted(name for name in {**before, **now} if digests.value_digest(before.get(name)) != digests.value_digest(now.get(name)))
            if changed:
                started, found_now = "the inputs they were started with", f"different {', '.join(changed)}; use a fresh workdir"
                raise errors.StoreError(errors.describe("inputs changed", f"parts {self.directory.name!r}", started, found_now))
            if (found["scores"], found["shape"]) == (wanted["scores"], wanted["shape"]):
                return
            _begin_again(self.directory, self._what, "between scores of the true pairs that have other bits here")
        files.write_json(path, dict(wanted))


def identity_of(work: engine.Engine, wanted: sides.Wanted, kept: Place) -> dict[str, Any]:
    """Returns what the parts of a pass depend on, besides its scores and its shape."""
    records, asked = work.records, dataclasses.asdict(wanted)
    if kept.identity:
        return {"wanted": asked, "records": kept.identity}
    arrays = {"images": records.images, "texts": records.texts, "exclusion": records.exclusion, "image_study": records.image_study}
    tables = {"study_text": records.study_text, **{f"code {name}": code for name, code in records.codes.items()}}
    blocks = {} if records.block is None else {"block": records.block}
    return {"wanted": asked, "records": digests.arrays_digest(arrays | tables | blocks)}


def _not_here(made: Mapping[str, Any], shape: layouts.Shape, size: layouts.Size, memory: int, mesh: Mesh) -> str:
    """Returns why parts of a shape cannot be gone on with on a mesh, '' where they can."""
    here = _made(mesh)
    for name, value in here.items():
        if made.get(name) != value:
            return f"with {name.replace('_', ' ')} {made.get(name)}, which here is {value}"
    return "" if layouts.fits(size, shape, memory) else "in a shape that does not fit the memory of these devices"


def _made(mesh: Mesh) -> dict[str, str]:
    device = mesh.devices.flat[0]
    return {"platform": device.platform, "device_kind": device.device_kind, "jax": jax.__version__, "jaxlib": jaxlib.__version__}


def _begin_again(directory: pathlib.Path, what: str, why: str) -> None:
    progress.notice(f"{what}: its finished parts were made {why}, so the pass begins again")
    if not jax.process_index():
        shards.discard(directory)


def _write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    files.write_with(path, lambda temporary: safetensors_numpy.save_file(plain, str(temporary)))
    files.write_text(path.with_suffix(".ok"), digests.file_digest(path) + "\n")


def _verified(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a file whose digest is that beside it, None where it is not there or damaged."""
    try:
        if files.read_text(path.with_suffix(".ok")).strip() != digests.file_digest(path):
            return None
        return files.read_with(path, safetensors_numpy.load_file, "a safetensors file")
    except (OSError, errors.StoreError):
        return None
