"""Files that carry a program: whatever reads them, the program does not run. Each payload would leave a mark, and is tried first."""

import contextlib
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from canaries import Bomb, bombs, goes_off
from pyarrow import parquet
from safetensors import numpy as safetensors_numpy

from relink_jax import errors
from relink_jax.audit import importer
from relink_jax.cohort import columns
from relink_jax.encoders import formats
from relink_jax.store import shards, tables

KINDS = ("os", "exec", "numpy", "logging")


@pytest.fixture
def mark(tmp_path):
    """A place that stays empty."""
    (tmp_path / "marks").mkdir()
    yield tmp_path / "marks" / "mark"
    assert list((tmp_path / "marks").iterdir()) == []


def embeddings(root):
    root.mkdir()
    rows = np.eye(3, dtype=np.float32)
    for name, array in {"images": rows, "texts": rows, "image_study": np.arange(3), "text_study": np.arange(3), "patient": np.arange(3)}.items():
        np.save(root / f"{name}.npy", array)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_objects_are_refused(tmp_path, mark, kind):
    bomb = bombs(mark)[kind]
    assert goes_off(mark, pickle.dumps(bomb, protocol=2))
    held = np.array([bomb], dtype=object)
    for name in ("images", "patient"):
        root = embeddings(tmp_path / name)
        np.save(root / f"{name}.npy", held, allow_pickle=True)
        with pytest.raises(errors.DataError, match="without pickled objects"):
            importer.load_embeddings(root)
    root = tmp_path / "npz"
    root.mkdir()
    np.savez(root / "embeddings.npz", images=held, texts=held, image_study=held, text_study=held, patient=held)
    with pytest.raises(errors.DataError, match="without pickled objects"):
        importer.load_embeddings(root)
    with zipfile.ZipFile(root / "embeddings.npz", "w") as archive:
        for name in ("images.npy", "texts.npy", "images", "patient.pkl"):
            archive.writestr(name, pickle.dumps(bomb, protocol=2))
    with pytest.raises(errors.DataError):
        importer.load_embeddings(root)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["whole", "weight", "beside", "bare", "msgpack", "safetensors"])
def test_weight_files_are_not_run(tmp_path, mark, kind, where):
    bomb, path = bombs(mark)[kind], tmp_path / f"w.{where if where in ('msgpack', 'safetensors') else 'pt'}"
    value = {"whole": bomb, "weight": {"model": {"a": bomb}}, "beside": {"model": {}, "optimizer": bomb}}.get(where, {"a": bomb})
    content = pickle.dumps(value, protocol=2)
    assert goes_off(mark, content)
    if where in ("bare", "msgpack", "safetensors"):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", content)
            archive.writestr("w/version", "3")
    tolerated = where == "beside" and kind in ("numpy", "logging")  # an object that is no weight is left out, unbuilt
    with contextlib.nullcontext() if tolerated else pytest.raises(errors.DataError), formats.opened(path) as contents:
        assert contents.tensors == {}


@pytest.mark.parametrize("kind", KINDS)
def test_tables_with_pickled_metadata_are_only_tables(tmp_path, mark, kind):
    content = pickle.dumps(bombs(mark)[kind], protocol=2)
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": content}
    rows = {"image_path": ["a.png"], "patient_id": ["1"], "study_id": ["1"], "report_text": ["clear"]}
    fields = [pa.field(name, pa.string(), metadata=extension) for name in rows]
    schema = pa.schema(fields, metadata={b"pandas": content, b"PANDAS_ATTRS": content})
    made = pa.table([pa.array(cells) for cells in rows.values()], schema=schema)
    parquet.write_table(made, tmp_path / "pairs.parquet")
    assert parquet.read_metadata(tmp_path / "pairs.parquet").metadata[b"pandas"] == content
    assert columns.read_columns(tmp_path / "pairs.parquet") == rows
    tables.write_table(tmp_path / "t.parquet", {"a": [1]}, {"pandas": content.hex()})
    assert tables.read_table(tmp_path / "t.parquet")["a"].tolist() == [1]


HEADERS = {
    "longer than the file": struct.pack("<Q", 2**63) + b"{}",
    "longer than memory": struct.pack("<Q", 10**12) + b"{}" * 50,
    "nested": struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    "no object": struct.pack("<Q", 4) + b"null",
    "beyond": (lambda head: struct.pack("<Q", len(head)) + head)(b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'),
    "overlapping": (lambda head: struct.pack("<Q", len(head)) + head + bytes(8))(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "huge shape": (lambda head: struct.pack("<Q", len(head)) + head)(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("name", HEADERS)
def test_absurd_safetensors_are_one_sentence_wherever_they_are_read(tmp_path, name):
    root = embeddings(tmp_path / "e")
    for path in root.iterdir():
        path.unlink()
    shards.write_all(tmp_path / "s", {"a": np.zeros((1, 2), np.float32)}, 4, {})
    for path in (tmp_path / "w.safetensors", root / "embeddings.safetensors", tmp_path / "s" / "shard-00000.safetensors"):
        path.write_bytes(HEADERS[name])
    with pytest.raises(errors.DataError, match=r"file unreadable in file 'embeddings\.safetensors'"):
        importer.load_embeddings(root)
    with pytest.raises(errors.DataError, match="weights unreadable"), formats.opened(tmp_path / "w.safetensors"):
        pass
    with pytest.raises(errors.StoreError):
        shards.read(tmp_path / "s")
    with pytest.raises(Exception, match=r"(?i)header|offset|invalid"):
        safetensors_numpy.load_file(str(tmp_path / "w.safetensors"))


def test_the_payloads_are_real(tmp_path):
    for name, bomb in bombs(tmp_path / "mark").items():
        assert goes_off(tmp_path / "mark", pickle.dumps({"a": [bomb]}, protocol=2)), name
    assert isinstance(bomb, Bomb)
