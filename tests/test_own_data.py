"""The road on a user's own table and checkpoint: the least a table may hold, sites, names, and what changed since."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from own_archive import archive, write

from relink_jax import cli
from relink_jax import config as config_lib
from relink_jax.report import schema
from relink_jax.stages import audit, context
from relink_jax.stages import cohort as cohort_stage

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")  # the arithmetic of what is compiled here is tested elsewhere

CHECKPOINT = pathlib.Path(config_lib.__file__).parent / "data" / "phantom-0-untrained"
FAST = [
    "--config.audit.attacks=csls",
    "--config.audit.measures=blocks",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.pool_sizes=3",
    "--config.audit.ks=1",
]
MINIMAL = ("image_path", "patient_id", "study_id", "findings", "impression")


def relink(*words: str) -> int:
    return cli.main(list(words))


def minimal(root: pathlib.Path) -> list[str]:
    """Writes a table with the required columns only and returns the flags that read it."""
    return write(root, [{name: row[name] for name in MINIMAL} for row in archive(root)])


@pytest.fixture
def own_checkpoint(tmp_path):
    """A checkpoint directory of the user's, in the published layout."""
    return shutil.copytree(CHECKPOINT, tmp_path / "my_clip")


def test_required_columns_and_an_own_checkpoint_are_enough_for_an_audit(tmp_path, own_checkpoint, capsys):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("cohort", *minimal(tmp_path)) == 0
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 0
    assert relink("embed", workdir) == 0
    assert relink("audit", *FAST, workdir) == 0
    assert "no random, dp, noise_only heads in the workdir, so they are left out" in capsys.readouterr().err
    assert relink("report", workdir) == 0
    assert relink("report", "--check", workdir) == 0
    assert [schema.stem(one) for one in schema.load_results(tmp_path / "w" / "results")] == ["my_clip__original__pairs-test"]
    recorded = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (recorded["models"], recorded["mitigate"]) == (["my_clip"], "my_clip")
    capsys.readouterr()
    assert relink("heads", workdir) == 2
    assert "split 'train'" in capsys.readouterr().err
    assert relink("probe", workdir) == 65
    assert "images with labels" in capsys.readouterr().err


def test_the_demo_on_a_table_without_splits_audits_only_and_matches_by_any_column(tmp_path, own_checkpoint):
    rows = [{**{name: row[name] for name in MINIMAL}, "ward": "ab"[number // 2 % 2]} for number, row in enumerate(archive(tmp_path))]
    flags = [*write(tmp_path, rows), "--config.cohort.facts=ward", "--config.audit.strata=ward"]
    assert relink("convert", f"--source={own_checkpoint}", *flags) == 0
    assert relink("demo", *FAST, *flags) == 0
    assert not (tmp_path / "w" / "heads" / "my_clip" / "dp").exists()
    assert (tmp_path / "w" / "report" / "index.html").exists()
    (document,) = schema.load_results(tmp_path / "w" / "results")
    counted = {one["stratum"]: one for one in document["metrics"] if one["name"] == "recall" and one["full"]}
    assert (counted["ward"]["N"], counted["other_patient@ward"]["N"]) == (5, 11)  # two more patients of the ward, five others in all


def test_splits_without_a_test_split_are_not_audited_on_the_people_trained_on(tmp_path, own_checkpoint, capsys):
    rows = [{**row, "split": row["split"].replace("test", "train")} for row in archive(tmp_path)]
    flags, workdir = write(tmp_path, rows), f"--workdir={tmp_path / 'w'}"
    assert relink("cohort", *flags) == 0
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 0
    assert relink("embed", workdir) == 0
    assert relink("audit", *FAST, workdir) == 65
    assert "nothing to audit in split 'test' of the cohort" in capsys.readouterr().err


@pytest.mark.parametrize(("column", "misspelt"), [("split", "splits"), ("Pleural Effusion", "Pleural Effusions"), ("site", "sites")])
def test_a_misspelt_optional_column_is_not_left_out_silently(tmp_path, capsys, column, misspelt):
    rows = [{misspelt if name == column else name: value for name, value in row.items()} for row in archive(tmp_path)]
    assert relink("cohort", *write(tmp_path, rows)) == 65
    assert f"did you mean {column!r}?" in capsys.readouterr().err


def test_a_second_checkpoint_stands_beside_the_first(tmp_path, own_checkpoint):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 0
    assert relink("convert", f"--source={own_checkpoint}", "--model=again", workdir) == 0
    recorded = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (recorded["models"], recorded["mitigate"]) == (["my_clip", "again"], "my_clip")


@pytest.mark.parametrize(("name", "changed"), [("model.safetensors", "source_sha256"), ("config.json", "config_sha256")])
def test_another_checkpoint_under_the_same_name_is_refused(tmp_path, own_checkpoint, capsys, name, changed):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 0
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 0
    shutil.copy(CHECKPOINT.with_name("phantom-1-labels") / name, own_checkpoint / name)
    if name == "config.json":
        described = json.loads((CHECKPOINT / name).read_text())
        described["text_config"]["layer_norm_eps"] = 1e-3
        (own_checkpoint / name).write_text(json.dumps(described))
    assert relink("convert", f"--source={own_checkpoint}", workdir) == 74
    assert changed in capsys.readouterr().err
    shutil.rmtree(own_checkpoint)
    assert relink("convert", workdir) == 0


def test_a_model_of_one_command_does_not_narrow_the_next(tmp_path):
    workdir = f"--workdir={tmp_path / 'w'}"
    assert relink("convert", "--model=phantom-0-untrained", workdir) == 0
    assert json.loads((tmp_path / "w" / "config.json").read_text())["models"] == list(config_lib.MODELS)
    assert [entry.name for entry in (tmp_path / "w" / "models").iterdir()] == ["phantom-0-untrained"]


def test_every_site_with_a_training_split_trains_and_the_others_are_external(tmp_path):
    sites = {f"{row}:site": "Mercy West" if row < 6 else "Hosp1" for row in range(12)}
    flags = write(tmp_path, archive(tmp_path, **sites))
    config, workdir, *_ = cli.parse("cohort", flags)
    cohort = cohort_stage.run(config, workdir)
    assert context.training_sites(config, cohort) == ["Mercy West"]
    assert [(one.name, one.external) for one in context.evaluation_sets(config, cohort)] == [("pairs-Hosp1-external", True)]
    config.heads.train_split = "validate"
    assert context.training_sites(config, cohort) == ["Hosp1", "Mercy West"]
    assert [(one.name, one.external) for one in context.evaluation_sets(config, cohort)] == [("pairs-Hosp1-test", False)]


def test_a_table_that_changed_after_it_was_read_is_noticed(tmp_path, capsys):
    flags = write(tmp_path, archive(tmp_path))
    assert relink("cohort", *flags) == 0
    assert relink("cohort", *flags) == 0
    with (tmp_path / "pairs.csv").open("a") as stream:
        stream.write("0.png,im0,r99,p0,s0,finding number 0,none,PA,train,A,1,0\n")
    assert relink("cohort", *flags) == 74
    assert "table changed in table 'pairs.csv'" in capsys.readouterr().err


def test_relative_paths_are_recorded_as_absolute_ones(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal((8, 4)) for name in ("images", "texts")}
    (tmp_path / "vectors").mkdir()
    np.savez(tmp_path / "vectors" / "embeddings.npz", **arrays, image_study=range(8), text_study=range(8), patient=range(8))
    monkeypatch.chdir(tmp_path)
    assert relink("audit", "--embeddings=vectors", *FAST, "--workdir=w") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert relink("audit", *FAST, "--workdir=../w") == 0
    assert relink("audit", "--embeddings=../vectors", *FAST, "--workdir=../w") == 0
    assert relink("report", "--check", "--workdir=../w") == 74
    assert relink("report", "--workdir=../w") == 0
    assert relink("report", "--check", "--workdir=../w") == 0


def test_a_stage_called_from_python_checks_its_config(tmp_path):
    config = config_lib.RunConfig()
    config.audit.ks = ()
    with pytest.raises(Exception, match=r"audit\.ks"):
        audit.run(config, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
