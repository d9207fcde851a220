"""PadChest: the published table of labels and reports as rows of pairs.

Its reports are Spanish, and stemmed with their stop words taken out: no natural text for a model trained on English reports,
so what an audit measures here says little of the linkage of real ones. `reports_in_stemmed_spanish` counts them. `Labels` are
terms of a tree of findings and diagnoses that were read in part by a machine; they are not mapped to the 14 findings.

Design note: the published table (01.02.19) gives one StudyID to two patients, so a study is the pair of PatientID and StudyID,
and has the word 'nan' in empty cells.
References: Bustos et al. (2020), doi 10.1016/j.media.2020.101797; bimcv.cipf.es/bimcv-projects/padchest.
"""

import pathlib
from collections import Counter
from collections.abc import Sequence

from relink_jax.cohort import published
from relink_jax.cohort.columns import is_file
from relink_jax.cohort.pairs import Pairs

NAME = "PadChest"
_COLUMNS = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("Projection", "ReportID", "Report"),
)
_VIEWS = {"PA": "PA", "L": "LATERAL", "AP": "AP", "AP_horizontal": "AP", "UNK": "", "": ""}


def read(table: pathlib.Path, images: pathlib.Path) -> Pairs:
    """Returns the rows of PadChest, in the order of its table.

    Views: PA; AP and AP_horizontal (lying) are AP; L is LATERAL; UNK is blank; COSTAL, EXCLUDE and whatever else are OTHER and counted. All
    is split 'test', as there is no official one. A study's rows carry the report of its first one; `studies_with_differing_texts`
    counts where that mattered, `reports_of_several_studies` the ReportIDs that stand for more than one study. The report has no
    sections: a recipe has to read `report_text`. `age_years` is the year of StudyDate_DICOM less that of PatientBirth.
    Args:
      table: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv or .csv.gz.
      images: directory of the images: in folders named as ImageDir says, or flat. The first image found decides.
    Raises: DataError: see `published.read_table`.
    """
    rows, images = published.read_table(table, _COLUMNS), pathlib.Path(images)
    rows = {name: ["" if cell == "nan" else cell for cell in cells] for name, cells in rows.items()}
    size = len(rows["ImageID"])
    nested = _nested(images, rows["ImageDir"], rows["ImageID"])
    shared: dict[str, str] = {}
    studies = [shared.setdefault(name, name) for name in map("/".join, zip(rows["PatientID"], rows["StudyID"], strict=True))]
    texts, differing = _first_texts(studies, rows["Report"])
    views = [_VIEWS.get(projection, "OTHER") for projection in rows["Projection"]]
    reports = Counter(report for report, _ in set(zip(rows["ReportID"], studies, strict=True)) if report)
    counts = {
        "rows_read": size,
        "reports_in_stemmed_spanish": len(shared),
        "reports_of_several_studies": sum(times > 1 for times in reports.values()),
        "studies_with_differing_texts": differing,
        "views_lying": rows["Projection"].count("AP_horizontal"),
        "views_other": views.count("OTHER"),
        "views_unknown": views.count(""),
    }
    columns = {
        "image_path": [_path(folder, image, nested) for folder, image in zip(rows["ImageDir"], rows["ImageID"], strict=True)],
        "image_id": rows["ImageID"],
        "patient_id": rows["PatientID"],
        "study_id": studies,
        "report_id": studies,
        "report_text": texts,
        "labelled_text": texts,
        "view": views,
        "split": ["test"] * size,
        "origin": ["padchest"] * size,
        "site": [NAME] * size,
        "study_date": rows["StudyDate_DICOM"],
        "age_years": [_age(date, birth) for date, birth in zip(rows["StudyDate_DICOM"], rows["PatientBirth"], strict=True)],
        "sex": rows["PatientSex_DICOM"],
    }
    return published.pairs(NAME, columns, images, counts)


def _nested(root: pathlib.Path, folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the first image found under `root` lies in the folder of its ImageDir; True when there is none."""
    if not root.is_dir():
        return True
    for folder, name in zip(folders, names, strict=True):
        for nested in (True, False):
            if name and is_file(root / _path(folder, name, nested)):
                return nested
    return True


def _path(folder: str, name: str, nested: bool) -> str:
    return f"{folder.removesuffix('.0')}/{name}" if nested and folder else name


def _first_texts(studies: Sequence[str], texts: Sequence[str]) -> tuple[list[str], int]:
    """Returns each row's study's first text, and how many studies have another one besides."""
    first: dict[str, str] = {}
    chosen = [first.setdefault(study, text) for study, text in zip(studies, texts, strict=True)]
    return chosen, len({study for study, text, taken in zip(studies, texts, chosen, strict=True) if text != taken})


def _age(date: str, birth: str) -> str:
    years = date[:4], birth.removesuffix(".0")
    return str(int(years[0]) - int(years[1])) if all(year.isdecimal() and len(year) == 4 for year in years) else ""
