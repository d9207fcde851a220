"""The demo stage: every other stage in order, on the embedded synthetic cohort or on whatever the config names."""

import dataclasses
import pathlib
import time
from typing import Any

from relink_jax import config as config_lib
from relink_jax.encoders import published
from relink_jax.runtime import progress
from relink_jax.stages import audit, cohort, context, convert, embed, ensembles, heads, probe, report

ROAD = ("cohort", "convert", "embed", "heads", "audit", "probe", "report")


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the demo made: the headline table, the page, and seconds per stage."""

    table: str
    page: pathlib.Path
    seconds: dict[str, float]


def run(config: config_lib.RunConfig, workdir: str) -> Demo | None:
    """Runs the whole road in `workdir`, going on where an earlier run of the same config stopped.

    A cohort without a training split is audited only: there is nothing to train heads or the probe on, and that is said. A model that
    cannot be mitigated is refused before anything is encoded, a published one by its entry before it is converted. Returns None on a process
    that leaves the page to process 0.

    Raises: every error of the stages it calls.
    """
    stages: dict[str, Any] = {"cohort": cohort, "convert": convert, "embed": embed, "heads": heads, "audit": audit, "probe": probe, "report": report}
    seconds, outcomes = {}, {}
    skipped = set() if config.mitigate else {"heads"}
    for name in ROAD:
        if name in skipped:
            continue
        started = time.monotonic()
        outcomes[name] = stages[name].run(config, workdir)
        seconds[name] = time.monotonic() - started
        if name not in ("audit", "probe", "report") and outcomes[name] is not None:
            progress.say(f"[{name}, {seconds[name]:.0f} s]\n{stages[name].describe(outcomes[name])}")
        if name == "cohort" and not context.training_sites(config, outcomes[name]):
            skipped |= {"heads", "probe"}
            progress.notice(f"no study in split {config.heads.train_split!r}: linkage is measured, nothing is mitigated or probed")
        if name in ("cohort", "convert") and "heads" not in skipped:
            check_mitigated(config, workdir)
    return None if outcomes["report"] is None else Demo(outcomes["report"].table, outcomes["report"].page, seconds)


def check_mitigated(config: config_lib.RunConfig, workdir: str) -> None:
    """Raises `UsageError` when the model to mitigate cannot be, as far as that is known: by its heads, or by its entry until it is converted."""
    model = config.mitigate
    with context.opened(config, workdir) as found:
        if (found.heads(model, "original") / "card.json").exists() or ensembles.is_one(found, model):
            heads.check_converted(found, model)
        elif model in published.MODELS:
            heads.check_forms(model, {"image": published.MODELS[model].image_head, "text": published.MODELS[model].text_head})


def describe(demo: Demo) -> str:
    """Returns the headline table and where the page is."""
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in demo.seconds.items())
    return f"{demo.table}\n\n{spent}\npage: {demo.page}"
