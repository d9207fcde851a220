"""A hand-written MIMIC-CXR tree with the oddities of the published one, made without the layout writer."""

import csv
import dataclasses
import gzip
import hashlib
import io
import pathlib
import zipfile

HEAD = "                                 FINAL REPORT\n"
NORMAL = HEAD + " FINDINGS:  Clear lungs.\n \n IMPRESSION:  No acute process.\n"
ALPHABETICAL = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion", "Lung Opacity", "No Finding"),
    *("Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
)


def dicom(number: int) -> str:
    """Returns the dicom_id of image `number`."""
    digest = hashlib.sha1(str(number).encode()).hexdigest()
    return "-".join(digest[i : i + 8] for i in range(0, 40, 8))


@dataclasses.dataclass
class Tree:
    """Rows (study, patient, ViewPosition, ViewCode, date, time, split), reports and label cells by study; `write` lays them out."""

    images: list[tuple[int, int, str, str, str, str, str]]
    reports: dict[int, str]
    chexpert: dict[int, dict[str, str]]
    radiologist: dict[int, dict[str, str]]

    def patient(self, study: int) -> int:
        return next((row[1] for row in self.images if row[0] == study), 10000099)

    def report_name(self, study: int) -> str:
        patient = str(self.patient(study))
        return f"files/p{patient[:2]}/p{patient}/s{study}.txt"

    def image_name(self, number: int, form: str = ".jpg") -> str:
        study, patient = self.images[number][:2]
        return f"files/p{str(patient)[:2]}/p{patient}/s{study}/{dicom(number)}{form}"

    def tables(self) -> dict[str, list[list[str]]]:
        """Returns each table's lines, header first, in the published order of columns."""
        ids = [(dicom(number), str(row[1]), str(row[0])) for number, row in enumerate(self.images)]
        head = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning"
        metadata = [[*head.split(","), "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning"]]
        metadata += [
            [*name, "CHEST (PA AND LAT)", row[2], "3056", "2544", row[4], row[5], "CHEST, TWO VIEWS", row[3], "Erect"]
            for name, row in zip(ids, self.images, strict=True)
        ]
        split = [["dicom_id", "study_id", "subject_id", "split"]]
        split += [[name[0], name[2], name[1], row[6]] for name, row in zip(ids, self.images, strict=True)][::-1]
        labels = [["subject_id", "study_id", *ALPHABETICAL]]
        labels += [[str(self.patient(study)), str(study), *(cells.get(label, "") for label in ALPHABETICAL)] for study, cells in self.chexpert.items()]
        order = sorted(ALPHABETICAL, key=len)
        other = [["study_id", *({"Lung Opacity": "Airspace Opacity", "No Finding": "No Findings"}.get(label, label) for label in order)]]
        other += [[str(study), *(cells.get(label, "") for label in order)] for study, cells in self.radiologist.items()]
        return {
            "mimic-cxr-2.0.0-metadata.csv": metadata,
            "mimic-cxr-2.0.0-split.csv": split,
            "mimic-cxr-2.0.0-chexpert.csv": labels,
            "mimic-cxr-2.1.0-test-set-labeled.csv": other,
        }

    def write(self, root: pathlib.Path, *, compressed: bool = True, zipped: bool = False, form: str = ".jpg") -> tuple[pathlib.Path, pathlib.Path]:
        """Writes two roots and returns them; image files are empty. With `zipped` the reports lie in the zip only."""
        images, texts = root / "jpg", root / "reports"
        images.mkdir(parents=True)
        for name, rows in self.tables().items():
            put_table(images, name, rows, compressed and "test-set" not in name)
        for number in range(len(self.images)):
            path = images / self.image_name(number, form)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        texts.mkdir()
        if zipped:
            put_zip(texts / "mimic-cxr-reports.zip", {self.report_name(study): text for study, text in self.reports.items()})
            return images, texts
        for study, text in self.reports.items():
            path = texts / self.report_name(study)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return images, texts


def put_table(folder: pathlib.Path, name: str, rows: list[list[str]], compressed: bool) -> None:
    """Writes a table as `name`, or gzipped as `name`.gz, in place of either."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    for old in (folder / name, folder / f"{name}.gz"):
        old.unlink(missing_ok=True)
    content = stream.getvalue().encode()
    (folder / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(content) if compressed else content)


def put_zip(path: pathlib.Path, members: dict[str, str]) -> None:
    """Writes a zip of text members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def odd_tree() -> Tree:
    """Returns the tree of every oddity: see the comments, one per study."""
    images = [
        (50000003, 10000001, "PA", "postero-anterior", "21800506", "80556.875", "train"),  # two frontals and a lateral, before ten in the morning
        (50000003, 10000001, "AP", "", "21800506", "80601.0", "train"),
        (50000003, 10000001, "LATERAL", "lateral", "21800506", "101500.5", "train"),  # the last image after the next study
        (50000001, 10000001, "LL", "", "21800506", "101500.0", "train"),  # one lateral only, later on the same day
        (50000002, 10000001, "AP LLD", "antero-posterior", "21791231", "46.0", "train"),  # turned, last year just after midnight
        (50000004, 10000002, "", "postero-anterior", "21500101", "120000.125", "validate"),  # blank view with a code
        (50000005, 10000002, "", "", "21500101", "120000.125", "validate"),  # no view at all, the moment of another study, no report file
        (50000006, 10000003, "AP", "", "21330303", "0.0", "test"),  # no headers
        (50000007, 10000003, "PA", "", "", "", "test"),  # impression twice; no date
        (50000008, 11000004, "LAO", "", "21600101", "235959.999", "train"),  # addendum first
        (50000009, 11000004, "ap", "", "21600102", "1.0", "train"),  # wet read; a view in small letters
        (50000010, 12000005, "PA", "", "21400101", "90000.0", "train"),  # comparison only; labelled all blank
        (50000011, 12000005, "PA", "", "21410101", "90000.0", "train"),  # all ___
        (50000012, 12000005, "PA", "", "21420101", "90000.0", "train"),  # the same normal report as 13 and 14
        (50000013, 13000006, "PA", "", "21400101", "90000.0", "train"),
        (50000014, 13000006, "AP", "", "21400201", "90000.0", "train"),
    ]
    reports = {
        50000003: HEAD + " EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n Small left\n effusion.\n \n IMPRESSION:  Effusion.\n",
        50000001: HEAD + " FINDINGS:  Lateral view is clear.\n",
        50000002: HEAD + " IMPRESSION:  Decubitus view.\r\n",
        50000004: HEAD + " INDICATION:  Cough.\n \n FINDINGS:  Mild edema.\n \n IMPRESSION: \n",
        50000006: "Clear lungs without a header.\n",
        50000007: HEAD + " IMPRESSION:  First.\n \n FINDINGS:  Between.\n \n IMPRESSION:  Second.\n",
        50000008: " ADDENDUM  Side corrected.\n ______________________\n" + HEAD + " IMPRESSION:  Right effusion.\n",
        50000009: " WET READ: ___ 4:00 PM\n  No pneumothorax. \n ______________________\n" + HEAD + " HISTORY:  Line.\n \n Line in place.\n \n No leak.\n",
        50000010: HEAD + " COMPARISON:  Unchanged since ___.\n",
        50000011: "___\n",
        **dict.fromkeys((50000012, 50000013, 50000014), NORMAL),
    }
    chexpert = {
        50000003: {"Pleural Effusion": "1.0", "Pneumonia": "-1.0", "Edema": "0.0"},
        50000001: {"No Finding": "1.0"},
        50000002: {"Fracture": "1"},
        50000010: {},
        **{study: {"No Finding": "1.0", "Lung Opacity": "0.0"} for study in (50000004, 50000006, 50000007, 50000012, 50000013, 50000014)},
        50000099: {"Edema": "1.0"},  # no image
    }
    return Tree(images, reports, chexpert, {50000006: {"No Finding": "-1.0", "Lung Opacity": "1.0"}, 50000007: {}})
