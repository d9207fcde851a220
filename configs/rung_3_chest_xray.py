"""Fourth rung of specialisation on held-out MIMIC-CXR: chest X-ray models."""

from relink_jax import config, study


def get_config() -> config.RunConfig:
    """Returns the run; see `relink_jax.study` for what it chooses and what it cannot reproduce."""
    return study.mimic_held_out("rung_3_chest_xray", study.CHEST_XRAY)
