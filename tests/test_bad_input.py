"""Bad input at the command line: one sentence with what, where, expected and found, the documented code, nothing half-written."""

import pathlib

import numpy as np
import pytest
from own_archive import archive, write
from PIL import Image

from relink_jax import cli


def expect(capsys, code: int, pieces: tuple[str, ...], words: list[str]) -> None:
    capsys.readouterr()
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for piece in ("expected", "found", *pieces):
        assert piece in err, err


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"3:study_id": "s1"}, ("study",)),
        ({"3:split": "test"}, ("split",)),
        ({"3:No Finding": "2"}, ("No Finding", "row")),
        ({"3:image_path": "nowhere.png"}, ("missing",)),
        ({"3:view": "SIDEWAYS"}, ("view",)),
        ({"3:patient_id": ""}, ("patient_id",)),
        ({"3:image_id": "im2", "3:report_id": "r2"}, ("duplicate",)),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_written(tmp_path, capsys, changes, pieces):
    flags = write(tmp_path, archive(tmp_path, **changes))
    expect(capsys, 65, pieces, ["cohort", *flags])
    assert not list((tmp_path / "w").glob("cohort/*"))


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path, capsys):
    rows = [{("studyid" if name == "study_id" else name): value for name, value in row.items()} for row in archive(tmp_path)]
    expect(capsys, 65, ("study_id", "did you mean 'studyid'"), ["cohort", *write(tmp_path, rows)])


def test_a_missing_table_is_named(tmp_path, capsys):
    expect(
        capsys, 65, ("pairs.csv",), ["cohort", "--config.cohort.source=table", f"--config.cohort.table={tmp_path / 'pairs.csv'}", f"--workdir={tmp_path / 'w'}"]
    )


def test_an_unreadable_image_stops_embedding_with_its_place(tmp_path, capsys):
    flags = write(tmp_path, archive(tmp_path))
    model = ["--model=phantom-0-untrained"]
    assert cli.main(["cohort", *flags]) == 0
    assert cli.main(["convert", *model, *flags]) == 0
    (tmp_path / "png" / "11.png").write_bytes(b"not a picture")
    expect(capsys, 65, ("image",), ["embed", *model, *flags])
    assert not (tmp_path / "w" / "features" / "phantom-0-untrained" / "images" / "manifest.json").exists()
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(tmp_path / "png" / "11.png")
    assert cli.main(["embed", *model, *flags]) == 0


def vectors(root: pathlib.Path, **changes) -> list[str]:
    """Writes 20 studies' embeddings with `changes` to the arrays and returns the flags that audit them."""
    generator = np.random.default_rng(0)
    arrays = {
        "images": generator.standard_normal((20, 8)).astype(np.float32),
        "texts": generator.standard_normal((20, 8)).astype(np.float32),
        "image_study": np.arange(20),
        "text_study": np.arange(20),
        "patient": np.arange(20) // 2,
        "labels": np.zeros((20, 14), np.int8),
    }
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    (root / "vectors").mkdir()
    np.savez(root / "vectors" / "embeddings.npz", **arrays)
    return [f"--embeddings={root / 'vectors'}", f"--workdir={root / 'w'}"]


def put(where, value):
    def change(array):
        array[where] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"images": put((4, 2), np.nan)}, ("non-finite", "'images'", "row 4")),
        ({"texts": put(7, 0.0)}, ("zero", "'texts'", "row 7")),
        ({"texts": lambda array: array[:, :7]}, ("dims", "8", "7")),
        ({"text_study": put(3, 2)}, ("study", "row 3")),
        ({"image_study": put(3, 99)}, ("report", "row 3")),
        ({"patient": lambda array: array[:19]}, ("length", "20", "19")),
        ({"labels": put((5, 1), 3)}, ("label", "row 5")),
    ],
)
def test_wrong_embeddings_are_refused_before_anything_is_written(tmp_path, capsys, changes, pieces):
    expect(capsys, 65, pieces, ["audit", *vectors(tmp_path, **changes)])
    assert not list((tmp_path / "w").glob("results/*"))


@pytest.mark.parametrize(
    ("sizes", "ks", "code", "pieces"), [("500", "1", 65, ("500", "19")), ("5", "9", 2, ("9", "largest pool size 5")), ("10,500", "400", 65, ("400", "19"))]
)
def test_pools_and_k_larger_than_the_data_are_refused(tmp_path, capsys, sizes, ks, code, pieces):
    expect(capsys, code, pieces, ["audit", *vectors(tmp_path), f"--config.audit.pool_sizes={sizes}", f"--config.audit.ks={ks}"])


def test_an_empty_directory_of_embeddings_says_what_it_lacks(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    expect(capsys, 65, ("images", "texts"), ["audit", f"--embeddings={tmp_path / 'none'}", f"--workdir={tmp_path / 'w'}"])
