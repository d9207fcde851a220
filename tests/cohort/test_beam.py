"""Records built by Apache Beam are those built here, whatever was there before. Runs where apache-beam is, in an environment of its own:

python -m venv beam; beam/bin/pip install 'relink_jax[beam]' pytest; beam/bin/python -m pytest tests/cohort/test_beam.py
"""

import sys

import archives
import pytest

from relink_jax import errors
from relink_jax.cohort import beam, examples, record_shards, records

SETTINGS = examples.Settings(shard_rows=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return archives.source(tmp_path_factory.mktemp("archive"))


def job_in(source, directory):
    return record_shards.Build(source, SETTINGS, directory / "records")


def test_without_beam_the_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(errors.UsageError, match=r"pip install 'relink_jax\[beam\]'"):
        beam.build(job_in(source, tmp_path))


@pytest.mark.parametrize("options", [(), ("--direct_running_mode=multi_threading", "--direct_num_workers=2")])
def test_a_pipeline_goes_on_where_one_stopped_and_gives_the_same_records(source, tmp_path, options):
    pytest.importorskip("apache_beam")
    plain = record_shards.build(job_in(source, tmp_path / "plain"), processes=1)
    job = job_in(source, tmp_path / "piped")
    job.start()
    job.write(1)
    kept = job.directory / job.shards()[1].name
    before = kept.stat().st_mtime_ns
    assert beam.build(job, options) == plain
    assert kept.stat().st_mtime_ns == before
    assert records.verify(job.directory) == 20
    assert beam.build(job, options) == plain


def test_a_picture_that_fails_is_named_as_elsewhere(tmp_path, capfd, caplog):
    pytest.importorskip("apache_beam")
    found = archives.source(tmp_path)
    archives.files_of(found.cohort(), found)[5].write_bytes(b"")
    with pytest.raises(errors.DataError, match="image 6 of the cohort") as caught:
        beam.build(job_in(found, tmp_path))
    assert "CANARY" not in "".join((str(caught.value), *capfd.readouterr(), caplog.text))


def test_a_count_that_is_off_stops_the_pipeline(source, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setattr(record_shards.Build, "write", lambda self, number: 3)
    with pytest.raises(errors.StoreError, match="pipeline failed in Beam runner 'DirectRunner'"):
        beam.build(job_in(source, tmp_path))
