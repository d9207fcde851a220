"""Every accepted layout gives the same audit, and every broken one a sentence."""

import arrays
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from safetensors.numpy import save_file

import relink_jax
from relink_jax import errors
from relink_jax.audit import importer, inputs, strata

LABELS = [{"Lung Opacity": "Airspace Opacity"}.get(name, name) for name in strata.LABELS][::-1]


def given():
    data = arrays.cohort()
    data["image_study"], data["text_study"], data["patient"] = (np.asarray(data[name]).astype(str) for name in ("image_study", "text_study", "patient"))
    data["images"], data["texts"] = data["images"].astype(np.float32), data["texts"].astype(np.float32)
    return data


def id_tables(data):
    return {"images": pa.table({"study_id": data["image_study"]}), "texts": pa.table({"study_id": data["text_study"], "patient_id": data["patient"]})}


def label_table(data):
    """Returns the CheXpert-style table: label rows only of studies that have one, blanks empty."""
    rows = np.flatnonzero(~np.isnan(data["labels"]).all(axis=1))[::-1]
    columns = {"subject_id": data["patient"][rows], "study_id": data["text_study"][rows]}
    return pa.table(columns | {name: pa.array(data["labels"][rows, 13 - i], from_pandas=True) for i, name in enumerate(LABELS)})


def write_npz(root, data):
    np.savez(root / "embeddings.npz", **data)


def write_npy(root, data):
    for name, array in data.items():
        np.save(root / f"{name}.npy", array)


def write_safetensors(root, data):
    save_file({name: np.ascontiguousarray(data[name]) for name in ("images", "texts")}, root / "embeddings.safetensors")
    for side, table in id_tables(data).items():
        csv.write_csv(table, root / f"{side}.csv")
    csv.write_csv(label_table(data), root / "labels.csv")


def write_parquet(root, data):
    for side, table in id_tables(data).items():
        parquet.write_table(table.append_column("embedding", pa.array(list(data[side]))), root / f"{side}.parquet")
    parquet.write_table(label_table(data), root / "labels.parquet")


def write_parquet_with_label_lists(root, data):
    for side, table in id_tables(data).items():
        table = table.append_column("embedding", pa.array(list(data[side])))
        parquet.write_table(table.append_column("labels", pa.array(list(data["labels"]))) if side == "texts" else table, root / f"{side}.parquet")


@pytest.mark.parametrize("write", [write_npz, write_npy, write_safetensors, write_parquet, write_parquet_with_label_lists])
def test_every_format_gives_the_same_inputs(tmp_path, write):
    data = given()
    write(tmp_path, data)
    found, wanted = inputs.prepare(**importer.load_embeddings(tmp_path)), inputs.prepare(**data)
    for name in ("images", "image_study", "texts", "study_text", "study_patient", "study_labels", "study_has_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def write_pairs(root, data, parts=3):
    """Writes the img_emb/ text_emb/ metadata/ layout, one row per image."""
    order = {study: row for row, study in enumerate(data["text_study"])}
    rows = np.array([order[study] for study in data["image_study"]])
    for part, chosen in enumerate(np.array_split(np.arange(len(rows)), parts)):
        for folder, array in (("img_emb", data["images"]), ("text_emb", data["texts"][rows])):
            (root / folder).mkdir(exist_ok=True)
            np.save(root / folder / f"{folder}_{part}.npy", array[chosen].astype(np.float16))
        (root / "metadata").mkdir(exist_ok=True)
        table = pa.table({"study_id": data["image_study"][chosen], "patient_id": data["patient"][rows][chosen], "labels": list(data["labels"][rows][chosen])})
        parquet.write_table(table, root / "metadata" / f"metadata_{part}.parquet")


def test_paired_layout_gives_the_same_audit_as_arrays(tmp_path):
    data = given()
    write_pairs(tmp_path, data, parts=11)
    shown = np.isin(data["text_study"], data["image_study"])
    half = {"images": data["images"].astype(np.float16), "texts": data["texts"].astype(np.float16)[shown]}
    wanted = {**data, **half, **{name: data[name][shown] for name in ("text_study", "patient", "labels")}}
    first, second = (relink_jax.audit(**one, ks=[1, 5], pool_sizes=[10], bootstrap_replicates=100) for one in (importer.load_embeddings(tmp_path), wanted))
    for key, counted in first.counts.items():
        ours, theirs = (sorted(zip(*one.values(), strict=True)) for one in (counted, second.counts[key]))
        assert ours == theirs
        assert first.recall(1, 10, *key) == pytest.approx(second.recall(1, 10, *key))
    np.testing.assert_array_equal(first.counts["i2r", "other_patient"]["g"], second.counts["i2r", "other_patient"]["g"])


def test_integer_and_text_ids_are_one(tmp_path):
    data = given()
    number = {study: row for row, study in enumerate(data["text_study"])}
    write_npy(tmp_path, data | {"image_study": np.array([number[study] for study in data["image_study"]])})
    (tmp_path / "text_study.npy").unlink()
    (tmp_path / "patient.npy").unlink()
    csv.write_csv(pa.table({"study_id": [str(row) for row in range(60)], "patient_id": data["patient"]}), tmp_path / "texts.csv")
    np.testing.assert_array_equal(inputs.prepare(**importer.load_embeddings(tmp_path)).image_study, inputs.prepare(**data).image_study)


def test_broken_directories_are_one_sentence(tmp_path):
    def refuses(sentence, root=tmp_path):
        with pytest.raises(errors.DataError) as caught:
            inputs.prepare(**importer.load_embeddings(root))
        assert str(caught.value).startswith(sentence), str(caught.value)
        assert str(root.parent) not in str(caught.value)

    data = given()
    refuses("no such directory in embeddings 'absent': expected a directory of embeddings, found nothing", tmp_path / "absent")
    write_npy(tmp_path, data)
    (tmp_path / "images.npy").rename(tmp_path / "image.npy")
    refuses(
        f"embeddings incomplete in directory {tmp_path.name!r}: expected images, texts, image_study, text_study, patient, found no images; did you mean 'image.npy'?"
    )
    (tmp_path / "images.npy").write_bytes(b"not an array")
    refuses("file unreadable in file 'images.npy': expected a valid .npy file without pickled objects, found ValueError")
    np.save(tmp_path / "images.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refuses("file unreadable in file 'images.npy': expected a valid .npy file without pickled objects")
    np.save(tmp_path / "images.npy", data["images"])
    write_npz(tmp_path, {"texts": data["texts"]})
    refuses("given twice in file 'texts.npy': expected 'texts' in one file, found also in 'embeddings.npz'")
    (tmp_path / "embeddings.npz").unlink()
    csv.write_csv(pa.table({"study": data["image_study"]}), tmp_path / "images.csv")
    refuses("column missing in table 'images.csv': expected column study_id, found 1 others; did you mean 'study'?")
    (tmp_path / "images.csv").unlink()
    (tmp_path / "labels.npy").unlink()
    csv.write_csv(pa.table({"study_id": data["text_study"], **{name: ["maybe"] * 60 for name in strata.LABELS}}), tmp_path / "labels.csv")
    refuses("not a number in column 'No Finding' of 'labels.csv': expected numbers or blanks, found text")


def test_broken_pairs_are_one_sentence(tmp_path):
    data = given()
    write_pairs(tmp_path, data)
    texts = np.load(tmp_path / "text_emb" / "text_emb_2.npy")
    np.save(tmp_path / "text_emb" / "text_emb_2.npy", texts + np.arange(len(texts))[:, None].astype(np.float16))
    with pytest.raises(errors.DataError, match="texts of one study differ in text_emb"):
        importer.load_embeddings(tmp_path)
    np.save(tmp_path / "text_emb" / "text_emb_2.npy", texts[:-1])
    with pytest.raises(
        errors.DataError,
        match="lengths differ in img_emb, text_emb and metadata: expected one row of each per pair, found 80 images, 79 texts, 80 metadata rows",
    ):
        importer.load_embeddings(tmp_path)
    (tmp_path / "text_emb" / "text_emb_1.npy").unlink()
    with pytest.raises(errors.DataError, match="files missing in folder 'text_emb'"):
        importer.load_embeddings(tmp_path)
