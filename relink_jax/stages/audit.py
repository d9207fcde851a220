"""The audit stage: linkage of every model, head arm and evaluation set, or of embeddings brought along."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import comparison, finished, holdings, identities, importer, result
from relink_jax.audit import inputs as inputs_lib
from relink_jax.audit import run as audit_run
from relink_jax.audit.per_image import COSINE
from relink_jax.cohort import schema
from relink_jax.retrieval.kept import Kept
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import stopping
from relink_jax.stages import adversary, audit_kept, audit_order, audit_records, context, embedded, ensembles, plan_short, together
from relink_jax.store import workdir as workdir_lib

NO_HEAD = "none"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The audits of one model on one set: what they read, what each arm's is made from, and what the model's training has seen."""

    chosen: context.EvaluationSet
    sources: audit_kept.Sources
    arms: dict[str, audit_kept.Made]
    seen: np.ndarray

    def stem(self, arm: str) -> str:
        """Returns how the files of an arm's result are named."""
        return f"{self.sources.model}__{arm}__{self.chosen.name}"


def run(config: config_lib.RunConfig, workdir: str, *, model: str | None = None, again: bool | None = None) -> dict[str, result.AuditResult]:
    """Audits every (model, arm, evaluation set), writes results/*.json and *.parquet, and returns the results by file stem.

    With `model`, audits only that one of the run's models. With `config.embeddings`, audits that directory instead and needs no
    cohort, model or encoder. Arms whose heads were not trained are left out, and said.

    An audit that is complete, of the same data with the same settings, is read from its results instead, unless `again`; processes but the first then
    return none. One that stopped goes on: finished arms, attacks, measures and parts of passes are taken up.

    Raises: DataError, StoreError, UsageError: see the rooms; names the set, and then no result is written or changed. StoppedError: asked to stop.
    """
    with context.opened(config, workdir) as found:
        meshes.share_cpu()
        mesh = meshes.make_mesh()
        if config.embeddings:
            return _brought(config, found, mesh, bool(again))
        models = context.models_of(config, model)
        cohort = embedded.load_cohort(found)
        arms = {name: context.made_arms(config, found, name) for name in models}
        sets, every = context.evaluation_sets(config, cohort), adversary.facts(config, cohort)
        digest = cohort.digest()
        plans = [_plan(config, found, cohort, digest, name, arms[name], chosen, every) for chosen in sets for name in models]
        made_from = {plan.stem(arm): made for plan in plans for arm, made in plan.arms.items()}
        there = None if again else audit_kept.complete(config, found, made_from, model is None)
        if there is not None:
            return there
        plan_short.announce("audit", config, found, cohort, model)
        audited = [_audit_arms(config, found, cohort, plan, mesh) for plan in plans]

        def write() -> None:
            for plan, one in zip(plans, audited, strict=True):
                _save(config, found, cohort, plan, one)
            if model is None:
                audit_order.write(found, {chosen.name: _ladder(found, chosen, plans, audited) for chosen in sets})
            audit_kept.record(config, found, made_from, model is None)
            audit_kept.discard(found, [*made_from, *(f"{plan.sources.model}__before_head__{plan.chosen.name}" for plan in plans)])

        together.first(found, "write of the results", write)
        return {plan.stem(arm): one for plan, by_arm in zip(plans, audited, strict=True) for arm, one in by_arm.items()}


def _plan(
    config: config_lib.RunConfig,
    found: workdir_lib.Workdir,
    cohort: schema.Cohort,
    digest: str,
    model: str,
    arms: Sequence[str],
    chosen: context.EvaluationSet,
    every: Mapping[str, np.ndarray],
) -> _Plan:
    """Returns what is to be audited of one model on one set; `every`: facts of the cohort's studies. `digest`: of the cohort."""
    seen = audit_records.seen(found, model, cohort, chosen.selection.studies)
    people = adversary.People(chosen.selection, adversary.of(every, chosen.selection), seen)
    sources = audit_kept.Sources(config, found, digest, model, people, adversary.auxiliary(config, cohort, chosen.selection, every))
    with _naming(chosen, model):
        return _Plan(chosen, sources, {arm: sources.made(arm) for arm in arms}, seen)


def _ladder(
    found: workdir_lib.Workdir, chosen: context.EvaluationSet, plans: Sequence[_Plan], audited: Sequence[Mapping[str, result.AuditResult]]
) -> list[tuple[str, result.AuditResult]]:
    """Returns the audits of the models' own heads on one set in rising specialisation, of those whose rung is known."""
    originals = {plan.sources.model: one["original"] for plan, one in zip(plans, audited, strict=True) if plan.chosen.name == chosen.name}
    rungs = {name: int(audit_records.facts(found, name)["specialisation"]) for name in originals}
    return [(name, originals[name]) for name in sorted(originals, key=lambda one: (rungs[one], one)) if rungs[name] >= 0]


def describe(results: dict[str, result.AuditResult]) -> str:
    """Returns the table of every result."""
    return "\n\n".join(f"{stem.replace('__', '  ')}\n{one.table()}" for stem, one in results.items())


def _brought(config: config_lib.RunConfig, found: workdir_lib.Workdir, mesh: meshes.Mesh, again: bool) -> dict[str, result.AuditResult]:
    directory = pathlib.Path(config.embeddings)
    name = directory.resolve().name
    stem = f"{name}__{NO_HEAD}__all"
    prepared = inputs_lib.prepare(**importer.load_embeddings(directory))
    result.stem_of(found.results / stem)  # refused before anything is counted
    made_from = {stem: audit_kept.Made(identities.of(prepared, None))}
    there = None if again else audit_kept.complete(config, found, made_from, False)
    if there is not None:
        return there
    plan_short.announce("audit", config, found, prepared)
    audited = _audit(config, prepared, mesh, audit_kept.directory(found, stem), identity=made_from[stem].identity)
    data = {"name": "all", "synthetic": False, "external": False, "text_field": "as embedded"}

    def write() -> None:
        audited.save(found.results / stem, run=audit_records.run_record(config, found), data=data, model={"name": name, "head": NO_HEAD})
        audit_kept.record(config, found, made_from, False)
        audit_kept.discard(found, [stem])

    together.first(found, "write of the results", write)
    return {stem: audited}


def _audit_arms(
    config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, plan: _Plan, mesh: meshes.Mesh
) -> dict[str, result.AuditResult]:
    """Returns the audit of every arm of one model on one set. Further draws of noise are only counted."""
    model, sources, audited = plan.sources.model, plan.sources, {}
    ensemble = ensembles.load(found, model)
    attacker = adversary.Attacker(config, found, cohort, model, sources.people, sources.aside, sources.shared(plan.chosen.name))
    for arm, made in plan.arms.items():
        images, texts = context.embeddings(found, model, arm, config.embed.shard_rows)
        with _naming(plan.chosen, model, arm):
            prepared = adversary.prepared(cohort, sources.people, images, texts)
            whole, directory = not context.is_redraw(arm), audit_kept.directory(found, plan.stem(arm))
            kept, depends = Kept(directory, made.identity), [audit_kept.settings(config), whole, identities.versions()]
            one = finished.take(kept, prepared, config.audit.label_policy, depends)
            if one is None:
                holding = attacker.holding(arm, prepared, images, texts) if whole else None
                one = _audit(config, prepared, mesh, kept.under(finished.LABEL), holding, whole, made.identity)
                finished.keep(kept, one, depends)
            stopping.check("audit")
            audited[arm] = one
            one.warnings.extend(context.encoding_warnings(context.encoding(found, model)) + ([ensemble.warning] if ensemble else []))
    return audited


@contextlib.contextmanager
def _naming(chosen: context.EvaluationSet, model: str, arm: str = "") -> Iterator[None]:
    """Lets an error of the body name the set, the model and the arm."""
    try:
        yield
    except errors.StoppedError:
        raise
    except errors.RelinkError as error:
        raise type(error)(f"{chosen.name}, {model}{f' with {arm} heads' if arm else ''}: {error}") from error


def _save(config: config_lib.RunConfig, found: workdir_lib.Workdir, cohort: schema.Cohort, plan: _Plan, audited: dict[str, result.AuditResult]) -> None:
    """Writes the audits of one model's arms, with their paired change against the original and the noise-only heads."""
    run_record, data = audit_records.run_record(config, found), audit_records.data_record(cohort, plan.sources.cohort, plan.chosen, plan.seen)
    for arm, one in audited.items():
        others = [other for other in ("original", context.NOISE_ONLY) if other in audited and other != arm]
        others = [] if arm == "original" or context.is_redraw(arm) else others
        paired = [entry for other in others for entry in _paired(plan.stem(other), audited[other], one)]
        described = audit_records.model_record(found, plan.sources.model, arm)
        one.save(found.results / plan.stem(arm), run=run_record, data=data, model=described, paired=paired)


def _audit(
    config: config_lib.RunConfig,
    prepared: inputs_lib.AuditInputs,
    mesh: meshes.Mesh,
    counting: pathlib.Path | None,
    holding: holdings.Holding | None = None,
    whole: bool = True,
    identity: str = "",
) -> result.AuditResult:
    """Returns one audit; without `whole` no attack and no further measure is tried. `identity`: as in `audit_inputs`, of what is kept in `counting`."""
    chosen = config.audit
    return audit_run.audit_inputs(
        prepared,
        mesh=mesh,
        pool_sizes=chosen.pool_sizes,
        ks=chosen.ks,
        top_k=chosen.top_k,
        label_policy=chosen.label_policy,
        same_patient=chosen.same_patient,
        further_strata=chosen.strata if whole else (),
        attacks=chosen.attacks if whole else (),
        measures=chosen.measures if whole else (),
        holding=holding,
        bootstrap_replicates=chosen.bootstrap_replicates,
        level=chosen.level,
        mc_repeats=chosen.mc_repeats,
        precision=chosen.precision,
        split=chosen.split,
        query_block=chosen.query_block,
        tile=chosen.tile,
        panel=chosen.panel,
        memory=int(chosen.memory * 2**30),
        kernel=chosen.kernel,
        seed=chosen.seed,
        directory=counting,
        identity=identity,
    )


def _paired(against: str, before: result.AuditResult, after: result.AuditResult) -> list[dict[str, Any]]:
    """Returns the change of Recall@1 (i2r) from `before` to `after` at every pool size, on the same queries and draws: by plain cosine, by the best
    attack on each, and by every re-alignment with all pairs."""
    wanted = ("recall", 1, "i2r", "other_patient")
    chosen = [metric for metric in after.metrics if (metric["name"], metric["k"], metric["direction"], metric["stratum"]) == wanted]
    shared = [label for label in (after.per_image.attacks if after.per_image else ()) if before.per_image and label in before.per_image.attacks]
    attacks = [COSINE, *([comparison.BEST] if before.attacks and after.attacks else []), *(label for label in shared if label.endswith(".all"))]
    return [comparison.entry(against, before, after, metric, attack) for attack in attacks for metric in chosen]
