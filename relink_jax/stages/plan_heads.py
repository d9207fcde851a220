"""What training heads spends and holds: the epsilon to be spent and what is spent already, disk and host memory, by formula."""

import math

from relink_jax import config as config_lib
from relink_jax.encoders import cost, specs, towers
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.runtime import plan, room
from relink_jax.stages import context, plan_sizes
from relink_jax.store import workdir as workdir_lib

_STATES = 3  # saved states of training that may lie on disk at once, with moments of an optimizer


def mitigated(config: config_lib.RunConfig, run: plan_sizes.Run) -> specs.VLMSpec | None:
    """Returns the spec of the model whose heads are trained, None where no model is mitigated or it is an ensemble."""
    found = [model.encoders for model in run.models if model.name == config.mitigate]
    return found[0][0] if found and len(found[0]) == 1 else None


def spent(found: workdir_lib.Workdir | None, config: config_lib.RunConfig) -> tuple[str, str]:
    """Returns (the epsilon that the ledgers of the mitigated model's heads in a workdir say was spent already, by arm on data; its terms).

    Raises: StoreError: a damaged ledger.
    """
    if found is None:
        return "0", "no workdir"
    values, terms = [], []
    for arm in context.arms_of(config, config.mitigate):
        path = found.heads(config.mitigate, arm) / ledger_lib.FILE_NAME
        if context.is_noise(arm) or not path.exists():
            continue
        ledger = ledger_lib.load(path)
        epsilon, total, status = ledger["epsilon"], ledger["epsilon_all_runs"], ledger["steps"]["status"]
        values.append("infinite" if epsilon["infinite"] or total["rdp"] is None else f"{total['rdp']:.4g}")
        terms.append(f"by {arm}, at delta {epsilon['delta']:g} (RDP), in {total['runs']} runs, the last {status}")
    return ", ".join(values) or "0", "; ".join(terms) or "no ledger in this workdir"


def to_spend(found: workdir_lib.Workdir | None, config: config_lib.RunConfig) -> tuple[str, str]:
    """Returns (the epsilon that training the arms on data will spend, its terms): nothing for heads that are there, which are kept."""
    mechanism = config.heads.mechanism
    arms = [arm for arm in context.arms_of(config, config.mitigate) if arm not in ("original", "random") and not context.is_noise(arm)]
    left = [arm for arm in arms if found is None or not (found.heads(config.mitigate, arm) / "card.json").exists()]
    if not left:
        return "0", "heads of every arm on data are there and kept" if arms else "no arm is trained on data"
    return f"{mechanism.target_epsilon:g}", f"at delta {mechanism.target_delta:g}, per {mechanism.unit}, zero-out, by {', '.join(left)}"


def disk(config: config_lib.RunConfig, spec: specs.VLMSpec) -> int:
    """Returns the bytes of every arm's heads and of the training states that may lie beside one."""
    arms = len(context.arms_of(config, config.mitigate))
    return (arms + 3 * _STATES) * plan.FLOAT * sum(math.prod(shape) for side in towers.head_shapes(spec).values() for shape in side.values())


def host(config: config_lib.RunConfig, run: plan_sizes.Run, spec: specs.VLMSpec) -> int:
    """Returns about the bytes of host memory that training holds: every image's and text's features as they are gathered, and the pairs made of them."""
    features = {side: one.features for side, one in cost.of(spec, prior=config.embed.prior == "table", parameters=False).items()}
    half = len(features["image"]) > 1 and config.embed.map_dtype == "float16"
    each = {"image": (2 if half else plan.FLOAT) * math.prod(features["image"]), "text": plan.FLOAT * math.prod(features["text"])}
    return max(run.images * each["image"], run.texts * each["text"]) + run.pairs * (each["image"] + each["text"])


def needs(config: config_lib.RunConfig, run: plan_sizes.Run, spec: specs.VLMSpec, root: str) -> list[plan.Need]:
    """Returns what training needs of host memory and of the disk that `root` lies on."""
    change = "--config.heads.train_site or --config.embed.map_dtype=float16, or take a larger host"
    why = "features of every image or text as they are gathered, and of the training pairs"
    on_host = plan.Need(plan.HOST, host(config, run, spec), room.memory(), change, why)
    written = plan.Need(plan.DISK, disk(config, spec), room.disk(root), "--workdir to one with more space", "heads of every arm and states of training")
    return [on_host, written]
