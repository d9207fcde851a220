"""Embedding from DICOM and deep PNG files: the same features as of the picture, decisions in the manifest, and no mode mixed with another."""

import collections
import types

import numpy as np
import pytest
import tiny_clip
from loose import Loose
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import greyscale, pictures
from relink_jax.cohort.layouts import dicom as layout
from relink_jax.encoders import convert, embed, preprocess, published, recipes, zoo
from relink_jax.runtime import mesh as meshes
from relink_jax.store import files, shards

COUNT = 7
OPTIONS = {"batch_size": 2, "shard_rows": 3, "identity": {"weights": "tiny"}}
IDENTITY = {"weights", "preprocess", "precision", "dtype", "rows_sha256"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("deep")
    spec = zoo.from_directory(tiny_clip.write(root / "tiny"))
    draw = np.random.default_rng(0)
    levels = [draw.integers(0, 256, (40 + row, 50), dtype=np.uint8) for row in range(COUNT)]
    for row, grey in enumerate(levels):
        Image.fromarray(grey).save(root / f"{row}.png")
        Image.fromarray(np.minimum(grey.astype(np.uint16) * 16 + row // 4 * 4000, 65535)).save(root / f"{row}-deep.png")
    return types.SimpleNamespace(root=root, spec=spec, params=convert.convert(spec).params, levels=levels)


def cohort(world, *endings):
    """Returns a cohort whose image i has the i-th of the endings, in turn."""
    return Loose(image_root=world.root, image_path=np.array([f"{row}{endings[row % len(endings)]}" for row in range(COUNT)], dtype=object))


def embedded(world, given, directory, rows=None, **changes):
    rows = np.arange(COUNT) if rows is None else rows
    return embed.embed_images(world.spec, world.params, given, rows, directory, meshes.make_mesh(1), **{**OPTIONS, **changes})


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_eight_bit_pictures_decide_nothing_and_change_no_manifest(world, tmp_path):
    embedded(world, cohort(world, ".png"), tmp_path / "x")
    manifest = shards.manifest(tmp_path / "x")
    assert set(manifest) == {"rows", "shard_rows", "identity", "shards"}
    assert set(manifest["identity"]) == IDENTITY
    assert all((tmp_path / "x" / f"shard-0000{number}.ok").read_text().count("\n") == 1 for number in range(3))


@pytest.mark.parametrize("write", [2, 3, 4, 5, 7, 8])
def test_decisions_add_up_over_a_resume_byte_for_byte(world, tmp_path, write):
    given = cohort(world, "-deep.png", ".png")
    whole = embedded(world, given, tmp_path / "whole")
    assert shards.manifest(tmp_path / "whole")["decisions"] == {"16-bit": 2, "16-bit as 12-bit": 2}
    with files.fail_at(write), pytest.raises(errors.StoreError, match="write failed"):
        embedded(world, given, tmp_path / "broken")
    assert embedded(world, given, tmp_path / "broken") == whole
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert embedded(world, given, tmp_path / "broken") == whole
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_damaged_record_makes_its_shard_anew(world, tmp_path):
    given = cohort(world, "-deep.png")
    whole = embedded(world, given, tmp_path / "x")
    record = tmp_path / "x" / "shard-00001.ok"
    record.write_text(record.read_text()[:-4])
    assert embedded(world, given, tmp_path / "x") == whole


def test_other_pictures_are_read_through_the_same_door(world, tmp_path):
    read = []
    given = types.SimpleNamespace(read=lambda row: read.append(row) or np.float32(world.levels[row]) / 255, decisions=collections.Counter(made=1))
    nowhere = Loose(image_root=tmp_path / "gone", image_path=np.array(["gone.png"] * COUNT, dtype=object))
    embedded(world, nowhere, tmp_path / "x", pictures=given)
    embedded(world, cohort(world, ".png"), tmp_path / "y")
    assert sorted(read) == list(range(COUNT))
    np.testing.assert_array_equal(shards.read(tmp_path / "x")["features"], shards.read(tmp_path / "y")["features"])
    assert "decisions" not in shards.manifest(tmp_path / "x")


def test_an_image_outside_the_root_is_refused_by_its_row(world, tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "link.png").symlink_to(world.root / "0.png")
    for path in (str(world.root / "0.png"), "../secret.png", "link.png"):
        given = Loose(image_root=tmp_path / "archive", image_path=np.array([path], dtype=object))
        with pytest.raises(errors.DataError, match=r"^path in image 1 of the cohort, counted from 1: expected one inside its root, found [^/]*$"):
            embedded(world, given, tmp_path / "x", np.arange(1))


def test_a_cohort_that_finds_its_own_files_is_asked(world):
    given = types.SimpleNamespace(image_path=np.array(["a.png"], dtype=object), image_file=lambda row: world.root / f"{row}.png")
    assert pictures.Files(given).read(0).shape == (40, 50)


def test_an_image_read_twice_counts_once(world):
    found = pictures.Files(cohort(world, "-deep.png"))
    for row in (0, 0, 1):
        found.read(row)
    assert found.decisions == {"16-bit as 12-bit": 2}
    assert found.of(np.array([0, 0, 5])) == {"16-bit as 12-bit": 2}


def test_each_model_names_how_its_dicom_files_are_read():
    modes = {name: preprocess.dicom_mode(zoo.described(name)) for name in published.MODELS}
    assert set(modes.values()) == set(greyscale.MODES)
    assert {name for name, mode in modes.items() if mode == "raw"} == {"biovil", "biovil-t"}
    assert {name for name, mode in modes.items() if mode == "jpg_release"} == {"chexzero", "gloria", "medclip-resnet50", "medclip-swin-t"}
    assert set(recipes.DICOM) <= set(recipes.RECIPES)


@pytest.mark.parametrize(
    ("names", "identity"),
    [(["a.png", "B.JPG", "c.jpeg"], {}), (["a.png", "b.dcm"], {"dicom": "raw"}), (["a.dcm.gz"], {"dicom": "raw"}), (["a"], {"dicom": "raw"})],
)
def test_the_mode_is_part_of_the_identity_where_a_file_may_be_dicom(names, identity):
    given = types.SimpleNamespace(image_path=np.array(names, dtype=object))
    assert pictures.Files(given, dicom="raw").identity == identity


@pytest.fixture
def archive(world):
    pytest.importorskip("pydicom")
    for row, grey in enumerate(world.levels):
        layout.write_image(grey, world.root / f"{row}.dcm", photometric=f"MONOCHROME{1 + row % 2}", burned_in=row == 3)
    return cohort(world, ".dcm")


def test_dicom_files_give_the_features_of_the_picture(world, archive, tmp_path):
    embedded(world, archive, tmp_path / "dicom")
    embedded(world, cohort(world, ".png"), tmp_path / "png")
    np.testing.assert_array_equal(shards.read(tmp_path / "dicom")["features"], shards.read(tmp_path / "png")["features"])
    manifest = shards.manifest(tmp_path / "dicom")
    assert manifest["decisions"] == {"VOI window": 7, "burned-in annotation flagged": 1, "inverted MONOCHROME1": 4}
    assert manifest["identity"]["dicom"] == "standard"


def test_another_mode_is_refused_on_resume(world, archive, tmp_path):
    embedded(world, archive, tmp_path / "x", np.arange(2))
    with pytest.raises(errors.StoreError, match=r"inputs changed .*different dicom; use a fresh workdir"):
        embedded(world, archive, tmp_path / "x", np.arange(2), pictures=pictures.Files(archive, dicom="raw"))


def test_burnt_in_text_can_be_refused(world, archive, tmp_path):
    strict = pictures.Files(archive, refuse_burned_in=True)
    with pytest.raises(errors.DataError, match=r"^burned-in annotation in image 4 of the cohort, counted from 1: "):
        embedded(world, archive, tmp_path / "x", pictures=strict)


def test_a_model_reads_dicom_as_its_authors_do(world, archive, tmp_path, monkeypatch):
    embedded(world, archive, tmp_path / "standard")
    monkeypatch.setitem(recipes.DICOM, world.spec.recipe, "raw")
    embedded(world, archive, tmp_path / "raw")
    manifest = shards.manifest(tmp_path / "raw")
    assert manifest["identity"]["dicom"] == "raw"
    assert manifest["decisions"] == {"MONOCHROME1 left as stored": 4, "burned-in annotation flagged": 1}
    changed = (shards.read(tmp_path / "raw")["features"] != shards.read(tmp_path / "standard")["features"]).any(axis=1)
    assert changed[[0, 2, 4, 6]].all()
