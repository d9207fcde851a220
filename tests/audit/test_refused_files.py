"""Files of embeddings that could be read but must not be believed: one sentence each, and no identifier in it."""

import datetime
import decimal
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from test_importer import given, label_table, write_npy, write_npz, write_pairs, write_parquet

from relink_jax import errors
from relink_jax.audit import importer, inputs, strata
from relink_jax.cohort import columns, schema


def refused(root):
    with pytest.raises(errors.DataError) as caught:
        inputs.prepare(**importer.load_embeddings(root))
    message = str(caught.value)
    assert "\n" not in message
    assert "s00" not in message
    assert str(root.parent) not in message
    return message


def test_the_observations_are_those_of_the_cohort():
    assert strata.LABELS == schema.LABELS
    assert strata.ALIASES == columns.ALIASES
    assert strata.BLANK == schema.BLANK


def spoilt_labels(change):
    def write(root, data):
        write_npy(root, {name: array for name, array in data.items() if name != "labels"})
        csv.write_csv(change(label_table(data)), root / "labels.csv")

    return write


def renamed(table, **names):
    return table.rename_columns([names.get(name.replace(" ", "_"), name) for name in table.column_names])


LABEL_TABLES = {
    "thirteen": (
        lambda table: table.drop_columns(["Edema"]),
        "label columns in table 'labels.csv': expected the 14 CheXpert observations, found no Edema",
    ),
    "misspelt": (
        lambda table: renamed(table, Edema="edema"),
        "label columns in table 'labels.csv': expected the 14 CheXpert observations, each once, found column 'edema'; did you mean 'Edema'?",
    ),
    "a fifteenth": (
        lambda table: table.append_column("Scoliosis", pa.array([1] * len(table))),
        "label columns in table 'labels.csv': expected the 14 CheXpert observations, each once, found column 'Scoliosis'",
    ),
    "alias and name": (
        lambda table: table.append_column("Lung Opacity", pa.array([1] * len(table))),
        "label columns in table 'labels.csv': expected the 14 CheXpert observations, each once, found column 'Airspace Opacity'",
    ),
    "column twice": (
        lambda table: table.append_column("Edema", table.column("Edema")),
        "column twice in table 'labels.csv': expected every column once, found 1 repeats",
    ),
    "study twice": (
        lambda table: pa.concat_tables([table, table[:2]]),
        "study_id of labels in table 'labels.csv': expected each study_id once, found 2 repeats, 0 blanks",
    ),
    "blank study": (
        lambda table: table.set_column(1, "study_id", pa.array([None, *table.column("study_id").to_pylist()[1:]])),
        "study_id of labels in table 'labels.csv': expected each study_id once, found 0 repeats, 1 blanks",
    ),
    "other studies": (
        lambda table: table.set_column(1, "study_id", pa.array([f"t{row}" for row in range(len(table))])),
        "labels of other studies in table 'labels.csv': expected a study_id of 'text_study', found none in 55 rows",
    ),
}


@pytest.mark.parametrize("name", sorted(LABEL_TABLES))
def test_label_tables_that_do_not_say_what_they_hold(tmp_path, name):
    change, sentence = LABEL_TABLES[name]
    spoilt_labels(change)(tmp_path, given())
    assert refused(tmp_path) == sentence


def test_label_columns_are_put_in_order_and_aliases_known(tmp_path):
    data = given()
    data["labels"] = np.tile(np.arange(14.0) % 2, (60, 1))
    shuffled = label_table(data).select([1, *np.random.default_rng(0).permutation(np.arange(2, 16)).tolist()])
    spoilt_labels(lambda _: renamed(shuffled, No_Finding="No Findings"))(tmp_path, data)
    assert inputs.prepare(**importer.load_embeddings(tmp_path)).study_labels.tolist() == [[0, 1] * 7] * 60


def test_thirteen_columns_in_an_array_are_refused(tmp_path):
    data = given()
    write_npy(tmp_path, {**data, "labels": data["labels"][:, :13]})
    assert refused(tmp_path).startswith("wrong shape in argument 'labels': expected [60, 14], one row per row of 'texts' and one column per CheXpert obs")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": lambda images: images.astype(str)}, "wrong type in argument 'images': expected an array of real numbers, found <U32 values"),
        ({"images": lambda images: images.astype("S8")}, "wrong type in argument 'images': expected an array of real numbers, found |S8 values"),
        ({"texts": lambda texts: texts + 1j}, "wrong type in argument 'texts': expected an array of real numbers, found complex64 values"),
        ({"texts": lambda texts: texts.astype("M8[s]")}, "wrong type in argument 'texts': expected an array of real numbers, found datetime64[s] values"),
        ({"labels": lambda labels: np.zeros((60, 14), "U3")}, "wrong type in argument 'labels': expected numbers 1, 0, -1, and -2, NaN or None for blank"),
        ({"image_id": lambda _: np.arange(80) // 2}, "repeated image id in argument 'image_id': expected each image once, found 40 wrong rows, first at row 1"),
        ({"patient": lambda _: np.arange(60) / 2}, "wrong type in ids 'patient': expected whole numbers or text, found a float"),
        ({"patient": lambda _: np.array([b"\xff\xfe"] * 60)}, "wrong type in ids 'patient': expected whole numbers or text, found a bytes"),
        ({"patient": lambda _: np.array(5)}, "wrong shape in ids 'patient': expected one id per row, found a single one"),
        ({"patient": lambda _: np.zeros((60, 2), int)}, "wrong type in ids 'patient': expected whole numbers or text, found a list"),
        ({"images": lambda images: np.where(images > 1, np.float16(np.inf), images.astype(np.float16))}, "non-finite embedding in argument 'images'"),
        ({"images": lambda images: images[:0]}, "wrong shape in argument 'images': expected a non-empty [rows, dims] array, found [0, 8]"),
        ({"images": lambda images: np.full_like(images, -0.0)}, "zero embedding in argument 'images'"),
        ({"images": lambda images: np.array(1.0)}, "wrong shape in argument 'images': expected a non-empty [rows, dims] array, found []"),
        ({"images": lambda images: np.zeros(80, [("a", "f4"), ("b", "f4")])}, "wrong type in argument 'images': expected an array of real numbers"),
    ],
)
@pytest.mark.parametrize("write", [write_npy, write_npz])
@pytest.mark.filterwarnings("error")
def test_arrays_of_other_things_than_numbers_and_ids(tmp_path, write, change, sentence):
    data = given()
    data |= {name: edit(data.get(name)) for name, edit in change.items()}
    write(tmp_path, data)
    assert refused(tmp_path).startswith(sentence)


def test_byte_order_memory_order_and_kind_of_float_change_nothing(tmp_path):
    data = given()
    wanted = inputs.prepare(**data)
    odd = {"images": np.asfortranarray(data["images"]).astype(">f8"), "texts": np.asfortranarray(data["texts"].astype(np.longdouble))}
    write_npy(tmp_path, data | odd)
    found = inputs.prepare(**importer.load_embeddings(tmp_path))
    for name in ("images", "texts", "study_text", "image_study"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize(
    ("name", "found"),
    [("patients.npy", "did you mean 'patients.npy'?"), ("notes.npy", None), ("patient.txt", None), ("patient.csv", "did you mean 'patient.csv'?")],
)
def test_only_files_that_nobody_reads_are_suggested(tmp_path, name, found):
    write_npy(tmp_path, given())
    (tmp_path / "patient.npy").rename(tmp_path / name)
    assert refused(tmp_path).endswith(f"found no patient; {found}" if found else "found no patient")


def test_a_misspelt_array_of_a_bundle_is_suggested(tmp_path):
    data = given()
    write_npz(tmp_path, {("patients" if name == "patient" else name): array for name, array in data.items()})
    assert refused(tmp_path).endswith("found no patient; did you mean 'patients'?")


def pairs_with(root, part, **replaced):
    """Writes the paired layout, with columns of one metadata part replaced by `change(values)`."""
    write_pairs(root, given())
    path = root / "metadata" / f"metadata_{part}.parquet"
    table = parquet.read_table(path)
    for column, change in replaced.items():
        table = table.set_column(table.column_names.index(column), column, pa.array(change(table.column(column).to_pylist())))
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("column", "change", "sentence"),
    [
        (
            "labels",
            lambda rows: [[1.0] * 14 for _ in rows],
            "labels of one study differ in metadata: expected equal ones in all rows of a study_id, found",
        ),
        ("labels", lambda rows: [row[:13] for row in rows], "wrong shape in folder 'labels': expected [rows, dims] arrays of equal dims, found"),
        (
            "labels",
            lambda rows: [["1.0"] * 14 for _ in rows],
            "not a number in column 'labels' of 'metadata_1.parquet': expected numbers or blanks, found text",
        ),
        (
            "labels",
            lambda rows: ["1"] * len(rows),
            "ragged lists in column 'labels' of 'metadata_1.parquet': expected lists of one length in every row, found text",
        ),
        (
            "labels",
            lambda rows: [1.0] * len(rows),
            "ragged lists in column 'labels' of 'metadata_1.parquet': expected lists of one length in every row, found a number",
        ),
        ("patient_id", lambda rows: ["someone"] * len(rows), "patients of one study differ in metadata: expected equal ones in all rows of a study_id, found"),
        ("study_id", lambda rows: [None, *rows[1:]], "missing id in column 'study_id' of metadata: expected an id in every row, found 1 blanks"),
        (
            "study_id",
            lambda rows: [datetime.datetime(2020, 1, 1)] * len(rows),
            "wrong type in ids 'study_id': expected whole numbers or text, found a datetime",
        ),
    ],
)
def test_pairs_that_contradict_themselves(tmp_path, column, change, sentence):
    pairs_with(tmp_path, 1, **{column: change})
    assert refused(tmp_path).startswith(sentence)


def test_layouts_parts_and_dims_that_do_not_fit(tmp_path):
    write_pairs(tmp_path, given())
    image = np.load(tmp_path / "img_emb" / "img_emb_1.npy")
    for spoilt in (image[:, :7], image[0]):
        np.save(tmp_path / "img_emb" / "img_emb_1.npy", spoilt)
        assert refused(tmp_path).startswith("wrong shape in folder 'img_emb': expected [rows, dims] arrays of equal dims, found [")
    np.save(tmp_path / "img_emb" / "img_emb_1.npy", image.astype(str))
    assert refused(tmp_path).startswith("wrong type in folder 'img_emb': expected an array of real numbers, found <U32 values")
    np.save(tmp_path / "img_emb" / "img_emb_1.npy", image)
    table = parquet.read_table(tmp_path / "metadata" / "metadata_1.parquet")
    parquet.write_table(table.drop_columns(["labels"]), tmp_path / "metadata" / "metadata_1.parquet")
    assert refused(tmp_path).startswith("columns missing in metadata tables: expected study_id, patient_id and the same further ones in each, found others")
    parquet.write_table(table.drop_columns(["patient_id"]), tmp_path / "metadata" / "metadata_1.parquet")
    assert refused(tmp_path).endswith("found no patient_id")
    csv.write_csv(label_table(given()), tmp_path / "labels.csv")
    assert refused(tmp_path) == f"two layouts in directory {tmp_path.name!r}: expected either 'img_emb' or 'labels.csv', found both"


def test_lists_of_decimals_are_numbers_and_other_columns_are_not(tmp_path):
    data = given()
    write_parquet(tmp_path, data)
    table = parquet.read_table(tmp_path / "texts.parquet").drop_columns(["embedding"])
    cents = [[decimal.Decimal(round(float(value) * 100)) / 100 for value in row] for row in data["texts"]]
    parquet.write_table(table.append_column("embedding", pa.array(cents, pa.list_(pa.decimal128(10, 2)))), tmp_path / "texts.parquet")
    np.testing.assert_array_equal(importer.load_embeddings(tmp_path)["texts"], np.round(data["texts"].astype(float) * 100) / 100)
    for column, what, found in (
        ([1.0] * 60, "ragged lists", "a number"),
        (["[1, 2]"] * 60, "ragged lists", "text"),
        ([[]] * 60, "ragged lists", "an empty list"),
        ([None] * 60, "ragged lists", "a blank"),
        ([[1.0]] * 59 + [None], "ragged lists", "a blank"),
        ([[1.0]] * 59 + [[1.0, 2.0]], "ragged lists", "2 lengths"),
        ([["1.0"]] * 60, "not a number", "text"),
        ([[[1.0]]] * 60, "not a number", "a list"),
    ):
        parquet.write_table(table.append_column("embedding", pa.array(column)), tmp_path / "texts.parquet")
        message = refused(tmp_path)
        assert message.startswith(f"{what} in column 'embedding' of 'texts.parquet': expected ")
        assert message.endswith(f", found {found}")


def test_tables_as_spreadsheets_write_them(tmp_path):
    data = given()
    spoilt_labels(lambda table: table)(tmp_path, data)
    text = (tmp_path / "labels.csv").read_bytes()
    wanted = importer.load_embeddings(tmp_path)["labels"]
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(importer.load_embeddings(tmp_path)["labels"], wanted)
    for spoilt in (text.replace(b",", b"\t"), text[:-9], b"", b"\x00\x01", text.replace(b"s0", b"\xff\xfe")):
        (tmp_path / "labels.csv").write_bytes(spoilt)
        assert refused(tmp_path).startswith(("file unreadable in file 'labels.csv'", "column missing in table 'labels.csv'"))


def test_parquet_ids_that_are_not_utf8(tmp_path):
    data = given()
    write_npy(tmp_path, {name: array for name, array in data.items() if name != "image_study"})
    parquet.write_table(pa.table({"study_id": data["image_study"]}), tmp_path / "images.parquet", compression="none")
    path = tmp_path / "images.parquet"
    path.write_bytes(path.read_bytes().replace(data["image_study"][3].encode(), b"s\xff\xfe1"))
    assert refused(tmp_path).startswith("file unreadable in file 'images.parquet': expected a valid .parquet file")


def test_files_that_are_something_else(tmp_path, monkeypatch):
    data = given()
    write_npy(tmp_path, data)
    (tmp_path / "images.npy").unlink()
    (tmp_path / "images.npy").mkdir()
    assert refused(tmp_path).startswith("file unreadable in file 'images.npy'")
    (tmp_path / "images.npy").rmdir()
    (tmp_path / "images.npy").symlink_to(tmp_path / "images.npy")
    assert refused(tmp_path).startswith("file unreadable in file 'images.npy'")
    (tmp_path / "images.npy").unlink()
    with (tmp_path / "images.npy").open("wb") as stream:
        np.savez(stream, images=data["images"])
    assert refused(tmp_path).startswith("file unreadable in file 'images.npy'")
    (tmp_path / "images.npy").unlink()
    with (tmp_path / "embeddings.npz").open("wb") as stream:
        np.save(stream, data["images"])
    assert refused(tmp_path).startswith("file unreadable in file 'embeddings.npz'")
    (tmp_path / "embeddings.npz").unlink()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refused(tmp_path / "loop").startswith("no such directory in embeddings 'loop'")

    def denied(_):
        raise PermissionError

    monkeypatch.setattr(pathlib.Path, "iterdir", denied)
    assert refused(tmp_path).startswith(f"directory unreadable in embeddings {tmp_path.name!r}: expected one that can be listed, found PermissionError")
