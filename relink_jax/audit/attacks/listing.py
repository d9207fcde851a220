"""The attacks that need nothing but released embeddings, by the names that results give them. `docs/attacks.md` says how to add one."""

from collections.abc import Sequence

from relink_jax import errors
from relink_jax.audit.attacks import base
from relink_jax.audit.attacks.assignment import Assignment
from relink_jax.audit.attacks.fusion import ModelFusion, StudyMean
from relink_jax.audit.attacks.normalisation import CSLS, InvertedSoftmax, ZNorm
from relink_jax.audit.attacks.sinkhorn import Sinkhorn

_BANKS = (base.INDUCTIVE, base.TRANSDUCTIVE)
_KNOWN: dict[str, tuple[base.Attack, ...]] = {
    ZNorm.name: tuple(ZNorm(bank=bank) for bank in _BANKS),
    CSLS.name: tuple(CSLS(bank=bank) for bank in _BANKS),
    InvertedSoftmax.name: tuple(InvertedSoftmax(bank=bank) for bank in _BANKS),
    Sinkhorn.name: (Sinkhorn(),),
    Assignment.name: (Assignment(),),
    StudyMean.name: (StudyMean(),),
    ModelFusion.name: (ModelFusion(),),
}
NAMES = tuple(_KNOWN)


def every(names: Sequence[str] = NAMES) -> list[base.Attack]:
    """Returns the attacks of these names at their usual settings, those with a bank once for each bank.

    Raises: UsageError: an unknown name.
    """
    for name in names:
        if name not in _KNOWN:
            raise errors.UsageError(errors.describe("unknown attack", "attacks", f"one of {', '.join(NAMES)}", repr(name)) + errors.suggest(name, NAMES))
    return [attack for name in names for attack in _KNOWN[name]]
