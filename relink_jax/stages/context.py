"""What every stage starts with: the workdir opened for this run's data, and the cohort, features and embeddings in it."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from relink_jax import cohort_config, errors, heads
from relink_jax import config as config_lib
from relink_jax.cohort import schema
from relink_jax.privacy import ledger as ledger_lib
from relink_jax.runtime import progress
from relink_jax.stages import ensembles, together
from relink_jax.store import digests, files, restricted, shards
from relink_jax.store import workdir as workdir_lib
from relink_jax.store.rows import Rows, RowSource

T = TypeVar("T")
NOISE_ONLY = "noise_only"
SOURCE = "source.json"  # of a cohort: where its images lie, and the digests of the tables it was read from
RECORDS = "records"  # directory of the cohort's images as records
_NOT_DATA = ("cohort.records",)  # of the cohort's settings, those that change no data
SIDES = {"image": "images", "text": "texts"}  # heads, and what they project
TEST = "test"  # the split that is audited
_CHUNK_BYTES = 2**28  # of float32 features projected at once
_project = jax.jit(heads.project)


@contextlib.contextmanager
def opened(config: config_lib.RunConfig, workdir: str | pathlib.Path) -> Iterator[workdir_lib.Workdir]:
    """Holds the workdir for one stage of this config, after checking the config; a workdir of other data, or one that others can enter, is refused.

    Of several processes all hold it, and only process 0 may write, see `together`.

    Raises: UsageError, StoreError: see `RunConfig.validate`, `store.workdir.opened` and `together.opened`.
    """
    with together.opened(workdir, functools.partial(_described, config)) as found:
        if config.embeddings or config.cohort.source != "phantom":
            restricted.check_private(found.root)
        yield found


def led(config: config_lib.RunConfig, workdir: str | pathlib.Path, what: str, work: Callable[[workdir_lib.Workdir], T]) -> T | None:
    """Opens the workdir and returns what `work` makes of it on process 0, and None on the other processes once that is done.

    Args: what: the work in a few words, for messages.
    Raises: see `opened` and `together.first`.
    """
    with opened(config, workdir) as found:
        return together.first(found, what, lambda: work(found))


def _described(config: config_lib.RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (what defines the data of a run, its settings) after checking the config."""
    config.validate()
    config.resolve_paths()
    identity: dict[str, Any] = {f"cohort.{field.path}": field.default for field in config_lib.fields(config.cohort)}
    unused = [f"cohort.{source}." for source in cohort_config.SOURCES if source not in config.cohort.sources]
    identity = {name: value for name, value in identity.items() if not name.startswith((*unused, *_NOT_DATA))}
    if config.embeddings:
        identity = {"embeddings": config.embeddings}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in identity.items()}, config_lib.to_dict(config)


def models_of(config: config_lib.RunConfig, model: str | None) -> tuple[str, ...]:
    """Returns the run's models, or the one of them that a command named; `UsageError` for any other."""
    if model is None:
        return config.models
    if model not in config.models:
        raise errors.UsageError(
            f"unknown model {model!r} in --model: expected one of {', '.join(config.models)}, or a checkpoint converted with "
            f"'relink convert --source=DIR --model=NAME'{errors.suggest(model, config.models)}"
        )
    return (model,)


def needs(path: pathlib.Path, what: str, stage: str) -> None:
    """Raises `StoreError` naming the stage that makes `path` when it is not there."""
    if not path.exists():
        raise errors.StoreError(errors.describe(f"{what} missing", "the workdir", f"the output of 'relink {stage}'", "nothing; run that stage first"))


def load_cohort(found: workdir_lib.Workdir) -> schema.Cohort:
    """Returns the saved cohort; `StoreError` when the cohort stage has not run."""
    needs(found.cohort / "cohort.json", "cohort", "cohort")
    roots = files.read_object(found.cohort / SOURCE, {"image_roots": list})["image_roots"]
    return schema.load(found.cohort, [found.root / str(root) for root in roots])


def save_roots(found: workdir_lib.Workdir, roots: Sequence[pathlib.Path], tables: Mapping[str, str]) -> None:
    """Records where the images of the cohort's sources lie, those in the workdir relative to it, and the digests of the tables that were read."""
    inside = [str(root.relative_to(found.root)) if root.is_relative_to(found.root) else str(root) for root in roots]
    files.write_json(found.cohort / SOURCE, {"image_roots": inside, "table_sha256": dict(tables)})


def phantom_directory(found: workdir_lib.Workdir) -> pathlib.Path:
    """Returns where the synthetic cohort's PNG files and pairs table lie."""
    return found.root / "phantom"


def arms_of(config: config_lib.RunConfig, model: str) -> tuple[str, ...]:
    """Returns the head arms of a model: all configured ones for the mitigated model, the original for the others.

    The noise-only control comes first as `noise_only`, its further draws as `noise_only_2` and so on.
    """
    if model != config.mitigate:
        return ("original",)
    redraws = [f"{NOISE_ONLY}_{draw}" for draw in range(2, config.heads.noise_draws + 1)] if NOISE_ONLY in config.arms else []
    return ("original", *(arm for arm in config.arms if arm != "original"), *redraws)


def made_arms(config: config_lib.RunConfig, found: workdir_lib.Workdir, model: str) -> tuple[str, ...]:
    """Returns those arms of a model whose heads are in the workdir, and says which are left out because they were not trained.

    An ensemble has only its members' original heads.

    Raises: StoreError: the model is not converted.
    """
    if ensembles.load(found, model) is not None:
        return ("original",)
    needs(found.heads(model, "original") / "card.json", f"model {model!r}", "convert")
    arms = arms_of(config, model)
    made = tuple(arm for arm in arms if (found.heads(model, arm) / "card.json").exists())
    left = [arm for arm in arms if arm not in made and not is_redraw(arm)]
    if left:
        progress.notice(f"{model}: no {', '.join(left)} heads in the workdir, so they are left out; 'relink heads' makes them")
    return made


def load_arm(found: workdir_lib.Workdir, model: str, arm: str) -> tuple[heads.Heads, dict[str, Any], dict[str, Any] | None]:
    """Returns (heads, card, ledger) of one arm after checking that they belong together; no ledger for arms that were not trained.

    Raises: StoreError: missing or damaged files, heads of another arm, or a ledger that does not account for these heads.
    """
    directory, where = found.heads(model, arm), f"heads/{model}/{arm}"
    needs(directory / "card.json", f"{arm} heads of {model!r}", "convert" if arm == "original" else "heads")
    loaded, card = heads.load(directory)
    if card.get("arm") != arm:
        raise errors.StoreError(errors.describe("heads of another arm", where, repr(arm), repr(card.get("arm"))))
    if arm == "original":
        return loaded, card, None
    target = _target(card, where)
    if arm == "random":
        return loaded, card, None
    path = directory / ledger_lib.FILE_NAME
    if not path.exists():
        raise errors.StoreError(errors.describe("privacy ledger missing", where, f"{ledger_lib.FILE_NAME} beside trained heads", "nothing"))
    ledger = ledger_lib.load_for(path, card["heads_sha256"], data_used=not is_noise(arm))
    if ledger["epsilon"]["target"] != target:
        raise errors.StoreError(errors.describe("ledger of other settings", where, f"target epsilon {target}", f"{ledger['epsilon']['target']}"))
    return loaded, card, ledger


def _target(card: dict[str, Any], where: str) -> float | None:
    """Returns the target epsilon in a card's settings, None where there is no mechanism; `StoreError` for other settings than its SHA-256 covers."""
    settings = card.get("settings")
    if not isinstance(settings, dict) or digests.value_digest(settings) != card.get("settings_sha256"):
        raise errors.StoreError(errors.describe("card damaged", f"{where}/card.json", "settings and their settings_sha256", "none, or others"))
    mechanism = settings.get("mechanism")
    return mechanism.get("target_epsilon") if isinstance(mechanism, dict) else None


def spent(ledger: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns what results say of the privacy of an arm's heads; None where no private data was used or nothing is promised."""
    if ledger is None or not ledger["data_used"] or ledger["epsilon"]["infinite"]:
        return None
    epsilon, total = ledger["epsilon"], ledger["epsilon_all_runs"]
    described = {"epsilon": epsilon["rdp"], "epsilon_pld": epsilon["pld"], "delta": epsilon["delta"], "accountant": "rdp", "unit": ledger["dataset"]["unit"]}
    return described | {"runs": total["runs"], "epsilon_all_runs": total["rdp"]}


def is_noise(arm: str) -> bool:
    """Returns whether an arm is the noise-only control or a further draw of it."""
    return arm.startswith(NOISE_ONLY)


def is_redraw(arm: str) -> bool:
    """Returns whether an arm is a further draw of the noise-only control, audited only to see the spread of draws."""
    return is_noise(arm) and arm != NOISE_ONLY


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """One site's held-out studies, audited as one database."""

    name: str
    site: str
    external: bool
    selection: schema.Selection


def training_sites(config: config_lib.RunConfig, cohort: schema.Cohort) -> list[str]:
    """Returns the sites whose training split the heads learn from: the configured one, or every site that has one."""
    chosen = cohort.select(split=config.heads.train_split, site=config.heads.train_site or None)
    return sorted({str(site) for site in cohort.study_site[chosen.studies]})


def evaluation_sets(config: config_lib.RunConfig, cohort: schema.Cohort) -> list[EvaluationSet]:
    """Returns one set per site of the test split (with `audit.sites` 'joined' one of all), which is the whole cohort where the table has no split.

    A site that the heads were not trained on, while others were, is external: heads trained elsewhere are used there as they are.

    Raises: DataError: splits without a test split, whose audit would be of the people trained on, or two sites whose names differ
        only in what a file name cannot hold.
    """
    trained = training_sites(config, cohort)
    if config.audit.sites == "joined":
        return [_joined(cohort, trained)]
    sets: list[EvaluationSet] = []
    for site in sorted({str(site) for site in cohort.study_site}):
        chosen = cohort.select(split=TEST, site=site)
        external = bool(trained) and site not in trained
        parts = (cohort.name, re.sub(r"[^A-Za-z0-9.-]+", "-", site), "external" if external else TEST)
        label = "-".join(part for part in parts if part)
        if len(chosen.studies) > 0:
            sets.append(EvaluationSet(label, site, external, chosen))
    if not sets:
        raise _nothing()
    if len({one.name for one in sets}) < len(sets):
        raise errors.DataError(errors.describe("sites", "cohort", "names that differ in letters and digits", "two that give one file name"))
    return sets


def _joined(cohort: schema.Cohort, trained: list[str]) -> EvaluationSet:
    """Returns the test split of all sites as one database; external where heads were trained on none of its sites."""
    chosen = cohort.select(split=TEST)
    if not len(chosen.studies):
        raise _nothing()
    sites = {str(site) for site in cohort.study_site[chosen.studies]}
    return EvaluationSet(f"{cohort.name}-joined", " and ".join(sorted(sites)), bool(trained) and not sites & set(trained), chosen)


def _nothing() -> errors.DataError:
    return errors.DataError(
        errors.describe("nothing to audit", "split 'test' of the cohort (table column 'split')", "at least one study, or no such column", "none")
    )


def features(found: workdir_lib.Workdir, model: str, what: str) -> np.ndarray:
    """Returns frozen features [n, F], or maps [n, P, F], in index order (row i belongs to image, text or anchor i)."""
    return _gathered(found, model, what, lambda rows: rows)


def vectors(found: workdir_lib.Workdir, model: str, what: str) -> np.ndarray:
    """Returns one float32 feature vector per row, [n, F]: the features, of which maps are averaged over their patches."""
    return _gathered(found, model, what, lambda rows: rows if rows.ndim == 2 else rows.mean(axis=1, dtype=np.float32))


def encoding(found: workdir_lib.Workdir, model: str) -> dict[str, str]:
    """Returns the precision of a model's encoding, the dtype its features are stored in, how images were redrawn before, and any prior images."""
    manifests = [shards.manifest(found.features(one, what)) for one in _encoders(found, model) for what in SIDES.values()]
    identities = [manifest["identity"] for manifest in manifests]
    described = {name: " and ".join(sorted({str(identity.get(name, "float32")) for identity in identities})) for name in ("precision", "dtype")}
    compared = {f"{one['identity']['images_with_prior']} of {one['rows']}" for one in manifests if "images_with_prior" in one["identity"]}
    redrawn = {identity["pictures"] for identity in identities if "pictures" in identity}
    described |= {"pictures": " and ".join(sorted(redrawn))} if redrawn else {}
    return described | ({"prior": "table", "images_with_prior": " and ".join(sorted(compared))} if compared else {})


def encoding_warnings(encoding: dict[str, str]) -> list[str]:
    """Returns a sentence for each way in which features are not those of the files in float32, and one where images were shown beside prior ones."""
    told = {
        "precision": ("bf16", "features were computed with weights and activations in bfloat16, not in float32: every figure carries its rounding"),
        "dtype": ("float16", "feature maps were stored in float16, not in float32: every figure carries its rounding"),
    }
    redrawn = f"images were embedded from {encoding.get('pictures')}, not from the archive's own files: every figure carries that change"
    compared = f"{encoding.get('images_with_prior')} images were embedded beside the prior image that the table names, not each image alone"
    found = [sentence for name, (value, sentence) in told.items() if value in encoding[name]]
    return found + [redrawn] * ("pictures" in encoding) + [compared] * ("prior" in encoding)


def _projected(head: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    return np.asarray(_project(head, rows))


def _gathered(found: workdir_lib.Workdir, model: str, what: str, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns `change` of the features in index order, reading one shard at a time and giving `change` at most `_CHUNK_BYTES` of it."""
    directory = found.features(model, what)
    needs(directory / "manifest.json", f"features of {what} by {model!r}", "embed")
    ordered = np.empty(0)
    for number, part in enumerate(shards.parts(directory)):
        rows, index = part["features"], part["index"]
        size = max(1, _CHUNK_BYTES // (4 * math.prod(rows.shape[1:])))
        for first in range(0, len(rows), size):
            changed = change(rows[first : first + size])
            if not number and not first:
                ordered = np.empty((shards.manifest(directory)["rows"], *changed.shape[1:]), changed.dtype)
            ordered[index[first : first + size]] = changed
    return ordered


def features_digest(found: workdir_lib.Workdir, model: str, what: str) -> str:
    """Returns the digest of a model's features, of an ensemble's members' together; `StoreError` when they are not there."""
    every = [shards.digest(found.features(one, what)) for one in _encoders(found, model)]
    return every[0] if len(every) == 1 else digests.value_digest(every)


def embeddings(found: workdir_lib.Workdir, model: str, arm: str, shard_rows: int) -> tuple[Rows, Rows]:
    """Returns unit-norm (images [I, D], unique texts [U, D]) of one arm, projecting and storing them on first use; they are read when asked for.

    An ensemble's are its members' side by side over the root of their number, see `ensembles`.

    Raises: StoreError: missing features or heads, or stored embeddings of other heads; on reading, see `shards.mapped`.
    """
    for one in _encoders(found, model):
        for what in SIDES.values():
            needs(found.features(one, what) / "manifest.json", f"features of {what} by {one!r}", "embed")
    images, texts = (_embedded(found, model, arm, side, shard_rows) for side in SIDES)
    return images, texts


def _embedded(found: workdir_lib.Workdir, model: str, arm: str, side: str, shard_rows: int) -> Rows:
    """Returns what `embeddings` does of one side."""
    what, ensemble = SIDES[side], ensembles.load(found, model)
    directory, identity = found.embeddings(model, arm, what), {"features": features_digest(found, model, what)}
    made: Callable[[], RowSource]
    if ensemble is None:
        loaded, card, _ = load_arm(found, model, arm)
        identity |= {"heads": card["heads_sha256"]}
        made = functools.partial(_gathered, found, model, what, functools.partial(_projected, loaded[side]))
    else:
        identity |= {"heads": ensemble.digest("heads_sha256"), "rule": ensembles.RULE}
        parts = (_embedded(found, one, arm, side, shard_rows) for one in ensemble.members)
        made = functools.partial(ensembles.SideBySide, parts)

    def store() -> None:
        if not shards.finished(directory):
            projected = made()
            shards.write_all(directory, {"embeddings": projected, "index": np.arange(len(projected), dtype=np.int32)}, shard_rows, identity)

    together.first(found, f"embeddings of {model}", store)
    if shards.manifest(directory)["identity"] != identity:
        raise errors.StoreError(
            errors.describe("stale embeddings", f"embeddings of arm {arm!r}", "the digests of its features and heads", "others; use a fresh workdir")
        )
    return shards.mapped(directory, "embeddings")


def _encoders(found: workdir_lib.Workdir, model: str) -> tuple[str, ...]:
    """Returns the models whose features a model's embeddings are made from: itself, or the members of an ensemble."""
    ensemble = ensembles.load(found, model)
    return (model,) if ensemble is None else ensemble.members
