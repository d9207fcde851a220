"""Builds records as an Apache Beam pipeline: shard numbers, shuffled, each written by whichever worker gets it, counted at the end.

`DirectRunner` here by default; any pipeline option goes through, so that `--runner=DataflowRunner --project=...` or `--runner=FlinkRunner
--flink_master=...` sends the same work to a cluster. The workers need relink_jax installed and must see the cohort, its images and the
records' directory under the same names: a shared file system (NFS, Lustre, Filestore), not an object store, because a shard becomes
visible by a rename. Elements of the pipeline are shard numbers and counts; no text, path of an image or pseudonym passes through the runner.

Resuming is running it again: shards that are there are left alone, and a worker's second try of a shard does no harm.
apache-beam is the extra `beam`: it wants older protobuf, pillow and pyarrow than the rest, so give it an environment of its own.
"""

from collections.abc import Sequence
from typing import Any

from relink_jax import errors
from relink_jax.cohort import record_shards

_RUNNER = "--runner="


def build(job: record_shards.Build, options: Sequence[str] = ()) -> dict[str, Any]:
    """Builds what is missing, as `record_shards.build` does, and returns the manifest.

    When the pipeline fails, one missing shard is tried here, so that what is wrong with it is said in the job's own sentence: a runner's
    message may hold paths of its workers.
    Args: options: pipeline options as on a command line, such as '--runner=DataflowRunner'.
    Raises: UsageError: no apache-beam, or options that it refuses; DataError, StoreError: what the job raises, or a pipeline that failed for
        another reason, by its kind.
    """
    beam, options_class = _imported()
    missing = job.start()
    if missing:
        failed = _failed(beam, _options(options_class, options), job, missing)
        left = job.start() if failed else []
        if left:
            job.write(left[0])
        if failed:
            runner = next((option.removeprefix(_RUNNER) for option in options if option.startswith(_RUNNER)), "DirectRunner")
            raise errors.StoreError(errors.describe("pipeline failed", f"Beam runner {runner!r}", "every shard written; run again to go on", failed))
    return job.finish()


def _failed(beam: Any, options: Any, job: record_shards.Build, missing: Sequence[int]) -> str:
    """Runs the pipeline over the missing shards and returns the kind of its failure, '' for none."""
    expected = sum(len(job.shards()[number].rows) for number in missing)
    try:
        with beam.Pipeline(options=options) as pipeline:
            counts = pipeline | "Shards" >> beam.Create(list(missing)) | beam.Reshuffle() | "Write" >> beam.Map(job.write)
            _ = counts | beam.CombineGlobally(sum) | "Check" >> beam.Map(_check, expected)
    except Exception as error:  # Beam wraps what a worker raised
        return type(error).__name__
    return ""


def _check(counted: int, expected: int) -> int:
    if counted != expected:
        raise errors.StoreError(errors.describe("records", "the pipeline", str(expected), str(counted)))
    return counted


def _options(options_class: Any, options: Sequence[str]) -> Any:
    try:
        return options_class(list(options))
    except (Exception, SystemExit) as error:  # argparse exits
        failed = type(error).__name__
    raise errors.UsageError(errors.describe("pipeline options", "Apache Beam", "options that this Beam knows", failed))


def _imported() -> tuple[Any, Any]:
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        expected = "apache-beam in this environment (pip install 'relink_jax[beam]')"
        raise errors.UsageError(errors.describe("Apache Beam missing", "building records with Beam", expected, "none")) from error
    return apache_beam, PipelineOptions
