"""The phantom cohort: determinism, structure, labels against an independent reading of the text, and shares."""

import collections
import csv
import dataclasses
import re
import types

import numpy as np
import pytest
from PIL import Image

from relink_jax import errors
from relink_jax.cohort import assemble, recipes, reports, table
from relink_jax.cohort.phantom import anatomy, anchor_texts, caption, frontal, generate, overlays, people, population, reporting
from relink_jax.cohort.schema import BLANK, LABELS
from relink_jax.config import PhantomConfig

KEY = bytes(range(32))
VIEWS = ("PA", "AP", "LATERAL")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phantom")
    path = generate(PhantomConfig(seed=3, n_patients=30, image_size=32), directory)
    with path.open(newline="") as stream:
        return types.SimpleNamespace(directory=directory, path=path, rows=list(csv.DictReader(stream)))


@pytest.fixture(scope="module")
def studies():
    return [record for index in range(800) for record in people.patient_studies(7, index)]


def texts_of(records):
    joined = [reports.join_sections(r.report.findings, r.report.impression) for r in records]
    return [text for text in joined if text]


def test_generation_is_deterministic_to_the_byte(made, tmp_path):
    again = generate(PhantomConfig(seed=3, n_patients=30, image_size=32), tmp_path)
    assert again.read_bytes() == made.path.read_bytes()
    for row in made.rows:
        assert (tmp_path / row["image_path"]).read_bytes() == (made.directory / row["image_path"]).read_bytes()


def test_other_seed_gives_other_patients(made, tmp_path):
    other = generate(PhantomConfig(seed=4, n_patients=30, image_size=32), tmp_path)
    assert other.read_bytes() != made.path.read_bytes()


def test_smaller_population_is_a_prefix(made, tmp_path):
    smaller = generate(PhantomConfig(seed=3, n_patients=11, image_size=32), tmp_path)
    lines = smaller.read_text().splitlines()
    assert lines == made.path.read_text().splitlines()[: len(lines)]
    for path in sorted(tmp_path.rglob("*.png")):
        assert path.read_bytes() == (made.directory / path.relative_to(tmp_path)).read_bytes()


def test_chunks_of_the_population_equal_the_whole():
    def key(record):
        return record.patient_index, record.study_order, record.view, record.text, record.image.tobytes()

    whole = [key(r) for r in population(5, 20, 24)]
    parts = [key(r) for r in population(5, 12, 24)] + [key(r) for r in population(5, 20, 24, first=12)]
    assert whole == parts


def test_noise_and_pose_are_of_each_image_alone():
    record = people.patient_studies(5, 0)[0]
    record = dataclasses.replace(record, views=("PA", "PA"))
    twin = dataclasses.replace(record, patient_index=1)
    pictures = [
        people.draw_image(5, record, 0, 32),
        people.draw_image(5, record, 1, 32),
        people.draw_image(5, twin, 0, 32),
        people.draw_image(6, record, 0, 32),
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_memory_and_disk_agree(made):
    shown = [row for row in made.rows if row["findings"] or row["impression"]]
    records = list(population(3, 30, 32, views=VIEWS))
    assert len(records) == len(shown)
    for record, row in zip(records, shown, strict=True):
        assert np.array_equal(np.asarray(Image.open(made.directory / row["image_path"])), record.image)
        assert (record.findings, record.impression, record.view, record.split) == (row["findings"], row["impression"], row["view"], row["split"])
        if row["label_source"]:
            assert [BLANK if row[label] == "" else int(row[label]) for label in LABELS] == record.labels.tolist()


def test_files_are_private_eight_bit_grey(made):
    path = made.directory / made.rows[0]["image_path"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert Image.open(path).mode == "L"
    assert Image.open(path).size == (32, 32)


def test_the_table_goes_through_the_adapter(made):
    cohort = assemble.assemble([table.read(made.path, made.directory)], recipes.named("frontal_image"), key=KEY, name="phantom", synthetic=True)
    expected = {(r.patient_index, r.study_order) for r in population(3, 30, 32)}
    assert len(cohort.study_key) == len(expected)
    assert sorted(set(cohort.text)) == sorted({r.text for r in population(3, 30, 32)})
    assert cohort.synthetic


def test_splits_are_by_patient_and_site_b_is_external(studies):
    split_of = collections.defaultdict(set)
    for record in studies:
        split_of[record.patient_index].add((record.site, record.split))
    assert all(len(found) == 1 for found in split_of.values())
    shares = collections.Counter(next(iter(found)) for found in split_of.values())
    assert set(shares) == {("A", "train"), ("A", "validate"), ("A", "test"), ("B", "test")}
    for place, share in ((("A", "train"), 0.72 * 0.37), (("A", "validate"), 0.072), (("A", "test"), 0.72 * 0.53), (("B", "test"), 0.28)):
        assert abs(shares[place] - 800 * share) <= 3


def test_default_size_holds_a_pool_of_a_thousand():
    chosen = [r for index in range(1500) for r in people.patient_studies(7, index)]
    images = sum(len(r.views) for r in chosen)
    audited = [r for r in chosen if (r.site, r.split) == ("A", "test") and set(r.views) != {"LATERAL"} and (r.report.findings or r.report.impression)]
    largest = max(collections.Counter(r.patient_index for r in audited).values())
    assert len(audited) - largest >= 1000
    assert len(audited) >= 1060
    assert 2850 <= len(chosen) <= 3200
    assert 3700 <= images <= 4300


def test_share_of_identical_reports_within_and_between_patients(studies):
    for site in "AB":
        chosen = [r for r in studies if r.site == site]
        counts = collections.Counter(texts_of(chosen))
        share = sum(n for n in counts.values() if n > 1) / sum(counts.values())
        assert 0.15 < share < 0.32
        patients = collections.defaultdict(list)
        for record in chosen:
            patients[reports.join_sections(record.report.findings, record.report.impression)].append(record.patient_index)
        repeated = [owners for owners in patients.values() if len(owners) > 1]
        assert any(len(set(owners)) < len(owners) for owners in repeated)
        assert any(len(set(owners)) > 1 for owners in repeated)


def test_studies_have_the_promised_irregularities(studies):
    assert 0.02 < np.mean([not r.has_labels for r in studies]) < 0.07
    assert any(len(r.views) > 1 and set(r.views) <= {"PA", "AP"} for r in studies)
    assert any(r.views == ("LATERAL",) for r in studies)
    assert any(not r.report.findings and not r.report.impression for r in studies)
    texts = texts_of(studies)
    assert 0.1 < np.mean(["___" in text for text in texts]) < 0.7
    assert any("may represent" in text for text in texts)
    assert any("unchanged" in text for text in texts)


def read_labels(text):
    """A labeler of its own: per sentence, negated, uncertain or positive mention of each label's words."""
    words = {
        "Enlarged Cardiomediastinum": r"mediastin",
        "Cardiomegaly": r"cardiomegaly|heart is|heart \w+ enlarged|normal size|cardiac",
        "Lung Opacity": r"lung opacity|\bopacity|opacification",
        "Lung Lesion": r"\bmass\b|nodule",
        "Edema": r"edema",
        "Consolidation": r"consolidation",
        "Pneumonia": r"pneumonia",
        "Atelectasis": r"atelectasis",
        "Pneumothorax": r"pneumothora",
        "Pleural Effusion": r"effusion",
        "Pleural Other": r"pleural thickening",
        "Fracture": r"fracture",
        "Support Devices": r"tube|\bline\b|picc|catheter|pacemaker|defibrillator|wires|valve|hardware|prosthesis",
    }
    found = dict.fromkeys(LABELS, BLANK)
    rank = {BLANK: 0, 0: 1, -1: 2, 1: 3}
    for sentence in re.split(r"\.\s|\.$|, (?=\w)", re.sub(r"\b\d\. ", "", text.lower())):
        for label, pattern in words.items():
            for match in re.finditer(pattern, sentence):
                before = sentence[: match.end()]
                value = 1
                if re.search(r"\bno\b|normal|resolved", sentence):
                    value = 0
                elif re.search(r"possibl[ey]|concerning|borderline|may re\w+", before) or "cannot be excluded" in sentence:
                    value = -1
                found[label] = max(found[label], value, key=rank.__getitem__)
    return found


def test_labels_are_what_the_text_says(studies):
    """Commas inside normal macros end a negation for the small labeler here, so those are left to the next test."""
    macro = {" ".join(m[:2]) for site in reporting.wording.MACROS.values() for m in site}
    checked, wrong = 0, collections.Counter()
    for record in studies:
        text = reports.join_sections(record.report.findings, record.report.impression)
        if text and text not in macro:
            read = read_labels(text)
            for label, value in zip(LABELS[1:], record.report.labels[1:], strict=True):
                checked += 1
                if read[label] != value:
                    wrong[label, read[label], value, text] += 1
    assert checked > 10_000
    assert not wrong, wrong.most_common(3)


def test_no_finding_means_nothing_but_devices(studies):
    for record in studies:
        labels = dict(zip(LABELS, record.report.labels, strict=True))
        ill = any(labels[name] in (1, -1) for name in LABELS[1:-1])
        if record.report.findings or record.report.impression:
            assert labels["No Finding"] == (BLANK if ill else 1)
        else:
            assert set(labels.values()) == {BLANK}


def test_every_label_has_both_classes_enough_for_a_probe(studies):
    codes = np.array([r.report.labels for r in studies])
    assert ((codes == 1).sum(axis=0) >= 15).all()
    assert ((codes != 1).sum(axis=0) >= 15).all()
    assert (codes == -1).any()


def test_findings_are_stated_only_when_visible(studies):
    for record in studies:
        assert set(record.report.stated) <= set(reporting.visible(record.patient, record.study))


def test_images_show_their_findings():
    """The same pose with and without a finding differs where the finding is."""
    patient = anatomy.draw_patient(np.random.default_rng(0))
    pose = frontal.Pose(0.0, 0.0, False, 0.0)
    plain = frontal.draw_frontal(64, patient.anatomy, (), pose)
    for side, half in (("right", np.s_[:, :32]), ("left", np.s_[:, 32:])):
        shown = frontal.draw_frontal(64, patient.anatomy, (anatomy.Finding("effusion", side, "moderate"),), pose)
        change = np.abs(shown - plain)
        assert change[half].sum() > 10 * (change.sum() - change[half].sum())
    heights = [
        np.abs(frontal.draw_frontal(64, patient.anatomy, (anatomy.Finding("effusion", "left", g),), pose) - plain).sum() for g in ("small", "moderate", "large")
    ]
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize("kind", sorted(reporting._WORDINGS))
def test_every_worded_finding_is_drawn(kind):
    base = kind.rstrip("0123456789").split("_")[0] if kind.startswith(("opacity", "line", "pacemaker", "aorta", "heart")) else kind
    geometry = {"scoliosis", "heart", "mediastinum", "hemidiaphragm", "low_volumes", "hyperinflation"}
    assert (base in overlays.DRAW) != (base in geometry)
    if base in ("mediastinum", "hemidiaphragm", "low_volumes", "hyperinflation"):
        patient = anatomy.draw_patient(np.random.default_rng(1))
        pose = frontal.Pose(0.0, 0.0, False, 0.0)
        finding = anatomy.Finding(base, "right", "marked")
        change = frontal.draw_frontal(48, patient.anatomy, (finding,), pose) - frontal.draw_frontal(48, patient.anatomy, (), pose)
        assert np.abs(change).max() > 0.1


def test_anchors_are_distinct_and_of_another_population():
    anchors = anchor_texts(300, seed=7)
    assert len(set(anchors)) == 300
    assert anchors == anchor_texts(400, seed=7)[:300]
    assert anchors != anchor_texts(300, seed=8)
    cohort = set(texts_of([r for index in range(300) for r in people.patient_studies(7, index)]))
    assert len(cohort & set(anchors)) < 0.05 * len(anchors)


def test_caption_names_positive_labels_only():
    codes = dict.fromkeys(LABELS, BLANK)
    assert caption(list(codes.values())) == "Chest radiograph showing no finding."
    codes |= {"Cardiomegaly": 1, "Edema": -1, "Pneumothorax": 0}
    assert caption(list(codes.values())) == "Chest radiograph showing cardiomegaly."
    codes |= {"Edema": 1, "Support Devices": 1}
    assert caption(list(codes.values())) == "Chest radiograph showing cardiomegaly, edema and support devices."


def test_unwritable_directory_is_one_sentence(tmp_path):
    config = PhantomConfig(seed=1, n_patients=1, image_size=16)
    generate(config, tmp_path / "whole")
    picture = next((tmp_path / "whole" / "images").rglob("*.png")).relative_to(tmp_path / "whole")
    (tmp_path / "broken" / picture).mkdir(parents=True)
    with pytest.raises(errors.StoreError, match="write failed in synthetic images"):
        generate(config, tmp_path / "broken")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "images").write_text("a file where a folder has to be")
    with pytest.raises(errors.StoreError, match="directory not made in directory"):
        generate(config, tmp_path / "closed")
    assert not list(tmp_path.glob("[bc]*/pairs.csv"))
