"""MIMIC-CXR as published, with every oddity: the exact rows, the counts, and one sentence for each way a tree can be wrong."""

import random

import pytest
from mimic_tree import HEAD, dicom, odd_tree, put_table, put_zip

from relink_jax import errors
from relink_jax.cohort import mimic_cxr, mimic_cxr_tables, sections_fixed
from relink_jax.cohort.schema import LABELS

METADATA, SPLIT, CHEXPERT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-chexpert.csv"
CLEAR = {"No Finding": "1", "Lung Opacity": "0"}
NORMAL = ("Clear lungs.", "No acute process.", "No acute process.")
NONE = ("", "", "")
# view, split, study_order, study_date, (findings, impression, labelled_text), labels of each image of odd_tree(), whose ids and folders come from there
EXPECTED = [
    ("PA", "train", "1", "21800506", ("Small left\n effusion.", "Effusion.", "Effusion."), {"Pleural Effusion": "1", "Pneumonia": "-1", "Edema": "0"}),
    ("AP", "train", "1", "21800506", ("Small left\n effusion.", "Effusion.", "Effusion."), {"Pleural Effusion": "1", "Pneumonia": "-1", "Edema": "0"}),
    ("LATERAL", "train", "1", "21800506", ("Small left\n effusion.", "Effusion.", "Effusion."), {"Pleural Effusion": "1", "Pneumonia": "-1", "Edema": "0"}),
    ("LATERAL", "train", "2", "21800506", ("Lateral view is clear.", "", "Lateral view is clear."), {"No Finding": "1"}),
    ("OTHER", "train", "0", "21791231", ("", "Decubitus view.", "Decubitus view."), {"Fracture": "1"}),
    ("PA", "validate", "0", "21500101", ("Mild edema.", "", "Mild edema."), CLEAR),
    ("", "validate", "0", "21500101", NONE, {}),
    ("AP", "test", "0", "21330303", NONE, CLEAR),
    ("PA", "test", "", "", ("Between.", "Second.", "Second."), CLEAR),
    ("OTHER", "train", "0", "21600101", ("", "Right effusion.", "Right effusion."), {}),
    ("OTHER", "train", "1", "21600102", ("", "", "Line in place.\n \n No leak."), {}),
    ("PA", "train", "0", "21400101", ("", "", "Unchanged since ___."), {}),
    ("PA", "train", "1", "21410101", NONE, {}),
    ("PA", "train", "2", "21420101", NORMAL, CLEAR),
    ("PA", "train", "0", "21400101", NORMAL, CLEAR),
    ("AP", "train", "1", "21400201", NORMAL, CLEAR),
]
COUNTS = {
    **{
        "archive_images": 16,
        "archive_studies": 14,
        "archive_patients": 6,
        "images_as_dicom": 0,
        "view_from_code": 1,
        "view_unknown": 1,
        "view_turned": 1,
        "view_unlisted": 1,
    },
    **{"studies_without_time": 1, "studies_with_time_of_another": 1, "studies_not_in_label_table": 4, "studies_labelled_blank": 1},
    **{"labelled_studies_without_images": 1, "reports_missing": 1, "reports_hand_fixed": 0, "reports_without_conclusion": 2},
    **{"reports_without_findings_or_impression": 4},
}


def rows_of(pairs):
    return [dict(zip(pairs.columns, row, strict=True)) for row in zip(*pairs.columns.values(), strict=True)]


@pytest.mark.parametrize(("compressed", "zipped"), [(True, False), (False, False), (True, True)])
def test_every_row_is_the_expected_one(tmp_path, compressed, zipped):
    tree = odd_tree()
    pairs = mimic_cxr.read(*tree.write(tmp_path, compressed=compressed, zipped=zipped))
    rows = rows_of(pairs)
    assert len(rows) == len(pairs) == len(tree.images)
    for number, (row, expected) in enumerate(zip(rows, EXPECTED, strict=True)):
        study, patient = map(str, tree.images[number][:2])
        text = tree.reports.get(int(study), "").strip().replace("\r\n", "\n")
        view, split, order, date, (findings, impression, labelled), labels = expected
        assert row == {
            "image_path": f"files/p{patient[:2]}/p{patient}/s{study}/{dicom(number)}.jpg",
            **{"image_id": dicom(number), "patient_id": patient, "study_id": study, "report_id": study, "view": view, "split": split},
            **{"origin": f"mimic-cxr/{split}", "site": "MIMIC-CXR", "study_order": order, "study_date": date, "report_text": text},
            **{"findings": findings, "impression": impression, "labelled_text": labelled, "label_source": "chexpert" if labels else ""},
            **{label: labels.get(label, "") for label in LABELS},
        }
    assert pairs.counts == COUNTS


def test_radiologists_labels_have_their_own_spelling_and_order(tmp_path):
    pairs = mimic_cxr.read(*odd_tree().write(tmp_path), labels="radiologist")
    by_study = {row["study_id"]: row for row in rows_of(pairs)}
    assert {label: by_study["50000006"][label] for label in LABELS} == {label: {"No Finding": "-1", "Lung Opacity": "1"}.get(label, "") for label in LABELS}
    assert [study for study, row in by_study.items() if row["label_source"]] == ["50000006"]
    assert (pairs.counts["studies_labelled_blank"], pairs.counts["studies_not_in_label_table"]) == (1, 12)


@pytest.mark.parametrize("form", [".dcm", ".dcm.gz"])
def test_a_dicom_tree_is_told_by_its_files(tmp_path, form):
    tree = odd_tree()
    images, texts = tree.write(tmp_path, form=form)
    (images / tree.image_name(0, form)).unlink()
    pairs = mimic_cxr.read(images, texts)
    assert pairs.columns["image_path"] == [tree.image_name(number, form) for number in range(len(tree.images))]
    assert pairs.counts["images_as_dicom"] == len(tree.images)


def test_reports_may_be_named_by_root_folder_or_zip(tmp_path):
    tree = odd_tree()
    images, texts = tree.write(tmp_path)
    expected = mimic_cxr.read(images, texts).columns
    put_zip(tmp_path / "renamed.zip", {f"release/{tree.report_name(study)}": text for study, text in tree.reports.items()})
    (tmp_path / "linked").symlink_to(texts)
    for place in (texts / "files", tmp_path / "renamed.zip", tmp_path / "linked"):
        assert mimic_cxr.read(images, place).columns == expected


def test_one_text_is_one_string_however_many_images_have_it(tmp_path):
    columns = mimic_cxr.read(*odd_tree().write(tmp_path)).columns
    assert len({id(cell) for cell in columns["report_text"][:3]}) == 1
    assert columns["labelled_text"][0] is columns["impression"][0]
    assert columns["patient_id"][0] is columns["patient_id"][4]


def test_hand_fixed_studies_are_read_by_number(tmp_path):
    tree = odd_tree()
    span, under, silent = next(iter(sections_fixed.SPANS)), sections_fixed.UNDER_OTHER_HEADERS["technique"][0], sections_fixed.NOTHING_SAID[0]
    text = HEAD + " TECHNIQUE:  Said here.\n \n IMPRESSION:  Not this.\n" + " And more words.\n" * 30
    for study in (span, under, silent):
        tree.images.append((study, 13000006, "PA", "", "21450101", "1.0", "train"))
        tree.reports[study] = text
    pairs = mimic_cxr.read(*tree.write(tmp_path))
    first, last = sections_fixed.SPANS[span]
    assert pairs.columns["labelled_text"][-3:] == [text[first:last].strip(), "Said here.", ""]
    assert pairs.columns["impression"][-3:] == ["", "", ""]
    assert pairs.counts["reports_hand_fixed"] == 3


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("80556.875", 29156.875), ("0.0", 0), ("46.0", 46), ("46", 46), ("101.5", 61.5), ("235959.999", 86399.999), ("000001", 1)],
)
def test_study_times_have_no_leading_zeros(time, seconds):
    when = mimic_cxr_tables.moment("21800506", time, "table", 0)
    assert (when.hour * 3600 + when.minute * 60 + when.second + when.microsecond / 1e6) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("cell", ["240000.0", "6060.0", "1e5", "-1.0", "1234567", "12:00:00", "noon", "1.0.0", "٤٦"])
def test_other_times_are_refused(cell):
    with pytest.raises(errors.DataError, match=r"table, data row 3, column 'StudyDate'") as caught:
        mimic_cxr_tables.moment("21800506", cell, "table", 2)
    assert cell not in str(caught.value)


def changed(rows, row, column, value):
    rows[row][rows[0].index(column)] = value


BAD = [
    (METADATA, lambda rows: changed(rows, 4, "study_id", "50000001.0"), "'mimic-cxr-2.0.0-metadata.csv', data row 4, column 'study_id'"),
    (METADATA, lambda rows: changed(rows, 4, "subject_id", "../../10"), "'mimic-cxr-2.0.0-metadata.csv', data row 4, column 'subject_id'"),
    (METADATA, lambda rows: changed(rows, 2, "dicom_id", dicom(0)), "data row 2: expected every image once, found the image of data row 1"),
    (METADATA, lambda rows: changed(rows, 3, "StudyTime", "998877"), "'mimic-cxr-2.0.0-metadata.csv', data row 3, column 'StudyDate'"),
    (METADATA, lambda rows: rows.pop(5), "'mimic-cxr-2.0.0-split.csv', data row 12: expected a row of the same image in 'mimic-cxr-2.0.0-metadata.csv'"),
    (METADATA, lambda rows: rows[3].pop(), "data row 3: expected 12, found 11"),
    (METADATA, lambda rows: changed(rows, 0, "ViewPosition", "View"), "column 'ViewPosition'"),
    (METADATA, lambda rows: rows.__delitem__(slice(1, None)), "at least one data row"),
    (SPLIT, lambda rows: rows.pop(1), "'mimic-cxr-2.0.0-metadata.csv', data row 16: expected a row of the same image in 'mimic-cxr-2.0.0-split.csv'"),
    (SPLIT, lambda rows: changed(rows, 2, "split", "val"), "'mimic-cxr-2.0.0-split.csv', data row 2, column 'split'"),
    (SPLIT, lambda rows: changed(rows, 2, "subject_id", "10000001"), "data row 2: expected the study and patient of data row 15"),
    (CHEXPERT, lambda rows: changed(rows, 2, "Edema", "yes"), "'mimic-cxr-2.0.0-chexpert.csv', data row 2, column 'Edema'"),
    (CHEXPERT, lambda rows: changed(rows, 0, "Edema", "edema"), "column 'Edema'"),
    (CHEXPERT, lambda rows: changed(rows, 0, "Edema", "Airspace Opacity"), "column 'Lung Opacity' twice"),
    (CHEXPERT, lambda rows: rows.append(list(rows[1])), "data row 12: expected every study once, found the study of data row 1"),
]


@pytest.mark.parametrize(("name", "spoil", "said"), BAD, ids=range(len(BAD)))
def test_a_wrong_table_is_told_in_one_sentence(tmp_path, name, spoil, said):
    tree = odd_tree()
    images, texts = tree.write(tmp_path, compressed=False)
    rows = tree.tables()[name]
    spoil(rows)
    put_table(images, name, rows, False)
    with pytest.raises(errors.DataError) as caught:
        mimic_cxr.read(images, texts)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert not any(secret in message for secret in (str(tmp_path), "5000", "1000", dicom(0)[:8], "yes", "998877"))


@pytest.mark.parametrize("name", [METADATA, SPLIT, CHEXPERT])
def test_a_missing_table_is_named(tmp_path, name):
    images, texts = odd_tree().write(tmp_path)
    (images / f"{name}.gz").unlink()
    with pytest.raises(errors.DataError, match=f"table missing in MIMIC-CXR table '{name}'"):
        mimic_cxr.read(images, texts)


def test_a_root_without_any_report_is_refused(tmp_path):
    images, _ = odd_tree().write(tmp_path)
    for place in (images, tmp_path / "nowhere"):
        with pytest.raises(errors.DataError, match=r"files/p1x/p1xxxxxxx/s5xxxxxxx\.txt"):
            mimic_cxr.read(images, place)


def test_a_report_of_other_bytes_is_told_by_its_row(tmp_path):
    tree = odd_tree()
    images, texts = tree.write(tmp_path)
    (texts / tree.report_name(50000004)).write_bytes(b"\xff\xfe secret")
    with pytest.raises(errors.DataError, match="report of data row 6: expected UTF-8 text"):
        mimic_cxr.read(images, texts)


def test_any_changed_cell_is_read_or_told_in_one_sentence(tmp_path):
    tree, rng, refused = odd_tree(), random.Random(7), 0
    images, texts = tree.write(tmp_path, compressed=False)
    cells = (
        "",
        "0",
        "nan",
        "-1.0",
        "1.0",
        "train",
        "PA",
        "21800506",
        "5" * 8,
        "CANARY",
        "../CANARY",
        "=CANARY()",
        "\x00CANARY",
        "1" * 400,
        "5000000\u0663",
        "\nCANARY",
    )
    for _ in range(80):
        name = rng.choice((METADATA, SPLIT, CHEXPERT))
        rows = tree.tables()[name]
        rng.choice(rows)[rng.randrange(len(rows[0]))] = rng.choice(cells)
        put_table(images, name, rows, False)
        try:
            pairs = mimic_cxr.read(images, texts)
        except errors.DataError as error:
            refused += 1
            told = str(error)
            assert "CANARY" not in told and "\n" not in told and str(tmp_path) not in told  # noqa: PT018
        else:
            assert len({len(column) for column in pairs.columns.values()}) == 1
            assert len(pairs) == len(tree.images)
        put_table(images, name, tree.tables()[name], False)
    assert 15 < refused < 80


def test_unknown_labels_are_refused(tmp_path):
    with pytest.raises(errors.UsageError, match="did you mean 'chexpert'"):
        mimic_cxr.read(tmp_path, tmp_path, labels="chexprt")
