"""A small sweep from one command to its figures, and what of it counts as present after every kind of change."""

import csv
import dataclasses
import json
import shutil
import stat

import pytest

from relink_jax import cli
from relink_jax.stages import demo, sweep_grid, sweep_jobs, sweep_state
from relink_jax.store import digests

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn", "traced_once")  # the arithmetic of what is compiled here is tested elsewhere

PLAIN, SPECIALIST = "phantom-0-untrained", "phantom-3-specialist"
SETS = ("phantom-A-test", "phantom-B-external")
SETTINGS = [
    "--config=demo_small",
    "--config.cohort.phantom.n_patients=60",
    "--config.embed.anchors=64",
    "--config.audit.bootstrap_replicates=100",
    "--config.audit.ks=1",
    "--config.audit.attacks=",
    "--config.audit.measures=",
    "--config.probe.bootstrap_replicates=100",
    "--config.probe.max_iterations=5",
    "--config.probe.l2_grid=0.01,1",
    "--config.heads.mechanism.iterations=3",
    "--config.heads.mechanism.expected_batch_size=8",
    "--config.report.headline_pool=10",
]
GRID = [f"--models={PLAIN},{SPECIALIST}", f"--mitigate={SPECIALIST}", "--heads=original,random", "--pools=10,full", "--strata=other_patient,view,near_text"]
KEYS = [(PLAIN, "original"), (SPECIALIST, "original"), (SPECIALIST, "random")]


def sweep(root, *words):
    return cli.main(["sweep", *words, f"--workdir={root}"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a sweep that ran, which no test may change."""
    root = tmp_path_factory.mktemp("finished") / "sweep"
    assert sweep(root, "run", *SETTINGS, *GRID, f"--csv={root.parent / 'run.csv'}") == 0
    return root


@pytest.fixture
def copy(finished, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(finished, tmp_path / "sweep", ignore=shutil.ignore_patterns("phantom", "tree", "embeddings"))
    return tmp_path / "sweep"


def results(root, model, heads, name):
    return root / model / "results" / f"{model}__{heads}__{name}.json"


def edit(path, change, sealed=True):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(digests.sealed(document) if sealed else document))


def states_of(root, *changed):
    """Returns the states of the jobs by model, as the words `changed` ask for them."""
    names = {word.partition("=")[0] for word in changed}
    config, _, _, alone = cli.parse("sweep", [*(word for word in (*SETTINGS, *GRID) if word.partition("=")[0] not in names), *changed])
    config.resolve_paths()
    grid = sweep_grid.expand(config, {name: alone[name] for name in sweep_grid.AXES})
    return {state.job.model: state for state in sweep_state.states(grid, root, sweep_state.people(grid.jobs, root))}


def missing(states):
    return {(cell.model, cell.heads, name) for one in states.values() for cell in one.job.cells for name in one.sets if one.status(cell, name) == "missing"}


def test_every_figure_of_the_csv_is_the_results_files(finished, tmp_path):
    assert sweep(finished, "table", f"--csv={tmp_path / 'table.csv'}") == 0
    assert (tmp_path / "table.csv").read_bytes() == (finished.parent / "run.csv").read_bytes()
    rows = list(csv.DictReader((tmp_path / "table.csv").open(newline="")))
    assert len(rows) == len(KEYS) * len(SETS) * 3 * 2
    shown = 0
    for model, heads in KEYS:
        for name in SETS:
            entries = json.loads(results(finished, model, heads, name).read_text())["metrics"]
            for row in (row for row in rows if (row["model"], row["heads"], row["dataset"]) == (model, heads, name)):
                found = [
                    one
                    for one in entries
                    if (one["name"], one["k"], one["direction"], one["stratum"]) == ("recall", 1, "i2r", row["stratum"])
                    and ("full" if one["full"] else str(one["N"])) == row["pool"]
                ]
                assert len(found) == (row["status"] == "present")
                for one in found:
                    wanted = (one["value"], one["ci"]["low"], one["ci"]["high"], one["chance"], one["lift"], one["N"], one["n_queries"], one["n_patients"])
                    columns = ("recall_at_1", "low", "high", "chance", "lift", "candidates", "queries", "patients")
                    assert tuple(float(row[column]) for column in columns) == wanted
                    shown += 1
    assert 0 < shown < len(rows)
    assert {row["status"] for row in rows} == {"present", "too few candidates"}


def test_everything_below_a_sweep_is_private(finished):
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (finished, *finished.rglob("*")))


def test_a_finished_sweep_has_nothing_to_do(finished, capsys, monkeypatch):
    for name in demo.ROAD:
        monkeypatch.setattr(sweep_jobs._STAGES[name], "run", None)
    before = (finished / "sweep.json").read_bytes()
    assert sweep(finished, "run") == 0
    assert (finished / "sweep.json").read_bytes() == before
    assert "0 are missing" in capsys.readouterr().out
    assert sweep(finished, "plan") == 0
    out = capsys.readouterr().out
    assert "36 cells on 2 evaluation sets (phantom-A-test, phantom-B-external), answered by 6 counting passes" in out
    assert "cohort, convert" not in out


def test_the_plan_of_a_further_model_counts_its_passes(finished, capsys):
    assert sweep(finished, "plan", f"--models={SPECIALIST},phantom-1-labels", "--mitigate=phantom-1-labels") == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("phantom-1-labels"))
    data = [json.loads(results(finished, PLAIN, "original", name).read_text())["data"] for name in SETS]
    passes = 2 * sum(2 * one["n_images"] * one["n_studies"] * 64 for one in data)
    assert line.split()[2:5] == ["24", "0", "24"]
    assert f"{passes / 1e3:.1f} kFLOP" in line


def reseed(document):
    document["protocol"]["bootstrap"]["seed"] += 1


def other_heads(document):
    document["model"]["heads_sha256"] = "0" * 64


def other_cohort(document):
    document["data"]["cohort_sha256"] = "0" * 64


def raised(document):
    document["metrics"][0]["value"] = 1.0


TARGET = (SPECIALIST, "random", SETS[0])
EDITS = {
    "removed": (lambda path: path.unlink(), "no results yet"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "damaged results"),
    "outside the schema": (lambda path: edit(path, lambda document: document.pop("counts")), "damaged results"),
    "edited": (lambda path: edit(path, raised, sealed=False), "edited results"),
    "under another name": (lambda path: shutil.copy(results(path.parents[2], SPECIALIST, "original", SETS[0]), path), "results under another name"),
    "another seed": (lambda path: edit(path, reseed), "results of other settings (bootstrap)"),
    "other heads": (lambda path: edit(path, other_heads), "results of other heads"),
    "another cohort": (lambda path: edit(path, other_cohort), "results of other data"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_results_file_that_is_not_what_it_is_called_is_missing(copy, name):
    change, why = EDITS[name]
    change(results(copy, *TARGET))
    states = states_of(copy)
    assert missing(states) == {TARGET}
    assert states[SPECIALIST].why == {TARGET[1:]: why}
    assert (states[PLAIN].todo, states[SPECIALIST].todo) == ((), ("audit", "probe", "report"))


@pytest.mark.parametrize(
    ("word", "models"),
    [
        ("--config.audit.seed=1", {PLAIN, SPECIALIST}),
        ("--config.audit.bootstrap_replicates=101", {PLAIN, SPECIALIST}),
        ("--config.audit.same_patient=negative", {PLAIN, SPECIALIST}),
        ("--config.audit.label_policy=u_one", {PLAIN, SPECIALIST}),
        ("--config.audit.attacks=znorm", {PLAIN, SPECIALIST}),
        ("--config.audit.ks=1,5", {PLAIN, SPECIALIST}),
        ("--config.embed.precision=bf16", {PLAIN, SPECIALIST}),
        ("--config.cohort.phantom.n_patients=61", {PLAIN, SPECIALIST}),
        ("--config.heads.mechanism.target_epsilon=1", set()),
        ("--config.audit.tile=64", set()),
        ("--config.audit.top_k=5", set()),
        ("--config.name=another", set()),
        ("--pools=full,10", set()),
        ("--strata=view", set()),
    ],
)
def test_settings_that_matter_for_the_numbers_are_compared(finished, word, models):
    states = states_of(finished, word)
    assert {model for model, one in states.items() if "audit" in one.todo} == models
    assert {model for model, one in states.items() if one.count()[0] < one.count()[1]} == models
    assert {one.todo for model, one in states.items() if model not in models} <= {()}


def test_results_of_heads_that_were_trained_by_other_settings_are_missing(copy):
    """The random heads here stand in for trained ones, under their name and with a card of the settings' form."""
    config = cli.parse("sweep", SETTINGS)[0]
    heads = copy / SPECIALIST / "heads" / SPECIALIST
    (heads / "random").rename(heads / "dp")
    settings = {"train_split": "train", "train_site": "", "mechanism": dataclasses.asdict(config.heads.mechanism)}
    card = json.loads((heads / "dp" / "card.json").read_text())
    (heads / "dp" / "card.json").write_text(json.dumps({**card, "settings": settings}))
    for name in SETS:
        edit(results(copy, SPECIALIST, "random", name), lambda document: document["model"].update(head="dp"))
        results(copy, SPECIALIST, "random", name).rename(results(copy, SPECIALIST, "dp", name))
    assert not missing(states_of(copy, "--heads=dp"))
    for word in ("--config.heads.mechanism.target_epsilon=1", "--config.heads.train_site=A"):
        states = states_of(copy, "--heads=dp", word)
        assert {state.why[key] for state in states.values() for key in state.why} == {"results of other heads"}
        assert missing(states) == {(SPECIALIST, "dp", name) for name in SETS}


def test_a_larger_grid_misses_what_is_new_only(finished):
    states = states_of(finished, "--pools=10,20", "--strata=other_patient,length", f"--models={PLAIN},phantom-1-labels", "--mitigate=")
    plain = states[PLAIN]
    found = {(cell.stratum, cell.pool, name): plain.status(cell, name) for cell in plain.job.cells for name in SETS}
    assert {key: value for key, value in found.items() if key[:2] == ("other_patient", 10)} == {("other_patient", 10, name): "present" for name in SETS}
    assert {value for key, value in found.items() if key[:2] != ("other_patient", 10)} == {"missing"}
    assert plain.count() == (2, 8)
    assert plain.todo == ("audit", "probe", "report")
    assert states["phantom-1-labels"].todo == tuple(name for name in demo.ROAD if name != "heads")


def forget_near_text(document):
    document["protocol"]["strata"].remove("near_text")
    document["metrics"] = [one for one in document["metrics"] if "near_text" not in one["stratum"]]


def test_a_stratum_that_nothing_is_recorded_of_is_answered_once_it_was_asked_for(copy):
    """Results name only strata of which something is recorded; that one was asked for is known by the config that they were made with."""
    for name in SETS:
        edit(results(copy, PLAIN, "original", name), forget_near_text)
    word = "--config.report.title=Another"
    assert not missing(states_of(copy))
    assert not missing(states_of(copy, word))
    recorded = copy / PLAIN / "config.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "name": "of a later command"}))
    assert not missing(states_of(copy))
    assert missing(states_of(copy, word)) == {(PLAIN, "original", name) for name in SETS}


@pytest.mark.parametrize(
    ("change", "todo"),
    [
        (lambda root: (root / "report" / "index.html").unlink(), ("report",)),
        (lambda root: (root / "report" / "summary.html").write_text("edited"), ("report",)),
        (lambda root: edit(results(root.parent, PLAIN, "original", SETS[0]), lambda document: document["utility"].update(probe=[])), ("probe", "report")),
        (lambda root: results(root.parent, PLAIN, "original", SETS[1]).unlink(), ("audit", "probe", "report")),
        (lambda root: shutil.rmtree(root / "features"), ()),
        (lambda root: [shutil.rmtree(root / name) for name in ("features", "results")], ("embed", "audit", "probe", "report")),
    ],
)
def test_a_resumed_sweep_runs_only_what_is_missing(copy, monkeypatch, change, todo):
    change(copy / PLAIN)
    calls = []
    for name in demo.ROAD:
        monkeypatch.setattr(sweep_jobs._STAGES[name], "run", lambda config, workdir, name=name: calls.append((config.models[0], name)))
    monkeypatch.setattr(sweep_jobs.context, "training_sites", lambda *_: ["A"])
    assert states_of(copy)[PLAIN].todo == todo
    assert sweep(copy, "run") == 0
    assert calls == [(PLAIN, name) for name in (demo.ROAD if "audit" in todo else todo) if name != "heads"]


def test_the_page_of_a_job_is_made_again(copy):
    (copy / PLAIN / "report" / "numbers.json").unlink()
    assert sweep(copy, "run") == 0
    assert states_of(copy)[PLAIN].todo == ()


def test_a_purged_job_keeps_its_cells(copy):
    for model in (PLAIN, SPECIALIST):
        assert cli.main(["cohort", "purge", "--yes", f"--workdir={copy / model}"]) == 0
    states = states_of(copy)
    assert not missing(states)
    assert {one.todo for one in states.values()} == {()}


@pytest.mark.slow
def test_two_mitigated_models_and_what_their_ledgers_say_together(tmp_path, capsys):
    words = [*SETTINGS, f"--models=phantom-1-labels,{SPECIALIST}", "--heads=dp,noise_only", "--pools=10", "--strata=view", "--config.heads.noise_draws=2"]
    assert sweep(tmp_path / "sweep", "plan", *words) == 0
    assert "at most epsilon 0.68" in capsys.readouterr().out
    assert sweep(tmp_path / "sweep", "run", *words) == 0
    assert "12 of 12 cells have a figure" in capsys.readouterr().out
    assert sweep(tmp_path / "sweep", "plan") == 0
    out = capsys.readouterr().out
    assert "answered by 16 counting passes" in out
    assert out.count("0.34 spent") == 2
    runs = [str(tmp_path / "sweep" / model / "heads") for model in ("phantom-1-labels", SPECIALIST)]
    assert cli.main(["accountants", "compare", *runs, "--delta=6e-6", f"--json={tmp_path / 'compared.json'}"]) == 0
    (group,) = json.loads((tmp_path / "compared.json").read_text())["compositions"]
    assert f"epsilon {group['rdp']:.4g} (RDP), {group['pld']:.4g} (PLD) at delta 6e-06 per patient, 2 trainings composed" in out
