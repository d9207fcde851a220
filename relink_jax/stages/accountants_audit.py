"""`relink accountants audit --workdir=...`: the configured mechanism of the mitigated model under attack, and the result in its ledger.

Three attacks (`privacy.empirical.configured`): crafted neighbours against the declared sensitivity, one noisy step on crafted datasets, and
sibling runs of the configuration on its own training pairs with canaries among them. The sibling runs are not released. What is said about
canaries is not covered by the epsilon of the release.
"""

import dataclasses
from typing import Any

import numpy as np

from relink_jax import config as config_lib
from relink_jax import errors, heads
from relink_jax.privacy import clipping, training
from relink_jax.privacy import design as designs
from relink_jax.privacy import ledger as ledgers
from relink_jax.privacy.empirical import configured
from relink_jax.stages import context, embedded
from relink_jax.stages import heads as heads_stage

CANARIES = 500
ARM = "dp"


def run(config: config_lib.RunConfig, workdir: str, n_canaries: int, seed: int) -> tuple[str, dict[str, Any]]:
    """Returns (text, JSON-ready result) of the audit of the dp arm's configuration; where its ledger is there, it gets an entry per attack.

    Raises: UsageError: nothing to mitigate, or a configuration without noise; StoreError: missing features.
    """
    if not config.mitigate:
        raise errors.UsageError(errors.describe("nothing to audit", "config field 'mitigate'", f"one of models {list(config.models)}", "''"))
    with context.opened(config, workdir) as found:
        heads_stage.check_converted(found, config.mitigate)
        given = heads_stage.prepared(config, found, embedded.load_cohort(found), ARM)
        made = designs.design(given.options, int(given.units.max()) + 1)
        if made.mechanism.noise_stddev == 0:
            raise errors.UsageError(errors.describe("mechanism without noise", "the configuration", "a positive noise multiplier", "0"))
        public: Any = None if given.bank is None else given.bank.arrays()
        multiplier = made.mechanism.noise_stddev / made.objective.noise_scale(given.options.l2_norm_clip)

        def train(records: clipping.Records, units: np.ndarray, noise_multiplier: float) -> tuple[heads.Heads, heads.Heads]:
            settings = dataclasses.replace(given.options, noise_multiplier=noise_multiplier)
            return given.initial, training.train_heads(given.initial, records, units, given.bank, settings).heads

        result = configured.audit(
            made.objective,
            given.initial,
            given.records,
            given.units,
            public,
            l2_norm_clip=given.options.l2_norm_clip,
            noise_multiplier=multiplier,
            sampling_probability=made.mechanism.sampling_probability,
            iterations=given.options.iterations,
            delta=given.options.target_delta,
            train=train,
            n_canaries=n_canaries,
            seed=seed,
        )
        path, told = found.heads(config.mitigate, ARM) / ledgers.FILE_NAME, [f"{config.mitigate}, as configured:", configured.describe(result)]
        if path.exists() and ledgers.load(path)["steps"]["status"] == "complete":
            for entry in configured.ledger_entries(result):
                ledgers.record_audit(path, entry)
            told.append(f"recorded in heads/{config.mitigate}/{ARM}/{ledgers.FILE_NAME}")
    return "\n".join(told), result
