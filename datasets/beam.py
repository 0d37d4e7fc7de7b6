"""The shards of a plan under Apache Beam, for machines a pool of processes does not reach.

Needs the optional dependency `apache-beam`. Shards and notes are files: every worker has to see the
dataset's directory and the videos under the same paths, so outside one machine both lie on a shared
file system. The shards are those that `workers.run_processes` writes, byte for byte.
"""

from collections.abc import Sequence

from datasets.build import Plan, ShardTask, build_shard
from errors import ConfigError


def run_beam(plan: Plan, tasks: Sequence[ShardTask], options: Sequence[str] = ()) -> None:
  """Builds the shards as one pipeline and waits for its end.

  Args:
    plan: whose shards they are.
    tasks: what to do; Beam may retry each.
    options: flags of Beam, such as `--runner=DirectRunner`, `--direct_num_workers=8`.

  Raises:
    ConfigError: apache-beam is not installed.
    DataError: a shard cannot be written.
  """
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise ConfigError(
      f'apache-beam cannot be imported ({error}). Install it in an environment of its own, for it '
      'needs protobuf < 7: pip install apache-beam tensorflow-cpu av opencv-python-headless '
      'simplejpeg rich absl-py ml_collections.'
    ) from error
  with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
    shards = pipeline | f'shards of {plan.split}' >> beam.Create(list(tasks))
    _ = shards | beam.Reshuffle() | 'convert' >> beam.Map(build_shard)
