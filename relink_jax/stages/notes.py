"""What `relink STAGE --help` says below the flags: what goes in, what comes out, and commands to start from."""

COHORT = """read (also without the word): the sources become one cohort in the workdir, every decision counted
check: what is wrong with the sources, row by row, before anything is computed; exits 65 when something is
report: pairs, studies and patients of every recipe and text, beside the counts of arXiv 2606.02276; no image is opened
write: a synthetic archive in a published layout, to try a loader before access is granted
build: the images decoded (and resized) once into sharded records that pods read and TFDS opens; goes on where it was stopped
purge: lists what of the workdir holds restricted data and, with --yes, removes exactly that; results and pages stay
  relink cohort --config=mimic_held_out --config.cohort.mimic_cxr.images=JPG_ROOT --config.cohort.mimic_cxr.reports=REPORT_ROOT --workdir=out
  relink cohort check --config.cohort.source=table --config.cohort.table=pairs.csv --config.cohort.image_root=png
  relink cohort report --config.cohort.source=mimic_cxr+chexpert_plus ... --csv=counts.csv
  relink cohort write --layout=mimic_cxr --to=my_tree --patients=200
  relink cohort build --workdir=out --short_side=512 --workers=8
  relink cohort build --workdir=out --beam="--runner=FlinkRunner --flink_master=HOST:8081"        needs pip install 'relink_jax[beam]'
archives: mimic_cxr (JPEG or DICOM), chexpert_plus (PNG, JPEG or DICOM), openi (XML or Kaggle's tables), rexgradient, padchest; see docs/cohorts.md
"""
TABLE = """the pairs table (CSV or Parquet), one row per image-report pair:
  image_path, patient_id, study_id       required; the path is relative to cohort.image_root; ids are read as text
  findings and impression, or            required: one of these three forms of the report
    report_text, or report_path
  split                                  optional: train, validate or test, one per patient; without it all rows are audited, none trained on
  site                                   optional: each site is a database of its own; one without training rows is external
  prior_image_id                         optional: image_id of the patient's earlier image that an image is compared with (embed.prior=table)
  sex, age_years                         optional: M, F or O, and whole years; groups that the audit tells apart
  any column named in cohort.facts       optional: categories such as ward or scanner, at most 64 characters; further groups and hard negatives
  image_id, report_id, view, pretrain_exposure, origin, labelled_text, study_order, label_source     optional
  No Finding ... Support Devices         optional: the 14 CheXpert observations as 1, 0, -1 (uncertain) or blank
images: 8- or 16-bit PNG, JPEG, or DICOM (pip install 'relink_jax[dicom]')"""
EMBEDDINGS = """what --embeddings=DIR may hold; rows are joined by study id, never by position:
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
ROAD = """the same road on your own pairs table and checkpoint, stage by stage (settings are recorded in the workdir, so give them once):
  relink cohort --config.cohort.source=table --config.cohort.table=pairs.csv --config.cohort.image_root=png --workdir=out
  relink convert --source=my_clip --workdir=out      your checkpoint instead of the packaged models
  relink embed --workdir=out                         frozen features
  relink heads --workdir=out                         mitigation; needs rows of split 'train'; leave it out to audit only
  relink audit --workdir=out
  relink probe --workdir=out                         price; needs labels in splits 'train' and 'validate'
  relink report --workdir=out                        the page; check it with: relink report --check --workdir=out"""
CHECKPOINT = """what --source=DIR must hold, as published:
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
CONTROLS = """after cohort, convert and embed: trains every control of the mitigated model's heads on cached features, several draws each, and measures
linkage (plain cosine, and an attacker who re-fits the space on other people's pairs) and utility of each on held-out people of the training site;
results/controls.json, report/controls.html and report/controls.png. Nothing of it is released: seeds are disclosed, and choosing by the figure is
tuning on held-out people. Finished conditions are kept in the workdir and not run again.
  relink controls --config.controls.seeds=3 --config.controls.only=noise_only_0.34,dp_0.34,rotation --workdir=out"""
BENCH = """embed: both sides get random weights of the model's geometry, the same batch and padding, float32, and one thread per CPU, in turns in
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
cohort: images decoded and records read per second, against plain Pillow and the loose files
  relink bench cohort --images=256 --side=512 --short_side=224
attacks: every attack, from embeddings to counts, as a multiple of one counting pass over the same database
  relink bench attacks --candidates=6000 --dim=512 --pairs=2000
faults: injures small real runs in every way of the registry and compares what they end with with runs that nothing disturbed; the table of RELIABILITY.md
  relink bench faults --only=kills --tries=5
soak: embed, heads and audit again and again under random kills and stops, each resumed and compared, for some minutes; memory from run to run
  relink bench soak --minutes=60
profile: where the time of one plain counting pass goes, operation by operation, beside the bare product of its tiles
  relink bench profile --candidates=43793 --dim=128 --k=10"""

ACCOUNTANTS = """compare: RUN is a privacy_ledger.json, or a directory that holds some. Every run is priced again from its own mechanism at one delta, by both
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

REPORT = """with --workdir=DIR: report/index.html is the page, report/summary.html one printed page for data governance, report/numbers.json lists every number
of both with the file and entry it comes from; each figure on the page has its points as CSV behind a link; nothing is loaded from the network
with runs: one page over the results of several workdirs, at the pool sizes they share; runs measured by other rules are named and stand apart
  relink report out other/out --page=runs.html
  relink report out other/out --page=runs.html --check"""

SWEEP = """plan (also without the word): what the grid asks, what of it is there, and what the rest costs; computes and writes nothing
run: the missing jobs one after the other in this process; one that fails stops no other, and the exit code is the worst of them
submit: each job that lacks something to a scheduler, as COMMAND relink demo --config=ROOT/MODEL.job.json --workdir=ROOT/MODEL; not twice
table: every cell's figure from the results files, as text and CSV; what is missing says so
  relink sweep --config=ten_models --config.checkpoints=weights ... --images=406241 --studies=406241 --workdir=ROOT
  relink sweep submit --submit='sbatch launch/cluster/slurm.sbatch' --workdir=ROOT --config=...      config and grid are recorded in ROOT
  relink sweep table --csv=figures.csv --workdir=ROOT
  relink report ROOT/MODEL ROOT/OTHER --page=runs.html                                              the same runs on one page
a cell is the Recall@1 of image queries for one model, kind of heads, evaluation set, stratum and pool size. Cells are many and counting passes
few: one pass for each model, kind of heads and set counts the integers that every pool size and stratum follows from exactly
a cell is present when a results file holds it, is intact, and was measured on these data, by these settings, with these heads; all else is
missing, and the next run or submit makes it. A job audits all its heads together, since their changes are measured on the same draws
heads are trained once for each mitigated model, each with its own ledger. All learn from the same people: the plan says what they spend together"""
