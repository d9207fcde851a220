"""The heads of mimic_dp_heads on CheXpert Plus too, without training again."""

from relink_jax import config, study


def get_config() -> config.RunConfig:
    """Returns the run; see `relink_jax.study` for what it chooses and what it cannot reproduce."""
    return study.mitigated(study.with_chexpert_plus(study.mimic_held_out("chexpert_external", study.LADDER, study.MITIGATED)))
