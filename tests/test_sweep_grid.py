"""A sweep's question before anything is computed: cells and passes against brute force, its flags, its price, and its refusals."""

import dataclasses
import itertools

import pytest

from relink_jax import cli, errors
from relink_jax import config as config_lib
from relink_jax.privacy import accounting
from relink_jax.stages import sweep_grid, sweep_plan, sweep_state
from relink_jax.store import digests

MODELS = ["phantom-0-untrained", "phantom-2-reports", "phantom-3-specialist"]


def expanded(before=None, config=None, **flags):
    return sweep_grid.expand(config or config_lib.RunConfig(), {name: flags.get(name) for name in sweep_grid.AXES}, before)


@pytest.mark.parametrize("pools", [["10"], ["10", "100", "1000"], ["20", "full"]])
@pytest.mark.parametrize("strata", [["other_patient"], ["view", "label_matched", "sex_age"]])
@pytest.mark.parametrize("heads", [["original"], ["original", "dp"], ["original", "random", "noise_only"]])
@pytest.mark.parametrize("mitigate", [[], MODELS[:1], MODELS])
def test_cells_are_the_product_and_passes_are_models_by_heads(pools, strata, heads, mitigate):
    grid = expanded(
        **{name: ",".join(values) for name, values in {"models": MODELS, "pools": pools, "strata": strata, "heads": heads}.items()}, mitigate=",".join(mitigate)
    )
    every = {
        (model, head, stratum, None if pool == "full" else int(pool))
        for model, head, stratum, pool in itertools.product(MODELS, heads, strata, pools)
        if head == "original" or model in mitigate
    }
    found = [dataclasses.astuple(cell) for job in grid.jobs for cell in job.cells]
    assert set(found) == every
    assert len(found) == len(every) == grid.cells
    draws = config_lib.RunConfig().heads.noise_draws
    arms = {model: heads if model in mitigate and len(heads) > 1 else ["original"] for model in MODELS}
    assert grid.passes == sum(len(found) + (draws - 1) * ("noise_only" in found) for found in arms.values())


def test_pool_sizes_and_strata_cost_no_pass():
    little, much = expanded(pools="100", strata="view"), expanded(pools="100,1000,10000,full", strata="view,length,label_matched,other_patient")
    assert much.cells == 16 * little.cells
    assert much.passes == little.passes


@pytest.mark.parametrize(
    ("flags", "mitigated"),
    [
        ({}, ["phantom-3-specialist"]),
        ({"models": "phantom-0-untrained"}, []),
        ({"heads": "original,dp"}, list(config_lib.MODELS)),
        ({"heads": "dp"}, list(config_lib.MODELS)),
        ({"heads": "original"}, []),
        ({"mitigate": ""}, []),
        ({"mitigate": "phantom-1-labels"}, ["phantom-1-labels"]),
        ({"heads": "dp", "mitigate": "phantom-1-labels,phantom-0-untrained"}, ["phantom-1-labels", "phantom-0-untrained"]),
    ],
)
def test_which_models_are_mitigated(flags, mitigated):
    grid = expanded(**flags)
    assert grid.axes["mitigate"] == mitigated
    for job in grid.jobs:
        assert job.config.mitigate == (job.model if job.model in mitigated else "")
        assert ("dp" in job.arms) == (job.model in mitigated)


def test_an_earlier_grid_stands_where_no_flag_is_given():
    first = expanded(models="phantom-0-untrained,phantom-1-labels", pools="50,full", heads="dp", mitigate="phantom-1-labels", strata="view").axes
    assert expanded(first).axes == first
    assert expanded(first, pools="20").axes == {**first, "pools": ["20"]}
    assert expanded(first, heads="random").axes == {**first, "heads": ["original", "random"], "mitigate": first["models"]}
    assert expanded(first, models="phantom-0-untrained").axes == {**first, "models": ["phantom-0-untrained"], "mitigate": []}


def test_a_job_is_one_model_and_its_config_survives_its_file():
    job = expanded(models="phantom-1-labels", heads="dp", pools="10,50,full", strata="other_patient,view").jobs[0]
    assert (job.config.models, job.config.arms, job.config.audit.pool_sizes, job.config.audit.strata) == (
        ("phantom-1-labels",),
        ("original", "dp"),
        (10, 50),
        ("view",),
    )
    assert digests.value_digest(config_lib.to_dict(config_lib.from_dict(config_lib.to_dict(job.config)))) == job.digest
    assert expanded(models="phantom-1-labels", heads="dp", pools="10,51").jobs[0].digest != job.digest


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--models="], "list in flag --models"),
        (["--models=phantom-0-untrained,phantom-0-untrained"], "distinct values"),
        (["--models=phantom-0-untraind"], "did you mean 'phantom-0-untrained'?"),
        (["--models=a__b"], "without '__'"),
        (["--heads=dpp"], "did you mean 'dp'?"),
        (["--mitigate=phantom-9"], "of the sweep's models"),
        (["--pools=ten"], "or full, found 'ten'"),
        (["--pools=1"], "from 2 to 1e9"),
        (["--pools=010"], "pool size in flag --pools"),
        (["--pools=5"], "at most the largest pool size 5"),
        (["--strata=label_match"], "did you mean 'label_matched'?"),
        (["--images=5"], "size in --studies"),
        (["--images=x", "--studies=5"], "size in --images"),
        (["--csv=x.csv"], "flag of another subcommand in 'relink sweep plan'"),
        (["table", "--images=4"], "flag of another subcommand in 'relink sweep table'"),
        (["rnu"], "did you mean 'run'?"),
        (["run", "more"], "subcommand in 'relink sweep'"),
        (["submit"], "command in flag --submit"),
        (["submit", "--submit=no-such-scheduler -x"], "found 'no-such-scheduler'"),
        (["--config.audit.ks=5"], "1 among them"),
        (["--config.embeddings=x"], "'relink audit' is for that"),
        (["--config.source=x"], "'relink convert --source'"),
    ],
)
def test_wrong_words_exit_2_with_one_sentence_and_leave_nothing(tmp_path, capsys, words, hint):
    assert cli.main(["sweep", *words, f"--workdir={tmp_path / 'sweep'}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert hint in err
    assert not (tmp_path / "sweep").exists()


def test_what_all_heads_spend_together_is_composed_and_below_the_sum(tmp_path):
    """Two trainings of T steps are one of 2 T, which the accountants price by itself."""
    config, units = config_lib.RunConfig(), 300
    config.heads.mechanism.iterations = 4
    grid = expanded(config=config, models=",".join(MODELS[:2]), heads="dp", pools="10")
    people = sweep_state.People({"a": (10, 10)}, 20, 20, units)
    (told,) = sweep_plan.together(grid, people, tmp_path)
    mechanism = sweep_plan.planned(grid.jobs[0].config.heads.mechanism, units)
    twice = accounting.price(dataclasses.replace(mechanism, iterations=8), 6e-6)
    assert f"epsilon {twice.rdp:.4g} (RDP), {twice.pld:.4g} (PLD) at delta 6e-06 per patient, 2 trainings composed" in told
    assert 0.34 < twice.rdp < 0.68
    (plain,) = sweep_plan.together(grid, None, tmp_path)
    assert "at most epsilon 0.68 at delta 1.2e-05" in plain
    assert sweep_plan.together(expanded(models=MODELS[0], heads="dp"), people, tmp_path) == []


def test_an_unsound_objective_has_no_epsilon_to_state(tmp_path):
    config = config_lib.RunConfig()
    config.heads.mechanism.objective, config.heads.mechanism.allow_unsound = "inbatch_infonce_unsound", True
    grid = expanded(config=config, models=",".join(MODELS[:2]), heads="dp")
    assert "no epsilon can be stated" in sweep_plan.together(grid, sweep_state.People({}, 2, 2, 300), tmp_path)[0]


def test_a_plan_counts_passes_over_stated_sizes_and_writes_nothing(tmp_path, capsys):
    words = ["--models=clip-vit-b-32,phantom-3-specialist", "--mitigate=phantom-3-specialist", "--heads=dp", "--pools=100,full", "--strata=view"]
    assert cli.main(["sweep", *words, "--images=406241", "--studies=400000", f"--workdir={tmp_path / 'sweep'}"]) == 0
    out = capsys.readouterr().out
    assert next(line for line in out.splitlines() if line.startswith("phantom-3")).endswith("0.34 to be spent")
    assert "6 cells on one evaluation set (how many there are, the cohort will say), answered by 3 counting passes" in out
    assert f"{2 * 406241 * 400000 * 512 / 1e12:.1f} TFLOP" in next(line for line in out.splitlines() if line.startswith("clip-vit-b-32"))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("name", ["run.json", "notes.txt"])
def test_a_directory_that_is_no_sweeps_is_refused(tmp_path, capsys, name):
    (tmp_path / name).write_text("{}")
    assert cli.main(["sweep", "run", "--config=demo_small", f"--workdir={tmp_path}"]) == 2
    assert "an empty one, or a sweep's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    from relink_jax.stages import sweep

    monkeypatch.setattr(sweep.jax, "process_count", lambda: 4)
    with pytest.raises(errors.UsageError, match="found 4 processes"):
        sweep.run(config_lib.RunConfig(), str(tmp_path), ["run"])
    monkeypatch.setattr(sweep.jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(errors.UsageError, match="found 4 processes"):
        sweep.run(config_lib.RunConfig(), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
