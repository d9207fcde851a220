"""One synthetic population in every published layout: the same cohort, and the same audit, through every adapter."""

import collections
import importlib.util
import json

import generated
import numpy as np
import pytest

from relink_jax import cli
from relink_jax.stages import cohort as cohort_stage
from relink_jax.store import tables

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")
DICOM = importlib.util.find_spec("pydicom") is not None
LAYOUTS = ("mimic_cxr", "chexpert_plus", "openi_kaggle", "table", "dicom")
PATIENTS = 24
AUDIT = [
    *("--config.models=phantom-3-specialist", "--config.mitigate=", "--config.embed.batch_size=16", "--config.audit.bootstrap_replicates=100"),
    *("--config.audit.attacks=", "--config.audit.measures="),
    *("--config.audit.pool_sizes=10", "--config.audit.ks=1,5", "--config.audit.top_k=5", "--config.audit.same_patient=negative"),
]


def relink(*words):
    return cli.main(list(words))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Returns {layout: flags that read its tree}, all of the same studies."""
    root = tmp_path_factory.mktemp("layouts")
    shared = [f"--patients={PATIENTS}", "--config.cohort.phantom.image_size=64", "--first_study_only"]
    layouts = [layout for layout in LAYOUTS if layout != "dicom" or DICOM]
    return root, {layout: [*generated.write(layout, root / layout, *shared), "--config.cohort.recipe.split=none"] for layout in layouts}


def content(cohort):
    """Returns what a cohort says of its studies without names: text, labels and how many images, as often as each occurs."""
    images = np.bincount(cohort.image_study, minlength=len(cohort.study_key))
    return collections.Counter(zip((cohort.text[index] for index in cohort.study_text), map(tuple, cohort.study_labels.tolist()), images.tolist(), strict=True))


@pytest.fixture(scope="module")
def cohorts(trees):
    root, flags = trees
    found = {}
    for layout, words in flags.items():
        config, workdir, *_ = cli.parse("cohort", [*words, f"--workdir={root / f'w_{layout}'}"])
        found[layout] = cohort_stage.run(config, workdir)
    return found


_NEEDS = pytest.param("dicom", marks=pytest.mark.skipif(not DICOM, reason="no pydicom"))


@pytest.mark.parametrize("layout", [*LAYOUTS[1:-1], _NEEDS])
def test_every_layout_gives_the_same_studies(cohorts, layout):
    assert cohorts[layout].synthetic
    if layout == "openi_kaggle":  # Open-I has no labels
        texts = [collections.Counter({key[::2]: 0 for key in content(cohorts[one])}) for one in ("mimic_cxr", layout)]
        assert texts[0].keys() == texts[1].keys()
    else:
        assert content(cohorts[layout]) == content(cohorts["mimic_cxr"])


def audited(root, layout, flags):
    workdir = f"--workdir={root / f'w_{layout}'}"
    for stage in ("convert", "embed", "audit"):
        assert relink(stage, *flags, *AUDIT, workdir) == 0
    path = next((root / f"w_{layout}" / "results").glob("*.json"))
    per_query = tables.read_table(path.with_suffix(".parquet"))
    plain = per_query["stratum"].astype(str) == "other_patient"
    counts = sorted(zip(*(per_query[name][plain].tolist() for name in ("direction", "M", "g", "t")), strict=True))
    recalls = [entry["value"] for entry in json.loads(path.read_text())["metrics"] if entry["name"] == "recall" and entry["stratum"] == "other_patient"]
    return counts, recalls


_SLOW = [pytest.param(layout, marks=pytest.mark.slow) for layout in (("openi_kaggle", "table", "dicom") if DICOM else ("openi_kaggle", "table"))]


@pytest.mark.parametrize("layout", ["chexpert_plus", *_SLOW])
def test_every_layout_gives_the_same_audit(trees, cohorts, layout):
    root, flags = trees
    first, second = (audited(root, one, flags[one]) for one in ("mimic_cxr", layout))
    assert first[0] == second[0]
    assert first[1] == pytest.approx(second[1])
