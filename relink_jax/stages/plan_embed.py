"""The plan of encoding: arithmetic by formula, what the compiled towers hold on a device, time of a batch, disk and host memory."""

import dataclasses
import pathlib

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.encoders import cost, preprocess, specs, steps, tower_probe, towers
from relink_jax.encoders import embed as embed_lib
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan, room
from relink_jax.stages import plan_sizes

_SHARDS = 3  # of one tower in host memory: the one being filled, the one being written, and what is loaded ahead


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Models whose towers are alike in everything but their weights, which share a program and cost the same."""

    spec: specs.VLMSpec
    names: tuple[str, ...]


def geometries(run: plan_sizes.Run) -> list[Geometry]:
    """Returns the models that are embedded, members of ensembles once, by their geometry."""
    named = {spec.name: spec for model in run.models for spec in model.encoders}
    alike: dict[specs.VLMSpec, list[str]] = {}
    for name, spec in named.items():
        same = dataclasses.replace(spec, name="", directory=pathlib.Path(), sha256=(), description="", specialisation=0, tier="", exposure=(), licence="")
        alike.setdefault(same, []).append(name)
    return [Geometry(named[names[0]], tuple(names)) for names in alike.values()]


def disk(config: config_lib.RunConfig, run: plan_sizes.Run) -> int:
    """Returns the bytes of the features that embedding writes, with their row numbers; anchors and prompts are a few thousand texts more."""
    total = 0
    for one in geometries(run):
        sides = _encodings(config, run, one.spec, parameters=False)
        total += len(one.names) * sum(side.rows * (side.row_bytes + plan.FLOAT) for side in sides.values())
        total += config.embed.anchors * (sides["text"].row_bytes + plan.FLOAT) if config.mitigate in one.names else 0
    return total


def flop(config: config_lib.RunConfig, run: plan_sizes.Run) -> int:
    """Returns the arithmetic of encoding every image and text with every model."""
    return sum(len(one.names) * sum(side.rows * side.flop for side in _encodings(config, run, one.spec, parameters=False).values()) for one in geometries(run))


def host(config: config_lib.RunConfig, run: plan_sizes.Run) -> int:
    """Returns about the bytes of host memory that embedding holds: the weights of a model, the shards in work, and the token ids of every text."""
    largest = 0
    for one in geometries(run):
        sides = _encodings(config, run, one.spec)
        weights = sum(side.parameters for side in sides.values()) * plan.FLOAT
        shards = max(
            min(config.embed.shard_rows * side.row_bytes, embed_lib.SHARD_BYTES) if len(side.features) > 1 else config.embed.shard_rows * side.row_bytes
            for side in sides.values()
        )
        largest = max(largest, weights + _SHARDS * shards + run.texts * towers.text_length(one.spec) * 4)
    return largest


def planned(config: config_lib.RunConfig, run: plan_sizes.Run, root: str, held: int, timed: bool) -> plan.Plan:
    """Returns the plan of encoding a cohort with every model of the run.

    Args: root: directory that is written to. held: bytes of features that are there already. timed: whether to time batches here.
    """
    mesh = meshes.make_mesh()
    lines, device, seconds = [], 0, 0.0
    weight_bytes = np.dtype(embed_lib.PRECISIONS[config.embed.precision]).itemsize
    for one in geometries(run):
        sides = _encodings(config, run, one.spec)
        lines.append(plan.Line("model", one.names[0], _others(one)))
        lines += plan.embed_plan(sides["image"], sides["text"], one.spec.image.image_size, towers.text_length(one.spec), weight_bytes)
        held_by = _on_device(config, run, one.spec, mesh)
        lines.append(plan.Line("memory per device", plan.human(max(held_by.values()), "B"), _told(held_by)))
        device = max(device, *held_by.values())
        if timed:
            rate = {side: _seconds(config, one.spec, side, mesh) for side in sides}
            seconds += len(one.names) * sum(rate[side] * sides[side].rows for side in sides)
            lines.append(
                plan.Line("speed", ", ".join(f"{1 / rate[side]:,.0f} {side}s/s" for side in sides), "of the towers alone, a batch of stand-ins timed just now")
            )
    names = sum(len(one.names) for one in geometries(run))
    total = plan.Line("arithmetic of the run", plan.human(flop(config, run), "FLOP", 1000), f"{names} models, every image and text")
    spent = plan.Line("time of the run", plan.duration(seconds), "at these speeds; reading and decoding images may take longer")
    unknown = plan.Line("time", "not probed", "left out with --notimed; without it a batch of each tower is timed here")
    needs = [_device_need(config, mesh, device), _host_need(config, run, mesh, device), disk_need(config, run, root, held)]
    return plan.Plan([*lines, total, spent if timed else unknown], needs)


def _encodings(config: config_lib.RunConfig, run: plan_sizes.Run, spec: specs.VLMSpec, parameters: bool = True) -> dict[str, plan.Encoding]:
    """Returns what each tower of a model encodes; as if every image had a prior, where priors are asked for. Without `parameters` they are not counted."""
    found = cost.of(spec, prior=config.embed.prior == "table", parameters=parameters)
    map_bytes = np.dtype(embed_lib.MAP_DTYPES[config.embed.map_dtype]).itemsize
    rows = {"image": run.images, "text": run.texts}
    return {
        side: plan.Encoding(rows[side], one.parameters, one.flop, one.features, map_bytes if len(one.features) > 1 else plan.FLOAT)
        for side, one in found.items()
    }


def _kind(config: config_lib.RunConfig, spec: specs.VLMSpec, side: str) -> str:
    return steps.PAIR if side == "image" and config.embed.prior == "table" and towers.prior_shape(spec) else side


def _batch(config: config_lib.RunConfig, rows: int, mesh: meshes.Mesh) -> int:
    return meshes.padded(min(config.embed.batch_size, config.embed.shard_rows, max(1, rows)), mesh.size)


def _on_device(config: config_lib.RunConfig, run: plan_sizes.Run, spec: specs.VLMSpec, mesh: meshes.Mesh) -> dict[str, int]:
    """Returns the bytes of one device under the compiled program of each tower, with the step before it still there; one tower is there at a time."""
    rows, precision = {"image": run.images, "text": run.texts}, embed_lib.PRECISIONS[config.embed.precision]
    return {
        side: tower_probe.device_bytes(spec, _kind(config, spec, side), mesh, _batch(config, rows[side], mesh), precision, levelled=_levelled(spec))
        for side in rows
    }


def _seconds(config: config_lib.RunConfig, spec: specs.VLMSpec, side: str, mesh: meshes.Mesh) -> float:
    """Returns seconds of one row through a tower."""
    precision = embed_lib.PRECISIONS[config.embed.precision]
    return tower_probe.seconds_per_row(spec, _kind(config, spec, side), mesh, config.embed.batch_size, precision, levelled=_levelled(spec))


def _levelled(spec: specs.VLMSpec) -> bool:
    """Returns whether images travel as 8-bit levels; a published model whose files are not here is taken to, as most are."""
    try:
        return preprocess.recipe_for(spec).levels is not None
    except errors.RelinkError:
        return True


def _others(one: Geometry) -> str:
    return f"and alike {', '.join(one.names[1:])}" if one.names[1:] else one.spec.description


def _told(held_by: dict[str, int]) -> str:
    return ", ".join(f"{side} tower {plan.human(value, 'B')}" for side, value in held_by.items()) + ": of the compiled programs, one at a time"


def _device_need(config: config_lib.RunConfig, mesh: meshes.Mesh, needed: int) -> plan.Need:
    here = room.memory() // len(mesh.local_devices) if mesh.devices.flat[0].platform == "cpu" else 0
    change = f"--config.embed.batch_size (now {config.embed.batch_size}) or --config.embed.precision=bf16, or take more devices"
    return plan.Need(plan.DEVICE, needed, meshes.memory(mesh) or here, change, "of each device, for the largest tower")


def _host_need(config: config_lib.RunConfig, run: plan_sizes.Run, mesh: meshes.Mesh, on_device: int) -> plan.Need:
    devices = on_device * len(mesh.local_devices) if mesh.devices.flat[0].platform == "cpu" else 0
    change = "--config.embed.shard_rows or --config.embed.batch_size, or take a larger host"
    return plan.Need(
        plan.HOST, host(config, run) + devices, room.memory(), change, "weights, shards in work and token ids" + ", and the devices" * bool(devices)
    )


def disk_need(config: config_lib.RunConfig, run: plan_sizes.Run, root: str, held: int) -> plan.Need:
    """Returns what embedding needs of the disk that `root` lies on, where `held` bytes of features are there already."""
    halves = ", or store maps in half of it with --config.embed.map_dtype=float16" if config.embed.map_dtype != "float16" else ""
    change = f"--workdir to one with more space{halves}"
    return plan.Need(plan.DISK, max(0, disk(config, run) - held), room.disk(root), change, "features of every model, less what is there")
