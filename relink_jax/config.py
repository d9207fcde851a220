"""Configuration of every stage as plain dataclasses; imports no jax.

A config file under `configs/` returns one `RunConfig`; the command line overrides single fields as `--config.audit.seed=3`.
Each field's `help` is what `relink STAGE --help` prints. `validate` raises `UsageError` naming the field, before any compute.

Design note: the dataclasses are mutable because command-line overrides write into them; rooms never see them, they take
plain arguments, and only `stages/` translates one into the other.
"""

import dataclasses
import pathlib
import re
from typing import Any

from relink_jax import cohort_config, errors
from relink_jax.cohort_config import CohortConfig as CohortConfig
from relink_jax.cohort_config import PhantomConfig as PhantomConfig
from relink_jax.settings import FieldInfo as FieldInfo
from relink_jax.settings import Section, absolute, assign, check_choice, check_name, check_type, fields, fill, lookup, option
from relink_jax.settings import to_dict as to_dict

MODELS = ("phantom-0-untrained", "phantom-1-labels", "phantom-2-reports", "phantom-3-specialist")
ARMS = ("original", "random", "dp", "noise_only")
PATHS = ("source", "checkpoints", "embeddings", *cohort_config.paths())
SPLITS = ("train", "validate", "test")
OBJECTIVES = (
    *("align", "anchor_infonce", "anchor_sigmoid", "prototype", "unlink"),
    *("group_infonce", "pair_sigmoid", "logit_dp", "inbatch_infonce_unsound"),
)
STRATA = ("label_quaternary", "label_u_one", "label_u_zero", "view", "label_view", "sex_age", "length", "near_text")
ATTACKS = (
    *("znorm", "csls", "inverted_softmax", "sinkhorn", "assignment", "study_mean", "model_fusion"),
    *("ridge", "cca", "procrustes", "fresh_head", "length_only", "metadata_only"),
)
MEASURES = ("blocks", "right_patient", "tiers", "verification", "infonce", "shuffle")
MAY_BE_EMPTY = ("audit.strata", "audit.attacks", "audit.measures")
UNITS = ("patient", "study", "pair")
OPTIMIZERS = ("sgd", "momentum", "adam", "nadam", "rmsprop", "adagrad")
SCHEDULES = ("constant", "linear", "cosine", "warmup_cosine")
_CHOICES: dict[str, tuple[str, ...]] = {
    **{"embed.precision": ("float32", "bf16"), "embed.map_dtype": ("float32", "float16"), "embed.prior": ("none", "table")},
    **{"heads.performance.clipping": ("auto", "closed_form", "vmap"), "heads.mechanism.rng_mode": ("research", "careful")},
    **{
        "audit.label_policy": ("quaternary", "ternary", "u_one", "u_zero"),
        "audit.same_patient": ("exclude", "negative"),
        "audit.sites": ("each", "joined"),
        "heads.train_split": SPLITS,
    },
    **{
        "audit.precision": ("float32", "bf16x3", "tf32", "bf16"),
        "audit.split": ("auto", "images", "studies", "ring"),
        "audit.kernel": ("auto", "always", "never"),
    },
    **{"heads.mechanism.objective": OBJECTIVES, "heads.mechanism.unit": UNITS, "heads.mechanism.accountant": ("rdp", "pld")},
    **{"heads.mechanism.optimizer": OPTIMIZERS, "heads.mechanism.schedule": SCHEDULES},
}


@dataclasses.dataclass
class EmbedConfig(Section):
    """Encoding images and reports with frozen towers."""

    batch_size: int = option(128, "images or texts per device step, over all devices")
    shard_rows: int = option(1024, "rows per safetensors shard; also the unit of resume")
    anchors: int = option(1024, "synthetic anchor texts embedded as the public bank of DP training")
    precision: str = option("float32", "float32 (HIGHEST), or bf16: weights and activations of the towers in bfloat16; faster, and results say so")
    map_dtype: str = option("float32", "stored maps of patch heads (4 bytes a number), or float16 for half the disk (2 bytes); vectors stay float32")
    prior: str = option("none", "none: every image alone; table: models that compare images (BioViL-T) also see the image that prior_image_id names")


@dataclasses.dataclass
class AuditConfig(Section):
    """The linkage audit itself."""

    pool_sizes: tuple[int, ...] = option((10, 100, 1000, 10000), "candidate-pool sizes N; those that do not fit are left out")
    ks: tuple[int, ...] = option((1, 5, 10), "Recall@k for these k")
    top_k: int = option(10, "candidates kept per query (score descending, id ascending)")
    label_policy: str = option("ternary", "label matching of hard negatives: quaternary, ternary, u_one or u_zero")
    sites: str = option("each", "each: every site is a database of its own; joined: all sites together are one")
    same_patient: str = option("exclude", "the query patient's other studies: exclude (primary) or negative")
    strata: tuple[str, ...] = option(STRATA, "further hard negatives, counted in the same pass: these, or the name of a fact of the cohort")
    attacks: tuple[str, ...] = option(ATTACKS, f"attacks beyond plain cosine, a pass or a few each: {', '.join(ATTACKS)}; empty for none")
    measures: tuple[str, ...] = option(MEASURES, f"what needs passes of its own: {', '.join(MEASURES)}; empty for none")
    bootstrap_replicates: int = option(2000, "patient-clustered bootstrap replicates B")
    level: float = option(0.95, "confidence level of the intervals")
    mc_repeats: int = option(0, "Monte Carlo pools per query as a cross-check of the closed form; 0 switches it off")
    precision: str = option("float32", "matrix product of the counting pass: float32, bf16x3, tf32 or bf16; all end with exact integers")
    split: str = option("auto", "what the devices share: images, studies, ring, or auto for what fits their memory; speed and memory only")
    query_block: int = option(0, "images per step of the counting pass, over all devices; 0 chooses for the device; speed and memory only")
    tile: int = option(0, "candidate studies per tile of the counting pass; 0 chooses for the device; speed and memory only")
    panel: int = option(0, "candidate studies on the devices at a time; 0 for all that fit; speed and memory only")
    memory: float = option(0.0, "GiB of one device to plan for; 0 asks the device; speed and memory only")
    kernel: str = option(
        "auto", "count with a kernel that never writes scores (TPU, Hopper): always, never, or auto where it was measured faster; speed and memory only"
    )
    seed: int = option(0, "seed of bootstrap and Monte Carlo draws")


@dataclasses.dataclass
class MechanismConfig(Section):
    """Everything the privacy guarantee depends on; recorded in the ledger."""

    objective: str = option("anchor_infonce", f"loss that declares its sensitivity: {', '.join(OBJECTIVES)}")
    allow_unsound: bool = option(False, "let inbatch_infonce_unsound train, to replicate common practice; its epsilon is infinite")
    unit: str = option("patient", "privacy unit: patient, study or pair")
    pairs_per_unit: int = option(4, "pairs of a drawn unit whose gradients are averaged before clipping; losses of groups and pairs take 1")
    target_epsilon: float = option(0.34, "epsilon to calibrate the noise to")
    target_delta: float = option(6e-6, "delta of the guarantee")
    accountant: str = option("rdp", "accountant that the noise is calibrated by: rdp (headline) or pld; both are always reported")
    l2_norm_clip: float = option(1.0, "bound C on the gradient norm of each unit (of each group or pair of such losses)")
    expected_batch_size: int = option(0, "q times the number of units: the public divisor; 0 takes a third of the units, at most 256")
    iterations: int = option(60, "noisy steps")
    temperature: float = option(0.1, "softmax temperature tau of the objective")
    bias: float = option(0.0, "bias of the sigmoid objectives")
    group_size: int = option(4, "expected members of a group of group_infonce")
    learning_rate: float = option(0.0, "step size of the optimizer; 0 derives it from relative_displacement (sgd with a constant schedule only)")
    relative_displacement: float = option(2.0, "how far noise alone moves the heads, as a multiple of their norm; public, sets the step size")
    optimizer: str = option("sgd", f"optax optimizer on the noisy gradient: {', '.join(OPTIMIZERS)}")
    schedule: str = option("constant", f"step size over the run: {', '.join(SCHEDULES)}")
    stay_within: float = option(0.0, "project the heads back to this distance from the pretrained ones after each step, in multiples of their norm; 0 for none")
    rng_mode: str = option("careful", "careful: four draws a normal, released heads on a public grid; research: one draw, as others do")


@dataclasses.dataclass
class PerformanceConfig(Section):
    """Choices that change speed and memory, never the guarantee."""

    clipping: str = option("auto", "auto, closed_form (no gradient per unit is written) or vmap (the reference path)")
    chunk: int = option(0, "units differentiated at once; 0 chooses by memory")
    checkpoint_every: int = option(0, "steps between saved states of training, which a killed run goes on from; 0 for ten in a run")


@dataclasses.dataclass
class HeadsConfig(Section):
    """Training of mitigated projection heads on cached features."""

    train_split: str = option("train", "split the heads are trained on")
    train_site: str = option("", "site the heads and the probe are trained on; empty for every site with studies in the training split")
    noise_draws: int = option(5, "noise-only heads to draw; they read no data, cost no privacy and show how far another draw moves the numbers")
    mechanism: MechanismConfig = option(MechanismConfig, "the DP mechanism")
    performance: PerformanceConfig = option(PerformanceConfig, "speed and memory")


@dataclasses.dataclass
class ProbeConfig(Section):
    """The utility that prices the mitigation: 14-label linear probes, zero-shot classification and label-level retrieval."""

    l2_grid: tuple[float, ...] = option(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "L2 strengths tried first on the validation split; more where the best is at an edge"
    )
    max_iterations: int = option(200, "L-BFGS iterations per label")
    bootstrap_replicates: int = option(500, "patient-clustered bootstrap replicates of macro AUROC")
    margin: float = option(0.01, "equivalence margin: the largest change of macro AUROC that does not matter, declared before measuring")
    retrieval_queries: int = option(2000, "images asked in label-level retrieval, a random sample where there are more")


@dataclasses.dataclass
class ControlsConfig(Section):
    """Controls beside the mitigation: what noise, rotation, fine-tuning or coarser embeddings do without it."""

    seeds: int = option(10, "draws of every random condition; their seeds are disclosed, so nothing of them may be released")
    probe_seeds: int = option(2, "of these draws, how many are probed; a probe takes longer than everything else about a draw")
    probe_l2_grid: tuple[float, ...] = option((1e-2, 1e-1, 1.0, 10.0), "L2 strengths of these probes; small ones take longest")
    epsilons: tuple[float, ...] = option((0.1, 0.34, 1.0, 3.0, 8.0), "epsilons of the dose-response; the mechanism's own is always among them")
    only: str = option("", "ids of the conditions to run, commas between; empty for all; the published heads always run")


@dataclasses.dataclass
class ReportConfig(Section):
    """The page."""

    title: str = option("Cross-modal linkage audit", "title of the page")
    headline_pool: int = option(1000, "pool size N of the headline sentence and table, if it fits")


@dataclasses.dataclass
class RunConfig(Section):
    """One run: which models and arms, and every stage's settings."""

    name: str = option("demo", "name of the run")
    models: tuple[str, ...] = option(MODELS, "models audited, in rising order of specialisation")
    mitigate: str = option(
        "phantom-3-specialist",
        "model whose heads are trained and compared; a checkpoint brought with 'relink convert --source' takes its place; empty for none",
    )
    arms: tuple[str, ...] = option(ARMS, "heads of the mitigated model: original, random, dp, noise_only")
    source: str = option("", "convert: directory of a checkpoint in the published layout; empty for packaged models")
    checkpoints: str = option("", "convert: directory that holds one checkpoint directory for each published model of 'models', under its name")
    embeddings: str = option("", "audit: directory of precomputed embeddings; skips every encoder")
    cohort: CohortConfig = option(CohortConfig, "pairs")
    embed: EmbedConfig = option(EmbedConfig, "encoding")
    audit: AuditConfig = option(AuditConfig, "audit")
    heads: HeadsConfig = option(HeadsConfig, "mitigation")
    probe: ProbeConfig = option(ProbeConfig, "utility")
    controls: ControlsConfig = option(ControlsConfig, "controls beside the mitigation")
    report: ReportConfig = option(ReportConfig, "page")

    @property
    def cohort_name(self) -> str:
        """The configured name of the cohort, else its source, or the table's file name with '-' for what a name cannot hold."""
        if self.cohort.name or self.cohort.source != "table":
            return self.cohort.name or self.cohort.source.replace("_", "-").replace(cohort_config.JOIN, ".")
        return re.sub(r"[^A-Za-z0-9.-]+", "-", pathlib.Path(self.cohort.table).stem).strip(".-") or "cohort"

    def resolve_paths(self) -> None:
        """Makes every relative path absolute."""
        for path in PATHS:
            assign(self, path, absolute(lookup(self, path), path))

    def validate(self) -> None:
        """Checks every field; raises `UsageError` naming the first wrong one."""
        for field, default in zip(fields(self), fields(RunConfig()), strict=True):
            check_type(field.path, field.default, default.default)
        for path in PATHS:
            absolute(lookup(self, path), path)
        self.cohort.validate()
        for path, known in _CHOICES.items():
            check_choice(path, lookup(self, path), known)
        for path, names in (("models", self.models), ("cohort.name", (self.cohort.name,) if self.cohort.name else ())):
            for name in names:
                check_name(name, f"config field {path!r}")
        for path, known in (("arms", ARMS), ("audit.attacks", ATTACKS), ("audit.measures", MEASURES)):
            for name in lookup(self, path):
                check_choice(path, name, known)
        mechanism = self.heads.mechanism
        if (mechanism.optimizer, mechanism.schedule) != ("sgd", "constant") and mechanism.learning_rate == 0:
            asked = f"a positive number with {mechanism.optimizer} and schedule {mechanism.schedule}"
            raise errors.UsageError(f"step size missing in config field 'heads.mechanism.learning_rate': expected {asked}, found 0")
        if self.mitigate and self.mitigate not in self.models:
            raise errors.UsageError(errors.describe("model to mitigate", "config field 'mitigate'", f"one of models {list(self.models)}", repr(self.mitigate)))
        for path, value, low, high in _ranges(self):
            if not low <= value <= high:
                found = f"{value:g}" if isinstance(value, float) or abs(value) < 1e15 else f"one of {len(str(abs(value)))} digits"
                raise errors.UsageError(errors.describe("value", f"config field {path!r}", f"a number in [{low:.10g}, {high:.10g}]", found))
        for path, values, low in (("audit.ks", self.audit.ks, 1), ("audit.pool_sizes", self.audit.pool_sizes, 2)):
            if not values or min(values) < low or max(values) > 10**9 or len(set(values)) != len(values):
                raise errors.UsageError(errors.describe("list", f"config field {path!r}", f"distinct integers of at least {low}, up to 1e9", f"{values!r:.60}"))
        for path in ("probe.l2_grid", "controls.probe_l2_grid"):
            if not lookup(self, path) or not all(0 < strength < 1e9 for strength in lookup(self, path)):
                raise errors.UsageError(errors.describe("list", f"config field {path!r}", "positive numbers below 1e9", str(lookup(self, path))))
        if not self.controls.epsilons or not all(1e-4 <= epsilon <= 100 for epsilon in self.controls.epsilons):
            raise errors.UsageError(errors.describe("list", "config field 'controls.epsilons'", "numbers from 0.0001 to 100", str(self.controls.epsilons)))
        if max(self.audit.ks) > max(self.audit.pool_sizes):
            raise errors.UsageError(
                errors.describe("k", "config field 'audit.ks'", f"at most the largest pool size {max(self.audit.pool_sizes)}", str(max(self.audit.ks)))
            )


def _ranges(config: RunConfig) -> list[tuple[str, float, float, float]]:
    """Returns (field path, value, lowest, highest) of every bounded number."""
    big, tiny, mechanism = 1e9, 1e-12, config.heads.mechanism
    return [
        ("cohort.phantom.seed", config.cohort.phantom.seed, 0, 2**32 - 1),
        ("cohort.phantom.n_patients", config.cohort.phantom.n_patients, 20, 1e6),
        ("cohort.phantom.image_size", config.cohort.phantom.image_size, 32, 4096),
        ("cohort.max_missing_share", config.cohort.max_missing_share, 0, 0.999),
        ("cohort.recipe.min_words", config.cohort.recipe.min_words, -1, 1e6),
        ("cohort.recipe.max_words", config.cohort.recipe.max_words, -1, 1e6),
        ("cohort.recipe.train_share", config.cohort.recipe.train_share, -1, 1),
        ("cohort.recipe.validate_share", config.cohort.recipe.validate_share, -1, 1),
        ("embed.batch_size", config.embed.batch_size, 1, big),
        ("embed.shard_rows", config.embed.shard_rows, 1, big),
        ("embed.anchors", config.embed.anchors, 2, big),
        ("audit.top_k", config.audit.top_k, 0, 1000),
        ("audit.bootstrap_replicates", config.audit.bootstrap_replicates, 100, 1e6),
        ("audit.level", config.audit.level, 0.5, 0.9999),
        ("audit.mc_repeats", config.audit.mc_repeats, 0, 1e6),
        ("audit.query_block", config.audit.query_block, 0, big),
        ("audit.seed", config.audit.seed, 0, 2**32 - 1),
        ("audit.tile", config.audit.tile, 0, big),
        ("audit.panel", config.audit.panel, 0, big),
        ("audit.memory", config.audit.memory, 0, 1e6),
        ("heads.mechanism.target_epsilon", mechanism.target_epsilon, 1e-4, 100),
        ("heads.mechanism.target_delta", mechanism.target_delta, tiny, 0.1),
        ("heads.mechanism.l2_norm_clip", mechanism.l2_norm_clip, tiny, big),
        ("heads.mechanism.expected_batch_size", mechanism.expected_batch_size, 0, big),
        ("heads.mechanism.iterations", mechanism.iterations, 1, big),
        ("heads.mechanism.temperature", mechanism.temperature, 1e-4, 1e4),
        ("heads.mechanism.learning_rate", mechanism.learning_rate, 0, 1e6),
        ("heads.mechanism.relative_displacement", mechanism.relative_displacement, 1e-6, 1e6),
        ("heads.mechanism.pairs_per_unit", mechanism.pairs_per_unit, 1, 64),
        ("heads.mechanism.bias", mechanism.bias, -1e4, 1e4),
        ("heads.mechanism.group_size", mechanism.group_size, 2, 1e6),
        ("heads.mechanism.stay_within", mechanism.stay_within, 0, 1e6),
        ("heads.noise_draws", config.heads.noise_draws, 1, 1000),
        ("heads.performance.chunk", config.heads.performance.chunk, 0, big),
        ("heads.performance.checkpoint_every", config.heads.performance.checkpoint_every, 0, big),
        ("probe.max_iterations", config.probe.max_iterations, 1, big),
        ("probe.bootstrap_replicates", config.probe.bootstrap_replicates, 100, 1e6),
        ("probe.margin", config.probe.margin, 1e-6, 0.5),
        ("probe.retrieval_queries", config.probe.retrieval_queries, 1, big),
        ("controls.seeds", config.controls.seeds, 1, 1000),
        ("controls.probe_seeds", config.controls.probe_seeds, 0, 1000),
        ("report.headline_pool", config.report.headline_pool, 2, big),
    ]


def from_dict(recorded: dict[str, Any]) -> RunConfig:
    """Returns the config that `to_dict` recorded; a field it lacks keeps its default. Raises what `settings.fill` does."""
    config = RunConfig()
    fill(config, recorded)
    return config
