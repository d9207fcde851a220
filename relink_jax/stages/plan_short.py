"""The short plan that every long stage prints before it starts, in a moment and by formula alone, and the check that the disk has room for it.

Towers are imported where they are planned: an audit of embeddings that were brought along loads no encoder.
"""

from collections.abc import Sequence

from relink_jax import config as config_lib
from relink_jax.audit import inputs
from relink_jax.cohort import schema
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import plan, progress, room
from relink_jax.stages import plan_audit, plan_sizes
from relink_jax.store import workdir as workdir_lib

WRITTEN = {"audit": ("embeddings", "counting", "results"), "embed": ("features",), "heads": ("heads",)}  # directories of the workdir, by stage


def announce(stage: str, config: config_lib.RunConfig, found: workdir_lib.Workdir, data: schema.Cohort | inputs.AuditInputs, model: str | None = None) -> None:
    """Says on stderr what a stage is about to spend, and refuses it where the disk has no room for what it writes.

    Nothing is compiled, timed or read but ledgers; memory of the host that may not be there is said and not refused, since it is an estimate.

    Args:
        stage: 'audit', 'embed', 'heads' or 'probe'.
        data: the cohort of the run, or the embeddings that an audit was given.
        model: the one model that the command named.
    Raises: StoreError: too little free disk, or a damaged ledger.
    """
    run = (
        plan_sizes.of_inputs(config, data)
        if isinstance(data, inputs.AuditInputs)
        else plan_sizes.of_cohort(config, found, data, model, audited=stage in ("audit", "probe"))
    )
    told, needs = {"audit": _audit, "embed": _embed, "heads": _heads, "probe": _probe}[stage](config, found, run)
    needed = ", ".join(f"{need.what} {plan.human(need.needed, 'B')} of {plan.human(need.available, 'B')}" for need in needs)
    lacking = [f"  {need.what} may not suffice: change {need.change}" for need in needs if need.what != plan.DISK and not need.fits]
    progress.say("\n".join([f"plan of {stage}: {told[0]}", *(f"  {line}" for line in told[1:]), f"  needs at most {needed}", *lacking]))
    plan.check({stage: plan.Plan((), [need for need in needs if need.what == plan.DISK])})


def held(found: workdir_lib.Workdir, stage: str) -> int:
    """Returns the bytes that a stage has written to the workdir already."""
    return room.held(found.root / name for name in WRITTEN.get(stage, ()))


_Told = tuple[list[str], Sequence[plan.Need]]


def _audit(config: config_lib.RunConfig, found: workdir_lib.Workdir, run: plan_sizes.Run) -> _Told:
    mesh = meshes.make_mesh()
    one = plan_audit.largest(config, run, mesh)
    counting, further = plan_audit.passes(config, run)
    queries, studies, _ = one.chosen.sizes()
    flop = plan.human(plan_audit.flop(config, run), "FLOP", 1000)
    first = f"{counting:,} counting passes of up to {queries:,} images x {studies:,} studies, D = {one.dim}, and at most {further:,} further ones; {flop}"
    placed = f"{mesh.size} devices sharing {one.found.split}, about {plan.human(plan_audit.formula(one), 'B')} of each"
    return [first, placed], plan_audit.needs(config, run, one, str(found.root), held(found, "audit"))


def _embed(config: config_lib.RunConfig, found: workdir_lib.Workdir, run: plan_sizes.Run) -> _Told:
    from relink_jax.stages import plan_embed

    models = sum(len(one.names) for one in plan_embed.geometries(run))
    flop = plan.human(plan_embed.flop(config, run), "FLOP", 1000)
    return [f"{run.images:,} images and {run.texts:,} texts with {models} models; {flop}"], [
        plan_embed.disk_need(config, run, str(found.root), held(found, "embed"))
    ]


def _heads(config: config_lib.RunConfig, found: workdir_lib.Workdir, run: plan_sizes.Run) -> _Told:
    from relink_jax.stages import plan_heads

    mechanism = config.heads.mechanism
    value, why = plan_heads.to_spend(found, config)
    lines = [f"{config.mitigate}, {run.pairs:,} pairs of {run.units:,} units, {mechanism.iterations:,} noisy steps; epsilon to be spent {value}, {why}"]
    spec = plan_heads.mitigated(config, run)
    needs = [] if spec is None else plan_heads.needs(config, run, spec, str(found.root))
    return [*lines, "epsilon spent already {}, {}".format(*plan_heads.spent(found, config))], needs


def _probe(config: config_lib.RunConfig, found: workdir_lib.Workdir, run: plan_sizes.Run) -> _Told:
    arms = sum(model.whole for model in run.models)
    strengths, replicates = len(config.probe.l2_grid), config.probe.bootstrap_replicates
    features = max((spec.image.features[-1] for model in run.models for spec in model.encoders), default=0)
    widest = max(model.dim for model in run.models)
    vectors = plan.FLOAT * ((features + widest) * run.images + widest * run.texts)
    told = f"{arms} sets of heads on {len(run.sets)} evaluation sets; linear probes at {strengths} strengths or more, {replicates:,} bootstrap replicates"
    return [told], [plan.Need(plan.HOST, vectors, room.memory(), "to a larger host", "vectors of one model and arm")]
