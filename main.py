"""Trains, evaluates or inspects an experiment.

  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe \
      --config.batch_size=8 --config.datasets.kinetics400.dir=/data/k400
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/k400_base_fe --mode=eval
  python main.py --config=configs/vivit/k400_base_fe.py --workdir=runs/new --mode=init

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
flags.mark_flags_as_required(['config', 'workdir'])


def main() -> None:
  """Runs the mode."""
  # Imported here so that --help and usage errors need no JAX.
  from train_lib import compilation_cache, run

  if _MODE.value != 'init':
    compilation_cache.use(_CACHE.value, Path(str(_WORKDIR.value)))
  run.run(_MODE.value, _CONFIG.value, str(_WORKDIR.value))


if __name__ == '__main__':
  command.run(main)
