"""Recipes: the declared, hashed choices that turn an archive's rows into a cohort, and presets for published habits.

In the order in which they are applied: rows of other `views` go; rows whose image file is missing go; the text is put together from
`text_field` (and masked), and rows with an empty one, or fewer than `min_words` or more than `max_words` words, go; `split` says who is
train, validate and test; `images` 'first' keeps, per study, the first row that is left, in the archive's own order, no view before another;
`deduplicate` 'text' keeps, per part and split, the first study of each normalised text.

A cohort that a preset makes is not the one of the work it is named after: every preset says what it does not reproduce.
"""

import dataclasses
from typing import Any

from relink_jax import errors
from relink_jax.cohort import splits
from relink_jax.cohort.reports import TEXT_FIELDS
from relink_jax.cohort.schema import VIEWS
from relink_jax.store import digests

FRONTAL = ("PA", "AP", "FRONTAL")
IMAGES = ("all", "first")
DEDUPLICATE = ("none", "text")
SPLIT = ("source", "hash", "none")


def _check(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        expected = f"one of {', '.join(word for word in known if word)}" + (" or ''" if "" in known else "")
        raise errors.UsageError(errors.describe(field, "the recipe", expected, repr(value)) + errors.suggest(value, known))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is kept of an archive and as what; see the module for the order. Raises: UsageError: a choice that there is not.

    Attributes:
        name: of the preset, or the user's own; not part of the digest.
        views: kept views; '' keeps images whose view the archive does not say.
        min_words, max_words: whitespace-separated words of the text, after masking; 0 is no limit (an empty text always goes).
        split: 'source' the archive's own; 'hash' patients by `splits.by_hash`; 'none' everything is test.
        shares: of train, validate and test with split 'hash'.
        split_seed: declared, public seed of that split.
        mask_placeholders: whether `reports.mask_placeholders` is applied.
    """

    name: str = "frontal_image"
    views: tuple[str, ...] = FRONTAL
    text_field: str = "findings+impression"
    min_words: int = 0
    max_words: int = 0
    images: str = "all"
    deduplicate: str = "none"
    split: str = "source"
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    split_seed: str = "relink_jax"
    mask_placeholders: bool = False

    def __post_init__(self) -> None:
        choices = {"text_field": TEXT_FIELDS, "images": IMAGES, "deduplicate": DEDUPLICATE, "split": SPLIT}
        for field, known in choices.items():
            _check(field, getattr(self, field), known)
        for view in self.views:
            _check("views", view, VIEWS)
        splits.check_shares(self.shares)
        if not self.views or self.min_words < 0 or self.max_words < 0 or 0 < self.max_words < max(1, self.min_words):
            expected = "at least one view, and 0 <= min_words <= max_words (0: no limit)"
            raise errors.UsageError(errors.describe("filters", f"recipe {self.name!r}", expected, f"{len(self.views)}, {self.min_words}, {self.max_words}"))

    def record(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready fields."""
        return {field: list(value) if isinstance(value, tuple) else value for field, value in dataclasses.asdict(self).items()}

    def digest(self) -> str:
        """Returns the SHA-256 of every choice; recipes that differ in name only, or in the order of views, agree."""
        choices = {field: value for field, value in self.record().items() if field != "name"}
        if self.split != "hash":
            del choices["shares"], choices["split_seed"]
        return digests.value_digest(choices | {"views": sorted(set(self.views))})


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe with the published habit it follows, and what of it is not reproduced."""

    recipe: Recipe
    source: str
    differs: str


_READ = ("PA", "AP", "FRONTAL", "LATERAL")
_PRESETS = (
    Preset(Recipe(), "every frontal image with the report of its study", "-"),
    Preset(Recipe("frontal_study", images="first"), "one frontal image per study", "-"),
    Preset(Recipe("all_views", views=VIEWS), "every image of every view, said or not", "-"),
    Preset(
        Recipe("frontal_image_own_split", split="hash"),
        "image-level rows with view PA or AP and a patient list with 20 % test: tayebiarasteh/CXR-adaptation, data/data_provider.py",
        "the published works' own patient list (master_list_20percenttest.csv), which is not public; the share of their validation part",
    ),
    Preset(Recipe("frontal_study_own_split", images="first", split="hash"), "the same with one image per study", "as frontal_image_own_split"),
    Preset(
        Recipe("convirt", views=VIEWS, min_words=3),
        "ConVIRT, Zhang et al., arXiv 2010.00747: image-text pairs of MIMIC-CXR, all views, very short texts left out",
        "a random sentence per step as the text; its length filter works on sections and sentences, here on the whole text",
    ),
    Preset(
        Recipe("gloria", min_words=2, text_field="impression"),
        "GLoRIA: marshuang80/gloria, gloria/datasets/pretraining_dataset.py: CheXpert, frontal only, impression, sentences of one token dropped",
        "a random sentence per step; its filter works on sentences, here on the whole text; its own split; retrieval by class, not by study",
    ),
    Preset(
        Recipe("medclip", views=_READ),
        "MedCLIP: RyanWangZf/MedCLIP: MIMIC-CXR and CheXpert, frontal and lateral",
        "images and sentence segments are not paired there but matched by labels, and images without a report are kept; 77-token limit",
    ),
    Preset(
        Recipe("chexzero", views=VIEWS, text_field="impression"),
        "CheXzero: rajpurkarlab/CheXzero, data_process.py: all 377,110 images of MIMIC-CXR with the last impression",
        "its own extractor of the impression; studies without one are left out here, there they all get the words 'NO IMPRESSION'; 77-token limit",
    ),
    Preset(
        Recipe("cxr_clip", views=_READ, images="first", deduplicate="text"),
        "CXR-CLIP: kakaobrain/cxr-clip, cxrclip/evaluator.py: study-level, first listed image, identical texts are one gallery entry",
        "there every query stays and only the gallery is collapsed, here the other studies of a text go too; training with two images and texts",
    ),
    Preset(
        Recipe("biovil", text_field="impression"),
        "BioViL and BioViL-T: microsoft/hi-ml (hi-ml-multimodal): frontal images of MIMIC-CXR, official split, impression",
        "their clean-up of the impression, and the findings that some of their steps add",
    ),
)
PRESETS = {preset.recipe.name: preset for preset in _PRESETS}


def named(name: str) -> Recipe:
    """Returns the recipe of a preset; `UsageError` with the nearest name for an unknown one."""
    _check("name", name, tuple(PRESETS))
    return PRESETS[name].recipe


def describe(recipe: Recipe) -> str:
    """Returns a recipe as lines of text: its choices, its digest, and for a preset what it follows and what it does not reproduce."""
    words = [f"at least {recipe.min_words} words"] * bool(recipe.min_words) + [f"at most {recipe.max_words} words"] * bool(recipe.max_words)
    shares = ", ".join(f"{share:g}" for share in recipe.shares)
    split = {"source": "the archive's own", "none": "everything is test", "hash": f"patients by hash ({shares}), seed {recipe.split_seed!r}"}
    lines = [
        f"recipe {recipe.name} ({recipe.digest()[:12]})",
        f"  views        {', '.join(view or 'not said' for view in recipe.views)}",
        f"  text         {recipe.text_field}" + (", placeholders masked" if recipe.mask_placeholders else ""),
        f"  length       {', '.join(words) or 'any but empty'}",
        f"  images       {'all of a study' if recipe.images == 'all' else 'the first of each study'}",
        f"  duplicates   {'kept' if recipe.deduplicate == 'none' else 'one study per identical text, part and split'}",
        f"  split        {split[recipe.split]}",
    ]
    preset = PRESETS.get(recipe.name)
    if preset is not None and preset.recipe.digest() == recipe.digest():
        lines += [f"  follows      {preset.source}", f"  differs in   {preset.differs}"]
    return "\n".join(lines)
