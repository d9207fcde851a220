"""Tables and pictures as they come out of archives: read alike whatever the tool that wrote them, or refused in one sentence."""

import datetime
import decimal
import io
import pathlib
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_table import base_rows, parquet_of, read, written

from relink_jax import errors
from relink_jax.cohort import images

HEADER = "image_path,patient_id,study_id,report_text\n"


def refused(path, **options):
    with pytest.raises(errors.DataError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


@pytest.mark.parametrize("site", ["A", "MIMIC-CXR 2.0", "site_b", "7", ""])
def test_sites_that_can_be_part_of_a_file_name(tmp_path, site):
    rows = base_rows()
    for row in rows:
        row["site"] = site
    assert set(read(written(tmp_path, rows)).study_site) == {site}


@pytest.mark.parametrize("site", ["../x", "a/b", "a\\b", ".hidden", "-rf", "_x", "Zürich", "a\x00b", "a\nb", "a:b", "A*", "x" * 65, "胸"])
def test_sites_that_cannot_are_refused(tmp_path, site):
    rows = base_rows()
    rows[4]["site"] = site
    message = refused(written(tmp_path, rows))
    assert message.startswith("site in pairs table 'pairs.csv', data row 5, column 'site': expected blank, or at most 64 letters A to Z, digits, spaces, ")
    assert site not in message


@pytest.mark.parametrize("other", ["site a", "Site-A", "SITE A"])
def test_sites_that_would_share_a_file_name_are_refused(tmp_path, other):
    rows = base_rows()
    for row in rows:
        row["site"] = "Site A"
    rows[4]["site"] = other
    message = refused(written(tmp_path, rows))
    assert message == (
        "site in pairs table 'pairs.csv', data row 5, column 'site': "
        "expected names that differ in more than case, spaces and '-', found two spellings of one name"
    )


def test_spreadsheet_files_read_the_same(tmp_path):
    path = written(tmp_path, base_rows())
    wanted, text = read(path), path.read_bytes().replace(b"\r\n", b"\n")
    for number, variant in enumerate((text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text, text + b"\n\n", text.replace(b"PA,", b" PA ,"))):
        other = tmp_path / f"variant{number}.csv"
        other.write_bytes(variant)
        assert read(other).digest() == wanted.digest()


def test_a_report_of_many_lines_quotes_and_signs_is_one_text(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + 'a.png,1,1,"Line ""one"",\r\n\tline two;\n\nline three é 胸 \x00."\n', newline="")
    assert read(path).text == ['Line "one", line two; line three é 胸 \x00.']
    path.write_text(HEADER + f"a.png,1,1,{'word ' * 40_000}\n")
    assert len(read(path).text[0]) == 199_999


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (HEADER.replace(",", "\t") + "a.png\t1\t1\tx\n", "column 'image_path' in pairs table 'pairs.csv'"),
        (HEADER.replace(",", ";") + "a.png;1;1;x\n", "column 'image_path' in pairs table 'pairs.csv'"),
        (HEADER + "a.png,1,1,x,\n", "cells in pairs table 'pairs.csv', data row 1: expected 4, found 5"),
        (HEADER + "a.png,1,1,x\n\x00", "data row 2: expected 4, found 1"),
        (HEADER + f"{'a' * 100_000}.png,1,1,x\n", "missing files in pairs table 'pairs.csv', column 'image_path'"),
        (HEADER + "a\x00.png,1,1,x\n", "missing files in pairs table 'pairs.csv', column 'image_path'"),
        (HEADER + f"a.png,1,1,{'x' * 10_000_001}\n", "damaged CSV in pairs table 'pairs.csv', after data row 0"),
        (HEADER + 'a.png,1,1,"x"y\n', "damaged CSV in pairs table 'pairs.csv', after data row 0"),
        (HEADER.encode("utf-16") + b"a", "encoding in pairs table 'pairs.csv': expected UTF-8"),
        (HEADER.replace("report_text", "study_id,report_text") + "a.png,1,1,1,x\n", "column 'study_id' twice"),
        ("\n\n" + HEADER + "a.png,1,1,x\n", "column 'image_path' in pairs table 'pairs.csv'"),
    ],
)
def test_damaged_text_is_one_sentence(tmp_path, content, piece):
    (tmp_path / "pairs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert piece in refused(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("patient_id", pa.float64(), 1.0),
        ("study_id", pa.timestamp("s"), datetime.datetime(2020, 1, 1)),
        ("image_id", pa.decimal128(5, 2), decimal.Decimal("1.25")),
        ("report_id", pa.bool_(), True),
        ("findings", pa.binary(), b"Lungs are clear."),
        ("findings", pa.list_(pa.string()), ["Lungs are clear."]),
        ("image_path", pa.struct([("path", pa.string())]), {"path": "im/i1.png"}),
        ("site", pa.float64(), 1.0),
        ("Edema", pa.bool_(), True),
        ("Edema", pa.list_(pa.float64()), [1.0]),
    ],
)
def test_parquet_types_without_one_spelling_are_refused(tmp_path, column, kind, value):
    rows = base_rows()
    for row in rows:
        row[column] = "x"
    message = refused(parquet_of(tmp_path / "x.parquet", rows, **{column: (lambda _: value, kind)}))
    assert message.startswith(f"type of column {column!r} in pairs table 'x.parquet': expected strings")


def test_parquet_types_with_one_spelling_read_as_in_a_csv(tmp_path):
    rows = base_rows()
    for number, row in enumerate(rows):
        row |= {"patient_id": str((0, 0, 1, 1, 2)[number]), "study_date": "2020-01-01", "label_source": ""}
    path = written(tmp_path, rows)
    kinds = {"patient_id": (int, pa.int64()), "study_date": (lambda _: datetime.datetime(2020, 1, 1), pa.timestamp("s"))}
    kinds |= {"findings": (str, pa.large_string()), "view": (str, pa.dictionary(pa.int8(), pa.string())), "site": (str, pa.string_view())}
    found = parquet_of(tmp_path / "x.parquet", rows, **kinds)
    assert pq.read_schema(found).field("label_source").type == pa.null()
    assert read(found).digest() == read(path).digest()


@pytest.mark.parametrize(("find", "put"), [(b"Large effusion.", b"Large \xff\xfeffusion."), (b"label_source", b"label\xff\xfeource")])
def test_parquet_that_is_not_utf8_is_damaged(tmp_path, find, put):
    path = tmp_path / "x.parquet"
    columns = {name: [row[name] for row in base_rows()] for name in base_rows()[0]}
    pq.write_table(pa.table(columns), path, compression="none", store_schema=False)
    path.write_bytes(path.read_bytes().replace(find, put[: len(find)]))
    assert refused(path) == "damaged Parquet in pairs table 'x.parquet': expected a readable file, found one that cannot be parsed"


def test_things_with_a_tables_name(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for path in (tmp_path / "folder.csv", tmp_path / "loop.csv", tmp_path / f"{'x' * 300}.csv"):
        assert refused(path).startswith("table missing in pairs table")
    path = written(tmp_path, base_rows())

    def denied(*_, **__):
        raise PermissionError

    monkeypatch.setattr(pathlib.Path, "open", denied)
    assert refused(path) == "table unreadable in pairs table 'pairs.csv': expected a readable file, found PermissionError"


def test_a_loop_of_links_is_a_missing_picture(tmp_path):
    path = written(tmp_path, base_rows())
    (tmp_path / "im" / "i3.png").unlink()
    (tmp_path / "im" / "i3.png").symlink_to(tmp_path / "im" / "i3.png")
    assert "1 of 3 missing, the first at data row 3" in refused(path)


GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)


def saved(path, picture, **options):
    picture.save(path, **options)
    return images.read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_exif_note_turns_nothing(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, noted = (saved(tmp_path / f"{name}.{suffix}", Image.fromarray(GREY), **kw) for name, kw in (("plain", {}), ("noted", {"exif": exif})))
    assert noted.shape == (6, 9)
    np.testing.assert_array_equal(noted, plain)


def test_unusual_modes_keep_their_brightness(tmp_path):
    smooth = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)))
    for mode in ("CMYK", "RGB", "L"):
        assert np.abs(saved(tmp_path / f"{mode}.jpg", smooth.convert(mode), quality=95) - np.asarray(smooth) / 255).max() < 0.03
    assert set(saved(tmp_path / "1.png", smooth.convert("1")).ravel().tolist()) == {0.0, 1.0}
    clear = saved(tmp_path / "clear.png", Image.fromarray(GREY), transparency=int(GREY[2, 3]))
    np.testing.assert_array_equal(clear, np.where(GREY[2, 3] == GREY, 0, GREY).astype(np.float32) / np.float32(255))


def png(width, height):
    """A PNG file that claims a size and holds next to nothing."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (2**31 - 1, 2**31 - 1), (60_000, 60_000), (10_000, 10_000), (9_000, 9_000), (9_000, 7_000)])
def test_sizes_that_no_picture_has_are_refused_before_they_are_read(tmp_path, width, height):
    path = tmp_path / "claims.png"
    path.write_bytes(png(width, height))
    with pytest.raises(errors.DataError, match="picture in image file: expected ") as caught:
        images.read_image(path)
    assert ("67,108,864 pixels" in str(caught.value)) == ((width, height) in ((9_000, 9_000), (10_000, 10_000)))


def test_files_spoilt_at_random_are_a_picture_or_one_sentence(tmp_path):
    draw, path = np.random.default_rng(1), tmp_path / "spoilt"
    whole = []
    for mode, kind in (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")):
        stream = io.BytesIO()
        Image.fromarray(GREY).convert(mode).save(stream, kind)
        whole.append(stream.getvalue())
    refusals = 0
    for turn in range(400):
        spoilt = bytearray(whole[turn % len(whole)])
        spoilt[int(draw.integers(len(spoilt)))] = int(draw.integers(256))
        path.write_bytes(spoilt[: int(draw.integers(len(spoilt)))] if turn % 2 else spoilt)
        try:
            found = images.read_image(path)
            assert found.ndim == 2
            assert 0 <= found.min() <= found.max() <= 1
        except errors.DataError:
            refusals += 1
    assert 200 < refusals < 400
