"""Third rung of specialisation on held-out MIMIC-CXR: a medical model."""

from relink_jax import config, study


def get_config() -> config.RunConfig:
    """Returns the run; see `relink_jax.study` for what it chooses and what it cannot reproduce."""
    return study.mimic_held_out("rung_2_medical", study.MEDICAL)
