"""Checking lists everything that assembling would refuse, says nothing that is nobody's business, and any table ends in a cohort or one sentence."""

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_priors import BAD as BAD_PRIORS
from test_priors import rows_with
from test_table import BAD, KEY, SECRETS, base_rows, parquet_of, spoil, without, written

from relink_jax import errors
from relink_jax.cohort import assemble, check, columns, schema, table
from relink_jax.cohort import rows as rows_lib
from relink_jax.cohort.recipes import Recipe
from relink_jax.cohort.schema import Cohort

ALL = Recipe(views=schema.VIEWS)
FATAL = {"missing column", "no text column"}


def problems_of(path, recipe=ALL, **options):
    return check.check_table(path, path.parent, recipe, **options)


def test_a_sound_table_has_no_problems(tmp_path):
    assert problems_of(written(tmp_path, base_rows())) == []
    assert check.told([], "pairs table 'pairs.csv'") == "pairs table 'pairs.csv': nothing wrong"


WRONG = {**{name: (change, base_rows) for name, (change, _) in BAD.items()}, **{name: (change, rows_with) for name, (change, _) in BAD_PRIORS.items()}}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_assembling_refuses_is_listed_in_the_same_words(tmp_path, name):
    change, base = WRONG[name]
    path = written(tmp_path, change(base()), files=False)
    listed = [problem.told(columns.called(path)) for problem in problems_of(path, look=False)]
    with pytest.raises(errors.DataError) as caught:
        assemble.assemble([table.read(path, tmp_path)], ALL, key=KEY, name="x", max_missing_share=0.99)
    assert str(caught.value) in listed
    assert not any(secret in line for secret in SECRETS for line in listed)


def test_all_of_it_is_listed_in_row_order(tmp_path):
    rows = base_rows()
    rows[0] |= {"view": "SECRET", "pretrain_exposure": "maybe"}
    rows[1] |= {"patient_id": "Q0077", "Edema": "2", "impression": "classified"}
    rows[2] |= {"split": "val", "patient_id": " "}
    rows[3] |= {"image_path": "../SECRET.png"}
    rows.append(dict(rows[4]))
    rows = [{("Pleural_effusion" if name == "Pleural Effusion" else name): cell for name, cell in row.items()} for row in rows]
    path = written(tmp_path, rows, files=False)
    (tmp_path / "im").mkdir()
    found = [(problem.row, problem.column, problem.what) for problem in problems_of(path)]
    assert found == [
        (0, "", "header"),
        (1, "image_path", "missing file"),
        (1, "pretrain_exposure", "unknown value"),
        (1, "view", "unknown value"),
        (2, "", "study under two values of 'patient_id'"),
        (2, "", "study under two values of 'pretrain_exposure'"),
        (2, "", "labels of one study"),
        (2, "", "report text of one study"),
        (2, "Edema", "unknown label value"),
        (2, "image_path", "missing file"),
        (3, "image_path", "missing file"),
        (3, "patient_id", "identifier"),
        (3, "split", "unknown value"),
        (4, "image_path", "path"),
        (5, "image_path", "missing file"),
        (6, "", "duplicate pair (image_id, report_id)"),
        (6, "image_path", "missing file"),
    ]
    told = check.told(problems_of(path), columns.called(path), limit=3)
    assert told.splitlines()[:2] == ["pairs table 'pairs.csv': 17 problems of 13 kinds", "          5  missing file, column 'image_path', first at data row 1"]
    assert told.splitlines()[-2:] == [
        "unknown value in pairs table 'pairs.csv', data row 1, column 'pretrain_exposure': expected seen, unseen, unknown, found a word of 5 characters",
        "... and 14 more",
    ]
    whole = check.told(problems_of(path), columns.called(path), limit=100)
    assert not any(secret in whole for secret in (*SECRETS, str(tmp_path), "i1.png", "00p2"))


def test_files_are_looked_for_where_the_root_is(tmp_path):
    path = written(tmp_path, base_rows())
    (tmp_path / "im" / "i4.png").unlink()
    assert [problem.row for problem in problems_of(path)] == [4]
    assert problems_of(path, Recipe()) == []  # i4 is lateral, and left out
    assert problems_of(path, look=False) == []
    (problem,) = check.check_table(path, tmp_path / "none", ALL)
    assert problem.told("x") == "image root in x, column 'image_path': expected a directory, found none that can be read"


def test_report_files_and_missing_texts(tmp_path):
    rows = without(base_rows(), "findings", "impression", report_path=lambda row: f"{row['study_id']}.txt")
    path = written(tmp_path, rows)
    (tmp_path / "s1.txt").write_text("Clear.")
    (tmp_path / "s3.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "s4.txt").mkdir()
    assert [(problem.row, problem.what) for problem in problems_of(path)] == [(3, "missing file"), (4, "report file"), (5, "missing file")]
    (problem,) = problems_of(path, Recipe(text_field="findings"), look=False)
    assert (problem.row, problem.expected) == (0, "a column 'findings'")


def test_headers_and_shapes_come_before_contents(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("image_path,patientid,study_id,findings,findings,sites,report\na,1,2,x\nb,1,2,x,x,A,y\nc,1,2,x,x,A,y,z\n")
    assert [(problem.row, problem.what, problem.found) for problem in problems_of(path)] == [
        (0, "header", "column 'findings' twice"),
        (0, "column 'patient_id'", "no such column; did you mean 'patientid'?"),
        (0, "header", "'patientid', which is spelt otherwise; did you mean 'patient_id'?"),
        (0, "header", "'sites', which is spelt otherwise; did you mean 'site'?"),
        (1, "cells", "4"),
        (3, "cells", "8"),
    ]
    twice = parquet_of(tmp_path / "x.parquet", [{"image_path": "a", "patient_id": "1", "study_id": "2", "findings": "x", "Edema": "1"}])
    assert len(problems_of(twice, look=False)) == 0


def test_a_table_without_a_header_shows_none_of_its_cells(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("image_paths/Q0077.png,patient_SECRET,study_1,report_texts classified\n")
    told = check.told(problems_of(path), columns.called(path))
    assert "4 problems" in told
    assert not any(secret in told for secret in SECRETS)


CELLS = st.one_of(
    st.sampled_from(["", "1", "-1", "2", "test", "train", "PA", "a.png", "../x", "/x", "p1", "p2", "s1", "A", "a", "unseen", "i1", "=1", "nan", "1e999"]),
    st.text(max_size=4),
)
NAMES = st.lists(st.sampled_from([*columns.REQUIRED, *columns.TEXTS, *columns.OPTIONAL, "Edema", "No Findings", "edema", "patient", "\ufeffx"]), max_size=6)


def cohort_or_sentence(path, recipe):
    """Whether a table becomes a cohort; checks the sentence if not, and that `check` finds a problem exactly then."""
    try:
        made = assemble.assemble([table.read(path, path.parent)], recipe, key=KEY, name="fuzzed", max_missing_share=0.999)
        assert isinstance(made, Cohort)
        wrong = None
    except errors.DataError as error:
        wrong = str(error)
        assert "\n" not in wrong
        assert str(path.parent) not in wrong
    try:
        problems = check.check_table(path, path.parent, recipe, look=False)
    except errors.DataError as error:
        unread = str(error)
    else:
        unread = None
    if unread is not None:
        assert unread == wrong
        return
    told = [problem.told(columns.called(path)) for problem in problems]
    if wrong is None or wrong.startswith("pairs left"):
        assert told == []
    elif not wrong.startswith("missing files"):  # which are not looked for here
        assert wrong in told


FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RECIPES = st.sampled_from([ALL, Recipe(), Recipe(views=schema.VIEWS, text_field="report_text", split="hash", images="first", deduplicate="text")])


@FUZZ
@given(names=NAMES, data=st.data(), recipe=RECIPES)
def test_any_cells_are_a_cohort_or_one_sentence(tmp_path, names, data, recipe):
    (tmp_path / "a.png").touch()
    header = [*columns.REQUIRED, "findings", *names]
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=4))
    stream = io.StringIO()
    csv.writer(stream).writerows([header, *rows])
    path = tmp_path / "pairs.csv"
    path.write_bytes(stream.getvalue().encode("utf-8", "surrogatepass"))
    cohort_or_sentence(path, recipe)


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(list(base_rows()[0])), CELLS), max_size=3), recipe=RECIPES)
def test_sound_rows_with_a_few_other_cells(tmp_path, changes, recipe):
    rows = base_rows()
    for row, column, cell in changes:
        spoil(row, column, cell)(rows)
    path = tmp_path / "pairs.csv"
    stream = io.StringIO()
    csv.writer(stream).writerows([list(rows[0]), *(row.values() for row in rows)])
    path.write_bytes(stream.getvalue().encode("utf-8", "surrogatepass"))
    (tmp_path / "im").mkdir(exist_ok=True)
    for number in range(1, 6):
        (tmp_path / "im" / f"i{number}.png").touch()
    cohort_or_sentence(path, recipe)


@FUZZ
@given(content=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda tail: b"image_path,patient_id,study_id,findings\n" + tail)))
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_any_bytes_are_a_cohort_or_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f"pairs.{suffix}"
    path.write_bytes(content)
    cohort_or_sentence(path, ALL)


def test_links_out_of_the_root_are_refused_and_listed(tmp_path, monkeypatch):
    rows = [row | {"report_path": f"{row['study_id']}.txt"} for row in without(base_rows(), "findings", "impression")]
    path = written(tmp_path, rows)
    for number in range(1, 5):
        (tmp_path / f"s{number}.txt").write_text("Clear.")

    def inside(root, relative):
        if relative in ("im/i3.png", "s3.txt", "gone.png"):
            raise errors.DataError("a link that leads out of it or nowhere")
        return root / relative

    monkeypatch.setattr(rows_lib, "inside", inside)
    found = [(problem.row, problem.column, problem.found) for problem in problems_of(path)]
    assert found == [(3, "image_path", "a link that leads out of it"), (4, "report_path", "a link that leads out of it")]
    with pytest.raises(errors.DataError, match=r"path in pairs table 'pairs.csv', data row 3, column 'image_path': expected one inside its root"):
        assemble.assemble([table.read(path, tmp_path)], ALL, key=KEY, name="x")
    rows[2]["image_path"] = "gone.png"
    assert [problem.what for problem in problems_of(written(tmp_path, rows, files=False))] == ["missing file", "path"]
