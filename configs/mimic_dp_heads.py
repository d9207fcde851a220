"""Heads of the most specialised model trained on MIMIC-CXR's training patients at epsilon 0.34 and delta 6e-6."""

from relink_jax import config, study


def get_config() -> config.RunConfig:
    """Returns the run; see `relink_jax.study` for what it chooses and what it cannot reproduce."""
    return study.mitigated(study.mimic_held_out("mimic_dp_heads", study.LADDER, study.MITIGATED))
