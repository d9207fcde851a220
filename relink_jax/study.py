"""The runs of a full study on MIMIC-CXR and CheXpert Plus, which the shipped configurations return; imports no jax.

They follow the abstract of arXiv 2606.02276 (candidate pools from 100 to the whole database, CheXpert Plus as external data, epsilon 0.34 and
delta 6e-6), and choose where it is silent: which models, which images and texts, the split, and every setting of training. So they give a
study of the same questions, never its numbers. Only the roots of the archives and of the checkpoints are the user's to set.
"""

from relink_jax.config import RunConfig

GENERAL = ("clip-vit-b-32",)
BIOMEDICAL = ("pubmedclip", "biomedclip")
MEDICAL = ("medsiglip-448",)
CHEST_XRAY = ("biovil-t", "chexzero", "cxr-clip-swin-t", "medclip-swin-t", "xrayclip-vit-b-16", "gloria")
LADDER = ("clip-vit-b-32", "biomedclip", "medsiglip-448", "biovil-t")
ALL = (*GENERAL, *BIOMEDICAL, *MEDICAL, *CHEST_XRAY)
MITIGATED = "biovil-t"
TRAINED_ON = "MIMIC-CXR"
_POOLS = (100, 1_000, 10_000)
_SEED = "relink_jax held-out study 1"


def mimic_held_out(name: str, models: tuple[str, ...], mitigate: str = "") -> RunConfig:
    """Returns an audit of `models` on a fifth of MIMIC-CXR's patients, drawn by keyed hash: every frontal image, findings and impression.

    The official test part (293 patients) holds no pool of 10,000, so the held-out part is the project's own, and every result carries how much
    of it each model's training has seen.
    """
    run = RunConfig(name=name, models=models, mitigate=mitigate)
    run.cohort.source = "mimic_cxr"
    run.cohort.name = "mimic"
    run.cohort.max_missing_share = 0.001
    recipe = run.cohort.recipe
    recipe.split, recipe.train_share, recipe.validate_share, recipe.split_seed = "hash", 0.7, 0.1, _SEED
    run.audit.pool_sizes = _POOLS
    run.report.headline_pool = 10_000
    run.heads.train_site = TRAINED_ON
    return run


def with_chexpert_plus(run: RunConfig) -> RunConfig:
    """Returns `run` with CheXpert Plus beside MIMIC-CXR as an external database: heads trained on MIMIC-CXR are used there as they are."""
    run.cohort.source = "mimic_cxr+chexpert_plus"
    run.cohort.name = "mimic-chexpert"
    return run


def mitigated(run: RunConfig) -> RunConfig:
    """Returns `run` with the paper's epsilon and delta for heads trained on MIMIC-CXR's training patients, per patient."""
    mechanism = run.heads.mechanism
    mechanism.target_epsilon, mechanism.target_delta, mechanism.unit = 0.34, 6e-6, "patient"
    return run


def whole_database(name: str, models: tuple[str, ...]) -> RunConfig:
    """Returns an audit of every frontal image of both archives as one database, which no head was trained on: pools up to all of it."""
    run = with_chexpert_plus(mimic_held_out(name, models))
    run.cohort.recipe.split, run.cohort.recipe.split_seed = "none", ""
    run.cohort.recipe.train_share = run.cohort.recipe.validate_share = -1.0
    run.audit.sites = "joined"
    run.audit.pool_sizes = (*_POOLS, 100_000)
    run.heads.train_site = ""
    return run
