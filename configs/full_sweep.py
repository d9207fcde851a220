"""Every frontal pair of MIMIC-CXR and CheXpert Plus as one database: the full sweep."""

from relink_jax import config, study


def get_config() -> config.RunConfig:
    """Returns the run; see `relink_jax.study` for what it chooses and what it cannot reproduce."""
    return study.whole_database("full_sweep", study.LADDER)
