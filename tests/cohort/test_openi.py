"""Open-I: XML reports and the Kaggle tables with their oddities, files that attack the parser or the archive, and the real collection."""

import io
import os
import pathlib
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from archive_checks import assert_same_as_exams, exam_list, picture, refused, rows_of, rows_or_none, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from relink_jax.cohort import openi, openi_xml, reports
from relink_jax.cohort.layouts import openi as layout
from relink_jax.cohort.schema import LABELS

COUNTS = {"reports_read": 5, "reports_without_image": 1, "reports_with_placeholder": 2, "findings_or_impressions_with_placeholder": 1, "rows_read": 6}
RAW = os.environ.get("RELINK_OPENI_REPORTS", "")


def xml(uid, findings="", impression="", images=(), *, comparison="", indication="", head=""):
    """One report as the collection writes it: an empty section is an empty element."""
    parts = {"COMPARISON": comparison, "INDICATION": indication, "FINDINGS": findings, "IMPRESSION": impression}
    abstract = "".join(f'<AbstractText Label="{name}">{text}</AbstractText>' if text else f'<AbstractText Label="{name}"/>' for name, text in parts.items())
    pictures = "".join(f'<parentImage id="{name}"><figureId>F1</figureId><url>/hadoop/x.jpg</url></parentImage>' for name in images)
    return f'<?xml version="1.0" encoding="utf-8"?>{head}<eCitation><uId id="{uid}"/><Abstract>{abstract}</Abstract>{pictures}</eCitation>'


def collection():
    """Reports by file name: two images, XXXX, entities of XML itself, no image, neither section, a number order that differs from the names'."""
    return {
        "1.xml": xml("CXR1", "Lungs &lt; clear &amp; XXXX.", "Normal chest x-XXXX.", ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"], comparison="None."),
        "10.xml": xml("CXR10", "", "Ten.", ["CXR10_IM-0002-1001"]),
        "2.xml": xml("CXR2", "Two\n  lines.", "", ["CXR2_IM-0652-1001", "CXR2_IM-0652-2001"], indication="XXXX-year-old"),
        "3.xml": xml("CXR3", "No picture.", "None."),
        "4.xml": xml("CXR4", images=["CXR4_IM-2050-1001-0001"]),
        "readme.txt": "not a report",
    }


def loose(tmp_path, reports=None):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir(exist_ok=True)
    for name, text in (collection() if reports is None else reports).items():
        (folder / name).write_text(text)
    return folder


def packed(path, members):
    """Writes a .tgz of (name, content or TarInfo) pairs."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content.encode()
            info.name, info.size = name, len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def expected(uid, image, view="", **cells):
    row = {"image_path": f"{image}.png", "image_id": image, "patient_id": uid, "study_id": uid, "report_id": uid, "split": "test", "origin": "openi"}
    return row | {"site": "Open-I"} | ({"view": view} if view else {}) | cells


def expected_rows(views=("",) * 6):
    one = {"findings": "Lungs < clear & XXXX.", "impression": "Normal chest x-XXXX.", "labelled_text": "Normal chest x-XXXX."}
    one["report_text"] = "COMPARISON: None.\nFINDINGS: Lungs < clear & XXXX.\nIMPRESSION: Normal chest x-XXXX."
    two = {"findings": "Two\n  lines.", "labelled_text": "Two\n  lines.", "report_text": "INDICATION: XXXX-year-old\nFINDINGS: Two\n  lines."}
    ten = {"impression": "Ten.", "labelled_text": "Ten.", "report_text": "IMPRESSION: Ten."}
    return [
        expected("CXR1", "CXR1_1_IM-0001-3001", views[0], **one),
        expected("CXR1", "CXR1_1_IM-0001-4001", views[1], **one),
        expected("CXR2", "CXR2_IM-0652-1001", views[2], **two),
        expected("CXR2", "CXR2_IM-0652-2001", views[3], **two),
        expected("CXR4", "CXR4_IM-2050-1001-0001", views[4]),
        expected("CXR10", "CXR10_IM-0002-1001", views[5], **ten),
    ]


PROJECTIONS = [
    {"uid": "1", "filename": "1_IM-0001-3001.dcm.png", "projection": "Lateral"},
    {"uid": "1", "filename": "1_IM-0001-4001.dcm.png", "projection": "Frontal"},
    {"uid": "2", "filename": "2_IM-0652-1001.dcm.png", "projection": "Frontal"},
    {"uid": "4", "filename": "4_IM-2050-1001-0001.dcm.png", "projection": "Frontal"},
    {"uid": "10", "filename": "10_IM-0002-1001.dcm.png", "projection": "Frontal"},
    {"uid": "77", "filename": "77_IM-0002-1001.dcm.png", "projection": "Lateral"},
]


def test_every_xml_oddity_gives_its_row(tmp_path):
    folder = loose(tmp_path)
    pairs = openi.read(folder, tmp_path / "images")
    assert rows_of(pairs) == expected_rows()
    assert pairs.counts == COUNTS | {"views_unknown": 6}
    assert (pairs.name, pairs.image_root) == ("Open-I", tmp_path / "images")
    assert openi.read(tmp_path, tmp_path / "images").columns == pairs.columns
    archive = packed(tmp_path / "NLMCXR_reports.tgz", [(f"ecgen-radiology/{name}", text) for name, text in collection().items()])
    assert (openi.read(archive, tmp_path / "images").columns, openi.read(archive, tmp_path).counts) == (pairs.columns, pairs.counts)


def test_kaggle_projections_give_the_xml_its_views(tmp_path):
    folder = loose(tmp_path)
    views = ("LATERAL", "FRONTAL", "FRONTAL", "", "FRONTAL", "FRONTAL")
    for place in (folder, tmp_path):
        table = write_csv(place / "indiana_projections.csv", PROJECTIONS)
        pairs = openi.read(folder, tmp_path)
        assert rows_of(pairs) == expected_rows(views)
        assert pairs.counts == COUNTS | {"views_unknown": 1, "projections_unused": 1}
        table.unlink()


def test_the_kaggle_tables_give_their_rows(tmp_path):
    listed = [
        {"uid": "10", "MeSH": "normal", "findings": "", "impression": "Ten.", "indication": "", "comparison": ""},
        {"uid": "1", "findings": "Clear, XXXX.\nDry.", "impression": "Normal.", "comparison": "None."},
        {"uid": "3", "findings": "No picture."},
    ]
    write_csv(tmp_path / "indiana_reports.csv", listed)
    write_csv(tmp_path / "indiana_projections.csv", PROJECTIONS)
    pairs = openi.read(tmp_path, tmp_path)
    one = {"findings": "Clear, XXXX.\nDry.", "impression": "Normal.", "labelled_text": "Normal."}
    one["report_text"] = "COMPARISON: None.\nFINDINGS: Clear, XXXX.\nDry.\nIMPRESSION: Normal."
    ten = {"impression": "Ten.", "labelled_text": "Ten.", "report_text": "IMPRESSION: Ten."}
    wanted = [
        expected("CXR1", "1_IM-0001-3001", "LATERAL", **one),
        expected("CXR1", "1_IM-0001-4001", "FRONTAL", **one),
        expected("CXR10", "10_IM-0002-1001", "FRONTAL", **ten),
    ]
    assert rows_of(pairs) == [row | {"image_path": row["image_id"] + ".dcm.png"} for row in wanted]
    assert pairs.counts == {
        "reports_read": 3,
        "reports_without_image": 1,
        "reports_with_placeholder": 1,
        "findings_or_impressions_with_placeholder": 1,
        "rows_read": 3,
        "views_unknown": 0,
        "projections_unused": 3,
    }
    picture(tmp_path / "images_normalized" / "1_IM-0001-3001.dcm.png")
    assert openi.read(tmp_path, tmp_path).image_root == tmp_path / "images_normalized"


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml("CXR1", "&b;", head=BOMB), "expected plain XML elements, found a document type or an entity"),
        (xml("CXR1", "&x;", head='<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'), "found a document type or an entity"),
        (xml("CXR1", head='<!DOCTYPE x SYSTEM "http://example.org/x.dtd">'), "found a document type or an entity"),
        (xml("CXR1", head='<!DOCTYPE x [<!ENTITY % p SYSTEM "http://example.org/p"> %p;]>'), "found a document type or an entity"),
        (xml("CXR1", "&undefined;"), "expected well-formed XML, found something else"),
        (xml("CXR1", "<b>" * 40 + "</b>" * 40), "expected elements nested at most 32 deep, found deeper ones"),
        (xml("CXR1", "<b>"), "expected well-formed XML"),
        (xml("CXR1").replace("utf-8", "no-such"), "expected well-formed XML"),
        (xml("CXR1", "x" * 2**20), "expected at most 1,048,576 bytes, found 1,048,"),
        (xml("SECRET7"), "uId in Open-I report directory, report 1 of 1: expected CXR and a number, found another or none"),
        (xml("CXR1", images=["../../SECRET7"]), "image name in Open-I report directory, report 1 of 1: expected letters, digits, '_' and '-', found another"),
        ("", "expected well-formed XML"),
    ],
)
def test_hostile_and_damaged_reports_are_refused(tmp_path, text, message):
    folder = loose(tmp_path, {"7.xml": text})
    assert message in refused(lambda: openi.read(folder, tmp_path), "SECRET7", "CXR1", "passwd", tmp_path)


def test_a_report_twice_or_behind_a_link_is_refused(tmp_path):
    folder = loose(tmp_path, {"1.xml": xml("CXR1"), "2.xml": xml("CXR1")})
    assert refused(lambda: openi.read(folder, tmp_path)) == (
        "uId in Open-I report directory, report 2 of 2: expected every report once, found that of an earlier report"
    )
    (folder / "2.xml").unlink()
    (tmp_path / "outside.xml").write_text(xml("CXR2"))
    (folder / "2.xml").symlink_to(tmp_path / "outside.xml")
    assert "expected regular files, found a link" in refused(lambda: openi.read(folder, tmp_path), tmp_path)


def member(kind, target=""):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "bad",
    [
        ("../1.xml", "x"),
        ("/etc/1.xml", "x"),
        ("a/../../1.xml", "x"),
        ("ecgen-radiology/1.xml", member(tarfile.SYMTYPE, "/etc/passwd")),
        ("ecgen-radiology/1.xml", member(tarfile.LNKTYPE, "../x")),
        ("ecgen-radiology/1.xml", member(tarfile.FIFOTYPE)),
    ],
)
def test_archives_with_links_or_ways_out_are_refused(tmp_path, bad):
    archive = packed(tmp_path / "r.tgz", [("ecgen-radiology/2.xml", xml("CXR2", "a", images=["CXR2_IM-1"])), bad])
    expected = "member in Open-I report archive: expected regular files inside the archive, found a link, a device or a path out of it"
    assert refused(lambda: openi.read(archive, tmp_path)) == expected


def test_bombs_and_damaged_archives_are_refused(tmp_path, monkeypatch):
    archive = packed(tmp_path / "r.tgz", [("1.xml", xml("CXR1", "a" * 2**20))])
    assert "expected at most 1,048,576 bytes" in refused(lambda: openi.read(archive, tmp_path))
    whole = packed(archive, [("1.xml", xml("CXR1", "a", images=["CXR1_IM-1"])), ("other.bin", "\0" * 2**21)]).read_bytes()
    assert len(openi.read(archive, tmp_path)) == 1
    monkeypatch.setattr(openi_xml, "_LARGEST_ARCHIVE", 2**20)
    assert refused(lambda: openi.read(archive, tmp_path)) == "size in Open-I report archive: expected at most 1,048,576 unpacked bytes, found more"
    for content in (whole[:-30], whole[:40], b"", b"\x1f\x8b no", xml("CXR1").encode()):
        archive.write_bytes(content)
        assert "Open-I report archive" in refused(lambda: openi.read(archive, tmp_path), tmp_path)


def test_what_is_not_there_is_told(tmp_path):
    expected = "reports missing in Open-I reports: expected XML files, or indiana_reports.csv with indiana_projections.csv, found neither"
    assert refused(lambda: openi.read(tmp_path, tmp_path)) == expected
    assert refused(lambda: openi.read(tmp_path / "none", tmp_path)) == expected
    assert "at least one report that names an image" in refused(lambda: openi.read(loose(tmp_path, {"1.xml": xml("CXR1")}), tmp_path))


@pytest.mark.parametrize(
    ("report", "projection", "message"),
    [
        (
            {"uid": "x7"},
            {},
            "uid in table 'indiana_reports.csv', data row 2: expected a number, every report once, found another value or one of an earlier row",
        ),
        ({"uid": "1"}, {}, "data row 2: expected a number, every report once"),
        ({}, {"projection": "Side"}, "projection in table 'indiana_projections.csv', data row 2: expected Frontal or Lateral, found another value"),
        ({}, {"filename": "x7.jpg"}, "uid and filename in table 'indiana_projections.csv', data row 2"),
        ({}, {"uid": "x7"}, "uid and filename in table 'indiana_projections.csv', data row 2"),
    ],
)
def test_wrong_kaggle_cells_are_told_by_row(tmp_path, report, projection, message):
    basic = {"uid": "1", "findings": "a", "impression": "b", "indication": "", "comparison": ""}
    write_csv(tmp_path / "indiana_reports.csv", [basic, basic | {"uid": "2"} | report])
    write_csv(tmp_path / "indiana_projections.csv", [PROJECTIONS[0], PROJECTIONS[2] | projection])
    assert message in refused(lambda: openi.read(tmp_path, tmp_path), "x7", "Side", tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(lambda text: xml("CXR1", text).encode("utf-8", "replace"))))
def test_any_bytes_are_a_report_or_one_sentence(content):
    report = rows_or_none(lambda: openi_xml.parse(content, "report"))
    assert report is None or report.uid == "CXR1"


@pytest.mark.parametrize("kaggle", [False, True])
def test_exams_come_back_from_their_layout(tmp_path, kaggle):
    exams = exam_list(first_study_only=True)
    folder, images = layout.write(exams, tmp_path, kaggle=kaggle)
    views = {"PA": "FRONTAL", "AP": "FRONTAL", "LATERAL": "LATERAL"} if kaggle else dict.fromkeys(("PA", "AP", "LATERAL"), "")
    splits = dict.fromkeys(("train", "validate", "test"), "test")
    assert_same_as_exams(openi.read(folder, images), exams, views=views, splits=splits, labels=False)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_the_layout_refuses_a_second_study_of_a_patient(tmp_path):
    message = refused(lambda: layout.write(exam_list(), tmp_path))
    assert message == "studies in Open-I layout: expected one of each patient, found a second one of a patient"


@pytest.mark.slow
@pytest.mark.skipif(not RAW, reason="set RELINK_OPENI_REPORTS to the archive that fetch_openi.py fetches")
def test_the_public_collection_parses_to_its_counts(tmp_path):
    pairs = openi.read(pathlib.Path(RAW), tmp_path)
    assert pairs.counts == {
        "reports_read": 3955,
        "reports_without_image": 104,
        "reports_with_placeholder": 3411,
        "findings_or_impressions_with_placeholder": 1855,
        "rows_read": 7470,
        "views_unknown": 7470,
    }
    assert not any(cell for label in LABELS for cell in pairs.columns[label])
    found = openi_xml.read_reports(pathlib.Path(RAW))
    assert Counter(len(report.images) for report in found) == {0: 104, 1: 446, 2: 3208, 3: 181, 4: 15, 5: 1}
    assert len({image for report in found for image in report.images}) == len(set(pairs.columns["image_id"])) == 7470
    assert len(set(pairs.columns["patient_id"])) == 3851
    texts = {name: [report.sections[2:][number] for report in found] for number, name in enumerate(("findings", "impression"))}
    both = [reports.join_sections(*sections) for sections in zip(texts["findings"], texts["impression"], strict=True)]
    assert sum(bool(a and b) for a, b in zip(*texts.values(), strict=True)) == 3419
    # texts, distinct ones, share in a duplicate group, strict Recall@1 of one who knows the exact text
    wanted = {"both": (3927, 3129, 0.243, 0.797), "findings": (3425, 2624, 0.275, 0.766), "impression": (3921, 1780, 0.579, 0.454)}
    assert {name: duplicates(cells) for name, cells in (texts | {"both": both}).items()} == wanted


def duplicates(texts):
    plain = [" ".join(re.findall("[a-z0-9]+", text.lower())) for text in texts if text]
    times = np.array(list(Counter(plain).values()))
    return len(plain), len(times), round(float(times[times > 1].sum() / times.sum()), 3), round(float(len(times) / times.sum()), 3)
