"""Paths of a table stay inside their root, also through links, and no refusal repeats them."""

import os
import pathlib

import pytest

from relink_jax import errors
from relink_jax.cohort import paths


@pytest.fixture
def root(tmp_path):
    (tmp_path / "archive" / "p10" / "s1").mkdir(parents=True)
    (tmp_path / "archive-2").mkdir()
    for name in ("archive/p10/s1/a.png", "archive-2/b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "archive"


def refused(root, relative):
    with pytest.raises(errors.DataError, match=r"^path in image 7: expected one inside its root, found [^/]*$") as caught:
        paths.inside(root, relative, "image 7")
    return str(caught.value)


@pytest.mark.parametrize("relative", ["p10/s1/a.png", "./p10//s1/a.png", "p10/s1/gone.png", "p11/gone/a.png", "a b/ü.png", "p10/..png/x"])
def test_a_path_inside_is_the_joined_one_whether_or_not_it_is_there(root, relative):
    assert paths.inside(root, relative) == root / pathlib.PurePosixPath(relative)
    assert paths.inside(pathlib.Path(os.path.relpath(root)), relative).resolve() == root / pathlib.PurePosixPath(relative)


@pytest.mark.parametrize("relative", ["", ".", "/etc/passwd", "../c.png", "p10/../../c.png", "p10/..", "p10/a\0.png"])
def test_what_leads_out_by_its_spelling_is_refused(root, relative):
    refused(root, relative)


@pytest.mark.parametrize(
    ("link", "target", "relative"),
    [
        ("file.png", "../c.png", "file.png"),
        ("near.png", "../archive-2/b.png", "near.png"),
        ("folder", "..", "folder/c.png"),
        ("folder", "../archive-2", "folder/deeper/b.png"),
        ("loop", "loop", "loop"),
        ("loop", "loop", "loop/a.png"),
        ("nowhere.png", "p10/gone.png", "nowhere.png"),
        ("two.png", "one.png", "two.png"),
        ("absolute.png", "/etc/hostname", "absolute.png"),
    ],
)
def test_links_that_lead_out_or_nowhere_are_refused(root, link, target, relative):
    (root / "one.png").symlink_to("../c.png")
    (root / link).symlink_to(target)
    assert "out of it or nowhere" in refused(root, relative)


@pytest.mark.parametrize(
    ("link", "target", "relative"),
    [("p11", "p10", "p11/s1/a.png"), ("p11", "p10/s1", "p11/a.png"), ("a.png", "p10/s1/a.png", "a.png"), ("up", "p10/..", "up/up/up/p10/s1/a.png")],
)
def test_links_inside_the_root_are_followed(root, link, target, relative):
    (root / link).symlink_to(target)
    assert paths.inside(root, relative).read_bytes() == b"x"


def test_a_directory_below_a_link_inside_is_looked_at_where_it_really_is(root):
    (root / "p11").symlink_to("p10")
    (root / "p10" / "out").symlink_to("../../archive-2")
    refused(root, "p11/out/b.png")


def test_the_root_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "mounted").symlink_to(root)
    assert paths.inside(tmp_path / "mounted", "p10/s1/a.png").read_bytes() == b"x"


def test_a_directory_is_looked_at_once(root, monkeypatch):
    looks = []
    real = os.path.islink
    monkeypatch.setattr(os.path, "islink", lambda path: looks.append(path) or real(path))
    for number in range(50):
        paths.inside(root, f"p12/s1/{number}.png")
    assert len(looks) == 52
    assert sum(str(look).endswith(".png") for look in looks) == 50
