"""What the command line offers: every stage with its purpose, flags, config sections and an example, and the help texts.

Imports nothing heavy, so that `relink --help` answers at once.
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax.encoders import published
from relink_jax.stages import launch_words, notes

EXIT_CODES = (
    "0 done, 2 usage or cluster, 65 bad data, 70 internal, failed self-check or stuck, 74 store damaged, foreign or full, 75 resumable stop; 134 a peer died"
)


@dataclasses.dataclass(frozen=True)
class Alias:
    """A short flag that sets one config field, or stands alone when `path` is empty."""

    flag: str
    path: str
    help: str
    boolean: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """What `--help` says about one stage, and how it is run.

    Attributes:
        logged: whether processes keep a log in the workdir; not where the stage only looks at it.
        safe_points: first words with which the stage stops at safe points when asked, '' for none given; with others it stops at once.
        main: name of its module in launch, where that is not the stage's.
    """

    summary: str
    sections: tuple[str, ...]
    example: str
    aliases: tuple[Alias, ...] = ()
    positional: str = ""
    needs_workdir: bool = True
    notes: str = ""
    safe_points: tuple[str, ...] = ()
    logged: bool = True
    main: str = ""


_PATIENTS = Alias("patients", "cohort.phantom.n_patients", "patients of the synthetic cohort")
_EMBEDDINGS = Alias(
    "embeddings",
    "embeddings",
    "directory of precomputed embeddings (npy, npz, safetensors, Parquet or img_emb/ text_emb/ metadata/); no encoder is loaded",
)


def _names(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), 140, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


_MODEL = Alias("model", "", "only this one of the run's models, for this command")
_ALWAYS = ("",)
STAGES = {
    "demo": Stage(
        "the whole road on the embedded synthetic cohort: audit, mitigation, price, page",
        ("models", "mitigate", "arms", "cohort", "heads", "report"),
        "relink demo --workdir=out",
        (_PATIENTS,),
        notes=notes.ROAD,
        safe_points=_ALWAYS,
    ),
    "sweep": Stage(
        "a grid of models, heads, pool sizes and strata: plan it, run or submit what is missing of it, put every figure in one table",
        ("models", "mitigate", "arms", "audit.pool_sizes", "audit.strata"),
        "relink sweep run --models=phantom-2-reports,phantom-3-specialist --heads=original,dp --workdir=sweep",
        (
            Alias("models", "", "models, a job and a workdir ROOT/MODEL each (default: the config's)"),
            Alias("heads", "", f"kinds of heads, of {', '.join(config_lib.ARMS)}; the original is always measured (default: the config's arms)"),
            Alias("mitigate", "", "models whose other heads are trained (default: all with --heads, else the config's); empty for none"),
            Alias("pools", "", "pool sizes, and 'full' for all candidates (default: the config's and full)"),
            Alias("strata", "", "other_patient, label_matched and further hard negatives (default: those and the config's)"),
            Alias("images", "", "plan: images, before there is a cohort that says it"),
            Alias("studies", "", "plan: studies, before there is a cohort that says it"),
            Alias("submit", "", "submit: the scheduler's command, to which each job's own words are added"),
            Alias("again", "", "submit: also what was submitted before", boolean=True),
            Alias("dry_run", "", "submit: print the commands, submit nothing", boolean=True),
            Alias("csv", "", "run, table: file for every cell's figure as CSV"),
        ),
        positional="[plan | run | submit | table]",
        notes=notes.SWEEP,
        safe_points=("run",),
    ),
    "plan": Stage(
        "what a run will cost before it starts, and whether it fits here: memory, FLOPs, time, disk, epsilon",
        ("models", "cohort", "embed", "audit", "heads"),
        "relink plan audit --images=406241 --studies=406241 --dim=512",
        (
            Alias("images", "", "query images Q (default: the workdir's cohort, else the synthetic one's size)"),
            Alias("studies", "", "candidate studies S (default: likewise)"),
            Alias("dim", "", "embedding width D (default: the models')"),
            Alias("model", "", "only this one: a model of the run, packaged or published (default: every model of the run)"),
            Alias("timed", "", "time a few tiles, batches and steps on this device (default); --notimed leaves it out", boolean=True),
            _EMBEDDINGS,
        ),
        positional="[audit] [embed] [heads]",
        needs_workdir=False,
        logged=False,
        notes="with --workdir=DIR of a run the sizes are those of its cohort, read without its lock and without writing; a plan that does not fit "
        "is printed on stderr and ends with 2 (memory: the line says which setting to change) or 74 (disk); stages print a short form first",
    ),
    "cohort": Stage(
        "read archives or a pairs table into a cohort, or check them, count them, write synthetic ones, build records, purge",
        ("cohort",),
        "relink cohort --config.cohort.source=table --config.cohort.table=pairs.csv --config.cohort.image_root=png --workdir=out",
        (
            _PATIENTS,
            Alias("limit", "", "check: rows shown of each problem's (default 20)"),
            Alias("csv", "", "check, report: file for the same rows as CSV"),
            Alias("json", "", "report: file for the same rows as JSON"),
            Alias("layout", "", "write: mimic_cxr, chexpert_plus, openi, openi_kaggle, dicom or table"),
            Alias("to", "", "write: directory for the tree; created"),
            Alias("first_study_only", "", "write: one study per patient", boolean=True),
            Alias("short_side", "", "build: pixels of the shorter side of stored images; 0 keeps the files' own bytes (default)"),
            Alias("shard_rows", "", "build: images per shard (default 1024)"),
            Alias("workers", "", "build: processes (default: one per CPU)"),
            Alias("beam", "", "build: options of an Apache Beam pipeline, such as '--runner=DirectRunner'; without it, local processes"),
            Alias("yes", "", "purge: remove what was listed", boolean=True),
        ),
        positional="[read | check | report | write | build | purge]",
        needs_workdir=False,
        notes=f"{notes.COHORT}\n{notes.TABLE}",
    ),
    "convert": Stage(
        "convert checkpoints in the published layouts to Flax, with a two-way key check, or back",
        (),
        "relink convert --model=biomedclip --source=my_biomedclip --workdir=out",
        (
            Alias("model", "", "only this one of the run's models; with --source, the name your checkpoint gets (default: the source's)"),
            Alias("source", "source", "checkpoint of your own: a directory, a weight file or a Hugging Face cache directory; it becomes the run's model"),
            Alias("entry", "", "with --source, the published model it is, where --model gives it another name"),
            Alias(
                "ensemble",
                "",
                "with --source=DIR, every weight file in it becomes a model (NAME-1, NAME-2, ...), and NAME the mean of their cosine similarities",
                boolean=True,
            ),
            Alias("sha256", "", "with --source, SHA-256 of each of its weight files, commas between, in any order; compared before one is opened"),
            Alias("trust_pickle", "", "with --source, let torch run a file that cannot be read as data; only for files you trust", boolean=True),
            Alias("to", "", "hf: write a model with its heads back into the published layout instead of converting"),
            Alias("arm", "", "with --to, the heads: original, random, dp or noise_only (default dp)"),
        ),
        notes=f"{notes.CHECKPOINT}\n\npublished models, with what each needs and has seen in docs/models.md:\n{_names(published.MODELS)}",
    ),
    "embed": Stage(
        "encode images and unique report texts with the frozen towers",
        ("embed",),
        "relink embed --model=phantom-3-specialist --workdir=out",
        (_MODEL,),
        safe_points=_ALWAYS,
    ),
    "audit": Stage(
        "measure linkage: exact counts, Recall@k at every pool size, intervals",
        ("audit",),
        "relink audit --embeddings=my_vectors --workdir=out",
        (
            _MODEL,
            _EMBEDDINGS,
            Alias("again", "", "audit again even where the results of the same audit are there", boolean=True),
        ),
        notes=notes.EMBEDDINGS,
        safe_points=_ALWAYS,
    ),
    "heads": Stage(
        "train mitigated projection heads with DP-SGD, with their privacy ledger",
        ("mitigate", "arms", "heads"),
        "relink heads --config.heads.mechanism.target_epsilon=1.0 --workdir=out",
        safe_points=_ALWAYS,
    ),
    "probe": Stage(
        "price the mitigation: linear probes of images and reports, zero-shot and label retrieval, on every arm",
        ("probe", "heads.train_site", "audit.label_policy", "audit.level", "audit.seed"),
        "relink probe --workdir=out",
        notes="fitted on splits train and validate of heads.train_site, scored on every set that was audited; of an ensemble, on its embeddings only",
        safe_points=_ALWAYS,
    ),
    "controls": Stage(
        "put the mitigation beside its controls: noise alone, rotation, fine-tuning, coarser embeddings, other epsilons",
        ("controls", "heads", "mitigate"),
        "relink controls --workdir=out",
        notes=notes.CONTROLS,
    ),
    "accountants": Stage(
        "privacy ledgers side by side, priced again by RDP and PLD, as text, JSON and a page; and what a run will cost before it starts",
        (),
        "relink accountants compare out/heads other/heads --page=accounts.html",
        (
            Alias("json", "", "file for the same values as JSON"),
            Alias("page", "", "compare: file for one self-contained HTML page with figures, for readers who have never seen an accountant"),
            Alias("delta", "", "compare: the common delta (default: the smallest that a run recorded); plan: the delta, below 1/N"),
            Alias("convert", "", "compare: price runs of different unit or adjacency as one promise, zero-out of a patient, and rank those", boolean=True),
            Alias("per_patient", "", "compare --convert: the most pairs (or studies) of a patient, where a ledger declares no cap"),
            Alias("rank", "", "compare: end with an error where the runs may not be ranked", boolean=True),
            Alias("units", "", "plan: number N of patients (studies, pairs) in training"),
            Alias("batch", "", "plan: expected batch size B; the sampling probability is B/N"),
            Alias("iterations", "", "plan: noisy steps T"),
            Alias("epochs", "", "plan: passes over the units, in place of --iterations"),
            Alias("noise_multiplier", "", "plan: noise over the sensitivity"),
            Alias("epsilon", "", "plan: the epsilon that may be spent"),
            Alias("accountant", "", "plan: rdp (default, the headline) or pld (tighter, slower)"),
            Alias("table", "", "plan: short (default), full or none: the noise for this epsilon at other batches and epochs"),
            Alias("seed", "", "audit: a whole number that fixes its draws (default 0)"),
            Alias("full", "", "audit: also attack whole training runs; takes minutes", boolean=True),
            Alias("canaries", "", "audit with a workdir: canary pairs among the training pairs of sibling runs (default 500)"),
        ),
        positional="[compare] RUN [RUN ...] | plan | audit",
        needs_workdir=False,
        notes=notes.ACCOUNTANTS,
    ),
    "bench": Stage(
        "print speed as ratios: our towers against torch's, the counting pass against the bare matrix product and its peers, how it grows and where its time goes, the curve; or try faults and a soak",
        (),
        "relink bench retrieval --candidates=43793 --dim=512 --k=10,100",
        (
            Alias("rounds", "", "alternating rounds; medians are compared (default 7; growth: 5; attacks: 3)"),
            Alias("model", "", "embed: a packaged model or one of the published names; default the four packaged ones"),
            Alias("batch", "", "embed: images or texts per call (default 32); heads: records of a step (default 1024)"),
            Alias("form", "", "heads: of linear, mlp, patch, several with commas between (default all)"),
            Alias(
                "candidates",
                "",
                "retrieval: candidates, several with commas between (default 29296,43793,406241); curve, profile and growth's base case: one (default 43793); attacks: one (default 6000)",
            ),
            Alias("dim", "", "retrieval: embedding widths D (default 512); growth, profile, attacks: one (default 512)"),
            Alias("k", "", "retrieval: lengths of the top list (default 10,100); growth, profile: one (default 10)"),
            Alias(
                "queries",
                "",
                "retrieval: queries of the sample (default 4000, 2000 from 100,000 candidates on, four batches on an accelerator); "
                "curve: queries (default 43793); growth: the base case's (default 1024)",
            ),
            Alias("precision", "", "retrieval: of float32, bf16x3, bf16, tf32, several with commas between (default float32; on a GPU float32,bf16x3,bf16)"),
            Alias(
                "peers", "", "retrieval: of openblas, faiss, numpy, torch, argsort, several with commas between, or none (default all; on a GPU torch,faiss)"
            ),
            Alias("images", "", "cohort: synthetic radiographs (default 256)"),
            Alias("side", "", "cohort: their side in pixels (default 256)"),
            Alias("short_side", "", "cohort: side of a resize, for one row more (default none)"),
            Alias("pairs", "", "attacks: auxiliary pairs of the attacker (default 2000)"),
            Alias("only", "", "faults: names or families of faults, commas between (default all)"),
            Alias("tries", "", "faults: random tries of each (default 3)"),
            Alias("minutes", "", "soak: for how long (default 10)"),
            Alias("seed", "", "faults, soak: a whole number of at least 1 that draws them (default 1)"),
            Alias("plot", "", "growth: file for the picture, a PNG with a panel for each thing varied"),
            Alias("json", "", "file for the same figures as JSON"),
        ),
        positional="embed | retrieval | curve | heads | growth | profile | cohort | attacks | faults | soak",
        needs_workdir=False,
        notes=notes.BENCH,
        safe_points=("soak",),
    ),
    "cluster": Stage(
        "what this command sees of its cluster: processes, devices, a sum over all of them, and with --workdir whether all share it",
        (),
        "relink cluster --expect_devices=16 --workdir=out",
        needs_workdir=False,
        notes=launch_words.CLUSTER,
        main="cluster_view",
    ),
    "report": Stage(
        "write the page and its one-page summary from the results files, or check them; or put several runs on one page",
        ("report",),
        "relink report --check --workdir=out",
        (
            Alias("check", "", "recompute every number of the pages from the results files and compare", boolean=True),
            Alias("page", "", "with runs: file of the page that has them all (default runs.html)"),
            _EMBEDDINGS,
        ),
        positional="[RUN ...]",
        needs_workdir=False,
        notes=notes.REPORT,
    ),
}


def overview(configs: Sequence[str]) -> str:
    """Returns the text of `relink --help`; `configs` are the names of the shipped configurations."""
    width = max(map(len, STAGES))
    stages = "\n".join(f"  {name:<{width}}  {stage.summary}" for name, stage in STAGES.items())
    return (
        "relink: audit and mitigate cross-modal linkage risk in clinical vision-language models\n\n"
        "usage: relink STAGE [--config=NAME_OR_FILE] [--config.a.b=VALUE ...] --workdir=DIR\n\n"
        f"stages, in the order of the road:\n{stages}\n\n"
        f"start here:        relink demo --workdir=out\n"
        f"one stage's help:  relink STAGE --help\n"
        f"configurations:    {', '.join(configs)}\n"
        f"exit codes:        {EXIT_CODES}"
    )


def stage_help(stage: str, configs: Sequence[str]) -> str:
    """Returns the text of `relink STAGE --help`: purpose, flags, config fields with defaults, an example."""
    described = STAGES[stage]
    flags = [("--config=NAME_OR_FILE", f"run configuration: .py, .json or one of {', '.join(configs)} (default: the one this workdir recorded, else demo)")]
    flags += [("--workdir=DIR", "directory that holds the run; created when missing, refused when it is another run's")] if described.needs_workdir else []
    for alias in described.aliases:
        same = f" (same as --config.{alias.path})" if alias.path else ""
        flags.append((f"--{alias.flag}" + ("" if alias.boolean else "=VALUE"), alias.help + same))
    if stage == "cluster":
        flags += [("--workdir=DIR", "directory that all processes must share"), *((f"--{name}=VALUE", text) for name, text in launch_words.LAUNCH.items())]
    else:
        flags.append(
            ("--cluster=... and others", "several processes, stop signals, watchdog, compile cache: 'relink cluster --help' lists these flags of every stage")
        )
    lines = [f"relink {stage}: {described.summary}", "", " ".join(f"usage: relink {stage} {described.positional} [flags]".split()), "", "flags:"]
    lines += [f"  {name:<24} {text}" for name, text in flags]
    sections = tuple(f"{section}." for section in described.sections)
    shown = [field for field in config_lib.fields(config_lib.RunConfig()) if f"{field.path}.".startswith(sections)]
    if shown:
        lines += ["", "config fields of this stage:"]
        lines += [f"  --config.{field.path}={show(field.default)}\n      {field.help}" for field in shown]
    if described.notes:
        lines += ["", described.notes]
    return "\n".join([*lines, "", f"example: {described.example}", f"exit codes: {EXIT_CODES}"])


def show(value: Any) -> str:
    """Returns a config value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
