"""The demo in a reduced size, for continuous integration: the same road with fewer patients."""

from relink_jax import config


def get_config() -> config.RunConfig:
    """Returns the demo with 300 patients and pools that fit them."""
    run = config.RunConfig(name="demo_small")
    run.cohort.phantom.n_patients = 300
    run.report.headline_pool = 100
    run.embed.anchors = 256
    return run
