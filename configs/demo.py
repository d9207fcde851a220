"""The demo: four phantom models on the embedded synthetic cohort, the strongest one mitigated at the paper's epsilon."""

from relink_jax import config


def get_config() -> config.RunConfig:
    """Returns the default run; epsilon 0.34 and delta 6e-6 are the paper's (arXiv 2606.02276, abstract)."""
    return config.RunConfig(name="demo")
