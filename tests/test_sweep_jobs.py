"""The jobs of a sweep without their work: the order of stages, failures, stops, and what a scheduler is given."""

import json
import shlex
import stat

import pytest

from relink_jax import cli, errors
from relink_jax import config as config_lib
from relink_jax.runtime import stopping
from relink_jax.stages import context, demo, sweep_jobs

MODELS = ["phantom-0-untrained", "phantom-1-labels", "phantom-3-specialist"]
GRID = ["--config=demo_small", f"--models={','.join(MODELS)}", "--heads=dp", "--mitigate=phantom-3-specialist", "--pools=10,20", "--strata=view"]


@pytest.fixture
def calls(monkeypatch):
    """Every stage only notes (model, stage, workdir's name); what it notes may be made to raise."""
    noted, raises = [], {}
    for name in demo.ROAD:

        def run(config, workdir, name=name):
            noted.append((config.models[0], name, workdir.rsplit("/", 1)[-1]))
            if (config.models[0], name) in raises:
                raise raises[config.models[0], name]

        monkeypatch.setattr(sweep_jobs._STAGES[name], "run", run)
    monkeypatch.setattr(context, "training_sites", lambda *_: ["A"])
    monkeypatch.setattr(demo, "check_mitigated", lambda *_: None)
    noted_and_raises = type("Calls", (), {"noted": noted, "raises": raises})
    yield noted_and_raises
    stopping.forget()


def sweep(root, *words):
    return cli.main(["sweep", *words, f"--workdir={root}"])


def road(model, *, heads=True, probe=True):
    return [(model, name, model) for name in demo.ROAD if (heads or name != "heads") and (probe or name != "probe")]


def test_a_run_takes_every_job_through_the_road_in_its_own_workdir(tmp_path, calls, capsys):
    assert sweep(tmp_path / "sweep", "run", *GRID) == 0
    assert calls.noted == [*road(MODELS[0], heads=False), *road(MODELS[1], heads=False), *road(MODELS[2])]
    out = capsys.readouterr().out
    assert "0 of 8 cells have a figure, 8 are missing" in out
    assert str(tmp_path) not in out
    assert stat.S_IMODE((tmp_path / "sweep").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "sweep").iterdir())


def test_a_cohort_without_training_is_only_audited(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(context, "training_sites", lambda *_: [])
    assert sweep(tmp_path / "sweep", "run", *GRID) == 0
    assert calls.noted == [one for model in MODELS for one in road(model, heads=False, probe=False)]


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ({(MODELS[0], "embed"): errors.DataError("image unreadable in x: expected a, found b")}, 65),
        ({(MODELS[0], "audit"): errors.DataError("a"), (MODELS[1], "cohort"): errors.StoreError("b"), (MODELS[2], "heads"): errors.UsageError("c")}, 74),
        ({(MODELS[1], "convert"): ValueError("a path of the archive")}, 70),
        ({(MODELS[1], "convert"): errors.UnsoundError("counts differ"), (MODELS[0], "cohort"): errors.DataError("a")}, 70),
    ],
)
def test_a_failing_job_stops_no_other_and_the_worst_code_is_returned(tmp_path, calls, capsys, failing, code):
    calls.raises.update(failing)
    assert sweep(tmp_path / "sweep", "run", *GRID) == code
    expected = []
    for model in MODELS:
        stages = road(model, heads=model == MODELS[2])
        stop = next((name for (one, name) in failing if one == model), None)
        expected += stages[: [name for _, name, _ in stages].index(stop) + 1] if stop else stages
    assert calls.noted == expected
    err = capsys.readouterr().err
    assert f"relink sweep: error: {len(failing)} of 3 jobs failed" in err
    assert "path of the archive" not in err
    for model, _ in failing:
        assert f"{model} (" in err


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), errors.StoppedError("audit stopped as asked")])
def test_a_stop_ends_the_sweep_with_75(tmp_path, calls, stop):
    calls.raises[MODELS[1], "audit"] = stop
    assert sweep(tmp_path / "sweep", "run", *GRID) == 75
    assert {model for model, _, _ in calls.noted} == set(MODELS[:2])


def test_a_request_to_stop_ends_it_before_the_next_stage(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(sweep_jobs._STAGES["convert"], "run", lambda *_: stopping.ask())
    assert sweep(tmp_path / "sweep", "run", *GRID) == 75
    assert calls.noted == [(MODELS[0], "cohort", MODELS[0])]


@pytest.fixture
def scheduler(tmp_path):
    """A command that appends its words to a file, a JSON list a line, and answers as sbatch does; while a file 'broken' is there it fails."""
    script = tmp_path / "batch command"
    script.write_text(
        f"""#!/bin/sh
[ -e {shlex.quote(str(tmp_path / "broken"))} ] && {{ echo queue is closed >&2; exit 3; }}
printf '%s\\0' "$@" >> {shlex.quote(str(tmp_path / "words"))}; printf '\\n' >> {shlex.quote(str(tmp_path / "words"))}
echo 'queue: short'
echo Submitted batch job $(wc -l < {shlex.quote(str(tmp_path / "words"))})
"""
    )
    script.chmod(0o700)
    return f"--submit={shlex.quote(str(script))} --time=1:00"


def submitted(tmp_path):
    path = tmp_path / "words"
    return [line.rstrip("\0").split("\0") for line in path.read_text().splitlines()] if path.exists() else []


def test_every_job_is_submitted_once_with_a_config_that_completes_it(tmp_path, scheduler, capsys):
    root = tmp_path / "sweep"
    assert sweep(root, "submit", *GRID, scheduler) == 0
    found = submitted(tmp_path)
    assert [words[:3] for words in found] == [["--time=1:00", "relink", "demo"]] * 3
    for model, words in zip(MODELS, found, strict=True):
        config, workdir, _, _ = cli.parse("demo", words[3:])
        assert workdir == str(root / model)
        assert (config.models, config.mitigate) == ((model,), model if model == MODELS[2] else "")
        assert (config.arms, config.audit.pool_sizes, config.audit.strata) == (("original", "dp"), (10, 20), ("view",))
        assert config.cohort.phantom.n_patients == 300
    assert capsys.readouterr().out.splitlines() == [f"{model}: Submitted batch job {number}" for number, model in enumerate(MODELS, 1)]
    record = json.loads((root / "sweep.json").read_text())["submitted"]
    assert [record[model]["said"] for model in MODELS] == [f"Submitted batch job {number}" for number in (1, 2, 3)]
    assert [record[model]["command"][1:] for model in MODELS] == found
    assert sweep(root, "submit", scheduler) == 0
    assert len(submitted(tmp_path)) == 3
    assert "--again submits it once more" in capsys.readouterr().out
    assert sweep(root, "submit", "--again", scheduler) == 0
    assert len(submitted(tmp_path)) == 6
    assert sweep(root, "submit", "--pools=10,30", scheduler) == 0
    assert len(submitted(tmp_path)) == 9


def test_a_recorded_grid_is_not_taken_for_that_of_another_config(tmp_path, calls, capsys):
    assert sweep(tmp_path / "sweep", "run", *GRID) == 0
    assert sweep(tmp_path / "sweep", "plan") == 0
    assert "sweep: models 3, kinds of heads 2, strata 1, pool sizes 2" in capsys.readouterr().out
    assert sweep(tmp_path / "sweep", "plan", "--config.audit.seed=3") == 0
    assert "sweep: models 4, kinds of heads 4, strata 10, pool sizes 5" in capsys.readouterr().out


def test_a_dry_run_prints_and_leaves_nothing(tmp_path, scheduler, capsys):
    assert sweep(tmp_path / "sweep", "submit", *GRID, "--dry_run", scheduler) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [words[2:4] for words in lines] == [["relink", "demo"]] * 3
    assert submitted(tmp_path) == []
    assert not (tmp_path / "sweep").exists()


def test_a_scheduler_that_refuses_keeps_what_was_submitted_before(tmp_path, scheduler, capsys, monkeypatch):
    root, once = tmp_path / "sweep", sweep_jobs._submitted

    def closing(words):
        said = once(words)
        (tmp_path / "broken").touch()
        return said

    monkeypatch.setattr(sweep_jobs, "_submitted", closing)
    assert sweep(root, "submit", *GRID, scheduler) == 2
    assert "submission failed in command 'batch command': expected exit code 0, found 3: queue is closed" in capsys.readouterr().err
    (tmp_path / "broken").unlink()
    monkeypatch.setattr(sweep_jobs, "_submitted", once)
    assert sweep(root, "submit", scheduler) == 0
    assert [words[-1] for words in submitted(tmp_path)] == [f"--workdir={root / model}" for model in MODELS]


def test_a_damaged_record_is_refused(tmp_path, capsys):
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(config_lib.RunConfig())))
    assert sweep(tmp_path, "table") == 74
    assert "sweep.json" in capsys.readouterr().err
