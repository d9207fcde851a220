"""The pairs table: what it reads, what it counts, and one sentence for each way it can be wrong."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import assemble, recipes, table
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.store import digests

KEY = bytes(32)
SECRETS = ("Q0077", "SECRET", "classified")


def base_rows():
    """Three patients, four studies, five images; study s3 is lateral only, s4 repeats the text of s1."""
    rows = []
    for image, study, patient, split, view, findings in (
        ("i1", "s1", "p1", "train", "PA", "Lungs are clear."),
        ("i2", "s1", "p1", "train", "LATERAL", "Lungs are clear."),
        ("i3", "s2", "p2", "test", "AP", "Mild  edema.\n"),
        ("i4", "s3", "p2", "test", "LATERAL", "Large effusion."),
        ("i5", "s4", "p3", "test", "PA", "Lungs  are clear. "),
    ):
        rows.append(
            {
                "image_path": f"im/{image}.png",
                "patient_id": f"00{patient}",
                "study_id": study,
                "image_id": image,
                "report_id": f"r{study}",
                "findings": findings,
                "impression": "Normal." if "clear" in findings else "",
                "view": view,
                "split": split,
                "pretrain_exposure": "unseen",
                "site": "A",
                "label_source": "chexpert",
                **dict.fromkeys(LABELS, ""),
            }
        )
    rows[2]["Edema"], rows[2]["Pneumonia"], rows[2]["Fracture"] = "1", "-1", "0.0"
    rows[4]["label_source"] = ""
    return rows


def written(directory, rows, name="pairs.csv", files=True):
    for row in rows if files else ():
        path = directory / row["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    path = directory / name
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def read(path, *, key=KEY, name="test", synthetic=False, max_missing_share=0.0, **changes):
    recipe = recipes.Recipe(**{"views": ("PA", "AP")} | changes)
    return assemble.assemble([table.read(path, path.parent)], recipe, key=key, name=name, synthetic=synthetic, max_missing_share=max_missing_share)


def test_reads_the_four_key_spaces(tmp_path):
    cohort = read(written(tmp_path, base_rows()))
    assert cohort.image_path.tolist() == ["im/i1.png", "im/i3.png", "im/i5.png"]
    assert cohort.image_study.tolist() == [0, 1, 2]
    assert cohort.study_patient.tolist() == [0, 1, 2]
    assert cohort.study_split.tolist() == ["train", "test", "test"]
    assert cohort.text == ["Lungs are clear. Normal.", "Mild edema."]
    assert cohort.study_text.tolist() == [0, 1, 0]
    assert cohort.study_has_labels.tolist() == [True, True, False]
    edema = dict(zip(LABELS, cohort.study_labels[1].tolist(), strict=True))
    assert (edema["Edema"], edema["Pneumonia"], edema["Fracture"], edema["Pneumothorax"]) == (1, -1, 0, BLANK)
    expected = {"rows_read": 5, "dropped_view": 2, "missing_files": 0, "empty_text": 0, "studies_without_labels": 1}
    assert cohort.counts == expected | {"images": 3, "studies": 3, "patients": 3, "unique_texts": 2}


def test_keys_are_keyed_and_hold_no_identifier(tmp_path):
    path = written(tmp_path, base_rows())
    cohort, other = read(path), read(path, key=bytes([1]) * 32)
    assert cohort.text_key[0] == digests.keyed(KEY, "Lungs are clear. Normal.")
    assert cohort.patient_key[0] == digests.keyed(KEY, "00p1")
    assert not set(cohort.study_key.tolist()) & set(other.study_key.tolist())
    assert cohort.digest() == other.digest()


def test_several_images_of_a_study_share_its_report(tmp_path):
    cohort = read(written(tmp_path, base_rows()), views=("PA", "AP", "LATERAL"))
    assert cohort.image_study.tolist() == [0, 0, 1, 2, 3]
    assert cohort.study_patient.tolist() == [0, 1, 1, 2]


def test_select_by_split_and_site(tmp_path):
    rows = base_rows()
    rows[4]["site"] = "B"
    cohort = read(written(tmp_path, rows))
    assert cohort.select("test").images.tolist() == [1, 2]
    assert cohort.select("test", "B").studies.tolist() == [2]
    assert cohort.select("validate").images.size == 0
    assert cohort.select().studies.tolist() == [0, 1, 2]
    with pytest.raises(errors.UsageError, match="did you mean 'validate'"):
        cohort.select("validat")
    with pytest.raises(errors.UsageError, match="one of its 2 sites"):
        cohort.select(None, "C")


def parquet_of(path, rows, **types):
    columns = {name: [row[name] or None for row in rows] for name in rows[0]}
    arrays = {
        name: pa.array([None if v is None else types[name][0](v) for v in values], types[name][1]) if name in types else values
        for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), path)
    return path


def test_csv_and_parquet_give_the_same_cohort(tmp_path):
    rows = base_rows()
    path = written(tmp_path, rows)
    plain = read(parquet_of(tmp_path / "plain.parquet", rows))
    numeric = read(parquet_of(tmp_path / "numeric.parquet", rows, **{label: (float, pa.float64()) for label in LABELS}))
    assert read(path).digest() == plain.digest() == numeric.digest()
    assert read(path).patient_key.tolist() == plain.patient_key.tolist()


def test_nan_labels_are_blank(tmp_path):
    rows = base_rows()
    written(tmp_path, rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"Edema": [float("nan")] * 2 + [1.0] + [float("nan")] * 2}
    pq.write_table(pa.table(columns), tmp_path / "nan.parquet")
    cohort = read(tmp_path / "nan.parquet")
    assert cohort.study_labels[:, LABELS.index("Edema")].tolist() == [BLANK, 1, BLANK]


def test_fractional_identifiers_are_refused(tmp_path):
    rows = base_rows()
    for number, row in enumerate(rows):
        row["patient_id"] = str(number // 2)
    path = parquet_of(tmp_path / "x.parquet", rows, patient_id=(float, pa.float64()))
    with pytest.raises(errors.DataError, match=r"type of column 'patient_id'.*expected strings or integers, found double"):
        read(path)


@pytest.mark.parametrize(("field", "texts"), [("findings", ["Lungs are clear.", "Mild edema."]), ("impression", ["Normal."])])
def test_text_field(tmp_path, field, texts):
    cohort = read(written(tmp_path, base_rows()), text_field=field)
    assert cohort.text == texts
    assert cohort.counts["empty_text"] == (1 if field == "impression" else 0)


def without(rows, *names, **extra):
    return [{k: v for k, v in row.items() if k not in names} | {k: f(row) for k, f in extra.items()} for row in rows]


def test_report_text_stands_in_for_sections(tmp_path):
    rows = without(base_rows(), "findings", "impression", report_text=lambda row: row["findings"])
    assert read(written(tmp_path, rows)).text == ["Lungs are clear.", "Mild edema."]
    with pytest.raises(errors.DataError, match="expected a column 'findings', found only report_text"):
        read(written(tmp_path, rows), text_field="findings")


def test_report_path_is_read_beside_the_table(tmp_path):
    rows = without(base_rows(), "findings", "impression", report_path=lambda row: f"txt/{row['study_id']}.txt")
    (tmp_path / "txt").mkdir()
    for row, original in zip(rows, base_rows(), strict=True):
        (tmp_path / row["report_path"]).write_text(original["findings"])
    path = written(tmp_path, rows)
    cohort = read(path, text_field="report_text")
    assert cohort.text == ["Lungs are clear.", "Mild edema."]
    assert cohort.counts["missing_reports"] == 0
    (tmp_path / "txt" / "s2.txt").unlink()
    with pytest.raises(errors.DataError, match="1 of 3 missing, the first at data row 3"):
        read(path)
    assert read(path, max_missing_share=0.5).counts["missing_reports"] == 1
    (tmp_path / "txt" / "s2.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(errors.DataError, match="data row 3, column 'report_path': expected readable UTF-8 text"):
        read(path)


def test_optional_columns_may_be_absent(tmp_path):
    optional = ("image_id", "report_id", "view", "split", "pretrain_exposure", "site", "label_source", *LABELS)
    cohort = read(written(tmp_path, without(base_rows(), *optional)))
    assert len(cohort.image_key) == 5
    assert set(cohort.study_split) == {"test"}
    assert set(cohort.study_exposure) == {"unknown"}
    assert not cohort.study_has_labels.any()
    assert cohort.counts["unknown_view"] == 5


def test_label_spellings_of_other_files(tmp_path):
    rows = [{("Airspace Opacity" if k == "Lung Opacity" else k): v for k, v in row.items()} for row in base_rows()]
    rows[0]["Airspace Opacity"] = rows[1]["Airspace Opacity"] = "1.0"
    assert read(written(tmp_path, rows)).study_labels[0, LABELS.index("Lung Opacity")] == 1


def test_missing_files_are_counted_up_to_the_threshold(tmp_path):
    path = written(tmp_path, base_rows())
    (tmp_path / "im" / "i5.png").unlink()
    with pytest.raises(errors.DataError, match="missing share of at most 0, found 1 of 3 missing, the first at data row 5"):
        read(path)
    cohort = read(path, max_missing_share=0.4)
    assert cohort.counts["missing_files"] == 1
    assert len(cohort.image_key) == 2


def spoil(row=None, column=None, value=None, also=None, rename=None, repeat=None):
    def change(rows):
        if row is not None:
            rows[row] |= {column: value} | (also or {})
        if rename:
            rows = [{rename.get(k, k): v for k, v in r.items()} for r in rows]
        if repeat is not None:
            rows.append(dict(rows[repeat]))
        return rows

    return change


BAD = {
    "unknown label": (spoil(2, "Edema", "2"), ["unknown label value", "data row 3, column 'Edema'", "expected 1, 0, -1 or blank", "found another number"]),
    "label word": (spoil(2, "Edema", "SECRET"), ["data row 3, column 'Edema'", "a word of 6 characters"]),
    "unknown view": (spoil(1, "view", "SECRET"), ["data row 2, column 'view'", "PA, AP, FRONTAL, LATERAL, OTHER or blank"]),
    "unknown split": (spoil(1, "split", "val"), ["data row 2, column 'split'", "train, validate, test", "a word of 3 characters"]),
    "blank split": (spoil(1, "split", ""), ["data row 2, column 'split'", "found a blank"]),
    "unknown exposure": (spoil(0, "pretrain_exposure", "maybe"), ["data row 1, column 'pretrain_exposure'", "seen, unseen, unknown"]),
    "duplicate pair": (spoil(repeat=0), ["duplicate pair (image_id, report_id)", "data row 6", "the pair of data row 1"]),
    "study of two patients": (spoil(1, "patient_id", "Q0077"), ["study under two values of 'patient_id'", "data row 2", "one patient per study", "data row 1"]),
    "patient in two splits": (spoil(3, "split", "train"), ["patient under two values of 'split'", "data row 4", "one split per patient", "data row 3"]),
    "image of two files": (spoil(2, "image_id", "i1"), ["image under two values of 'image_path'", "data row 3", "one file per image"]),
    "image of two studies": (
        spoil(1, "study_id", "s9", also={"image_id": "i1", "image_path": "im/i1.png", "report_id": "r9"}),
        ["image under two values of 'study_id'"],
    ),
    "file under two ids": (spoil(4, "image_path", "im/i1.png"), ["image file under two values of 'image_id'", "data row 5"]),
    "two sites in a study": (spoil(1, "site", "B"), ["study under two values of 'site'", "data row 2"]),
    "two labels in a study": (spoil(1, "Edema", "1"), ["labels of one study", "data row 2", "data row 1"]),
    "blank patient": (spoil(3, "patient_id", " "), ["data row 4, column 'patient_id'", "expected a value, found a blank"]),
    "escaping path": (spoil(0, "image_path", "../SECRET.png"), ["data row 1, column 'image_path'", "one inside its root"]),
    "absolute path": (spoil(0, "image_path", "/etc/SECRET.png"), ["data row 1, column 'image_path'", "an absolute one"]),
    "missing column": (spoil(rename={"patient_id": "patientid"}), ["column 'patient_id'", "no such column", "did you mean 'patientid'?"]),
    "no text column": (spoil(rename={"findings": "finding", "impression": "impressions"}), ["report text", "none of them"]),
    "label in other case": (spoil(rename={"Pleural Effusion": "pleural_effusion"}), ["did you mean 'Pleural Effusion'?"]),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_tables_get_one_sentence(tmp_path, name):
    change, parts = BAD[name]
    rows = change(base_rows())
    path = written(tmp_path, rows, files=False)
    with pytest.raises(errors.DataError) as caught:
        read(path)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert not any(secret in message for secret in SECRETS)
    assert str(tmp_path) not in message
    assert "\n" not in message
    assert errors.DataError.exit_code == 65


def test_two_texts_in_one_study(tmp_path):
    rows = base_rows()
    rows[1]["findings"] = "classified"
    path = written(tmp_path, rows)
    with pytest.raises(errors.DataError, match=r"report text of one study in .*data row 2: expected the same in all its rows") as caught:
        read(path, views=("PA", "LATERAL"))
    assert "classified" not in str(caught.value)


def test_column_twice(tmp_path):
    path = written(tmp_path, base_rows())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("impression", "findings"), *lines[1:]]))
    with pytest.raises(errors.DataError, match="column 'findings' twice"):
        read(path)


def test_ragged_and_damaged_rows(tmp_path):
    path = tmp_path / "pairs.csv"
    header = "image_path,patient_id,study_id,report_text\n"
    path.write_text(header + "a.png,1,1,x\nb.png,2,2\n")
    with pytest.raises(errors.DataError, match=r"cells in pairs table 'pairs.csv', data row 2: expected 4, found 3"):
        read(path)
    path.write_text(header + 'a.png,1,1,"x\n')
    with pytest.raises(errors.DataError, match="damaged CSV"):
        read(path)
    path.write_bytes(header.encode() + b"a.png,1,1,\xff\xfe\n")
    with pytest.raises(errors.DataError, match="expected UTF-8"):
        read(path)
    path.write_text(header)
    with pytest.raises(errors.DataError, match="expected at least one data row, found none"):
        read(path)
    path.write_text("")
    with pytest.raises(errors.DataError, match="column 'image_path'"):
        read(path)


def test_damaged_parquet_and_other_formats(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(errors.DataError, match=r"damaged Parquet in pairs table 'x.parquet'"):
        read(tmp_path / "x.parquet")
    (tmp_path / "x.xlsx").write_bytes(b"")
    with pytest.raises(errors.DataError, match=r"a name ending in .csv or .parquet, found '.xlsx'"):
        read(tmp_path / "x.xlsx")
    with pytest.raises(errors.DataError, match="table missing"):
        read(tmp_path / "none.csv")


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(errors.DataError, match=r"at least one image with a report, found none of 5 rows .*5 dropped_view"):
        read(written(tmp_path, base_rows()), views=("OTHER",))


def test_unknown_options_suggest(tmp_path):
    path = written(tmp_path, base_rows())
    with pytest.raises(errors.UsageError, match="did you mean 'findings'"):
        read(path, text_field="finding")
    with pytest.raises(errors.UsageError, match="did you mean 'LATERAL'"):
        read(path, views=("LATERALL",))


def test_byte_order_mark_and_extra_columns(tmp_path):
    rows = [row | {"operator": "x"} for row in base_rows()]
    path = written(tmp_path, rows)
    marked = tmp_path / "marked.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(marked).digest() == read(path).digest()
