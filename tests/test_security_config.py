"""Which files a command runs: the Python config that the user named, and nothing that happens to lie in a workdir or where the user stands."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import relink_jax
from relink_jax import cli, config, errors

ROOT = str(pathlib.Path(relink_jax.__file__).resolve().parent.parent)
SHADOWS = ("absl", "ml_collections", "jax", "numpy", "launch", "configs", "relink_config_demo", "usercustomize", "sitecustomize", "difflib", "signal")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, full of files that leave a mark when they are run; returns (directory, what was run)."""
    home = tmp_path / "here"
    mark = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\n"
    for name in ("config.py", "demo.py", "configs/demo.py", "w/config.py", "w/get_config.py", "w/configs/demo.py", *(f"{name}.py" for name in SHADOWS)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(mark)
    monkeypatch.chdir(home)
    return home, lambda: (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""


def base(*words):
    return cli.parse("audit", list(words))[0]


def test_names_are_those_of_shipped_files_wherever_one_stands(here):
    assert base("--config=demo") == base() == config.RunConfig(name="demo") == base("--workdir=w")
    for name in ("config", "w/config", "configs/demo", "./demo", "relink_config_demo", "os"):
        with pytest.raises(errors.UsageError, match="unknown config"):
            base(f"--config={name}")
    assert here[1]() == ""


def test_what_a_workdir_recorded_is_data(here, monkeypatch):
    run = config.RunConfig(name="recorded")
    pathlib.Path("w/config.json").write_text(json.dumps(config.to_dict(run)))
    assert base("--workdir=w").name == "recorded"
    pathlib.Path("w/config.json").write_text("import os\nos.mkdir('made')\n")
    with pytest.raises(errors.StoreError, match="recorded config damaged"):
        base("--workdir=w")
    pathlib.Path("w/config.json").unlink()
    pathlib.Path("w/run.json").write_text("{}")
    with pytest.raises(errors.StoreError, match="recorded config missing"):
        base("--workdir=w")
    assert not pathlib.Path("made").exists()
    assert here[1]() == ""


def test_a_python_file_that_the_user_names_is_run(here):
    with pytest.raises(errors.UsageError, match="AttributeError"):
        base("--config=config.py")
    assert here[1]() == "relink_config_config "


@pytest.mark.parametrize(
    "text",
    [
        *(
            '{"audit":' * 100_000,
            "[" * 1_000_000,
            '{"name": "' + "x" * 1_000_000,
            "9" * 100_000,
            '{"audit": {"seed": ' + "9" * 4_000 + "}}",
            "null",
            "[]",
            '"x"',
            "",
        ),
        *(json.dumps({"x" * 1_000_000: 1}), json.dumps({"audit": {"y" * 1_000_000: 1}}), '{"audit": {"seed": NaN}}', '{"audit": {"seed": 1e999}}', "\x00"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_no_config_is_one_short_sentence(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(errors.UsageError) as caught:
        base(f"--config={tmp_path / 'x.json'}").validate()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(tmp_path) not in str(caught.value)


def run(*words, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {"PYTHONPATH": ROOT}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, **options)


def test_python_m_imports_nothing_from_the_current_directory(here):
    done = run("-m", "relink_jax", "audit", "--workdir=nowhere", "--config.audit.sed=3")
    assert done.returncode == 2, done.stderr
    assert "did you mean 'audit.seed'" in done.stderr
    run("-m", "relink_jax", "audit", "--config.audit.seed=x")
    assert here[1]() == ""


def test_from_its_own_checkout_python_m_still_finds_what_lies_beside_it():
    done = run("-m", "relink_jax", "audit", "--config.audit.sed=3", cwd=ROOT)
    assert "did you mean 'audit.seed'" in done.stderr
