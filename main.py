"""Trains, evaluates or inspects an experiment.

  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe \
      --config.batch_size=8 --config.datasets.kinetics400.dir=/data/k400
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe --mode=eval
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/new --mode=init

On several hosts, the same command on each of them, with its own --process where no TPU pod, Slurm or
Open MPI numbers them:

  python main.py --config=... --workdir=/shared/run --coordinator=host0:4321 --processes=2 --process=0

`train` resumes when the workdir has a checkpoint. `profile` traces a few steps for XProf. `init`
prints the parameter table, the cost and what `init_from` loads, and stops.

Exit code 75 means: asked to stop (SIGTERM), everything saved, start the same command again.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from tools import command

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.KEY=VALUE overrides a key.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: checkpoints, logs, results.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'profile', 'init'], 'What to do.')
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  'auto',
  'Folder of compiled programs, which a restart reads instead of compiling again; "auto": '
  'compilation_cache in the workdir, empty: none. JAX_COMPILATION_CACHE_DIR goes before "auto".',
)
_PLATFORM = flags.DEFINE_enum(
  'platform',
  'auto',
  ['auto', 'cpu', 'gpu', 'tpu'],
  'Kind of device. What is asked for is used, or the run stops.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0; the port after it must be free too.'
)
_PROCESSES = flags.DEFINE_integer(
  'processes', None, 'Number of processes of the run; 1 runs alone, whatever the cluster says.'
)
_PROCESS = flags.DEFINE_integer('process', None, 'Number of this process, from 0.')
_WAIT = flags.DEFINE_float('wait_seconds', 60, 'How long to wait for the other processes.', 1)
flags.mark_flags_as_required(['config', 'workdir'])


def main() -> None:
  """Runs the mode."""
  # Imported here so that --help and usage errors need no JAX.
  from train_lib import compilation_cache, distributed, experiment, platform, run

  mode, config, workdir = _MODE.value, _CONFIG.value, str(_WORKDIR.value)
  experiment.parse(config)  # A mistake need not wait for other processes.
  if mode != 'init':
    compilation_cache.use(_CACHE.value, Path(workdir))
  platform.select(_PLATFORM.value)
  place, devices = distributed.find_place(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  facts = distributed.facts(mode, workdir, experiment.to_json(config))
  with distributed.joined(place, facts, _WAIT.value, devices):
    platform.check(_PLATFORM.value)
    run.run(mode, config, workdir)


if __name__ == '__main__':
  command.run(main, interrupted='The same command goes on from the newest checkpoint.')
