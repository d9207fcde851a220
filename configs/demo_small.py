"""The demo in a reduced size, for continuous integration: the same road with fewer patients."""

from relink_jax import config


def get_config() -> config.RunConfig:
    """Returns the demo with 300 patients, pools that fit them, and two kinds of attack."""
    run = config.RunConfig(name="demo_small")
    run.cohort.phantom.n_patients = 300
    run.report.headline_pool = 100
    run.embed.anchors = 256
    run.audit.attacks = ("inverted_softmax", "ridge")
    return run
