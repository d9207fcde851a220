"""Damaged files: a bit flipped at a random place, a file cut or emptied, a ledger rewritten; whatever reads it next refuses it or makes it again."""

import copy
import dataclasses
import functools
import json
import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from relink_jax.privacy import ledger as ledger_lib
from relink_jax.stages import faults_judge as judge
from relink_jax.stages.faults_judge import Fault
from relink_jax.stages.faults_process import unsound
from relink_jax.stages.faults_scene import Scene, injure
from relink_jax.store import digests, files

REFUSED = (74,)
CHECK = "report --check"
_AUDITED = ("audit", "audit")
_MADE = {"convert": _AUDITED, "embed": _AUDITED, "heads": _AUDITED, "audit": _AUDITED, "probe": ("audit", "probe"), CHECK: ("report", "report")}
# of each reader: the stage after which it reads, and the one after which a sound workdir is as it leaves it


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files by pattern, and the commands that read them; `during`: (stage, name) where they are there only before the last such write of an interrupted stage."""

    pattern: str
    readers: tuple[str, ...]
    during: tuple[str, str] | None = None


KINDS = {
    "cohort table": Kind("cohort/*.parquet", ("audit", "embed")),
    "checkpoint": Kind("models/*/tree/**/*", ("convert", "embed")),
    "checkpoint's record": Kind("models/*/provenance.json", ("convert", "audit")),
    "feature shard": Kind("features/*/*/shard-*.safetensors", ("embed", "probe")),
    "shard record": Kind("features/*/*/shard-*.ok", ("embed",)),
    "manifest": Kind("**/[it]*/manifest.json", ("audit", "probe")),
    "heads": Kind("heads/*/*/heads.safetensors", ("heads", "audit")),
    "card of heads": Kind("heads/*/*/card.json", ("heads", "audit")),
    "ledger": Kind(f"heads/*/*/{ledger_lib.FILE_NAME}", ("heads", "audit")),
    "training state": Kind("heads/*/*/training_state-*.safetensors", ("heads",), during=("heads", "training_state-00000003.safetensors")),
    "embedding shard": Kind("embeddings/**/shard-*.safetensors", ("audit", "probe")),
    "counting part": Kind("counting/**/*.safetensors", ("audit",), during=("audit", "part-00000.safetensors")),
    "results table": Kind("results/*.parquet", (CHECK,)),
    "results file": Kind("results/*.json", (CHECK,)),
    "digest of a table": Kind("*/*.parquet.sha256", (CHECK, "audit")),
}


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Returns the content with one bit changed."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """Returns a shorter beginning of the content."""
    return content[: draw.randrange(len(content))]


def emptied(content: bytes, draw: random.Random) -> bytes:
    """Returns nothing."""
    return b""


INJURIES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, cut, emptied)


def damaged(kind: Kind, scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Injures a random file of a kind in every way, and runs a command that reads it; yields what was lost, try by try."""
    for _ in range(tries):
        for change in INJURIES:
            reader = draw.choice(kind.readers)
            workdir = scene.copy(during(kind, scene) if kind.during else scene.after(_MADE[reader][0]))
            chosen = draw.choice([path for path in sorted(workdir.glob(kind.pattern)) if path.is_file() and path.stat().st_size])
            injure(chosen, change(chosen.read_bytes(), draw))
            whole = scene.after(kind.during[0] if kind.during else _MADE[reader][1])
            lost = read(scene, workdir, reader, chosen.relative_to(workdir).as_posix(), whole)
            shutil.rmtree(workdir)
            yield "; ".join(f"{chosen.relative_to(workdir)} {change.__name__}: {one}" for one in lost)


def read(scene: Scene, workdir: pathlib.Path, reader: str, name: str, whole: pathlib.Path) -> list[str]:
    """Returns what is wrong after a command read a workdir whose file `name` is damaged: it must refuse it, or end with everything as in `whole`.

    A command that refuses may have finished what comes before the damage, and no more. Where a command has no use for what is damaged in the
    file, that may stay; what it makes itself it must make again.
    """
    before = judge.artifacts(workdir, unfinished=False)
    ended = scene.run("report", workdir, check=True) if reader == CHECK else scene.run(reader, workdir)
    if ended.code:
        sound, now = judge.artifacts(whole), judge.artifacts(workdir, unfinished=False)
        changed = [one for one in sorted(before.keys() | now.keys()) if now.get(one) != before.get(one) and now.get(one, "gone") != sound.get(one)]
        return judge.refused(ended, REFUSED) + [f"{one} changed by a command that was refused" for one in changed]
    wrong = judge.differences(whole, workdir)
    if reader == "embed" and name.startswith("features/"):
        return wrong
    return [one for one in wrong if one != f"{name} differs" and not ("restored" in one and name.startswith("models/"))]


def during(kind: Kind, scene: Scene) -> pathlib.Path:
    """Returns the workdir of an interrupted stage that has files of a kind, see `Kind.during`; not to be changed."""
    stage, name = kind.during or ("", "")
    place = scene.root / f"during-{stage}"
    if not place.exists():
        workdir, names = scene.copy(scene.before(stage)), scene.writes(stage)
        with files.fail_at(max(number for number, one in enumerate(names, 1) if one == name) + 1):
            scene.run(stage, workdir)
        if not list(workdir.glob(kind.pattern)):
            raise unsound(f"{stage} that stopped", f"no file like {kind.pattern}")
        workdir.rename(place)
    return place


def _edit(entries: list[dict[str, Any]]) -> None:
    entries[0]["content"]["steps"]["planned"] += 1


def _edit_and_hash(entries: list[dict[str, Any]]) -> None:
    _edit(entries)
    entries[0]["sha256"] = digests.value_digest({name: value for name, value in entries[0].items() if name != "sha256"})


def _fork(entries: list[dict[str, Any]]) -> None:
    entries.insert(-1, copy.deepcopy(entries[-1]))


LEDGERS: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "a number edited": _edit,
    "a number edited and its entry hashed again": _edit_and_hash,
    "the last entry dropped": lambda entries: entries.pop(),
    "an entry in the middle dropped": lambda entries: entries.pop(len(entries) // 2),
    "two entries swapped": lambda entries: entries.insert(1, entries.pop(2)),
    "an entry replayed": lambda entries: entries.append(copy.deepcopy(entries[1])),
    "the chain forked at its last entry": _fork,
    "put back as it was before training": lambda entries: entries.__delitem__(slice(1, None)),
}


def ledgers(scene: Scene, draw: random.Random, tries: int) -> Iterator[str]:
    """Rewrites a ledger in every way of `LEDGERS` and audits the heads beside it; yields what was lost, way by way."""
    for way, change in LEDGERS.items():
        workdir = scene.copy(scene.after("audit"))
        chosen = draw.choice(sorted(workdir.glob(KINDS["ledger"].pattern)))
        document = json.loads(chosen.read_text())
        change(document["entries"])
        injure(chosen, files.json_bytes(document))
        lost = read(scene, workdir, "audit", chosen.relative_to(workdir).as_posix(), scene.after("audit"))
        shutil.rmtree(workdir)
        yield "; ".join(f"{way}: {one}" for one in lost)


_KEPT = "exit 74, one sentence, nothing changed; or made again or not needed, every other artifact as before"
FAULTS = (
    *(
        Fault(f"damage-{name.replace(' ', '-')}", f"a {name}: bit flipped at a random place, cut, emptied", _KEPT, functools.partial(damaged, kind))
        for name, kind in KINDS.items()
    ),
    Fault("ledger-rewritten", f"a ledger: {', '.join(LEDGERS)}", "exit 74, one sentence, nothing changed", ledgers),
)
