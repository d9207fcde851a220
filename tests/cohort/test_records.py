"""Records of a cohort: the same pixels as the loose files, every image once, the same after any interruption, and nothing of it said."""

import collections
import dataclasses
import io
import json
import subprocess
import sys
import time

import archives
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import examples, images, record_shards, records
from relink_jax.store import digests, files

SETTINGS = examples.Settings(shard_rows=4)
SMALL = examples.Settings(shard_rows=4, short_side=24)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return archives.source(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    job = record_shards.Build(source, SETTINGS, tmp_path_factory.mktemp("made") / "records")
    record_shards.build(job, processes=1)
    return job


@pytest.fixture(scope="module")
def small(source, tmp_path_factory):
    job = record_shards.Build(source, SMALL, tmp_path_factory.mktemp("small") / "records")
    return job, record_shards.build(job, processes=1)


def fresh(source, tmp_path, settings=SETTINGS):
    return record_shards.Build(source, settings, tmp_path / "records")


def test_untouched_records_hold_the_files_and_read_as_they_do(source, built):
    cohort = source.cohort()
    opened = records.Pictures(built.directory, cohort)
    for row, path in enumerate(archives.files_of(cohort, source)):
        study = cohort.image_study[row]
        record = opened.record(row)
        assert record["image"] == path.read_bytes()
        np.testing.assert_array_equal(opened.read(row), images.read_image(path))
        assert record["text"] == cohort.text[cohort.study_text[study]]
        assert record["labels"].tolist() == cohort.study_labels[study].tolist()
        assert (record["image_key"], record["study_key"]) == (cohort.image_key[row], cohort.study_key[study])
        assert (record["view"], record["split"], record["index"]) == (cohort.image_view[row], cohort.study_split[study], row)
        assert record["patient_key"] == cohort.patient_key[cohort.study_patient[study]]
    assert opened.changed == opened.identity == {}


def test_tfds_reads_them_without_tensorflow(source, built):
    import tensorflow_datasets as tfds

    cohort, found = source.cohort(), tfds.builder_from_directory(str(built.directory))
    assert {name: split.num_examples for name, split in found.info.splits.items()} == {"train": 12, "validate": 4, "test": 4}
    keys = [record["image_key"].decode() for split in found.info.splits for record in found.as_data_source(split)]
    assert sorted(keys) == sorted(cohort.image_key)
    assert "tensorflow" not in sys.modules


def test_resized_pictures_are_pillows_and_say_so(source, small):
    job, manifest = small
    cohort = source.cohort()
    opened = records.Pictures(job.directory, cohort)
    for row, path in enumerate(archives.files_of(cohort, source)):
        kind, record, whole = row % 7, opened.record(row), images.read_image(path)
        if kind == 6:  # smaller than short_side
            assert record["image"] == path.read_bytes()
        elif kind in (2, 3, 4):
            with Image.fromarray(whole) as picture:
                expected = np.asarray(picture.resize((34, 24), Image.Resampling.LANCZOS)).clip(0, 1)
            assert np.abs(opened.read(row) - expected).max() <= 0.51 / 65535
        else:
            with Image.open(path) as picture:
                expected = np.asarray(picture.convert("L").resize((34, 24), Image.Resampling.LANCZOS))
            np.testing.assert_array_equal(opened.read(row), expected.astype(np.float32) / np.float32(255))
    assert opened.changed == manifest["changed"] == {"pictures": 18, "short_side": 24, "resample": "lanczos"}
    assert opened.identity == {"pictures": "records, short side 24 by lanczos"}
    stored = {name: count for name, count in manifest["decisions"].items() if name.startswith("stored")}
    assert stored == {"stored as grey16": 9, "stored as grey8": 9, "stored as original": 2}


def test_a_dark_deep_picture_stays_as_dark_as_it_was(source, small):
    opened = records.Pictures(small[0].directory, source.cohort())
    assert opened.read(4).max() <= 1.5 * 40 / 4095  # its levels are below 4096, which a reader of 16-bit PNGs takes for 12 bits


def test_a_dicom_mode_that_redrew_pictures_is_the_only_one_they_are_read_in(source, small):
    job, manifest = small
    path, before = job.directory / record_shards.MANIFEST, files.read_bytes(job.directory / record_shards.MANIFEST)
    records.Pictures(job.directory, source.cohort(), dicom="raw")
    try:
        files.write_json(path, manifest | {"decisions": {examples.DICOM_REDRAWN: 1}})
        with pytest.raises(errors.StoreError, match="pictures redrawn in records: expected DICOM mode 'raw'"):
            records.Pictures(job.directory, source.cohort(), dicom="raw")
    finally:
        files.write_bytes(path, before)
    assert record_shards.changed(SETTINGS, {"stored as grey16": 3, examples.DICOM_REDRAWN: 3}) == {"pictures": 3, "dicom": "standard"}


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 7, 13, 14, 15])
def test_any_failed_write_leaves_a_build_that_goes_on_to_the_same_records(source, built, tmp_path, failing):
    job, told = fresh(source, tmp_path), []
    with files.fail_at(failing), pytest.raises(errors.StoreError, match="write failed"):
        record_shards.build(job, processes=1)
    with pytest.raises(errors.StoreError, match="unfinished records"):
        records.Pictures(job.directory, source.cohort())
    manifest = record_shards.build(job, processes=1, advanced=told.append)
    assert sum(told) == manifest["records"] == 20
    assert manifest["shards"] == records.manifest(built.directory)["shards"]
    assert sorted(path.name for path in job.directory.iterdir()) == sorted(path.name for path in built.directory.iterdir())


def test_finished_shards_are_kept_and_torn_ones_written_again(source, tmp_path):
    job = fresh(source, tmp_path)
    job.start()
    job.write(0)
    job.write(2)
    first, torn = (job.directory / job.shards()[number].name for number in (0, 2))
    before = first.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:-7])
    (job.directory / ".killed.1.tmp").write_bytes(b"half")
    assert job.start() == [1, 2, 3, 4]
    record_shards.build(job, processes=1)
    assert first.stat().st_mtime_ns == before
    assert records.verify(job.directory) == 20
    assert not list(job.directory.glob(".*"))


@pytest.mark.slow
def test_processes_give_the_same_records(source, built, tmp_path):
    told = []
    manifest = record_shards.build(fresh(source, tmp_path), processes=2, advanced=told.append)
    assert manifest == records.manifest(built.directory)
    assert sum(told) == 20


@pytest.mark.slow
def test_a_killed_build_goes_on(source, built, tmp_path):
    job = fresh(source, tmp_path, dataclasses.replace(SETTINGS, shard_rows=1))
    told = (
        "import pathlib, sys; from relink_jax.cohort import examples, record_shards\n"
        "source = record_shards.Source(pathlib.Path(sys.argv[1]), (pathlib.Path(sys.argv[2]),))\n"
        "record_shards.build(record_shards.Build(source, examples.Settings(shard_rows=1), pathlib.Path(sys.argv[3])), processes=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", told, str(source.directory), str(source.image_roots[0]), str(job.directory)])
    while process.poll() is None and len(list(job.directory.glob("*.json"))) < 5:
        time.sleep(0.001)
    process.kill()
    process.wait()
    left = len(job.start())
    assert 0 < left < 20
    assert record_shards.build(job, processes=1)["records"] == 20
    assert records.verify(job.directory) == 20
    assert len(list(job.directory.iterdir())) == 2 * 20 + 6


def edit(job, shard, change):
    path = job.directory / f"{job.shards()[shard].name}.json"
    files.write_json(path, change(json.loads(path.read_text())))


def test_a_file_with_other_records_than_its_plan_is_refused(source, tmp_path):
    job = fresh(source, tmp_path)
    record_shards.build(job, processes=1)
    whole, other = (job.directory / job.shards()[number].name for number in (0, 3))
    record_shards._fill(other, source.cohort(), np.arange(3), SETTINGS, collections.Counter())
    edit(job, 3, lambda record: record | {"bytes": other.stat().st_size})
    with pytest.raises(errors.StoreError, match="records in shard 4: expected 4, found 3"):
        job.finish()
    whole.unlink()
    with pytest.raises(errors.StoreError, match="shards missing in records: expected 5 shards, found 1 missing"):
        job.finish()


def test_an_image_twice_is_refused(source, tmp_path):
    job = fresh(source, tmp_path)
    record_shards.build(job, processes=1)
    edit(job, 1, lambda record: record | {"image_keys": record["image_keys"][:3] + record["image_keys"][:1]})
    with pytest.raises(errors.StoreError, match="expected each of 20 images once, found 20 records of 19 images"):
        job.finish()


def test_records_that_moved_are_not_taken_for_others(source, tmp_path):
    job = fresh(source, tmp_path)
    record_shards.build(job, processes=1)
    one, other = (job.directory / job.shards()[number].name for number in (0, 1))
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    with pytest.raises(errors.StoreError, match="records moved in image 1 of the cohort"):
        records.Pictures(job.directory, source.cohort()).read(0)
    with pytest.raises(errors.StoreError, match="shard corrupted in shard 1 of the records"):
        records.verify(job.directory)


def test_other_settings_another_cohort_and_other_pseudonyms_are_refused(source, built, tmp_path):
    with pytest.raises(errors.StoreError, match="another short_side; use a fresh directory"):
        dataclasses.replace(built, settings=SMALL).start()
    cohort = source.cohort()
    renamed = dataclasses.replace(cohort, image_key=np.array([digests.keyed(b"other", key) for key in cohort.image_key]))
    retold = dataclasses.replace(cohort, text=[f"{text} more" for text in cohort.text])
    for other in (renamed, retold):
        with pytest.raises(errors.StoreError, match="records of other inputs"):
            records.Pictures(built.directory, other)


@pytest.mark.parametrize(("field", "value"), [("short_side", 3), ("short_side", -1), ("resample", "lancsoz"), ("shard_rows", 0)])
def test_settings_that_make_no_sense_are_named(field, value):
    with pytest.raises(errors.UsageError, match=f"{field} in records"):
        examples.Settings(**{field: value})


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(1, 700))
def test_hosts_read_every_row_once_and_alike_many(n, hosts):
    shares = [records.host_rows(n, host, hosts) for host in range(hosts)]
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("hosts", [1, 3, 5, 13])
def test_hosts_together_read_the_split(source, built, hosts):
    cohort, found = source.cohort(), [list(records.host_records(built.directory, "train", host, hosts)) for host in range(hosts)]
    keys = [record["image_key"] for share in found for record in share]
    assert keys == cohort.image_key[cohort.study_split[cohort.image_study] == "train"].tolist()
    records.check_count(len(keys), built.directory, "train")
    with pytest.raises(errors.StoreError, match="expected 12, found 11"):
        records.check_count(len(keys) - 1, built.directory, "train")


def test_no_such_host_or_split(built):
    with pytest.raises(errors.UsageError, match="process_index"):
        records.host_rows(5, 3, 3)
    with pytest.raises(errors.StoreError, match="records with a split 'tset'"):
        records.source(built.directory, "tset")


def test_records_are_private_and_only_in_a_private_directory(source, built, tmp_path):
    assert built.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in built.directory.iterdir()} == {0o600}
    (tmp_path / "records").mkdir(mode=0o755)
    with pytest.raises(errors.StoreError, match="run 'chmod 700' on it first"):
        fresh(source, tmp_path).start()


def test_a_damaged_picture_is_named_by_its_number_alone(tmp_path, capfd, caplog):
    found = archives.source(tmp_path)
    path = archives.files_of(found.cohort(), found)[5]
    for damage in (lambda: path.write_bytes(path.read_bytes()[:200]), path.unlink):
        damage()
        with pytest.raises(errors.DataError, match="image 6 of the cohort") as caught:
            record_shards.build(fresh(found, tmp_path), processes=1)
        told = "".join(map(str, (caught.value, caught.value.__cause__, *capfd.readouterr(), caplog.text)))
        assert "CANARY" not in told
    assert not [path for path in (tmp_path / "records").rglob("*") if "CANARY" in path.name]


@pytest.mark.parametrize(
    "wrong",
    [{"text": f"{archives.SECRET} \ud800"}, {"text": 3}, {"image": archives.SECRET}, {"labels": [archives.SECRET] * 14}, {"labels": [1]}, {"index": 2**70}],
)
def test_an_encoding_error_never_holds_the_example(source, wrong):
    record = examples.example(source.cohort(), 0, SETTINGS) | wrong
    with pytest.raises(errors.DataError) as caught:
        examples.serialised(record, "image 1")
    assert "CANARY" not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_bytes_and_texts_come_back_whole(source):
    record = examples.example(source.cohort(), 0, SETTINGS) | {
        "image": b"\x00\xff\x00\x00",
        "text": "é\x00 \U0001fa7b\n",
        "labels": [1, 0, -1, -2] * 3 + [0, 1],
    }
    back = examples.parsed(examples.serialised(record, "image 1"))
    assert back | {"labels": back["labels"].tolist()} == record


def test_a_grey16_record_is_an_ordinary_png(source, small):
    record = records.Pictures(small[0].directory, source.cohort()).record(2)
    with Image.open(io.BytesIO(record["image"])) as picture:
        assert (picture.mode, picture.size) == ("I;16", (34, 24))
