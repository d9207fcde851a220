"""Configuration of the cohort: where each archive lies, and the recipe that makes pairs of it; imports no jax.

Fields of the recipe that are left at their default take what the preset says.
"""

import dataclasses
from collections.abc import Iterator

from relink_jax import errors
from relink_jax.settings import Section, check_choice, option

ARCHIVES = ("mimic_cxr", "chexpert_plus", "openi", "rexgradient", "padchest")
SOURCES = ("phantom", "table", *ARCHIVES)
JOIN = "+"
NO_FACTS = (
    *("image_path", "patient_id", "study_id", "image_id", "report_id", "prior_image_id", "report_path"),
    *("findings", "impression", "report_text", "labelled_text", "study_date"),
    *("sex", "age_years", "views", "report_words", "sentences", "rare_words"),
    *("view", "label_view", "sex_age", "length", "near_text", "label_matched", "other_patient"),
    *("label_quaternary", "label_ternary", "label_u_one", "label_u_zero"),
)  # columns that are no categories, and names that facts and strata of the audit have
PRESET = "preset"
VIEWS = ("PA", "AP", "FRONTAL", "LATERAL", "OTHER")
TEXT_FIELDS = ("findings+impression", "findings", "impression", "report_text", "labelled_text")
IMAGES = ("all", "first")
DEDUPLICATE = ("none", "text")
SPLITTING = ("source", "hash", "none")


@dataclasses.dataclass
class PhantomConfig(Section):
    """The seeded generator of synthetic radiographs and reports."""

    seed: int = option(7, "seed of the synthetic population; the packaged models never saw seed 7")
    n_patients: int = option(1500, "patients to generate (about 2 studies and 2.7 images each)")
    image_size: int = option(128, "side of the PNG images, in pixels")


@dataclasses.dataclass
class RecipeConfig(Section):
    """Which of an archive's images and reports become pairs."""

    preset: str = option("frontal_image", "declared recipe that the fields below change; 'relink cohort report' lists them with their counts")
    views: tuple[str, ...] = option((PRESET,), f"views kept, of {', '.join(VIEWS)}; 'preset' for the preset's")
    text_field: str = option(PRESET, f"report text used: {', '.join(TEXT_FIELDS)}; 'preset' for the preset's")
    min_words: int = option(-1, "least words of a text; -1 for the preset's")
    max_words: int = option(-1, "most words of a text, 0 for no limit; -1 for the preset's")
    images: str = option(PRESET, "images of a study: all or first; 'preset' for the preset's")
    deduplicate: str = option(PRESET, "none, or text: one study of all that have one text; 'preset' for the preset's")
    split: str = option(PRESET, "source: the archive's own; hash: patients by keyed hash; none: all are audited; 'preset' for the preset's")
    train_share: float = option(-1.0, "with split hash, share of patients in training, in [0, 1]; -1 for the preset's")
    validate_share: float = option(-1.0, "with split hash, share of patients in validation; the rest is audited; -1 for the preset's")
    split_seed: str = option("", "with split hash, public words that the hash is keyed by: the same words give the same split anywhere; empty for the preset's")
    mask_placeholders: bool = option(False, "leave out de-identification marks (___, XXXX), dates, accession lines and times of wet reads")


@dataclasses.dataclass
class MimicCxrConfig(Section):
    """MIMIC-CXR-JPG 2.1.0 beside the reports of MIMIC-CXR."""

    images: str = option("", "root of MIMIC-CXR-JPG: the directory with files/ and the tables (or of MIMIC-CXR's DICOM tree, with the tables beside it)")
    reports: str = option("", "root of the reports: the directory with files/, or mimic-cxr-reports.zip")
    labels: str = option("chexpert", "label table: chexpert, negbio or radiologist")


@dataclasses.dataclass
class ChexpertPlusConfig(Section):
    """CheXpert Plus."""

    table: str = option("", "df_chexpert_plus_240401.csv, or the same as Parquet")
    images: str = option("", "root of the PNG or DICOM tree, or of CheXpert v1.0's JPEG tree")
    labels: str = option("", "directory chexbert_labels; empty for no labels")
    label_source: str = option("report", "what the labels were read from: report, findings or impression")


@dataclasses.dataclass
class OpeniConfig(Section):
    """Indiana University chest X-rays of Open-I."""

    reports: str = option("", "directory ecgen-radiology of XML reports, or the directory of Kaggle's two tables")
    images: str = option("", "directory of PNG images")


@dataclasses.dataclass
class RexgradientConfig(Section):
    """ReXGradient-160K."""

    metadata: str = option("", "directory of the three metadata JSON files")
    images: str = option("", "root of the PNG images")


@dataclasses.dataclass
class PadchestConfig(Section):
    """PadChest; its reports are Spanish, stemmed and without stop words."""

    table: str = option("", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, gzipped or not")
    images: str = option("", "root of the 16-bit PNG images")


@dataclasses.dataclass
class CohortConfig(Section):
    """Which pairs are audited and where they come from."""

    name: str = option("", "name of the cohort on the page and in results files; empty takes the source's, or the table's file name")
    source: str = option(
        "phantom", f"'phantom' generates synthetic data; 'table' reads your own pairs table; or {', '.join(ARCHIVES)}; several joined by '{JOIN}'"
    )
    table: str = option("", "path of the pairs table (CSV or Parquet) when source is 'table'")
    image_root: str = option("", "directory that image_path in the table is relative to")
    facts: tuple[str, ...] = option(
        ("",), "further columns of the pairs table that the audit groups studies by, such as ward or scanner; categories, never texts; empty for none"
    )
    max_missing_share: float = option(0.0, "share of image files that may be missing before it is an error, in [0, 1)")
    burned_in: str = option("keep", "DICOM images that say they have text burned in: keep (counted), or refuse")
    records: bool = option(True, "embed from the records that 'relink cohort build' made, where there are some, instead of the loose files")
    recipe: RecipeConfig = option(RecipeConfig, "which images and reports become pairs")
    mimic_cxr: MimicCxrConfig = option(MimicCxrConfig, "MIMIC-CXR")
    chexpert_plus: ChexpertPlusConfig = option(ChexpertPlusConfig, "CheXpert Plus")
    openi: OpeniConfig = option(OpeniConfig, "Open-I")
    rexgradient: RexgradientConfig = option(RexgradientConfig, "ReXGradient-160K")
    padchest: PadchestConfig = option(PadchestConfig, "PadChest")
    phantom: PhantomConfig = option(PhantomConfig, "the synthetic generator")

    @property
    def sources(self) -> tuple[str, ...]:
        """The archives whose pairs are joined."""
        return tuple(part.strip() for part in self.source.split(JOIN))

    @property
    def fact_columns(self) -> tuple[str, ...]:
        """The columns named in `facts`."""
        return tuple(name for name in self.facts if name)

    def validate(self) -> None:
        """Checks the choices; raises `UsageError` naming the first wrong field."""
        for one in self.sources:
            check_choice("cohort.source", one, SOURCES)
        if len(set(self.sources)) != len(self.sources) or (len(self.sources) > 1 and "phantom" in self.sources):
            raise errors.UsageError(
                errors.describe("sources", "config field 'cohort.source'", "different archives or a table, or phantom alone", repr(self.source))
            )
        recipe = self.recipe
        for view in recipe.views:
            check_choice("cohort.recipe.views", view, (PRESET, *VIEWS) if len(recipe.views) == 1 else VIEWS)
        for field, known in (("text_field", TEXT_FIELDS), ("images", IMAGES), ("deduplicate", DEDUPLICATE), ("split", SPLITTING)):
            check_choice(f"cohort.recipe.{field}", getattr(recipe, field), (PRESET, *known))
        check_choice("cohort.burned_in", self.burned_in, ("keep", "refuse"))
        check_choice("cohort.mimic_cxr.labels", self.mimic_cxr.labels, ("chexpert", "negbio", "radiologist"))
        check_choice("cohort.chexpert_plus.label_source", self.chexpert_plus.label_source, ("report", "findings", "impression"))
        self._check_facts()
        for path, value in self._needed():
            if not value:
                raise errors.UsageError(errors.describe("place missing", f"config field {path!r}", "the path of a file or directory", "''"))

    def _check_facts(self) -> None:
        named, where = self.fact_columns, "config field 'cohort.facts'"
        if named and "table" not in self.sources:
            raise errors.UsageError(errors.describe("facts", where, "a source 'table', whose columns they are", repr(self.source)))
        for name in named:
            if name in NO_FACTS or named.count(name) > 1 or len(name) > 64 or not name.isprintable():
                expected = "columns of categories, each once: no identifier, text, path or date, nor the name of a fact or stratum that there is anyway"
                raise errors.UsageError(errors.describe("fact", where, expected, repr(name[:64])))

    def _needed(self) -> Iterator[tuple[str, str]]:
        """Yields (field path, value) of the paths that the chosen sources cannot do without."""
        for source in self.sources:
            if source == "table":
                yield "cohort.table", self.table
            elif source in ARCHIVES:
                for field, value in vars(getattr(self, source)).items():
                    if field in ("images", "reports", "table", "metadata"):
                        yield f"cohort.{source}.{field}", value


def paths() -> tuple[str, ...]:
    """Returns the fields that hold paths, as dotted paths from the run."""
    inner = [
        f"cohort.{archive}.{field}"
        for archive in ARCHIVES
        for field in ("images", "reports", "table", "metadata", "labels")
        if hasattr(getattr(CohortConfig(), archive), field) and (archive, field) != ("mimic_cxr", "labels")
    ]
    return ("cohort.table", "cohort.image_root", *inner)
