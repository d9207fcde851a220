"""Results files of a sweep's jobs: which of them stand, why the others do not, and the figure of a cell in one."""

from collections.abc import Mapping
from typing import Any

from relink_jax import config as config_lib
from relink_jax import errors
from relink_jax.audit import run as audit_run
from relink_jax.report import schema
from relink_jax.retrieval.counted import I2R
from relink_jax.stages import context, sweep_grid
from relink_jax.store import digests, files
from relink_jax.store import workdir as workdir_lib


def documents(found: workdir_lib.Workdir, job: sweep_grid.Job) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[tuple[str, str], str]]:
    """Returns (results of this model that stand, why the others do not) by (heads, evaluation set)."""
    standing, why = {}, {}
    for path in sorted(found.results.glob(f"{job.model}__*__*.json")):
        arm, name = path.stem.removeprefix(f"{job.model}__").split("__", 1)
        try:
            document = files.read_json(path)
            schema.validate(document, f"results file {path.name!r}")
            wrong = _wrong(found, job, arm, document) if schema.stem(document) == path.stem else "results under another name"
        except errors.StoreError:
            document, wrong = {}, "damaged results"
        if wrong:
            why[arm, name] = wrong
        else:
            standing[arm, name] = document
    return standing, why


def _wrong(found: workdir_lib.Workdir, job: sweep_grid.Job, arm: str, document: Mapping[str, Any]) -> str:
    """Returns why a results document is not this job's, '' where it is."""
    if not digests.intact(document):
        return "edited results"
    if other_data(found, job.config) or _other_cohort(found, document):
        return "results of other data"
    if _other_heads(found, job.config, arm, document):
        return "results of other heads"
    if _other_encoding(job.config, document["model"].get("encoding", {})):
        return "results of another encoding"
    protocol, audit = document["protocol"], job.config.audit
    if not all(isinstance(protocol.get(name), list) for name in ("ks", "pool_sizes", "strata")):
        return "damaged results"
    expected: dict[str, Any] = {
        **{name: getattr(audit, name) for name in ("same_patient", "label_policy", "mc_repeats")},
        "precision": audit_run.described(audit.precision),
        "bootstrap": {"replicates": audit.bootstrap_replicates, "level": audit.level, "seed": audit.seed},
    }
    if not context.is_redraw(arm):
        expected |= {"attacks": list(audit.attacks), "measures": list(audit.measures)}
    changed = [name for name, value in expected.items() if protocol.get(name) != value]
    changed += [] if set(audit.ks) <= set(protocol["ks"]) else ["ks"]
    return f"results of other settings ({', '.join(changed)})" if changed else ""


def other_data(found: workdir_lib.Workdir, config: config_lib.RunConfig) -> bool:
    """Returns whether the workdir was made with other data than the config's, by the fields that it recorded."""
    recorded = files.read_object(found.root / "run.json", {"identity": dict})["identity"]
    now = {field.path: field.default for field in config_lib.fields(config)}
    return any(name not in now or value != _plain(now[name]) for name, value in recorded.items())


def _other_cohort(found: workdir_lib.Workdir, document: Mapping[str, Any]) -> bool:
    record = found.cohort / "cohort.json"
    return record.exists() and files.read_object(record, {"digest": str})["digest"] != document["data"].get("cohort_sha256")


def _other_heads(found: workdir_lib.Workdir, config: config_lib.RunConfig, arm: str, document: Mapping[str, Any]) -> bool:
    """Returns whether results are of other heads than the workdir's, or those were trained by other settings; heads that were purged are not missed."""
    path = found.heads(document["model"]["name"], arm) / "card.json"
    if not path.exists():
        return False
    trained = arm not in ("original", "random")
    card = files.read_object(path, {"heads_sha256": str, **({"settings": dict} if trained else {})})
    wanted, settings = config_lib.to_dict(config.heads), card["settings"] if trained else {}
    return card["heads_sha256"] != document["model"].get("heads_sha256") or any(wanted.get(name) != value for name, value in settings.items())


def _other_encoding(config: config_lib.RunConfig, encoding: Mapping[str, str]) -> bool:
    """Returns whether features were made by settings that the config does not have; what no model here uses leaves no trace."""
    return (
        encoding.get("precision", config.embed.precision) != config.embed.precision
        or ("float16" in encoding.get("dtype", "") and config.embed.map_dtype != "float16")
        or ("prior" in encoding and config.embed.prior != "table")
    )


def asked(found: workdir_lib.Workdir, job: sweep_grid.Job, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the strata that an audit was asked for, as far as that is sure: where its config is this job's or the one the workdir recorded."""
    made = document["run"].get("config_sha256")
    if made == job.digest:
        return job.config.audit.strata
    try:
        recorded = files.read_json(found.root / "config.json")
    except errors.StoreError:
        return ()
    return config_lib.from_dict(recorded).audit.strata if digests.value_digest(recorded) == made else ()


def figure(document: Mapping[str, Any], cell: sweep_grid.Cell) -> dict[str, Any] | None:
    """Returns the metrics entry of a cell in a results document, None where there is none."""
    wanted = {"name": "recall", "k": 1, "direction": I2R, "stratum": cell.stratum, "full": cell.pool is None}
    found = (entry for entry in document["metrics"] if all(entry[name] == value for name, value in wanted.items()))
    return next((entry for entry in found if cell.pool in (None, entry["N"])), None)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
