"""The probe stage: what the embeddings of every arm are still good for, beside what the features before the head are.

Image features before the head (maps: their mean) are probed once per model, embeddings once per arm; see `utility_tasks`. An ensemble has
no features of its own: only its embeddings are used, its members' side by side. The numbers go into the results files that the audit
stage wrote, with each arm's change against the original heads and whether that is shown to be within `probe.margin`.
"""

import dataclasses
from typing import Any

from relink_jax import config as config_lib
from relink_jax.cohort import prompts, schema
from relink_jax.runtime import progress, stopping
from relink_jax.stages import context, embedded, ensembles, plan_short, utility_prompts, utility_tasks
from relink_jax.store import digests, files
from relink_jax.store import workdir as workdir_lib
from relink_jax.utility import macro, strength

PRE_HEAD = "pre_head"
TASKS = {"probe": "probe", "report_probe": "report probe", "zero_shot": "zero-shot"}


@dataclasses.dataclass(frozen=True)
class Utility:
    """Utility of one results file: the results of each of `TASKS`, the arm's own last, and label-level retrieval."""

    tasks: dict[str, list[macro.MacroResult]]
    label_retrieval: dict[str, Any]


def run(config: config_lib.RunConfig, workdir: str) -> dict[str, Utility] | None:
    """Measures every (model, arm, evaluation set) and returns the results by results-file stem; None on a process that waited for process 0.

    Raises: StoreError: no results files of the audit stage, or missing embeddings; DataError: no labelled training images; StoppedError:
        asked to, after an arm.
    """
    return context.led(config, workdir, "probe", lambda found: _every(config, found))


def _every(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> dict[str, Utility]:
    cohort = embedded.load_cohort(found)
    plan_short.announce("probe", config, found, cohort)
    sets = context.evaluation_sets(config, cohort)
    arms = {model: [arm for arm in context.made_arms(config, found, model) if not context.is_redraw(arm)] for model in config.models}
    measured: dict[str, Utility] = {}
    with progress.bar(sum(map(len, arms.values())), "probe", "arms") as bar:
        for model in config.models:
            before: dict[str, macro.MacroResult] = {}
            if not ensembles.is_one(found, model):
                before = utility_tasks.linear_probe(config, cohort, sets, context.vectors(found, model, "images"), PRE_HEAD)
            prompted = utility_prompts.available(found, model)
            original: dict[str, Utility] = {}
            for arm in arms[model]:
                stopping.check_here("probe")
                after = _measure(config, found, cohort, sets, model, arm, prompted)
                original = original or after
                for name, one in after.items():
                    if name in before:
                        one.tasks["probe"].insert(0, before[name])
                    stem = f"{model}__{arm}__{name}"
                    _record(found, stem, one, original[name], _protocol(config, cohort), config.probe.margin)
                    measured[stem] = one
                bar.update(1)
    return measured


def describe(measured: dict[str, Utility]) -> str:
    """Returns one line per results file: macro AUROC before the head, where there are such features, and of every task after it."""
    lines = []
    for stem, one in measured.items():
        cells = [f"{result.features} {_auroc(result)}" for result in one.tasks["probe"]]
        cells += [f"{words} {_auroc(one.tasks[task][-1])}" for task, words in TASKS.items() if task != "probe" and task in one.tasks]
        lines.append(f"  {stem.replace('__', '  '):<64} {'  '.join(cells)}{_precision(one.label_retrieval)}")
    head = "macro AUROC of 14 labels (chance 0.5), linear probes and zero-shot, and precision@10 of label-level retrieval:"
    return "\n".join([head, *lines])


def _auroc(one: macro.MacroResult) -> str:
    return "undefined" if one.macro_auroc is None else f"{one.macro_auroc:.4f}"


def _precision(found: dict[str, Any]) -> str:
    value = found["precision_at_10"]["value"]
    return "" if value is None else f"  labels@10 {value:.3f} (chance {found['chance']:.3f})"


def _measure(
    config: config_lib.RunConfig,
    found: workdir_lib.Workdir,
    cohort: schema.Cohort,
    sets: list[context.EvaluationSet],
    model: str,
    arm: str,
    prompted: bool,
) -> dict[str, Utility]:
    """Returns what one arm's embeddings are good for by evaluation set."""
    images, texts = context.embeddings(found, model, arm, config.embed.shard_rows)
    results = {task: utility_tasks.linear_probe(config, cohort, sets, x, arm, task) for task, x in (("probe", images), ("report_probe", texts))}
    if prompted:
        results["zero_shot"] = utility_tasks.zero_shots(config, cohort, sets, images, utility_prompts.embeddings(found, model, arm), arm)
    retrieved = utility_tasks.retrievals(config, cohort, sets, images, texts)
    return {name: Utility({task: [by_set[name]] for task, by_set in results.items()}, retrieved[name]) for name in retrieved}


def _protocol(config: config_lib.RunConfig, cohort: schema.Cohort) -> dict[str, Any]:
    """Returns what utilities on one page must share: the settings of fit and interval, the sites fitted on, and the prompts."""
    settings = dataclasses.asdict(config.probe)
    search = {"l2_grid": list(config.probe.l2_grid), "l2_limits": [strength.LOWEST, strength.HIGHEST], "l2_flat": strength.FLAT}
    shared = {"level": config.audit.level, "sites": context.training_sites(config, cohort), "prompts_sha256": prompts.digest()}
    return {**settings, **search, **shared, "label_policy": config.audit.label_policy}


def _record(found: workdir_lib.Workdir, stem: str, one: Utility, original: Utility, protocol: dict[str, Any], margin: float) -> None:
    """Writes the utility of one results file, in place of an earlier one, with its change against the original heads'."""
    path = found.results / f"{stem}.json"
    context.needs(path, f"results of {stem.replace('__', ' ')}", "audit")
    document = files.read_object(path, {"utility": dict, "warnings": list})
    entries = {task: [result.to_json() for result in results] for task, results in one.tasks.items()}
    paired = [] if one is original else _paired(one, original, margin)
    document["utility"] = {**entries, "label_retrieval": one.label_retrieval, "paired": paired, "protocol": protocol}
    others = [line for line in document["warnings"] if not line.startswith(tuple(f"{words} {kind}" for words in TASKS.values() for kind in ("of ", "boot")))]
    document["warnings"] = sorted({*others, *(line for results in one.tasks.values() for result in results for line in result.warnings)})
    files.write_json(path, digests.sealed(document))


def _paired(one: Utility, original: Utility, margin: float) -> list[dict[str, Any]]:
    """Returns the paired change of every task whose macro AUROC both have, the image probe's first."""
    last = {task: (one.tasks[task][-1], original.tasks[task][-1]) for task in TASKS if task in one.tasks and task in original.tasks}
    defined = {task: pair for task, pair in last.items() if None not in (pair[0].macro_auroc, pair[1].macro_auroc)}
    return [macro.paired_difference(*pair, task=task, margin=margin) for task, pair in defined.items()]
