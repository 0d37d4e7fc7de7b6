"""Shows a run's checkpoint, or exports its parameters to one file that `init_from.path` reads.

  python -m tools.checkpoint --workdir=runs/demo
  python -m tools.checkpoint --workdir=runs/demo --step=400 --out=demo.npz
  python main.py --config=configs/vivit/demo.py --workdir=runs/next --config.init_from.path=demo.npz

The parameters are the averaged ones if the run kept an average, the heads are among them; those of the
objective, which inference does not need, are shown and not exported. The file also holds what the
checkpoint knows about itself: config, class names, preprocessing, metrics.
"""

from pathlib import Path
from typing import Any

from absl import flags

from tools import command
from train_lib import checkpoint, cost, params_file
from train_lib.state import STATISTICS, model_params
from train_lib.weight_files import flatten

_WORKDIR = flags.DEFINE_string(
  'workdir', None, "The run's folder.", required=True, allow_override=True
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Step of the checkpoint; default: the newest.', allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', '', 'The .npz or .safetensors to write; empty: print what there is.', allow_override=True
)


def describe(params: dict[str, Any], meta: dict[str, Any]) -> str:
  """A checkpoint for people: every parameter, then what `meta` says."""
  arrays = flatten(params)
  params = {name: leaves for name, leaves in params.items() if name != STATISTICS}
  size, of_model = cost.count(params), cost.count(model_params(params))
  width = max(map(len, arrays))
  rows = [f'{name:<{width}}  {a.dtype}  {list(a.shape)}' for name, a in sorted(arrays.items())]
  classes = ', '.join(f'{task} {len(names)}' for task, names in meta['class_names'].items())
  metrics = ' | '.join(f'{name} {value:.4g}' for name, value in (meta['metrics'] or {}).items())
  position = ', '.join(f'{name} {value}' for name, value in meta['position'].items())
  return '\n'.join(
    [
      *rows,
      f'parameters    {of_model:,}' + (f', in training {size:,}' if size > of_model else ''),
      f'config        {meta["config"]["name"]}',
      f'classes       {classes}',
      f'metrics       {metrics or "none at this step"}',
      f'data          {position}',
      f'versions      {", ".join(f"{k} {v}" for k, v in meta["versions"].items())}',
      f'git revision  {meta["git_revision"]}',
    ]
  )


def main() -> None:
  """Prints or exports."""
  params, meta = checkpoint.load_params(_WORKDIR.value, _STEP.value)
  if not _OUT.value:
    print(describe(params, meta))
    return
  count = params_file.write(Path(_OUT.value), params, meta)
  print(f'{_OUT.value}: {count:,} parameters of step {meta["position"]["step"]:,}.')


if __name__ == '__main__':
  command.run(main)
