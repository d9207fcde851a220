"""The command line: help that teaches, did-you-mean, exit codes, overrides, and a fast start."""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from relink_jax import cli, config, errors, settings
from relink_jax.stages import catalogue, launch_flags, launch_words

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(capsys, *words):
    code = cli.main(words)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_overview_names_every_stage_and_example(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for stage in catalogue.STAGES:
        assert f"  {stage} " in out
    assert "relink demo --workdir=out" in out


@pytest.mark.parametrize("stage", catalogue.STAGES)
def test_every_stage_has_help_with_example_and_exit_codes(capsys, stage):
    code, out, _ = run(capsys, stage, "--help")
    assert code == 0
    assert f"example: relink {stage}" in out
    assert "exit codes: 0 done" in out
    for field in config.fields(config.RunConfig()):
        if any(f"{field.path}.".startswith(f"{section}.") for section in catalogue.STAGES[stage].sections):
            assert f"--config.{field.path}=" in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("audti",), "did you mean 'audit'?"),
        (("audit", "--config=dmo", "--workdir=x"), "did you mean 'demo'?"),
        (("audit", "--config.audit.sed=1", "--workdir=x"), "did you mean 'audit.seed'?"),
        (("audit", "--config.top_q=1", "--workdir=x"), "did you mean 'audit.top_k'?"),
        (("audit", "--wrkdir=x"), "did you mean 'workdir'?"),
        (("audit", "--config.audit.label_policy=ternery", "--workdir=x"), "did you mean 'ternary'?"),
        (("audit", "--config.audit.seed=abc", "--workdir=x"), "'audit.seed': expected a whole number, found 'abc'"),
        (("audit", "--config.audit.level=much", "--workdir=x"), "'audit.level': expected a number, found 'much'"),
        (("audit", "--config.audit.seed=-1", "--workdir=x"), "'audit.seed': expected a number in [0, 4294967295]"),
        (("demo", "--config.cohort.phantom.seed=-1", "--workdir=x"), "cohort.phantom.seed"),
        (("probe", "--config.probe.l2_grid=nan", "--workdir=x"), "probe.l2_grid"),
        (("heads", "--config.heads.mechanism.target_epsilon=800", "--workdir=x"), "[0.0001, 100]"),
        (("plan", "--config.audit.tile=-1"), "audit.tile"),
        (("embed", "--model=phantom-3-specalist", "--workdir=x"), "did you mean 'phantom-3-specialist'?"),
        (("convert", "--source=nowhere", "--model=a__b", "--workdir=x"), "without '__'"),
        (("convert", "--source=nowhere", "--model=phantom-1-labels", "--workdir=x"), "one that no packaged model has"),
        (("audit", "--config.audit.pool_sizes=10,x", "--workdir=x"), "comma-separated int"),
        (("audit", "--config.audit.pool_sizes=1", "--workdir=x"), "at least 2"),
        (("audit", "--config.audit.ks=20000", "--workdir=x"), "at most the largest pool size 10000"),
        (("audit", "--config.heads.mechanism.target_delta=2", "--workdir=x"), "heads.mechanism.target_delta"),
        (("audit",), "--workdir=DIR"),
        (("audit", "more", "--workdir=x"), "flags only"),
        (("demo", "--patients=many", "--workdir=x"), "'many'"),
        (("demo", "--config=nothere.py", "--workdir=x"), "nothere.py"),
        (("audit", "--config=/abs/path/ef", "--workdir=x"), "or one of chexpert_external, demo, demo_small, "),
        (("audit", "--config", "--workdir=x"), "value missing in flag '--config'"),
        (("audit", "--config.audit.level", "--workdir=x"), "value missing in flag '--config.audit.level' on the command line: expected --config.audit.level="),
        (("audit", "--workdir=x", "--config.audit.level"), "value missing in flag '--config.audit.level'"),
        (("demo", "--patients", "--workdir=x"), "value missing in flag '--patients' on the command line: expected --patients=VALUE, found nothing"),
        (("audit", "--config.audit.seed", "abc", "--workdir=x"), "'audit.seed': expected a whole number, found 'abc'"),
        (("report", "--check=x", "--workdir=x"), "value in flag '--check' on the command line: expected --check alone, found 'x'"),
        (("report", "--nocheck=1", "--workdir=x"), "expected --nocheck alone, found '1'"),
        (
            ("audit", "--config.cohort.recipe.views=PA AP", "--workdir=x"),
            "'cohort.recipe.views': expected values with commas between them, such as preset, found 'PA AP'",
        ),
        (("audit", "--config.audit.ks=1.5", "--workdir=x"), "'audit.ks': expected comma-separated int values, found 1.5"),
        (("audit", "--config.audit.ks=True", "--workdir=x"), "'audit.ks': expected comma-separated int values, found True"),
        (("audit", f"--config.audit.pool_sizes=10,{'9' * 400}", "--workdir=x"), "up to 1e9"),
        (("audit", f"--config.audit.seed={'9' * 400}", "--workdir=x"), "found one of 400 digits"),
        (("cohort", f"--workdir={'a' * 300}"), "workdir in --workdir: expected a path that a directory can have, found File name too long"),
        (("cohort", "--workdir=~nobody-of-this-name/w"), "workdir in --workdir: expected a path that a directory can have, found none"),
        (("audit", f"--embeddings={'a' * 300}", "--workdir=x"), "path in config field 'embeddings'"),
        (("convert", f"--source={'a' * 300}", "--workdir=x"), "path in config field 'source': expected one that can exist, found File name too long"),
        (("plan", "--images=\u00b2"), "size in --images: expected a whole number from 1 to 1,000,000,000, found '\u00b2'"),
        (("plan", f"--images={'9' * 400}"), "size in --images: expected a whole number from 1 to 1,000,000,000, found '999"),
        (("plan", "--dim=0"), "size in --dim"),
        (("audit", "--coordinater=a:1", "--workdir=x"), "did you mean 'coordinator'?"),
        (
            ("audit", "--cluster=slrum", "--workdir=x"),
            "one of auto, none, one, slurm, ompi, mpi4py, tpu, gke, k8s, explicit, found 'slrum'; did you mean 'slurm'?",
        ),
        (("audit", "--processes=two", "--coordinator=a:1", "--workdir=x"), "flag '--processes' on the command line: expected a whole number from 1 on"),
        (("audit", "--coordinator=a:1", "--processes=2", "--process=2", "--workdir=x"), "--process=I with I from 0 to N-1"),
        (("audit", "--processes=2", "--process=0", "--workdir=x"), "--coordinator, --processes and --process together"),
        (("audit", "--process=", "--workdir=x"), "value missing in flag '--process'"),
        (("audit", "--local_devices=0,0", "--workdir=x"), "numbers that differ"),
        (("audit", "--stop_within=soon", "--workdir=x"), "seconds from 0 on, found 'soon'"),
        (("audit", "--stuck_after=nan", "--workdir=x"), "seconds from 0 on, found 'nan'"),
        (("audit", "--cluster", "slurm", "--workdir=x"), "a process that srun started"),
    ],
)
def test_wrong_words_exit_2_with_one_line_and_a_hint(capsys, words, hint):
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert hint in err
    assert err.count("\n") == 1


def test_launch_flags_are_taken_before_the_stages_own():
    words = ["-coordinator=h:1", "--processes", "4", "--process=3", "--local_devices=2,3", "--stuck_after=9.5", "--compile_cache=d", "--patients=44", "read"]
    options, rest = launch_flags.taken(words)
    assert rest == ["--patients=44", "read"]
    settings = options.cluster
    assert (settings.coordinator, settings.processes, settings.process, settings.local_devices) == ("h:1", 4, 3, (2, 3))
    assert (options.stuck_after, options.compile_cache, options.stop_within) == (9.5, "d", 60.0)
    assert (options.watched(4), launch_flags.Options().watched(4), launch_flags.Options().watched(1)) == (9.5, 1800.0, 0.0)
    named = {"settings": launch_flags.taken([f"--{name}=7" for name in launch_words.LAUNCH if name not in ("cluster", "coordinator")])[0]}
    assert named["settings"].cluster.heartbeat_timeout == named["settings"].cluster.shutdown_timeout == named["settings"].stop_within == 7


def test_launch_flags_are_no_stages_own_and_listed_in_one_place(capsys):
    for stage, described in catalogue.STAGES.items():
        assert not {alias.flag for alias in described.aliases} & launch_words.LAUNCH.keys()
        _, out, _ = run(capsys, stage, "--help")
        assert "relink cluster --help" in out or stage == "cluster"
        assert ("--heartbeat_timeout=" in out) == (stage == "cluster")
        for flag in launch_words.LAUNCH:
            assert (f"--{flag}=VALUE" in out) == (stage == "cluster")


def test_overrides_reach_the_config_with_their_types():
    words = [
        "--config=demo",
        "--config.audit.pool_sizes=10,50",
        "--config.audit.ks=1",
        "--config.heads.mechanism.target_epsilon=2",
        "--patients=44",
        "--workdir=w",
    ]
    parsed, workdir, rest, alone = cli.parse("demo", words)
    assert parsed.audit.pool_sizes == (10, 50)
    assert parsed.audit.ks == (1,)
    assert parsed.heads.mechanism.target_epsilon == 2.0
    assert parsed.cohort.phantom.n_patients == 44
    assert (workdir, rest, alone) == ("w", [], {})


def test_config_file_must_return_a_run_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return {'a': 1}\n")
    with pytest.raises(errors.UsageError, match="RunConfig"):
        cli.parse("audit", [f"--config={path}"])


def test_names_in_a_list_are_split_at_commas():
    parsed, *_ = cli.parse("audit", ["--config.models=one-model, another", "--config.mitigate="])
    assert parsed.models == ("one-model", "another")


def test_without_a_config_the_workdirs_own_is_used_and_a_named_one_wins(tmp_path):
    recorded = config.RunConfig(name="mine", embeddings="vectors")
    recorded.audit.pool_sizes = (10, 30)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(recorded)))
    assert cli.parse("report", [f"--workdir={tmp_path}"])[0] == recorded
    assert cli.parse("report", ["--workdir", str(tmp_path), "--config.audit.level=0.9"])[0].audit == dataclasses.replace(recorded.audit, level=0.9)
    assert cli.parse("report", [f"--workdir={tmp_path}", "--config", "demo_small"])[0].name == "demo_small"
    assert cli.parse("report", [f"--config={tmp_path / 'config.json'}"])[0] == recorded


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"audit": {"level": "much"}}',
        '{"audit": 3}',
        '{"audt": {}}',
        "[" * 100_000,
        '{"audit": {"seed": true}}',
        '{"audit": {"level": 1' + "0" * 400 + "}}",
    ],
)
def test_a_config_file_that_is_none_says_so_in_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(errors.UsageError, match=r"config file in --config file 'config\.json'"):
        cli.parse("report", [f"--config={path}"])
    with pytest.raises(errors.StoreError, match=r"recorded config damaged in workdir file 'config\.json'"):
        cli.parse("report", [f"--workdir={tmp_path}"])


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"audit": {"bootstrap_replicates": 2000.7}}', "audit.bootstrap_replicates': expected int, found float 2000.7"),
        ('{"audit": {"ks": [1.5]}}', "audit.ks': expected a list of int, found list"),
        ('{"audit": {"ks": "15"}}', "audit.ks': expected a list of int, found str"),
        ('{"name": 3}', "name': expected str, found int 3"),
        ('{"models": null}', "models': expected a list of str, found NoneType"),
    ],
)
def test_a_recorded_value_of_another_type_is_refused_not_rounded(tmp_path, text, field):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(errors.UsageError) as raised:
        cli.parse("audit", [f"--config={path}"])
    assert f"config field '{field}" in str(raised.value)


def test_a_whole_number_is_a_number(tmp_path):
    path = tmp_path / "good.json"
    path.write_text('{"heads": {"mechanism": {"target_epsilon": 2}}}')
    assert repr(cli.parse("audit", [f"--config={path}"])[0].heads.mechanism.target_epsilon) == "2.0"


@pytest.mark.parametrize("stage", ["cohort", "convert", "embed", "heads", "audit", "probe", "report", "demo"])
@pytest.mark.parametrize("workdir", [None, 3])
def test_a_workdir_that_is_no_path_is_a_wrong_argument(stage, workdir):
    module = importlib.import_module(f"relink_jax.stages.{stage}")
    with pytest.raises(errors.UsageError, match=f"workdir in argument 'workdir': expected the path of a directory, found {type(workdir).__name__}"):
        module.run(config.RunConfig(), workdir)


def test_a_misspelt_field_in_a_config_file_is_refused_with_the_right_name(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from relink_jax import config\n\ndef get_config():\n    run = config.RunConfig()\n    run.audit.topk = 3\n    return run\n")
    with pytest.raises(errors.UsageError, match=r"unknown field 'topk'; did you mean 'top_k'\?"):
        cli.parse("audit", [f"--config={path}"])


@pytest.mark.parametrize("value", [True, 1.5, None, "3", float("nan")])
def test_a_field_of_another_type_is_refused(value):
    run = config.RunConfig()
    run.audit.seed = value
    with pytest.raises(errors.UsageError, match=r"type in config field 'audit\.seed': expected int"):
        run.validate()


def test_the_cohort_is_named_after_its_table():
    run = config.RunConfig()
    assert run.cohort_name == "phantom"
    run.cohort.source, run.cohort.table = "table", "/data/St Mary's 2024_final.csv"
    assert run.cohort_name == "St-Mary-s-2024-final"
    run.cohort.name = "mary"
    assert run.cohort_name == "mary"


def _signalled(tmp_path, number, disposition, patients):
    """Returns (exit code, stderr) of a cohort stage that gets `number`, started with `disposition` for it, while it writes pictures."""
    command = [sys.executable, "-m", "relink_jax", "cohort", f"--workdir={tmp_path / 'w'}", f"--patients={patients}"]
    started = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(number, disposition)
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "w" / "phantom").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    return started.returncode, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_stage_says_so_and_exits_75(tmp_path, number):
    code, err = _signalled(tmp_path, number, signal.SIG_DFL, patients=1500)
    assert code == 75, err
    assert "run the same command to go on" in err


def test_a_stage_under_nohup_outlives_its_terminal(tmp_path):
    code, err = _signalled(tmp_path, signal.SIGHUP, signal.SIG_IGN, patients=40)
    assert code == 0, err


def test_a_terminal_without_unicode_is_no_internal_error():
    code = "import sys; from relink_jax import cli; cli.main(['--version']); print('2\u00d7')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert done.stdout.endswith("2?\n")


def test_an_error_inside_a_config_file_is_told_as_one_sentence(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return missing\n")
    with pytest.raises(errors.UsageError, match="NameError"):
        cli.parse("audit", [f"--config={path}"])
    path.write_text("import sys\n\ndef get_config():\n    sys.exit(3)\n")
    with pytest.raises(errors.UsageError, match="returning a RunConfig, found SystemExit: 3"):
        cli.parse("audit", [f"--config={path}"])


@pytest.mark.parametrize("name", cli.config_names())
def test_every_shipped_config_validates(name):
    parsed, *_ = cli.parse("demo", [f"--config={name}"])
    for path in config.PATHS:
        if path.startswith("cohort."):
            assert not settings.lookup(parsed, path)
            settings.assign(parsed, path, "somewhere")
    parsed.validate()
    assert config.to_dict(parsed)["name"] == name


def test_help_imports_nothing_heavy():
    heavy = "{'jax', 'numpy', 'absl', 'transformers'}"
    code = f"import sys; from relink_jax import cli; cli.main(['--help']); cli.main(['audit', '--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")


def test_module_entry_and_launch_mains_run_from_a_checkout():
    for command in (["-m", "relink_jax", "--version"], ["-m", "launch.audit", "--help"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env={**os.environ}, check=True)
        assert "relink" in done.stdout


def test_internal_errors_show_type_and_place_but_no_message(monkeypatch, capsys):
    from relink_jax.stages import audit

    def broken(*_, **__):
        raise RuntimeError("patient 1234 had a secret")

    monkeypatch.setattr(audit, "run", broken)
    code, _, err = run(capsys, "audit", "--workdir=x")
    assert code == 70
    assert "RuntimeError at test_cli.py" in err
    assert "secret" not in err
