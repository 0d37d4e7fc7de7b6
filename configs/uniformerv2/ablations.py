"""UniFormerV2's ablations on CLIP's ViT-B/16: Table 9, and Tables 12, 14 and 15.

  python main.py --config=configs/uniformerv2/ablations.py:table=9a,row=global,dataset=ssv2 \
      --workdir=runs/ablation --config.init_from.path=CLIP-ViT-B-16.safetensors

`ROWS` has the tables' rows. Tables 9a and 9c are of `dataset=ssv2` and `k400`, 9e of `k400`, `k600` and
`k700` (its joint trainings of all at once), 12 of `k400` and the others of `ssv2`. Kinetics is tested
with 8 x 3 x 4, Something-Something with 16 x 3 x 1; where patches are of one frame, frames are 8, with
downsampling 16, so that the cost is similar.

For the joint trainings make the sets of the lists that `projects.uniformerv2.kinetics710` writes of each,
or the trainer finds videos that one set evaluates on in another's training.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import parse_arg
from configs.uniformerv2 import common

_NO_GLOBAL = {'global_layers': 0, 'output': 'class'}
_LOCAL = {'temporal_module': 'local_mhra', 'local_repeats': 2}
_NO_LOCAL = {'temporal_module': 'none', 'local_repeats': 1}
_ONE_RATE = {'temporal_downsampling': False}


def _module(name: str, **changes: Any) -> dict[str, Any]:
  return {'temporal_module': name, 'local_repeats': 1, **changes}


def _layers(count: int, reduction: float) -> dict[str, Any]:
  return {'temporal_layers': count, 'local_reduction': reduction}


# Table -> row -> what it changes in the trunk of the dataset's own config.
ROWS: dict[str, dict[str, dict[str, Any]]] = {
  '9a': {
    'none': {**_NO_GLOBAL, **_NO_LOCAL, **_ONE_RATE},
    'global': {**_NO_LOCAL, **_ONE_RATE},
    'local': {**_NO_GLOBAL, **_LOCAL, **_ONE_RATE},
    'global_local': {**_LOCAL, **_ONE_RATE},
    'global_local_tdown': {**_LOCAL, 'temporal_downsampling': True},
  },
  '9b': {
    'temporal_mhsa': _module('attention'),
    'temporal_convolution': _module('convolution'),
    'st_adapter': _module('st_adapter'),
    'local_mhra': _module('local_mhra'),
    'local_mhra_dpe': _module('local_mhra', local_dpe=True),
    'local_mhra_x2': {},
    '1-12_4.0': _layers(12, 4.0),
    '1-12_2.0': _layers(12, 2.0),
    '1-12_1.5': _layers(12, 1.5),
    '1-12_1.0': _layers(12, 1.0),
    '1-8_1.5': _layers(8, 1.5),
    '1-4_1.5': _layers(4, 1.5),
  },
  '9c': {
    '9-12_no_dpe': {'global_layers': 4, 'global_dpe': False},
    '9-12': {'global_layers': 4},
    '5-12': {'global_layers': 8},
    '1-12': {'global_layers': 12},
  },
  '9d': {
    name: {'fusion': name}
    for name in ('sequential', 'parallel', 'hierarchical_kv', 'hierarchical_q')
  },
  '9e': {name: {} for name in ('individual', 'joint', 'k710_joint', 'k710_individual')},
  '12': {'global': {'output': 'global'}, 'global_local': {}},
  '14': {str(queries): {'num_queries': queries} for queries in (1, 4, 16)},
  '15': {
    'mean_pooling': _NO_LOCAL,
    'divided': _module('attention'),
    'joint': _module('joint'),
    'convolution': _module('convolution'),
    'shift': _module('shift'),
    'transformer': _module('transformer'),
    'local_mhra': _LOCAL,
  },
}
_DATASETS = {
  'k400': 'kinetics400',
  'k600': 'kinetics600',
  'k700': 'kinetics700',
  'ssv2': 'ssv2',
}
# Where a table is of several, the first is the default.
_OF_TABLE = {
  '9a': ('ssv2', 'k400'),
  '9c': ('ssv2', 'k400'),
  '9e': ('k400', 'k600', 'k700'),
  '12': ('k400',),
}


def get_config(arg: str = '') -> ConfigDict:
  """The experiment; `arg` is `table=...,row=...` and may have `dataset=...`.

  Raises:
    ValueError: there is no such table or row, or the table is not of the dataset.
  """
  choice = parse_arg(arg, table='9a', row='global_local_tdown', dataset='')
  table, row = choice['table'], choice['row']
  if row not in ROWS.get(table, {}):
    known = {name: list(rows) for name, rows in ROWS.items()}
    raise ValueError(f'Unknown table={table}, row={row}; known: {known}.')
  datasets = _OF_TABLE.get(table, ('ssv2',))
  dataset = choice['dataset'] or datasets[0]
  if dataset not in datasets:
    raise ValueError(f'Table {table} is of {datasets}, not of {dataset!r}.')
  changes = ROWS[table][row]
  if table == '15':  # Without global blocks, and 8 frames as they are.
    changes = {**_NO_GLOBAL, **_ONE_RATE, **changes}
  joint = table == '9e' and row.endswith('joint')
  names = common.KINETICS if joint else (_DATASETS[dataset],)
  start = 'k710' if row.startswith('k710') else 'image'
  return common.experiment('ablations', names, _views(dataset, changes), start, **changes)


def _views(dataset: str, changes: dict[str, Any]) -> common.Row:
  of_motion = dataset == 'ssv2'
  downsampling = changes.get('temporal_downsampling', of_motion)
  frames = 16 if downsampling else 8
  return common.row(f'b16_{frames}x3x{1 if of_motion else 4}')
