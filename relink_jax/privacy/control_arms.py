"""The controls that give a mitigation claim its meaning, as data: each condition is one row of `conditions`.

"DP lowered linkage" says nothing while the same noise without data, a rotation, or a fine-tune without privacy might have done as much.
A condition says which heads are used (the published ones, random ones, or ones trained in some way) and what happens to the embeddings
afterwards; everything it does not name is as the run's own mechanism has it, so that conditions differ in what they are named after.

Design note: all trained conditions share step size, steps and batch size of the run's mechanism, and at other epsilons only the noise differs.
That step size suits the noise, and a gradient without noise moves the heads little under it. So what is trained without noise is also run
`long`, with a public choice of optimizer and steps that lets its loss show what it can do.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from relink_jax import errors
from relink_jax.privacy import design as designs
from relink_jax.privacy.options import Options

NO_CLIP = 1e6  # a bound that no gradient of unit-norm embeddings at a usual temperature comes near
UNSOUND, UNLINKING = "inbatch_infonce_unsound", "unlink"
LONG: dict[str, Any] = {"optimizer": "adam", "schedule": "constant", "learning_rate": 0.003, "iterations": 200}
ORIGINAL, TRAINED, RANDOM = "original", "trained", "random"
OWN, SHUFFLED, LABEL_MATCHED = "own", "shuffled", "label_matched"
FAMILIES = {
    "baseline": "as published",
    "no_noise": "trained without noise",
    "noise_only": "noise only, no data",
    "broken": "alignment broken at random",
    "shuffled": "shuffled pairs",
    "label_matched": "label-matched partner",
    "output_noise": "noise on embeddings",
    "reduction": "less information kept",
    "unlinking": "unlinking loss",
    "dp": "DP, sound objective",
    "unsound": "same noise, unsound objective",
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """One control.

    Attributes:
        id: its name in files and tables. control: its number in the design's list, 0 to 10. family: one of `FAMILIES`. label: a few words.
        random: whether another seed gives another result; others run once.
        heads: 'original', 'trained' or 'random'.
        objective: of training; '' is the run's own. unit: privacy unit; '' is the run's own. records: whose text each image is trained with.
        epsilon: what the noise is calibrated to, 0 for none. clip: whether gradients are clipped. data: false sets every gradient to zero. long: trained by `LONG`.
        change: what is done to embeddings, a name of `output_changes.CHANGES`, or ''. amount: how much of it.
    """

    id: str
    control: int
    family: str
    label: str
    random: bool = True
    heads: str = ORIGINAL
    objective: str = ""
    unit: str = ""
    records: str = OWN
    epsilon: float = 0.0
    clip: bool = True
    data: bool = True
    long: bool = False
    change: str = ""
    amount: float = 0.0

    @property
    def trained(self) -> bool:
        """Whether heads are trained, even if on no data."""
        return self.heads == TRAINED


def conditions(target: float, epsilons: Sequence[float]) -> tuple[Condition, ...]:
    """Returns every condition, in the order of their numbers.

    Args:
        target: epsilon of the run's own mechanism, at which the other DP conditions stand.
        epsilons: of the dose-response; `target` is added where it lacks.
    """
    doses = sorted({float(target), *map(float, epsilons)})
    trained: dict[str, Any] = {"heads": TRAINED}
    free: dict[str, Any] = {**trained, "clip": False}
    dp: dict[str, Any] = {**trained, "epsilon": float(target)}
    return (
        Condition("original", 0, "baseline", "published heads", random=False),
        Condition("finetune", 1, "no_noise", "fine-tuned, no clipping, no noise", **free),
        Condition("finetune_long", 1, "no_noise", "fine-tuned for long", long=True, **free),
        Condition("clip_only", 2, "no_noise", "fine-tuned, clipped, no noise", **trained),
        *(Condition(f"noise_only_{one:g}", 3, "noise_only", f"noise of epsilon {one:g}", data=False, **(dp | {"epsilon": one})) for one in doses),
        Condition("rotation", 4, "broken", "image embeddings rotated", change="rotation"),
        Condition("random_heads", 4, "broken", "random heads", heads=RANDOM),
        Condition("shuffled", 5, "shuffled", "shuffled pairs, no DP", records=SHUFFLED, **free),
        Condition("shuffled_long", 5, "shuffled", "shuffled pairs, for long", records=SHUFFLED, long=True, **free),
        Condition("shuffled_dp", 5, "shuffled", "shuffled pairs, DP", records=SHUFFLED, **dp),
        Condition("label_matched", 6, "label_matched", "another patient's text of the same labels", records=LABEL_MATCHED, **free),
        Condition("label_matched_long", 6, "label_matched", "the same, for long", records=LABEL_MATCHED, long=True, **free),
        *(Condition(f"output_noise_{one:g}", 7, "output_noise", f"noise of norm {one:g}", change="noise", amount=one) for one in (0.25, 0.5, 1.0, 2.0)),
        *(Condition(f"pca_{one:g}", 8, "reduction", f"PCA, {one:g} of the width", random=False, change="pca", amount=one) for one in (0.5, 0.25, 0.125)),
        Condition("random_projection_0.25", 8, "reduction", "random projection, 0.25 of the width", change="random_projection", amount=0.25),
        *(
            Condition(f"quantised_{one}", 8, "reduction", "1 bit a number" if one == 1 else f"{one} bits a number", random=False, change="quantise", amount=one)
            for one in (8, 4, 1)
        ),
        Condition("unlink", 9, "unlinking", "unlinking loss, no DP", objective=UNLINKING, **free),
        Condition("unlink_long", 9, "unlinking", "unlinking loss, for long", objective=UNLINKING, long=True, **free),
        Condition("unlink_dp", 9, "unlinking", "unlinking loss, DP", objective=UNLINKING, **dp),
        *(Condition(f"dp_{one:g}", 10, "dp", f"epsilon {one:g}", **(dp | {"epsilon": one})) for one in doses),
        Condition("dp_pair", 10, "dp", f"epsilon {target:g} of a pair", unit="pair", **dp),
        *(Condition(f"unsound_{one:g}", 10, "unsound", f"noise of epsilon {one:g}", objective=UNSOUND, **(dp | {"epsilon": one})) for one in doses),
    )


def chosen(every: Sequence[Condition], only: str) -> tuple[Condition, ...]:
    """Returns the conditions named in `only` (commas between, '' for all) and always the original; `UsageError` for a name that there is none of."""
    known = {one.id: one for one in every}
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            where = "config field 'controls.only'"
            raise errors.UsageError(errors.describe("unknown control", where, f"of {', '.join(known)}", repr(name)) + errors.suggest(name, known))
    return tuple(one for one in every if not wanted or one.id in {*wanted, ORIGINAL})


def options_of(condition: Condition, base: Options, n_units: int, seed: int) -> Options:
    """Returns what `training.train_heads` is asked for: `base` with what the condition changes, and a disclosed seed.

    A disclosed seed voids any guarantee: these heads are controls, and no release. The unsound objective gets the noise multiplier that
    the run's own objective would have, as common practice gives it, so that both get the same noise relative to C.
    """
    changed: dict[str, Any] = {"data": condition.data, "test_seed": seed}
    if condition.unit:
        changed["unit"] = condition.unit
    if condition.objective:
        changed |= {"objective": condition.objective, "allow_unsound": condition.objective == UNSOUND}
    if condition.long:
        changed |= LONG
    if not condition.clip:
        changed["l2_norm_clip"] = NO_CLIP
    if condition.epsilon:
        changed["target_epsilon"] = condition.epsilon
    if condition.objective == UNSOUND:
        changed["noise_multiplier"] = designs.design(dataclasses.replace(base, target_epsilon=condition.epsilon), n_units).mechanism.noise_multiplier
    elif not condition.epsilon:
        changed["noise_multiplier"] = 0.0
    return dataclasses.replace(base, **changed)


def secret_mechanism(options: Options, n_units: int) -> Any:
    """Returns the mechanism that the same options would be with randomness that nobody knows: what their epsilon is stated of."""
    return dataclasses.replace(designs.design(options, n_units).mechanism, disclosed=False)
