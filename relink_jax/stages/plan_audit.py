"""The plan of an audit: passes of every model, arm and evaluation set, what the largest holds on a device, time, disk and host memory."""

import dataclasses

import jax

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.retrieval import arrange, engine, exact, layout, loop, probe, shapes, sides
from relink_jax.retrieval import product as products
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan, room
from relink_jax.stages import plan_sizes

ATTACKS = {
    **{"znorm": 2, "csls": 4, "inverted_softmax": 4, "sinkhorn": 22, "assignment": 1, "study_mean": 1, "model_fusion": 1},
    **{"ridge": 8, "cca": 4, "procrustes": 4, "fresh_head": 4, "length_only": 1, "metadata_only": 1},
}  # passes over all images and reports that each name takes at most: both banks, every number of known pairs, the counts themselves
MEASURES = {"blocks": 0, "right_patient": 1, "tiers": 3, "verification": 2, "infonce": 2, "shuffle": 1}
_NO_LIMIT = 2**62
_ROW, _KEY, _COLUMN, _PAGE = 32, 24, 4, 2**19  # bytes in results: of a per-query row, a listed candidate, a number per image, and of the JSON


@dataclasses.dataclass(frozen=True)
class Pass:
    """The largest counting pass of a run: one set, one width, the layout that is asked for and the one that is found for it by formula.

    `limit`: bytes of one device, 0 where nobody tells. `fits`: whether a layout was found for them; otherwise `found` is about the smallest.
    """

    chosen: plan_sizes.Set
    dim: int
    size: layout.Size
    asked: layout.Layout
    found: layout.Layout
    limit: int
    fits: bool


def passes(config: config_lib.RunConfig, run: plan_sizes.Run) -> tuple[int, int]:
    """Returns (counting passes, further passes from image to report at most) of a run."""
    counting = len(run.sets) * sum(len(model.arms) for model in run.models)
    return counting, len(run.sets) * _further(config) * sum(model.whole for model in run.models)


def flop(config: config_lib.RunConfig, run: plan_sizes.Run) -> int:
    """Returns the arithmetic of every pass of a run, the further ones as many as they can be."""
    total = 0
    for one in run.sets:
        queries, studies, texts = one.sizes()
        for model in run.models:
            single = plan.pass_flop(queries, studies, model.dim)
            lists = plan.pass_flop(texts, queries, model.dim) if config.audit.top_k else 0
            total += len(model.arms) * (single + lists) + model.whole * _further(config) * single
    return total


def largest(config: config_lib.RunConfig, run: plan_sizes.Run, mesh: meshes.Mesh) -> Pass:
    """Returns the pass of a run with most arithmetic; where no layout fits the devices, the smallest one."""
    settings = config.audit
    products.check(settings.precision, mesh)
    chosen = max(run.sets, key=lambda one: len(one.records.images) * len(one.records.study_text))
    dim, platform = max(model.dim for model in run.models), mesh.devices.flat[0].platform
    records = chosen.records
    row_bytes = products.row_bytes(dim, settings.precision)
    size = layout.Size(len(records.study_text), row_bytes, len(records.codes), records.n_blocks, settings.top_k, mesh.size, platform)
    memory = int(settings.memory * 2**30)
    asked = layout.Layout(settings.split, settings.query_block, settings.tile, settings.panel, memory, kernel=settings.kernel)
    limit = memory or meshes.memory(mesh) or (room.memory() // len(mesh.local_devices) if platform == "cpu" else 0)
    try:
        return Pass(chosen, dim, size, asked, layout.chosen(size, asked, memory or meshes.memory(mesh)), limit, True)
    except errors.UsageError:
        return Pass(chosen, dim, size, asked, _smallest(asked, size), limit, False)


def _smallest(asked: layout.Layout, size: layout.Size) -> layout.Layout:
    """Returns what is asked for in panels of a tile a device, without a limit."""
    split = asked.split if asked.split != layout.AUTO else layout.IMAGES if size.devices == 1 else layout.RING
    tile = asked.tile or layout.default_shape(size.platform)[2]
    return dataclasses.replace(asked, split=split, panel=asked.panel or tile * size.devices, memory=_NO_LIMIT)


def disk(config: config_lib.RunConfig, run: plan_sizes.Run, one: Pass) -> dict[str, int]:
    """Returns the bytes that an audit writes at most, by directory of the workdir: vectors, parts of long passes until it ends, results."""
    embeddings = sum(len(model.arms) * (run.images + run.texts) * plan.FLOAT * (model.dim + 1) for model in run.models)
    copies = one.size.devices if one.found.split == layout.IMAGES else 1
    counting, results, replaced = 0, 0, 0
    for part in run.sets:
        queries, studies, texts = part.sizes()
        blocks, codes = part.records.n_blocks, len(part.records.codes)
        lists, state = 8 * config.audit.top_k, copies * studies * 4 * blocks * (2 * codes + 3)
        links = queries * (4 * blocks * (2 * codes + 5) + lists + 1) + state
        rows = (queries + studies) * ((1 + codes) * _ROW + config.audit.top_k * _KEY) + queries * _COLUMN * (3 * blocks + 64)
        for model in run.models:
            results += len(model.arms) * (rows + _PAGE)
            if plan.pass_flop(queries, studies, model.dim) >= loop.LONG:
                counting += len(model.arms) * (links + (texts * (12 + lists + 1) if lists else 0))
                replaced = max(replaced, state)  # a state is removed once the next one is written
    counting += replaced
    return {"embeddings": embeddings, "counting": counting, "results": results}


def host(config: config_lib.RunConfig, run: plan_sizes.Run, one: Pass) -> dict[str, int]:
    """Returns about the bytes of host memory of the largest pass, by what they are: counts as they come and as they are read, and what attacks hold."""
    queries, studies, texts = one.chosen.sizes()
    blocks, codes, copies = one.size.blocks, one.size.codes, one.size.devices if one.found.split == layout.IMAGES else 1
    counts = 4 * blocks * ((2 * codes + 5) * queries + (2 * codes + 3) * studies * (1 + copies)) + 24 * blocks * (1 + codes) * (queries + studies)
    placed = min(one.found.panel or studies, studies) * one.size.row_bytes
    attacks = 0
    if config.audit.attacks:
        joint = sum(model.dim for model in run.models) if "model_fusion" in config.audit.attacks else one.dim
        before = max((spec.image.features[-1] * run.images + spec.text.features[-1] * run.texts for model in run.models for spec in model.encoders), default=0)
        attacks = plan.FLOAT * (before + (joint + one.dim + 1) * (queries + texts))  # of the best attack so far and of the one that is tried
    return {"counts": counts, "vectors being placed": placed, "features and vectors of attacks": attacks}


def planned(config: config_lib.RunConfig, run: plan_sizes.Run, root: str, held: int, timed: bool) -> plan.Plan:
    """Returns the plan of an audit.

    Args: root: directory that is written to. held: bytes of it that are there already. timed: whether to time a few tiles here.
    Raises: UsageError: a precision or kernel that the devices do not have.
    """
    meshes.share_cpu()
    mesh = meshes.make_mesh()
    one = largest(config, run, mesh)
    queries, studies, _ = one.chosen.sizes()
    compiled, fits = _compiled(config, one, mesh)
    rows, _, columns = layout.default_shape(one.size.platform)
    shape = (
        config.audit.query_block or rows * (1 if one.found.split == layout.STUDIES else mesh.size),
        arrange.arrange(studies, config.audit.tile or columns).width,
    )
    taken = layout.taken(one.size, one.found)
    placed = plan.Counting(*shape, one.found.panel, one.found.split, mesh.size, **dataclasses.asdict(taken), compiled=compiled)
    least = placed.bytes if fits else max(placed.bytes, one.limit + 1)
    lines = [*_run_lines(config, run), *plan.audit_plan(queries, studies, one.dim, placed), *_time(config, run, one, mesh, timed)]
    return plan.Plan(lines, [_device_need(config, one, least), *needs(config, run, one, root, held, placed.bytes)])


def needs(config: config_lib.RunConfig, run: plan_sizes.Run, one: Pass, root: str, held: int, on_device: int = 0) -> list[plan.Need]:
    """Returns what an audit needs of host memory and disk.

    Args: root: directory that is written to. held: bytes of it that are there already. on_device: of one device; 0 for those of the formula.
    """
    parts = host(config, run, one)
    if one.size.platform == "cpu":
        parts["devices, which are this host,"] = (on_device or formula(one)) * jax.local_device_count()
    change = "--config.audit.strata, --config.audit.measures (without blocks) or --config.audit.attacks, or take a larger host"
    on_host = plan.Need(plan.HOST, sum(parts.values()), room.memory(), change, _parts(parts))
    written = disk(config, run, one)
    left, why = max(0, sum(written.values()) - held), f"{_parts(written)}, less what is there"
    return [on_host, plan.Need(plan.DISK, left, room.disk(root), "--workdir to one with more space", why)]


def formula(one: Pass) -> int:
    """Returns the bytes of one device that the layout of a pass plans for."""
    return layout.taken(one.size, one.found).total


def _further(config: config_lib.RunConfig) -> int:
    return sum(ATTACKS[name] for name in config.audit.attacks) + sum(MEASURES[name] for name in config.audit.measures)


def _compiled(config: config_lib.RunConfig, one: Pass, mesh: meshes.Mesh) -> tuple[int, bool]:
    """Returns (bytes of one device under the compiled steps of a pass and of its lists, the larger, 0 where the backend does not tell; whether both fit)."""
    settings, records = config.audit, one.chosen.wide(one.dim)
    near, k = settings.precision == products.FLOAT32, settings.top_k
    steps = [(records, sides.Wanted(codes=len(records.codes), near=near, k=k))]
    steps += [(exact.by_text(records), sides.Wanted(codes=0, near=False, studies=False, k=k))] if k else []
    found, fits = 0, one.fits
    for part, wanted in steps:
        try:
            work = engine.Engine(part, mesh, one.asked if one.fits else one.found, settings.precision, k)
        except errors.UsageError:
            work, fits = engine.Engine(part, mesh, _smallest(one.asked, one.size), settings.precision, k), False
        held = shapes.compiled(work, work.shaped(wanted))
        found = max(found, 0 if held is None else held.in_flight(work.panels))
    return found, fits


def _run_lines(config: config_lib.RunConfig, run: plan_sizes.Run) -> list[plan.Line]:
    counting, further = passes(config, run)
    arms = sum(len(model.arms) for model in run.models)
    told = f"{len(config.audit.attacks)} attacks and {len(config.audit.measures)} measures, each like the pass below; 'relink bench attacks' measures them"
    return [
        plan.Line("evaluation sets", f"{len(run.sets)}", f"{run.source}: {told_sets(run)}"),
        plan.Line("passes of the run", f"{counting:,}", f"{len(run.models)} models with {arms} sets of heads, each on every evaluation set"),
        plan.Line("further passes", f"at most {further:,}", f"image to report, for {told}"),
        plan.Line("arithmetic of the run", plan.human(flop(config, run), "FLOP", 1000), "every pass, the further ones at most"),
    ]


def told_sets(run: plan_sizes.Run) -> str:
    """Returns the sizes of the evaluation sets as text."""
    return "; ".join("{}, {:,} images, {:,} studies, {:,} texts".format(one.name, *one.sizes()) for one in run.sets)


def _time(config: config_lib.RunConfig, run: plan_sizes.Run, one: Pass, mesh: meshes.Mesh, timed: bool) -> list[plan.Line]:
    if not timed:
        return [plan.Line("time", "not probed", "left out with --notimed; without it a few tiles are timed here")]
    precision = config.audit.precision
    queries, studies, _ = one.chosen.sizes()
    speed = probe.reached(mesh, one.dim, studies, config.audit.top_k, precision)
    rate = speed.rate * one.dim / products.width(one.dim, precision)
    why = "share of the bare product's speed that a pass reaches here, timed just now"
    return [
        plan.Line("roofline", f"{speed.share:.2f} of {plan.human(rate, 'FLOP/s', 1000)}", why),
        plan.Line("time", plan.duration(plan.pass_flop(queries, studies, one.dim) / (rate * speed.share)), "arithmetic of this pass at that speed"),
        plan.Line("time of the run", f"at most {plan.duration(flop(config, run) / (rate * speed.share))}", "arithmetic of the run at that speed"),
    ]


def _device_need(config: config_lib.RunConfig, one: Pass, needed: int) -> plan.Need:
    given = f"--config.audit.memory (now {config.audit.memory:g} GiB), " if config.audit.memory else ""
    change = f"{given}--config.audit.panel, --config.audit.tile, --config.audit.query_block or --config.audit.top_k, or take more devices"
    return plan.Need(plan.DEVICE, needed, one.limit, change, "of each device, for the largest pass")


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {plan.human(value, 'B')}" for name, value in parts.items())
