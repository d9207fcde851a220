"""ReXGradient-160K: its three files as rows, in both places its images may lie, and what is told when a field is otherwise."""

import pytest
from archive_checks import refused, rows_of, rows_or_none, write_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relink_jax.cohort import rexgradient


def study(patient, views, **fields):
    """One study with an image per view, as the files have them."""
    paths = [f"../deid_png/{patient}/studies/1/series/1/instances/{number}.png" for number in range(len(views))]
    basic = {"PatientID": patient, "ImagePath": paths, "ImageViewPosition": views, "Indication": "Cough.", "Comparison": "None"}
    return basic | {"Findings": "Clear\nlungs.", "Impression": "Normal.", "PatientAge": "045Y", "PatientSex": "F", "StudyDate": "20200101"} | fields


def tree(tmp_path):
    parts = {
        "train": {"P1_A1": study("P1", ["PA", "LATERAL"]), "P1_A2": study("P1", ["POSTERO_ANTERIOR"], Findings=None, Impression="Two.", StudyDate=20210203)},
        "valid": {"P2_A3": study("P2", ["ANTERO_POSTERIOR", "AP (KUB)", "ll"], Findings=float("nan"), Impression="None"), "P3_A4": study("P3", [])},
        "test": {"P4_A5": study("P4", [None, "UNKNOWN", "DECUBITUS"], Findings="F.", Impression=None, Indication="", PatientSex=None)},
    }
    for part, studies in parts.items():
        write_json(tmp_path / "metadata" / f"{part}_metadata_view_position.json", studies)
    return tmp_path / "metadata"


def expected(patient, key, number, view, split, **cells):
    part = {"train": "train", "validate": "valid", "test": "test"}[split]
    image = f"deid_png/{patient}/studies/1/series/1/instances/{number}.png"
    row = {"image_path": image.removeprefix("deid_png/"), "image_id": image, "patient_id": patient, "study_id": key, "report_id": key, "split": split}
    row |= {"origin": f"rexgradient/{part}", "site": "ReXGradient", "age_years": "045Y", "study_date": "20200101", "sex": "F"}
    return row | ({"view": view} if view else {}) | cells


def test_every_oddity_gives_its_row(tmp_path):
    pairs = rexgradient.read(tree(tmp_path), tmp_path / "deid_png")
    one = {"findings": "Clear\nlungs.", "impression": "Normal.", "labelled_text": "Normal."}
    one["report_text"] = "INDICATION: Cough.\nFINDINGS: Clear\nlungs.\nIMPRESSION: Normal."
    two = {"impression": "Two.", "labelled_text": "Two.", "report_text": "INDICATION: Cough.\nIMPRESSION: Two.", "study_date": "20210203"}
    five = {"findings": "F.", "labelled_text": "F.", "report_text": "FINDINGS: F."}
    rows = [
        expected("P1", "P1_A1", 0, "PA", "train", **one),
        expected("P1", "P1_A1", 1, "LATERAL", "train", **one),
        expected("P1", "P1_A2", 0, "PA", "train", **two),
        *(expected("P2", "P2_A3", number, view, "validate", report_text="INDICATION: Cough.") for number, view in enumerate(("AP", "AP", "LATERAL"))),
        *(expected("P4", "P4_A5", number, view, "test", **five) for number, view in enumerate(("", "", "OTHER"))),
    ]
    rows[6:] = [{name: cell for name, cell in row.items() if name != "sex"} for row in rows[6:]]
    assert rows_of(pairs) == rows
    assert pairs.counts == {"archive_studies": 5, "studies_without_image": 1, "views_unknown": 2, "views_other": 1, "rows_read": 9}
    assert rexgradient.read(tmp_path, tmp_path / "deid_png").columns == pairs.columns


def test_images_are_found_from_above_their_folder_too(tmp_path):
    (tmp_path / "deid_png").mkdir()
    pairs = rexgradient.read(tree(tmp_path), tmp_path)
    assert pairs.columns["image_path"] == pairs.columns["image_id"]


def test_a_part_that_is_not_there_is_counted(tmp_path):
    folder = tree(tmp_path)
    (folder / "train_metadata_view_position.json").unlink()
    pairs = rexgradient.read(folder, tmp_path)
    assert (set(pairs.columns["split"]), pairs.counts["absent_part_train"]) == ({"validate", "test"}, 1)


WHERE = "study 2 of 'test_metadata_view_position.json'"


@pytest.mark.parametrize(
    ("fields", "drop", "message"),
    [
        ({}, "ImagePath", f"field 'ImagePath' in {WHERE}: expected it among the study's fields, found no such field"),
        ({"Finding": ""}, "Findings", f"field 'Findings' in {WHERE}: expected it among the study's fields, found no such field; did you mean 'Finding'?"),
        ({}, "PatientID", f"field 'PatientID' in {WHERE}: expected it among the study's fields, found no such field"),
        ({"ImageViewPosition": ["PA"]}, "", f"ImageViewPosition in {WHERE}: expected 2 entries, one for each ImagePath, found 1"),
        ({"ImagePath": "P9.png"}, "", f"field 'ImagePath' in {WHERE}: expected a list of texts, found another JSON value"),
        ({"ImageViewPosition": ["PA", 3]}, "", f"field 'ImageViewPosition' in {WHERE}: expected a list of texts, found another JSON value"),
        ({"Impression": {"P9": 1}}, "", f"field 'Impression' in {WHERE}: expected text, found another JSON value"),
    ],
)
def test_other_fields_are_told_by_study(tmp_path, fields, drop, message):
    bad = {name: value for name, value in (study("P9", ["PA", "AP"]) | fields).items() if name != drop}
    write_json(tmp_path / "test_metadata_view_position.json", {"P8_A": study("P8", ["PA"]), "P9_B": bad})
    assert refused(lambda: rexgradient.read(tmp_path, tmp_path), "P9", tmp_path) == message


def test_other_files_are_told(tmp_path):
    assert refused(lambda: rexgradient.read(tmp_path, tmp_path)).startswith("studies in ReXGradient metadata: expected train_metadata_view_position.json, ")
    path = tmp_path / "valid_metadata_view_position.json"
    for content in ("[]", "{", "[" * 100_000, '{"P1_A": 3}'):
        path.write_text(content)
        assert "valid_metadata_view_position.json" in refused(lambda: rexgradient.read(tmp_path, tmp_path), "P1", tmp_path)
    path.write_bytes(b'{"\xff": 1}')
    assert "expected one JSON object in UTF-8" in refused(lambda: rexgradient.read(tmp_path, tmp_path))


VALUES = st.one_of(st.none(), st.text(max_size=4), st.lists(st.text(max_size=4), max_size=2), st.floats(), st.booleans(), st.just({}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*study("P", [])]), VALUES, max_size=4))
def test_any_fields_give_rows_or_one_sentence(tmp_path, fields):
    write_json(tmp_path / "test_metadata_view_position.json", {"P1_A": study("P1", ["PA", "AP"]) | fields})
    pairs = rows_or_none(lambda: rexgradient.read(tmp_path, tmp_path))
    assert pairs is None or len(pairs) > 0
