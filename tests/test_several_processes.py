"""Two processes with four devices each make what one process with eight makes, and stop, fail and wait together."""

import json
import pathlib
import types

import jax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import several
from test_damaged_files import MODEL, SETTINGS

from relink_jax import cli
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.privacy import randomness
from relink_jax.store import workdir as workdir_lib

pytestmark = pytest.mark.usefixtures("quick_module", "undrawn")
ROAD = [*SETTINGS, "--config.embed.shard_rows=32", "--config.embed.batch_size=16", "--config.arms=original,dp"]
FIXED = "import test_several_processes as shared; shared.fix(setattr)\n"


def fix(setting):
    """Makes the key of a workdir and the secret of a training the same wherever this is called."""
    setting(randomness, "fresh", lambda test_seed=None, token_bytes=None: randomness.Secret(bytes(range(32))))
    setting(workdir_lib, "secrets", types.SimpleNamespace(token_bytes=lambda size: bytes(range(size)), token_hex=lambda size: "0" * 2 * size))


@pytest.fixture(scope="module")
def roads(tmp_path_factory):
    """The whole road by one process with eight devices and by two with four each, and how the two ended."""
    alone, both = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))

    def meanwhile(_):
        jax.clear_caches()  # of what other tests compiled with other optimisations
        with pytest.MonkeyPatch.context() as patch:
            fix(patch.setattr)
            assert cli.main(["demo", *ROAD, f"--workdir={alone}"]) == 0

    undrawn = 'from relink_jax.report import plots; plots.image = lambda *_: "<svg/>"\n'
    ended = several.relink(["demo", *ROAD, f"--workdir={both}"], 2, 4, before=FIXED + undrawn, environment=several.QUICK, meanwhile=meanwhile, timeout=400)
    assert [one.code for one in ended] == [0, 0], [one.err[-2000:] for one in ended]
    return alone, both, ended


def names(root, *patterns):
    return sorted(path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern))


def test_features_embeddings_and_heads_have_the_same_bytes(roads):
    alone, both, _ = roads
    patterns = ("cohort/*", "features/**/*", "embeddings/**/*", "heads/**/*.safetensors", "heads/**/card.json")
    found = names(alone, *patterns)
    assert found == names(both, *patterns)
    assert len([name for name in found if name.startswith(f"features/{MODEL}/images/shard-") and name.endswith(".safetensors")]) > 2
    assert {f"heads/{MODEL}/dp/heads.safetensors", f"features/{MODEL}/texts/manifest.json", f"embeddings/{MODEL}/dp/images/manifest.json"} <= set(found)
    assert [name for name in found if (alone / name).is_file() and (alone / name).read_bytes() != (both / name).read_bytes()] == []


def test_every_count_of_every_query_is_the_same(roads):
    alone, both, _ = roads
    found = names(alone, "results/*.parquet")
    assert found == names(both, "results/*.parquet")
    assert len(found) >= 4
    for name in found:
        one, other = (pq.read_table(root / name) for root in (alone, both))
        assert one.schema == other.schema
        whole = [column for column in one.column_names if pa.types.is_integer(one.schema.field(column).type)]
        for column in whole:  # M, g and t of every direction and stratum
            assert one.column(column).equals(other.column(column)), (name, column)
        assert (alone / name).read_bytes() == (both / name).read_bytes(), name  # scores, lists and keys too


def near(one, other, where=""):
    """Compares two documents: the same keys, texts and integers, floats to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"created_utc", "devices", "content_sha256", "git_commit"}:
            near(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            near(*pair, f"{where}/{place}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, abs=1e-6), where
    else:
        assert one == other, where


def test_every_figure_of_the_results_is_the_same(roads):
    alone, both, _ = roads
    for name in names(alone, "results/*.json"):
        one, other = (json.loads((root / name).read_text()) for root in (alone, both))
        near(one, other, name)
        assert one["utility"]["probe"], name
    ledgers = [ledger_lib.load(root / f"heads/{MODEL}/dp/privacy_ledger.json") for root in (alone, both)]
    assert [one["device"]["processes"] for one in ledgers] == [1, 2]
    near(*(one["epsilon"] for one in ledgers))


def test_one_process_speaks_and_nothing_is_left_of_the_waiting(roads):
    _, both, ended = roads
    assert not (both / "together").exists()
    assert f"page: {both}" in ended[0].out
    assert [line for line in ended[1].out.splitlines() if line and "Gloo" not in line] == []
    assert (both / "report" / "index.html").stat().st_size == pytest.approx((roads[0] / "report" / "index.html").stat().st_size, rel=0.01)


STAGED = """
import contextlib, json, pathlib, sys, time
from relink_jax import errors
from relink_jax.runtime import mesh, stopping
from relink_jax.stages import together
from relink_jax.store import files
root, told = pathlib.Path(words[0]), {}
together.SEEN_WITHIN = 2.0

def raising(error):
    raise error

def tried(name, work, run=({"a": 1}, {"k": 1}), where=None):
    try:
        with together.opened(where or root / name, lambda: run) as found:
            told[name] = work(found)
    except errors.RelinkError as error:
        told[name] = [type(error).__name__, error.exit_code, str(error)]

def guarded(found):
    with contextlib.suppress(errors.RelinkError):
        files.write_text(found.root / f"from-{process}", "")
    with files.writing_own():
        files.write_text(found.root / f"own-{process}", "")

def apart(fails):
    def work(found):
        with together.arriving(found, "apart") as check:
            while process != fails:
                check()
                time.sleep(0.01)
            raise errors.DataError("wrong rows")
    return work

def asked(found):
    with together.arriving(found, "asked"):
        if process == 1:
            stopping.ask()
        stopping.check_here("here")

def late(found):
    if process == 1:
        time.sleep(0.5)
    return together.first(found, "late", lambda: [mesh.processes(), mesh.make_mesh().size, mesh.agreed(7), mesh.gathered(9)])

tried("whole", late)
tried("whole", late)
tried("locked", lambda found: None)
tried("other", lambda found: None)
tried("differing", lambda found: None, ({"a": 1}, {"k": process}))
tried("unshared", lambda found: None, where=root / f"unshared-{process}")
tried("guarded", guarded)
tried("leader", lambda found: together.first(found, "leading", lambda: raising(errors.DataError("wrong table"))))
tried("member", apart(1))
tried("leading", apart(0))
tried("asked", asked)
stopping.forget()
told["by_first"] = together.by_first("few", lambda: process)
told["gathered"] = mesh.gathered(process + 3)
(root / f"{process}.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """What each of two processes met in a row of openings, most of which fail on one of them."""
    root = tmp_path_factory.mktemp("staged")
    with workdir_lib.opened(root / "other", {"a": 2}, {"k": 1}):
        pass
    with workdir_lib.opened(root / "locked", {"a": 1}, {"k": 1}):
        ended = several.python(STAGED, 2, 1, [root], environment=several.QUICK)
    assert [one.code for one in ended] == [0, 0], [one.err[-2000:] for one in ended]
    return root, *(json.loads((root / f"{process}.json").read_text()) for process in range(2))


@pytest.mark.parametrize(
    ("name", "leads", "expected", "code"),
    [
        ("locked", 0, "workdir in use", 74),
        ("other", 0, "workdir of another run", 74),
        ("leader", 0, "wrong table", 65),
        ("leading", 0, "wrong rows", 65),
        ("differing", 1, "settings of a process", 74),
        ("unshared", 1, "workdir not shared in process 1", 74),
        ("member", 1, "wrong rows", 65),
    ],
)
def test_what_fails_on_one_process_ends_all_and_is_told_once(staged, name, leads, expected, code):
    found = staged[1 + leads][name], staged[2 - leads][name]
    assert expected in found[0][2]
    assert found[0][0] in ("StoreError", "DataError")
    assert found[1][0] == "ElsewhereError"
    assert [one[1] for one in found] == [code, code]
    assert f"process {leads}" in found[1][2]


def test_one_process_that_is_asked_to_stop_stops_all(staged):
    assert [one["asked"][:2] for one in staged[1:]] == [["StoppedError", 75]] * 2


def test_process_0_works_alone_and_the_others_return_nothing(staged):
    root, first, second = staged
    assert first["whole"] == [1, 1, 7, [9]]
    assert second["whole"] is None
    assert (first["by_first"], second["by_first"]) == (0, None)
    assert first["gathered"] == second["gathered"] == [3, 4]
    assert sorted(path.name for path in (root / "whole").iterdir()) == [".lock", "config.json", "key", "run.json"]


def test_a_process_that_does_not_lead_writes_only_what_is_its_own(staged):
    root = staged[0]
    assert sorted(path.name for path in (root / "guarded").glob("*-*")) == ["from-0", "own-0", "own-1"]


def test_refused_workdirs_are_not_left_behind(staged):
    root: pathlib.Path = staged[0]
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["asked", "guarded", "locked", "other", "whole"]
    assert json.loads((root / "locked" / "config.json").read_text()) == {"k": 1}
