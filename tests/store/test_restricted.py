"""Classes of a workdir's files, their manifest, and a purge that removes exactly what it names."""

import hashlib
import os

import pytest

from relink_jax import errors
from relink_jax.store import files, restricted

KEPT = (
    *("run.json", "config.json", "key", ".lock", "results/m__dp__all.json", "results/controls.json", "report/index.html", "report/controls.png"),
    *("controls/rotation.json", "heads/m/dp/privacy_ledger.json", "phantom/pairs.csv", "phantom/images/p00/S1_0.png"),
)
GONE = (
    *("cohort/images.parquet", "cohort/texts.parquet.sha256", "cohort/source.json", "features/m/images/shard-00000.safetensors"),
    *("embeddings/m/dp/texts/manifest.json", "heads/m/dp/heads.safetensors", "heads/m/dp/training_state-7.safetensors", "heads/m/original/card.json"),
    *("models/m/tree/d/0", "counting/m__dp__all/state.safetensors", "results/m__dp__all.parquet", "results/m__dp__all.parquet.sha256"),
    *("export/m/dp/model.safetensors", "records/manifest.json", "results/.m__dp__all.json.77.tmp"),
)


@pytest.fixture
def root(tmp_path):
    for name in (*KEPT, *GONE):
        files.write_bytes(tmp_path / "out" / name, name.encode())
    return tmp_path / "out"


def there(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_manifest_names_every_restricted_file_with_its_digest(root):
    found = restricted.manifest(root)
    assert found["class"] == "restricted"
    assert {entry["file"]: entry for entry in found["files"]} == {
        name: {"file": name, "bytes": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in GONE
    }


def test_a_purge_leaves_aggregates_and_nothing_else(root):
    purged = restricted.purge(root)
    assert there(root) == set(KEPT)
    assert (purged.files, purged.bytes, purged.gone) == (len(GONE), sum(map(len, GONE)), 0)
    assert not (root / "cohort").exists()
    assert restricted.purge(root).files == 0


def test_a_reviewed_manifest_is_kept_to(root):
    listed = restricted.manifest(root)
    (root / GONE[0]).unlink()
    files.write_bytes(root / "features" / "late", b"")
    with pytest.raises(errors.StoreError, match="expected every restricted file in the manifest, found 1 that are not"):
        restricted.purge(root, listed)
    (root / "features" / "late").unlink()
    (root / GONE[1]).write_bytes(b"changed")
    with pytest.raises(errors.StoreError, match="found 1 that changed since"):
        restricted.purge(root, listed)
    assert there(root) == {*KEPT, *GONE[1:]}
    (root / GONE[1]).write_bytes(GONE[1].encode())
    assert restricted.purge(root, listed).gone == 1
    assert there(root) == set(KEPT)


@pytest.mark.parametrize("name", ["run.json", "results/m__dp__all.json", "../outside", "/etc/hostname", "features/../run.json"])
def test_a_manifest_cannot_name_anything_else(root, tmp_path, name):
    (tmp_path / "outside").write_bytes(b"")
    listed = restricted.manifest(root)
    listed["files"].append({"file": name, "bytes": 0, "sha256": ""})
    with pytest.raises(errors.StoreError, match="purge refused"):
        restricted.purge(root, listed)
    assert there(root) == {*KEPT, *GONE}
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["mine.txt", "cohorts/images.parquet", "results/notes.txt"])
def test_files_of_nobody_are_not_removed_nor_left_unseen(root, name):
    files.write_bytes(root / name, b"")
    with pytest.raises(errors.StoreError, match="found 1 of no known kind") as caught:
        restricted.purge(root)
    assert "mine" not in str(caught.value)
    assert there(root) == {*KEPT, *GONE, name}


@pytest.mark.parametrize("directory", [False, True])
def test_links_are_refused(root, tmp_path, directory):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "patients.csv").write_bytes(b"")
    (root / "features" / "link").symlink_to(tmp_path / "elsewhere" / ("" if directory else "patients.csv"))
    for refused in (restricted.manifest, restricted.purge):
        with pytest.raises(errors.StoreError, match="no symbolic links"):
            refused(root)
    assert (tmp_path / "elsewhere" / "patients.csv").exists()


def test_a_directory_that_is_no_workdir_is_refused(tmp_path):
    (tmp_path / "features").mkdir()
    with pytest.raises(errors.StoreError, match="not a workdir"):
        restricted.purge(tmp_path)


@pytest.mark.parametrize(("mode", "private"), [(0o700, True), (0o750, True), (0o701, False), (0o704, False), (0o755, False), (0o777, False)])
def test_directories_open_to_others_are_refused(tmp_path, mode, private):
    (tmp_path / "data").mkdir()
    os.chmod(tmp_path / "data", mode)
    if private:
        restricted.check_private(tmp_path / "data")
    else:
        with pytest.raises(errors.StoreError, match=rf"directory open to others in directory 'data'.*{mode:o}; run 'chmod 700' on it first"):
            restricted.check_private(tmp_path / "data")
    with pytest.raises(errors.StoreError, match="no directory"):
        restricted.check_private(tmp_path / "nowhere")
