"""Compiles a config's train step for a TPU slice, on a machine without one, and says if it fits.

  python -m tools.aot --config=configs/vivit/k400_base_fe.py --topology=v5e:16x16 \
      --config.batch_size=512 --config.evaluation.batch_size=256
  python -m tools.aot --config=configs/vivit/demo.py --topology=v5e:2x4 --json

Needs libtpu (the extra `tpu-aot`). The exit status is 0 if the step fits, 2 if a chip's memory is
too small, and 1 after any other error. `--json` prints the fields of `train_lib.aot.Report`, with
`fits`; of a step that does not fit, `fits` (false), `topology` and `message`.
"""

import json
import sys

from absl import flags
from ml_collections import config_flags

from errors import ConfigError, DoesNotFitError
from tools import command
from train_lib import libtpu

DOES_NOT_FIT = 2

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.KEY=VALUE overrides.', allow_override=True
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'TPU slice, such as v5e:16x16 or v4:4x4x4.', allow_override=True
)
flags.mark_flags_as_required(['config', 'topology'])
_JSON = flags.DEFINE_bool(
  'json', False, 'Print one JSON object instead of a table.', allow_override=True
)
_DATASET = flags.DEFINE_string(
  'dataset',
  None,
  "The dataset whose batches the step is compiled for; default: the config's first.",
  allow_override=True,
)


def main() -> None:
  """Compiles and prints."""
  libtpu.prepare_to_compile()
  # Imported here because JAX reads its environment when it is imported.
  from train_lib import aot, data, tables, topologies
  from train_lib.experiment import parse
  from train_lib.mesh import make_mesh
  from train_lib.program import build_program

  topology = topologies.topology(_TOPOLOGY.value)
  experiment = parse(_CONFIG.value)
  mesh = make_mesh(experiment.mesh, topology.devices())
  name = _DATASET.value or next(iter(experiment.datasets))
  if name not in experiment.datasets:
    raise ConfigError(f'--dataset={name}: the config has {sorted(experiment.datasets)}.')
  program = build_program(experiment, data.facts_or_nominal(experiment), mesh)
  print(
    f'Compiling {experiment.name} on batches of {name} for {topology.name} (some minutes) ...',
    file=sys.stderr,
    flush=True,
  )
  try:
    report = aot.compile_step(program, topology, name)
  except DoesNotFitError as error:
    if _JSON.value:
      print(json.dumps({'fits': False, 'topology': topology.name, 'message': str(error)}, indent=2))
    print(f'DoesNotFitError: {error}', file=sys.stderr)
    sys.exit(DOES_NOT_FIT)
  print(json.dumps(report.to_json(), indent=2) if _JSON.value else tables.report_table(report))


if __name__ == '__main__':
  command.run(main)
