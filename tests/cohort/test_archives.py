"""Tables and zips that are damaged, hostile or far too large end in one sentence, and whole ones are read as they stand."""

import gzip
import random
import stat
import struct
import time
import zipfile

import pytest

from relink_jax import errors
from relink_jax.cohort import archives, csv_tables

NAMES = ("a", "b")
TABLE = 'a,spare,b\n1, x ,2\n 3 ,,"4\n5"\n'


def table(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read(path):
    return csv_tables.read(path, NAMES, "table 't'")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("content", [TABLE, "\ufeff" + TABLE, TABLE.replace("\n1", "\r\n1"), TABLE.replace("1,", "\n1,"), TABLE[:-1]])
def test_columns_are_found_by_name(tmp_path, name, content):
    assert read(table(tmp_path, content.encode(), name)) == {"a": ["1", "3"], "b": ["2", "4\n5"]}


def test_aliases_stand_for_names(tmp_path):
    assert csv_tables.read(table(tmp_path, b"A,b\n1,2\n"), NAMES, "t", aliases={"A": "a"}) == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "column 'a'"),
        (b"a,c\n1,2\n", "column 'b'"),
        (b"a,b,a\n1,2,3\n", "column 'a' twice"),
        (b"a,b\n", "at least one data row"),
        (b"a,b\n1,2\n1\n", "data row 2: expected 2, found 1"),
        (b"a,b\n1,2\n1,2,3\n", "data row 2: expected 2, found 3"),
        (b'a,b\n1,2\n"1,2\n', "after data row 1: expected quoted cells"),
        (b"a,b\n1,2\n\xff,2\n", "UTF-8"),
        (b"a,b\n" + b"1" * 200_000, "lines under"),
        (b'a,b\n"' + b"1\n" * 100_000, "damaged CSV"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_wrong_table_is_one_sentence(tmp_path, name, content, said):
    with pytest.raises(errors.DataError, match="table 't'") as caught:
        read(table(tmp_path, content, name))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_cut_and_flip_of_a_gzip_is_one_sentence_or_the_table(tmp_path):
    whole = gzip.compress(("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(200))).encode())
    expected = read(table(tmp_path, gzip.decompress(whole)))
    rng, messages, refused = random.Random(3), set(), 0
    spoilt = [whole[:n] for n in range(0, len(whole), 7)]
    spoilt += [whole[:n] + bytes([whole[n] ^ 1 << rng.randrange(8)]) + whole[n + 1 :] for n in range(0, len(whole), 5)]
    for content in spoilt:
        path = tmp_path / "t.csv.gz"
        path.write_bytes(content)
        try:
            found = read(path)
        except errors.DataError as error:
            messages.add(str(error))
            refused += 1
        else:
            assert found == expected
    assert refused > 0.9 * len(spoilt)
    assert not any(str(tmp_path) in message for message in messages)


def test_a_gzip_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(csv_tables.read.__kwdefaults__, "most_table", 10_000)
    start = time.process_time()
    for content in (b"a,b\n" + b"1,2\n" * 5_000_000, b"a,b\n" + b" " * 20_000_000):
        with pytest.raises(errors.DataError, match="10,000 characters"):
            read(table(tmp_path, content, "t.csv.gz"))
    assert time.process_time() - start < 5


def test_a_missing_table_and_a_directory_in_its_place(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(errors.DataError, match=r"MIMIC-CXR table 'x.csv'"):
        archives.find_table(tmp_path, "x.csv", "MIMIC-CXR")
    assert archives.find_table(table(tmp_path, b"", "y.csv").parent, "y.csv", "MIMIC-CXR")[1] == "MIMIC-CXR table 'y.csv'"


def packed(tmp_path, members):
    path = tmp_path / "r.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def unpacked(path, name="a/r.txt"):
    with archives.zipped(path, "the archive") as source:
        return source.read(name, "report 1")


def test_a_zip_gives_its_members(tmp_path):
    path = packed(tmp_path, [("a/", ""), ("a/r.txt", "text"), ("b.txt", "")])
    with archives.zipped(path, "the archive") as source:
        assert tuple(source.names()) == ("a/", "a/r.txt", "b.txt")
        assert [source.read(name, "report") for name in ("a/r.txt", "b.txt", "r.txt", "A/r.txt")] == [b"text", b"", None, None]


def link():
    info = zipfile.ZipInfo("l.txt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../r.txt", "/etc/r.txt", "a/../../r.txt", "a\\..\\r.txt", link()], ids=["up", "root", "inner", "backslash", "link"])
def test_members_that_lead_elsewhere_spoil_the_archive(tmp_path, name):
    path = packed(tmp_path, [("a/r.txt", "text"), (name, "secret")])
    with pytest.raises(errors.DataError, match="the archive, member 2") as caught:
        unpacked(path)
    assert "r.txt" not in str(caught.value)


def test_one_name_twice_spoils_the_archive(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = packed(tmp_path, [("a/r.txt", "text"), ("a/r.txt", "other")])
    with pytest.raises(errors.DataError, match="a name twice"):
        unpacked(path)


def test_encrypted_members_spoil_the_archive(tmp_path):
    content = bytearray(packed(tmp_path, [("a/r.txt", "text")]).read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 8] |= 1
    (tmp_path / "r.zip").write_bytes(content)
    with pytest.raises(errors.DataError, match="an encrypted one"):
        unpacked(tmp_path / "r.zip")


def test_long_members_are_refused_whatever_they_declare(tmp_path):
    """A hundred megabytes of zeros, declared as such and declared as ten bytes."""
    path = packed(tmp_path, [("a/r.txt", bytes(100_000_000))])
    with pytest.raises(errors.DataError, match="at most 1,048,576 bytes"):
        unpacked(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 100_000_000), struct.pack("<I", 10)))
    with pytest.raises(errors.DataError, match="as long as declared"):
        unpacked(path)


def test_every_cut_and_flip_of_a_zip_is_one_sentence_or_the_member(tmp_path):
    members = [(f"p/{n}.txt", f"text {n} " * 9) for n in range(4)]
    whole = packed(tmp_path, members).read_bytes()
    rng, messages = random.Random(4), []
    spoilt = [whole[:n] for n in range(0, len(whole), 9)]
    spoilt += [whole[:n] + bytes([whole[n] ^ 1 << rng.randrange(8)]) + whole[n + 1 :] for n in range(len(whole))]
    for content in spoilt:
        (tmp_path / "r.zip").write_bytes(content)
        try:
            with archives.zipped(tmp_path / "r.zip", "the archive") as source:
                found = [source.read(name, "report") for name, _ in members]
        except errors.DataError as error:
            messages.append(str(error))
        else:
            assert all(got in (None, text.encode()) for got, (_, text) in zip(found, members, strict=True))
    assert len(messages) > 100
    assert not any(str(tmp_path) in message for message in messages)


def test_a_directory_gives_its_files_and_nothing_outside(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "secret"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (root / "a/r.txt").write_bytes(b"text")
    (outside / "r.txt").write_bytes(b"no")
    (root / "inner.txt").symlink_to(root / "a/r.txt")
    (root / "link.txt").symlink_to(outside / "r.txt")
    (root / "linked").symlink_to(outside)
    (root / "big.txt").write_bytes(bytes(archives.MOST_REPORT + 1))
    with archives.directory(root) as source:
        found = [source.read(name, "report") for name in ("a/r.txt", "inner.txt", "a", "b.txt", "a/r.txt/x")]
        assert found == [b"text", b"text", None, None, None]
        for name in ("link.txt", "linked/r.txt", "../secret/r.txt", str(outside / "r.txt"), ""):
            with pytest.raises(errors.DataError, match="inside its root") as caught:
                source.read(name, "report 1")
            assert "secret" not in str(caught.value)
        with pytest.raises(errors.DataError, match="at most"):
            source.read("big.txt", "report 1")


def test_line_ends_and_marks_are_made_plain():
    assert archives.text("\ufeffa\r\nb\rc\n".encode(), "report") == "a\nb\nc\n"
    with pytest.raises(errors.DataError, match="report 1: expected UTF-8"):
        archives.text(b"\xe9", "report 1")
