"""The controls stage: every control of a mitigation on cached features, several draws each, ending in one figure and one table.

Nothing is released by it. Its heads are made with disclosed seeds, measured on held-out people and forgotten; the epsilons it states are
those the same options would have with secret randomness. Choosing a mitigation by this figure is tuning on held-out people, and has to be
declared as such.

A condition that is finished is kept in the workdir with the digest of everything it depends on, and is not run again.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from relink_jax import config as config_lib
from relink_jax import heads
from relink_jax.privacy import accounting, control_arms, output_changes, training
from relink_jax.privacy.control_arms import Condition
from relink_jax.privacy.output_changes import Embeddings
from relink_jax.report import controls_page, controls_table
from relink_jax.runtime import mesh as meshes
from relink_jax.runtime import progress, provenance
from relink_jax.stages import context, controls_measure, controls_setting, controls_summary
from relink_jax.stages.controls_setting import Setting
from relink_jax.store import digests, files
from relink_jax.store import workdir as workdir_lib

_VERSION = 1
_CHUNK_BYTES = 2**28
_project = jax.jit(heads.project)


@dataclasses.dataclass(frozen=True)
class Controls:
    """What `results/controls.json` holds, and the page written from it."""

    document: dict[str, Any]
    page: pathlib.Path


def run(config: config_lib.RunConfig, workdir: str) -> Controls | None:
    """Runs every configured condition that is not finished, and writes results/controls.json, report/controls.html and report/controls.png.

    Returns None on a process that waited for process 0.

    Raises: UsageError: an unknown condition, or a model that cannot be mitigated; DataError, StoreError: see `controls_setting.load`.
    """
    return context.led(config, workdir, "controls", lambda found: _every(config, found))


def _every(config: config_lib.RunConfig, found: workdir_lib.Workdir) -> Controls:
    every = control_arms.conditions(config.heads.mechanism.target_epsilon, config.controls.epsilons)
    setting = controls_setting.load(config, found)
    wanted = [one for one in control_arms.chosen(every, config.controls.only) if _possible(one, setting)]
    meshes.share_cpu()
    stage = _Stage(config, found, setting)
    with progress.bar(sum(stage.draws(one) for one in wanted), "controls", "draws") as bar:
        measured = [stage.measured(one, bar) for one in wanted]
    document = stage.document(measured)
    files.write_json(found.results / "controls.json", document)
    return Controls(document, controls_page.render(document, found.report))


def describe(done: Controls) -> str:
    """Returns the table, what it says in words, and where the page is."""
    return f"{controls_table.text(done.document)}\n\npage: {done.page}"


def _possible(condition: Condition, setting: Setting) -> bool:
    """Returns whether a condition has pairs to train with; says it where not."""
    if condition.records != control_arms.LABEL_MATCHED:
        return True
    partners = controls_setting.matched_partners(setting.codes, setting.patient, np.random.default_rng(0))
    if (partners >= 0).any():
        return True
    progress.notice(f"control {condition.id} is left out: no two training pairs of different patients have the same labels")
    return False


class _Stage:
    def __init__(self, config: config_lib.RunConfig, found: workdir_lib.Workdir, setting: Setting) -> None:
        self._config, self._found, self._setting = config, found, setting
        self._probe = dataclasses.replace(config.probe, l2_grid=config.controls.probe_l2_grid)
        self._mesh = meshes.make_mesh()
        self._published = self._projected(setting.heads)

    def draws(self, condition: Condition) -> int:
        """Returns how often a condition is run."""
        return self._config.controls.seeds if condition.random else 1

    def measured(self, condition: Condition, bar: Any) -> dict[str, Any]:
        """Returns a condition's draws with what was measured of each; draws that the workdir has are taken from there."""
        settings = {"version": _VERSION, "condition": dataclasses.asdict(condition), "setting": self._setting.identity}
        path, probed = self._found.root / "controls" / f"{condition.id}.json", min(self.draws(condition), self._config.controls.probe_seeds)
        kept = self._kept(path, digests.value_digest(settings))
        by_seed = {draw["seed"]: draw for draw in kept["draws"] if kept["probed"] > draw["seed"] or draw["seed"] >= probed}
        missing = [seed for seed in range(self.draws(condition)) if seed not in by_seed]
        bar.update(self.draws(condition) - len(missing))
        for seed in missing:
            with progress.quiet():
                rows, notes = self._embedded(condition, seed)
                by_seed[seed] = {"seed": seed, **controls_measure.measure(self._setting, rows, self._mesh, self._probe if seed < probed else None), **notes}
            bar.update(1)
        draws = [by_seed[seed] for seed in sorted(by_seed)]
        epsilon = kept["epsilon"] if kept["draws"] else self._epsilon(condition)
        held = {"settings_sha256": digests.value_digest(settings), **settings, "epsilon": epsilon, "probed": max(probed, kept["probed"]), "draws": draws}
        if missing:
            files.write_json(path, digests.sealed(held))
        return held | {"draws": draws[: self.draws(condition)]}

    def _kept(self, path: pathlib.Path, digest: str) -> dict[str, Any]:
        """Returns what the workdir holds of a condition with exactly these settings, no draw where it holds none or a damaged file."""
        if path.exists():
            kept = files.read_object(path, {"settings_sha256": str, "draws": list})
            if kept["settings_sha256"] == digest and digests.intact(kept):
                return kept
        return {"draws": [], "probed": 0, "epsilon": None}

    def document(self, measured: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns results/controls.json."""
        setting, config = self._setting, self._config
        about = {
            "schema_version": _VERSION,
            "run": {"id": self._found.run_id, "git_commit": provenance.commit()} | provenance.versions(),
            "model": config.mitigate,
            "set": setting.set_name,
            "synthetic": setting.synthetic,
            "mechanism": {**dataclasses.asdict(config.heads.mechanism), "learning_rate": setting.base.learning_rate},
            "expected_batch_size": setting.base.expected_batch_size,
            "pool": setting.pool,
            "chance": 1 / setting.pool,
            "sizes": {
                "held-out images": len(setting.heldout.images),
                "held-out patients": len(np.unique(setting.heldout.patient)),
                "training pairs": len(setting.units),
                "training units": int(setting.units.max()) + 1,
                "pairs of the re-fit attacker": len(setting.auxiliary.images),
            },
            "seeds": config.controls.seeds,
            "probe_seeds": config.controls.probe_seeds,
        }
        return digests.sealed(about | controls_summary.summary(measured))

    def _embedded(self, condition: Condition, seed: int) -> tuple[Embeddings, dict[str, Any]]:
        """Returns one draw's embeddings, and what is to be said of how they came about."""
        rows: Embeddings = self._published
        notes: dict[str, Any] = {}
        if condition.trained:
            params, notes = self._trained(condition, seed)
            rows = self._projected(params)
        elif condition.heads == control_arms.RANDOM:
            rows = self._projected(heads.random_heads(seed, self._setting.heads))
        if condition.change:
            people = self._setting.members
            fitted_on = np.concatenate([rows.images[people.images], rows.texts[people.text]])
            rows = output_changes.changed(condition.change, condition.amount, rows, fitted_on, seed)
        return rows, notes

    def _trained(self, condition: Condition, seed: int) -> tuple[heads.Heads, dict[str, Any]]:
        setting = self._setting
        options = control_arms.options_of(condition, setting.base, int(setting.units.max()) + 1, seed)
        bank, labelled = setting.bank_of(options.objective)
        image, text = self._pairs(condition, seed)
        units = len(image) if options.unit == "pair" else len(np.unique(setting.units[image]))
        options = dataclasses.replace(options, expected_batch_size=min(options.expected_batch_size, units))
        records = setting.records._replace(
            images=setting.records.images[image], texts=setting.records.texts[text], labels=setting.records.labels[image] if labelled else None
        )
        made = training.train_heads(setting.heads, records, setting.units[image], bank, options)
        return made.heads, {"pairs_left_out": len(setting.units) - len(image)}

    def _pairs(self, condition: Condition, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns which image is trained with which text, as two lists of training pairs; a pair belongs to its image's unit."""
        own, generator = np.arange(len(self._setting.units)), np.random.default_rng([seed, condition.control])
        if condition.records == control_arms.SHUFFLED:
            return own, generator.permutation(own)
        if condition.records == control_arms.LABEL_MATCHED:
            partner = controls_setting.matched_partners(self._setting.codes, self._setting.patient, generator)
            return own[partner >= 0], partner[partner >= 0]
        return own, own

    def _epsilon(self, condition: Condition) -> dict[str, Any] | None:
        """Returns what the condition's options would spend with secret randomness: epsilon by both accountants, None for infinite; None without training."""
        if not condition.trained:
            return None
        setting = self._setting
        units = len(setting.units) if condition.unit == "pair" else int(setting.units.max()) + 1
        options = control_arms.options_of(condition, setting.base, units, 0)
        made = control_arms.secret_mechanism(options, units)
        price = accounting.price(made, options.target_delta)
        values = {view: None if value is None or not np.isfinite(value) else value for view, value in (("rdp", price.rdp), ("pld", price.pld))}
        infinite = price.rdp is not None and not np.isfinite(price.rdp)
        return {**values, "infinite": infinite, "delta": options.target_delta, "unit": options.unit, "noise_multiplier": made.noise_multiplier}

    def _projected(self, params: heads.Heads) -> Embeddings:
        setting = self._setting
        sides = (("image", setting.images), ("text", setting.texts), ("text", setting.anchors))
        return Embeddings(*(_in_chunks(params[side], features) for side, features in sides))


def _in_chunks(head: dict[str, Any], features: np.ndarray) -> np.ndarray:
    """Returns unit-norm embeddings of features, projecting at most `_CHUNK_BYTES` of them at once."""
    rows = max(1, _CHUNK_BYTES // (4 * int(np.prod(features.shape[1:]))))
    return np.concatenate([np.asarray(_project(head, features[first : first + rows])) for first in range(0, len(features), rows)])
