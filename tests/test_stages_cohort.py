"""The cohort stage: its subcommands, the recipe that a config asks for, joined sites, embedding from records, and purging."""

import csv
import json

import numpy as np
import pytest
from own_archive import archive, write

from relink_jax import cli, config, errors
from relink_jax.cohort import recipes
from relink_jax.stages import cohort_sources, context
from relink_jax.store import restricted, shards

pytestmark = pytest.mark.usefixtures("quick_module")
FAST = [
    *(
        "--config.audit.attacks=",
        "--config.audit.measures=",
        "--config.audit.bootstrap_replicates=100",
        "--config.audit.pool_sizes=3",
        "--config.audit.ks=1",
        "--config.embed.batch_size=8",
    ),
    *("--config.models=phantom-0-untrained", "--config.mitigate="),
]


def relink(*words):
    return cli.main(list(words))


def refused(capsys, *words):
    assert relink(*words) in (2, 65, 74)
    return capsys.readouterr().err


def test_the_default_recipe_is_the_preset_of_frontal_images():
    assert cohort_sources.recipe(config.RunConfig()) == recipes.named("frontal_image")


def test_fields_change_a_preset_and_its_name():
    run = config.RunConfig()
    run.cohort.recipe.preset = "gloria"
    run.cohort.recipe.views, run.cohort.recipe.min_words, run.cohort.recipe.train_share = ("AP",), 0, 0.5
    made = cohort_sources.recipe(run)
    assert (made.views, made.min_words, made.text_field) == (("AP",), 0, "impression")
    assert made.shares == pytest.approx((0.5, 0.1, 0.4))
    assert made.name == "gloria, changed"


def test_an_unknown_preset_is_named():
    run = config.RunConfig()
    run.cohort.recipe.preset = "frontal_imgae"
    with pytest.raises(errors.UsageError, match="did you mean 'frontal_image'"):
        cohort_sources.recipe(run)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cohort", "chekc"], "did you mean 'check'"),
        (["cohort", "report", "--limit=3"], "flag of another subcommand in 'relink cohort report'"),
        (["cohort"], "workdir missing on the command line"),
        (["cohort", "report"], "the phantom is generated"),
        (["cohort", "write", "--layout=mimic"], "did you mean 'mimic_cxr'"),
        (["cohort", "write", "--layout=table"], "a new or empty directory, found nothing"),
        (["cohort", "--config.cohort.source=mimic_cxr+mimic_cxr", "--workdir=x"], "different archives"),
        (["cohort", "--config.cohort.source=mimiccxr", "--workdir=x"], "did you mean 'mimic_cxr'"),
        (["cohort", "check", "--config.cohort.source=openi"], "config field 'cohort.openi.reports'"),
        (["cohort", "--config.cohort.recipe.images=frist", "--workdir=x"], "did you mean 'first'"),
    ],
)
def test_wrong_words_are_one_sentence(capsys, words, told):
    assert told in refused(capsys, *words)


def test_a_tree_is_not_written_over_another(tmp_path, capsys):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine.txt").write_text("x")
    assert "a new or empty directory" in refused(capsys, "cohort", "write", "--layout=table", f"--to={tmp_path / 'tree'}")
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["mine.txt"]


def test_check_writes_every_problem_as_csv(tmp_path, capsys):
    flags = write(tmp_path, archive(tmp_path, **{"1:view": "XX", "2:No Finding": "7", "5:image_path": "gone.png"}))
    assert "3 problems of 3 kinds" in refused(capsys, "cohort", "check", *flags[:-1], f"--csv={tmp_path / 'wrong.csv'}")
    with (tmp_path / "wrong.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["row"], row["column"]) for row in rows] == [("2", "view"), ("3", "No Finding"), ("6", "image_path")]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Returns (root, flags) of a workdir with two sites, converted, its features made from the loose files."""
    root = tmp_path_factory.mktemp("embedded")
    rows = archive(root)
    for row in rows:
        row["site"], row["split"] = ("A" if row["patient_id"] in ("p0", "p1", "p2") else "B"), "test"
    flags = write(root, rows)
    for stage in ("cohort", "convert", "embed"):
        assert relink(stage, *flags, *FAST) == 0
    return root, flags


def test_sites_are_audited_each_or_joined(embedded):
    root, flags = embedded
    assert relink("audit", *flags, *FAST) == 0
    assert relink("audit", *flags, *FAST, "--config.audit.sites=joined") == 0
    found = {path.stem.split("__")[-1]: json.loads(path.read_text())["data"] for path in (root / "w" / "results").glob("*.json")}
    assert {name: data["n_studies"] for name, data in found.items()} == {"pairs-A-test": 6, "pairs-B-test": 6, "pairs-joined": 12}
    assert found["pairs-joined"]["site"] == "A and B"
    assert found["pairs-joined"]["recipe"]["name"] == "frontal_image"


def test_records_give_the_features_of_the_files(embedded, tmp_path):
    root, flags = embedded
    again = [*flags[:-1], f"--workdir={tmp_path / 'w'}"]
    assert relink("cohort", *again, *FAST) == 0
    assert relink("convert", again[-1]) == 0
    assert relink("cohort", "build", again[-1], "--workers=1", "--shard_rows=5") == 0
    for path in (root / "png").glob("*.png"):
        path.rename(path.with_suffix(".away"))
    try:
        assert relink("embed", again[-1]) == 0
    finally:
        for path in (root / "png").glob("*.away"):
            path.rename(path.with_suffix(".png"))
    features = [shards.read(place / "features" / "phantom-0-untrained" / "images")["features"] for place in (root / "w", tmp_path / "w")]
    np.testing.assert_array_equal(*features)
    for place in (root / "w", tmp_path / "w"):
        assert context.encoding_warnings({"precision": "float32", "dtype": "float32"}) == []
        assert "pictures" not in shards.manifest(place / "features" / "phantom-0-untrained" / "images")["identity"]


def test_resized_records_say_so_in_every_result(embedded, tmp_path):
    _, flags = embedded
    again = [*flags[:-1], f"--workdir={tmp_path / 'w'}"]
    assert relink("cohort", *again, *FAST) == 0
    assert relink("convert", again[-1]) == 0
    assert relink("cohort", "build", again[-1], "--workers=1", "--short_side=32") == 0
    for stage in ("embed", "audit"):
        assert relink(stage, again[-1]) == 0
    for path in (tmp_path / "w" / "results").glob("*.json"):
        warnings = json.loads(path.read_text())["warnings"]
        assert any("embedded from records, short side 32 by lanczos" in warning for warning in warnings)


def test_a_workdir_that_others_can_enter_is_refused(embedded, capsys):
    root, flags = embedded
    (root / "w").chmod(0o755)
    try:
        for words in (["cohort", "build", "--workers=1"], ["audit"]):
            assert "directory open to others" in refused(capsys, *words, flags[-1])
    finally:
        (root / "w").chmod(0o700)


def test_purge_lists_and_then_removes_what_is_restricted(tmp_path, capsys):
    flags = write(tmp_path, archive(tmp_path))
    for stage in ("cohort", "convert", "embed", "audit", "report"):
        assert relink(stage, *flags, *FAST) == 0
    capsys.readouterr()
    listed = len(restricted.manifest(tmp_path / "w")["files"])
    assert relink("cohort", "purge", flags[-1]) == 0
    assert f"restricted: {listed} files" in capsys.readouterr().out
    assert len(restricted.manifest(tmp_path / "w")["files"]) == listed
    assert relink("cohort", "purge", flags[-1], "--yes") == 0
    assert f"removed: {listed} restricted files" in capsys.readouterr().out
    assert restricted.manifest(tmp_path / "w")["files"] == []
    assert (tmp_path / "w" / "report" / "index.html").exists()
    assert list((tmp_path / "w" / "results").glob("*.json"))
