"""A small archive whose every identifying cell holds a canary word, and what to look for in what was made of it."""

import base64
import contextlib
import csv
import io
import logging
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from own_archive import archive, write
from PIL import Image

from relink_jax import cli

WORDS = ("canarypatient", "canarystudy", "canaryimage", "canaryreport", "canaryword", "canarysection", "canaryfolder")
IDS = {"patient_id": "canarypatient", "study_id": "canarystudy", "image_id": "canaryimage", "report_id": "canaryreport"}
_SPLITS = ("train", "train", "validate", "test")


def planted(root: pathlib.Path, images: int = 12) -> list[str]:
    """Returns the flags of an archive of that many pairs, half as many patients; more than 12 have labels of both kinds in every split."""
    rows = archive(root)
    for index in range(12, images):
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 40), dtype=np.uint8)).save(root / "png" / f"{index}.png")
        rows.append(rows[-1] | {"image_path": f"{index}.png", "image_id": f"im{index}", "report_id": f"r{index}", "study_id": f"s{index}"})
        rows[-1] |= {"patient_id": f"p{index // 2}", "findings": f"finding number {index}", "split": _SPLITS[index // 2 % 4]}
        rows[-1] |= {"No Finding": str(index % 2), "Pleural Effusion": str(1 - index % 2)}
    for row in rows:
        row |= {column: f"{word}{row[column]}" for column, word in IDS.items()}
        row |= {"findings": f"canaryword {row['findings']} canaryword", "impression": "canarysection", "image_path": f"canaryfolder/{row['image_path']}"}
    (root / "png").rename(root / "loose")
    (root / "png").mkdir()
    (root / "loose").rename(root / "png" / "canaryfolder")
    return write(root, rows)


def rows_of(root: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of the archive's table."""
    with (root / "pairs.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def spoken(*commands: list[str]) -> tuple[str, list[int]]:
    """Returns everything that commands printed, and their exit codes."""
    told, codes = io.StringIO(), []
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        for words in commands:
            codes.append(cli.main(words))
    return told.getvalue(), codes


def found_in(text: bytes) -> list[str]:
    """Returns the canary words in some bytes, whatever their case."""
    return [word for word in WORDS if word.encode() in text.lower()]


def forms(secret: bytes) -> dict[str, bytes]:
    """Returns the ways in which secret bytes could have been written down; lists of numbers without spaces, see `holds`."""
    spellings = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode(), "base64": base64.b64encode(secret).rstrip(b"=")}
    spellings |= {"urlsafe": base64.urlsafe_b64encode(secret).rstrip(b"="), "list": ",".join(map(str, secret)).encode(), "repr": repr(secret)[2:-1].encode()}
    words = np.frombuffer(secret, "<u4")
    return spellings | {"words": ",".join(map(str, words)).encode(), **{order: str(int.from_bytes(secret, order)).encode() for order in ("big", "little")}}


def holds(content: bytes, secret: bytes) -> list[str]:
    """Returns the forms of a secret that some bytes hold."""
    tight = b"".join(content.split())
    return [name for name, form in forms(secret).items() if form in content or form in tight]


class Bomb:
    """An object whose pickle, when it is loaded, calls a function that leaves a mark."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Returns what unpickling calls."""
        return self.call


def bombs(mark: pathlib.Path) -> dict[str, Bomb]:
    """Returns objects that leave `mark` when unpickled: by the system, by evaluation, and by functions that no list of dangerous ones names."""
    return {
        "os": Bomb(os.mkdir, str(mark)),
        "exec": Bomb(exec, f"open({str(mark)!r}, 'w')"),
        "numpy": Bomb(np.save, str(mark), 1),
        "logging": Bomb(logging.FileHandler, str(mark)),
    }


def goes_off(mark: pathlib.Path, content: bytes) -> bool:
    """Returns whether unpickling leaves the mark, and takes it away again."""
    pickle.loads(content)
    found = [path for path in mark.parent.iterdir() if path.name.startswith(mark.name)]
    for path in found:
        path.rmdir() if path.is_dir() else path.unlink()
    return bool(found)
