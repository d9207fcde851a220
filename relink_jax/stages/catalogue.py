"""What the command line offers: every stage with its purpose, flags, config sections and an example, and the help texts.

Imports nothing heavy, so that `relink --help` answers at once.
"""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from relink_jax import config as config_lib
from relink_jax.encoders import published

EXIT_CODES = "0 done, 2 usage, 65 bad data, 70 internal or failed self-check, 74 store damaged or foreign, 75 resumable stop"


@dataclasses.dataclass(frozen=True)
class Alias:
    """A short flag that sets one config field, or stands alone when `path` is empty."""

    flag: str
    path: str
    help: str
    boolean: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """What `--help` says about one stage."""

    summary: str
    sections: tuple[str, ...]
    example: str
    aliases: tuple[Alias, ...] = ()
    positional: str = ""
    needs_workdir: bool = True
    notes: str = ""


_PATIENTS = Alias("patients", "cohort.phantom.n_patients", "patients of the synthetic cohort")
_EMBEDDINGS = Alias(
    "embeddings",
    "embeddings",
    "directory of precomputed embeddings (npy, npz, safetensors, Parquet or img_emb/ text_emb/ metadata/); no encoder is loaded",
)
_TABLE_NOTES = """the pairs table (CSV or Parquet), one row per image-report pair:
  image_path, patient_id, study_id       required; the path is relative to cohort.image_root; ids are read as text
  findings and impression, or            required: one of these three forms of the report
    report_text, or report_path
  split                                  optional: train, validate or test, one per patient; without it all rows are audited, none trained on
  site                                   optional: each site is a database of its own; one without training rows is external
  prior_image_id                         optional: image_id of the patient's earlier image that an image is compared with (embed.prior=table)
  image_id, report_id, view, pretrain_exposure, study_order, age_years, sex, label_source     optional
  No Finding ... Support Devices         optional: the 14 CheXpert observations as 1, 0, -1 (uncertain) or blank
images: 8- or 16-bit PNG, or JPEG"""
_EMBEDDINGS_NOTES = """what --embeddings=DIR may hold; rows are joined by study id, never by position:
  images [Q, D], texts [S, D]            embeddings, one text row per study
  image_study [Q], text_study [S]        study ids of both
  patient [S]                            patient id of each study
  labels [S, 14]                         optional: 1, 0, -1 (uncertain), blank; enables label-matched candidates
in any mix of these files:
  embeddings.npz, embeddings.safetensors arrays under the names above
  NAME.npy                               one array each, such as images.npy and text_study.npy
  images.parquet                         columns study_id, embedding, [patient_id, image_id]
  texts.parquet                          columns study_id, patient_id, embedding, [labels]
  labels.parquet or labels.csv           columns study_id and one per label
or one image-report pair per row of everything:
  img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet (study_id, patient_id, [image_id, labels])"""
_ROAD_NOTES = """the same road on your own pairs table and checkpoint, stage by stage (settings are recorded in the workdir, so give them once):
  relink cohort --config.cohort.source=table --config.cohort.table=pairs.csv --config.cohort.image_root=png --workdir=out
  relink convert --source=my_clip --workdir=out      your checkpoint instead of the packaged models
  relink embed --workdir=out                         frozen features
  relink heads --workdir=out                         mitigation; needs rows of split 'train'; leave it out to audit only
  relink audit --workdir=out
  relink probe --workdir=out                         price; needs labels in splits 'train' and 'validate'
  relink report --workdir=out                        the page; check it with: relink report --check --workdir=out"""
_CHECKPOINT_NOTES = """what --source=DIR must hold, as published:
  the weights: model.safetensors, flax_model.msgpack, or a torch file (.bin, .pt, .tar, .ckpt), read without torch and without running anything
  in it; BioViL's two files together; all shards of a model.safetensors.index.json; of several formats of one model only the first is read;
  --source=FILE names one of several models; the SHA-256 of each file is printed, and --sha256 asks for it the next time
  config.json where the model has one, preprocessor_config.json (CLIP, SigLIP), and the tokenizer's files: tokenizer.json, or vocab.json with
  merges.txt (CLIP); vocab.txt (BERT); spiece.model (SigLIP)
  DIR may also be a directory of the Hugging Face cache (models--ORG--NAME); nothing is looked up on the network
what a checkpoint is, is told by its keys; its geometry by config.json, or by the published model that --model (or --entry) names, or in
  OpenAI's own layout (ViT-B-32.pt) by the shapes
every tensor must find its place and every parameter its tensor; what does not fit is named
several members of one ensemble (CheXzero's ten best_*.pt): --ensemble takes every weight file of DIR, in the order of their names; each is
  embedded and audited by itself, and the ensemble by the mean of their cosine similarities (its authors average probabilities, and
  reports have none); the members can be mitigated and exported, their ensemble cannot in this version
TorchScript programs and pickles of whole objects need --trust_pickle and pip install 'relink_jax[convert]': torch then runs them
--to=hf writes towers and heads back, float32, every tensor of the source, into WORKDIR/export/MODEL/ARM"""
_CONTROLS_NOTES = """after cohort, convert and embed: trains every control of the mitigated model's heads on cached features, several draws each, and measures
linkage (plain cosine, and an attacker who re-fits the space on other people's pairs) and utility of each on held-out people of the training site;
results/controls.json, report/controls.html and report/controls.png. Nothing of it is released: seeds are disclosed, and choosing by the figure is
tuning on held-out people. Finished conditions are kept in the workdir and not run again.
  relink controls --config.controls.seeds=3 --config.controls.only=noise_only_0.34,dp_0.34,rotation --workdir=out"""
_BENCH_NOTES = """embed: both sides get random weights of the model's geometry, the same batch and padding, float32, and one thread per CPU, in turns in
one process; needs torch (pip install 'relink_jax[convert]'), and no checkpoint
  relink bench embed --model=biomedclip --batch=8
retrieval: the counting pass, first held against float64, takes turns with the bare product of its tiles, with everything an audit asks of it,
and with the peers of --peers that are installed; a case for every combination of candidates, dim, k and precision; memory at the peak
  relink bench retrieval --candidates=43793 --k=10 --json=bench.json
  relink bench retrieval --candidates=29296 --dim=128,512,768,1152 --k=10 --peers=none
  relink bench retrieval --candidates=43793 --k=10 --precision=float32,bf16x3,bf16,tf32 --peers=torch,faiss
on a GPU the same command measures float32, bf16x3 and bf16 with equal counts, against torch and FAISS on that GPU, and extrapolates the
seconds of 406,241 x 406,241:
  XLA_PYTHON_CLIENT_PREALLOCATE=false relink bench retrieval --candidates=406241 --k=10 --json=gpu.json
curve: Recall@k and MRR at 30 pool sizes of drawn counts, and their largest error against exact integers, up to 10,000,000 candidates
  relink bench curve --candidates=43793
heads: a private step on projection heads of every form against a step without privacy, and against vmap(grad), jax_privacy and Opacus
  relink bench heads --form=linear --batch=1024 --rounds=3
  relink bench heads --form=mlp,patch --peers=none
growth: from a base case, one thing varied at a time: candidates, queries, D, strata, k and devices; times and memory as multiples of the base's
  relink bench growth --plot=growth.png --json=growth.json
  relink bench growth --candidates=20000 --queries=512 --dim=128 --rounds=3
profile: where the time of one plain counting pass goes, operation by operation, beside the bare product of its tiles
  relink bench profile --candidates=43793 --dim=128 --k=10"""

_ACCOUNTANTS_NOTES = """compare: RUN is a privacy_ledger.json, or a directory that holds some. Every run is priced again from its own mechanism at one delta, by both
accountants; said in other words (another adjacency, another unit, what an attacker gains), each exact or a bound; and red-flagged where
its number promises nothing. Runs on the same people are composed, never added
  relink accountants compare out/heads
  relink accountants compare patient_run pair_run --convert --per_patient=5 --page=accounts.html --json=accounts.json
runs that protect different units, or by another adjacency, make different promises: they are shown and not ranked, unless --convert says
how; --rank makes that an error
plan: exactly three of --batch, --iterations (or --epochs), --noise_multiplier and --epsilon; the fourth is found
  relink accountants plan --units=65379 --delta=6e-6 --batch=1024 --epochs=5 --epsilon=0.34          the noise it takes
  relink accountants plan --units=65379 --delta=6e-6 --batch=1024 --epochs=5 --noise_multiplier=2    the epsilon it costs
  relink accountants plan --units=65379 --delta=6e-6 --batch=1024 --noise_multiplier=2 --epsilon=1 --accountant=pld
audit: attacks every objective on crafted data: sound claims must hold, the unsound in-batch one and wrong noise must be caught; with a workdir
that has features, also the configured mechanism and sibling runs of it with canaries among the training pairs, recorded in the ledger
  relink accountants audit --json=gate.json
  relink accountants audit --workdir=out --canaries=500"""


def _names(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), 140, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


_MODEL = Alias("model", "", "only this one of the run's models, for this command")
STAGES = {
    "demo": Stage(
        "the whole road on the embedded synthetic cohort: audit, mitigation, price, page",
        ("models", "mitigate", "arms", "cohort", "heads", "report"),
        "relink demo --workdir=out",
        (_PATIENTS,),
        notes=_ROAD_NOTES,
    ),
    "plan": Stage(
        "what a run will cost before it starts: memory, FLOPs, disk, epsilon",
        ("cohort", "embed", "audit", "heads"),
        "relink plan audit --images=406241 --studies=406241 --dim=512",
        (
            Alias("images", "", "query images Q (default: the synthetic cohort's size)"),
            Alias("studies", "", "candidate studies S (default: the synthetic cohort's size)"),
            Alias("dim", "", "embedding width D (default: the model's)"),
            Alias("model", "", "packaged or published model that is planned (default: the packaged ones, which share one geometry)"),
        ),
        positional="[audit] [embed] [heads]",
        needs_workdir=False,
    ),
    "cohort": Stage(
        "read a pairs table (or generate the synthetic cohort) and check it",
        ("cohort",),
        "relink cohort --config.cohort.source=table --config.cohort.table=pairs.csv --config.cohort.image_root=png --workdir=out",
        (_PATIENTS,),
        notes=_TABLE_NOTES,
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
        notes=f"{_CHECKPOINT_NOTES}\n\npublished models, with what each needs and has seen in BUILD.md:\n{_names(published.MODELS)}",
    ),
    "embed": Stage(
        "encode images and unique report texts with the frozen towers", ("embed",), "relink embed --model=phantom-3-specialist --workdir=out", (_MODEL,)
    ),
    "audit": Stage(
        "measure linkage: exact counts, Recall@k at every pool size, intervals",
        ("audit",),
        "relink audit --embeddings=my_vectors --workdir=out",
        (
            _MODEL,
            _EMBEDDINGS,
        ),
        notes=_EMBEDDINGS_NOTES,
    ),
    "heads": Stage(
        "train mitigated projection heads with DP-SGD, with their privacy ledger",
        ("mitigate", "arms", "heads"),
        "relink heads --config.heads.mechanism.target_epsilon=1.0 --workdir=out",
    ),
    "probe": Stage(
        "price the mitigation: 14-label linear probe on every arm",
        ("probe", "heads.train_site"),
        "relink probe --workdir=out",
        notes="fitted on splits train and validate of heads.train_site, scored on every set that was audited; of an ensemble, on its embeddings only",
    ),
    "controls": Stage(
        "put the mitigation beside its controls: noise alone, rotation, fine-tuning, coarser embeddings, other epsilons",
        ("controls", "heads", "mitigate"),
        "relink controls --workdir=out",
        notes=_CONTROLS_NOTES,
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
        notes=_ACCOUNTANTS_NOTES,
    ),
    "bench": Stage(
        "print speed as ratios: our towers against torch's, the counting pass against the bare matrix product and its peers, how it grows and where its time goes, the curve",
        (),
        "relink bench retrieval --candidates=43793 --dim=512 --k=10,100",
        (
            Alias("rounds", "", "alternating rounds; medians are compared (default 7; growth: 5)"),
            Alias("model", "", "embed: a packaged model or one of the published names; default the four packaged ones"),
            Alias("batch", "", "embed: images or texts per call (default 32); heads: records of a step (default 1024)"),
            Alias("form", "", "heads: of linear, mlp, patch, several with commas between (default all)"),
            Alias(
                "candidates",
                "",
                "retrieval: candidates, several with commas between (default 29296,43793,406241); curve, profile and growth's base case: one (default 43793)",
            ),
            Alias("dim", "", "retrieval: embedding widths D (default 512); growth, profile: one (default 512)"),
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
            Alias("plot", "", "growth: file for the picture, a PNG with a panel for each thing varied"),
            Alias("json", "", "file for the same figures as JSON"),
        ),
        positional="embed | retrieval | curve | heads | growth | profile",
        needs_workdir=False,
        notes=_BENCH_NOTES,
    ),
    "report": Stage(
        "write the page from the results files, or check the page against them",
        ("report",),
        "relink report --check --workdir=out",
        (Alias("check", "", "recompute every number of the page from the results files and compare", boolean=True), _EMBEDDINGS),
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
