"""Descriptions of sweeps and the runs that they ask for."""

import copy
import json
from pathlib import Path

import pytest

from errors import ConfigError
from train_lib import sweep, sweep_runs

CONFIG = {
  'seed': 0,
  'batch_size': 8,
  'optimizer': {'learning_rate': 0.1, 'warmup': '0 steps'},
  'trunk': {'tubelet': [4, 8, 8], 'layers': 3},
  'init_from': {'path': ''},
}


def resolve(file, overrides):
  """As `tools.sweep` does, on a config that is a dict; values are JSON where they can be."""
  config = copy.deepcopy(CONFIG)
  config['file'] = file
  for key, text in overrides.items():
    *parents, last = key.split('.')
    group = config
    for parent in parents:
      group = group[parent]
    try:
      group[last] = json.loads(text.replace('(', '[').replace(')', ']'))
    except ValueError:
      group[last] = text
  return config


def described(rows):
  return sweep.Description('a.py', rows, {}, (), None, Path('data'), None)


def planned(rows, **asked):
  return sweep_runs.plan(described(rows), Path('out'), resolve, **{'config': 'demo.py', **asked})


def test_product_makes_every_combination():
  assert sweep.product({'a': [1, 2], 'b': (3, 4)}) == [
    {'a': 1, 'b': 3},
    {'a': 1, 'b': 4},
    {'a': 2, 'b': 3},
    {'a': 2, 'b': 4},
  ]


def test_zipped_goes_through_all_lists_at_once():
  assert sweep.zipped({'a': [1, 2], 'b': [3, 4]}) == [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: sweep.product({'a': 'xyz'}), "product: expected a list of values of `a`, got 'xyz'"),
    (lambda: sweep.product({'a': []}), 'product: expected a list of values of `a`, got []'),
    (lambda: sweep.zipped({'a': [1], 'b': [1, 2]}), "got {'a': 1, 'b': 2}"),
  ],
)
def test_values_that_are_no_lists_are_named(make, message):
  with pytest.raises(ConfigError) as caught:
    make()
  assert message in str(caught.value)


def test_runs_are_named_by_what_differs_and_repeated_with_every_seed():
  def rows(add):
    for changes in sweep.product(
      {'optimizer.learning_rate': [1e-3, 2e-3], 'trunk.tubelet': [(2, 8, 8)]}
    ):
      add(changes)

  runs = planned(rows, seeds=(0, 1), common={'batch_size': '4'})
  assert [str(run.workdir) for run in runs] == [
    'out/learning_rate=0.001/seed0',
    'out/learning_rate=0.001/seed1',
    'out/learning_rate=0.002/seed0',
    'out/learning_rate=0.002/seed1',
  ]
  assert runs[3].command() == (
    'python main.py --config=demo.py --workdir=out/learning_rate=0.002/seed1 --config.batch_size=4 '
    "--config.optimizer.learning_rate=0.002 '--config.trunk.tubelet=(2, 8, 8)' --config.seed=1"
  )
  assert runs[3].resolved == {
    'seed': 1,
    'batch_size': 4,
    'optimizer': {'learning_rate': 0.002, 'warmup': '0 steps'},
    'trunk': {'tubelet': [2, 8, 8], 'layers': 3},
    'init_from': {'path': ''},
    'file': 'demo.py',
  }


def test_keys_with_the_same_end_are_told_apart():
  def rows(add):
    add({'a.mlp.width': 1, 'b.mlp.width': 1, 'depth': 1})
    add({'a.mlp.width': 2, 'b.mlp.width': 3})

  added = sweep.Sweep()
  rows(added)
  assert list(sweep.row_names(added.rows).values()) == [
    'a.mlp.width=1,b.mlp.width=1,depth=1',
    'a.mlp.width=2,b.mlp.width=3',
  ]


def test_a_row_starts_from_the_run_of_another_with_its_seed():
  def rows(add):
    first = add({'trunk.layers': 2}, name='first stage', seeds=(1, 2), shown=False)
    add(
      {}, name='second', group='Table 1: stages', seeds=(1, 2), init_from=first, config='b.py:x=1'
    )

  first, _, second, other = planned(rows)
  assert (first.workdir, first.shown, first.after) == (Path('out/first_stage/seed1'), False, ())
  assert second.workdir == Path('out/Table_1_stages/second/seed1')
  assert second.after == (Path('out/first_stage/seed1'),)
  assert second.overrides == {'init_from.path': 'out/first_stage/seed1', 'seed': '1'}
  assert other.resolved['init_from'] == {'path': 'out/first_stage/seed2'}
  assert other.config == 'b.py:x=1'


def test_a_row_may_stand_in_several_tables():
  runs = planned(lambda add: add({}, name='base', group=('Table 1', 'Table 2')))
  assert [run.groups for run in runs] == [('Table 1', 'Table 2')]


def _two_seeds(add):
  first = add({'trunk.layers': 2}, seeds=(0,))
  add({}, name='second', seeds=(0, 1), after=[first])


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    (lambda add: None, 'a.py: sweep(add) adds nothing'),
    (lambda add: add({'seed': 3}), "add({'seed': 3}): `seed` is set by `seeds=...`"),
    (lambda add: add({'init_from.path': 'x'}), '`init_from.path` is set by `init_from=...`'),
    (lambda add: add({}, seeds=(1, 1)), 'add(seeds=(1, 1)): expected whole numbers'),
    (lambda add: [add({'batch_size': n}, name='a') for n in (1, 2)], "Two rows are called 'a': {'batch_size': 1}"),
    (lambda add: [add({}, name=n) for n in 'ab'], "'a, seed 0' (out/a/seed0) and 'b, seed 0' (out/b/seed0) have the same config"),
    (lambda add: [add({'batch_size': i}, name=n) for i, n in enumerate(('a b', 'a_b'))], 'would share out/a_b/seed0'),
    (lambda add: add({'trunk.layers': '3'}), "`trunk.layers` was asked to be '3', but the config has 3 then"),
    (_two_seeds, "'second' with seed 1 waits for 'layers=2', which has seeds [0] only"),
  ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(rows, message):
  with pytest.raises(ConfigError) as caught:
    planned(rows)
  assert message in str(caught.value)


def test_a_row_without_a_config_is_named():
  with pytest.raises(ConfigError, match=r"a.py: 'base' names no config"):
    planned(lambda add: add({}), config=None)


def test_long_names_are_cut_and_stay_apart():
  long = [sweep.folder_name('x' * 100 + end) for end in 'ab']
  assert [len(name) for name in long] == [80, 80]
  assert long[0] != long[1]
  assert sweep.folder_name('../a b/c: ü') == 'a_b_c'


def test_a_folder_that_holds_another_config_is_refused(tmp_path):
  (run,) = sweep_runs.plan(described(lambda add: add({})), tmp_path, resolve, config='demo.py')
  sweep_runs.check_unchanged([run])
  run.workdir.mkdir(parents=True)
  config = run.workdir / 'config.json'
  config.write_text(json.dumps(run.resolved))
  sweep_runs.check_unchanged([run])
  config.write_text(json.dumps({**run.resolved, 'batch_size': 9}))
  with pytest.raises(
    ConfigError, match=r'another config than is asked for now:\n  batch_size: 9 -> 8'
  ):
    sweep_runs.check_unchanged([run])


def test_the_record_tells_what_is_gone(tmp_path):
  two = sweep_runs.plan(
    described(lambda add: [add({'batch_size': n}) for n in (1, 2)]),
    tmp_path,
    resolve,
    config='demo.py',
  )
  sweep_runs.record(two, tmp_path, 'a.py')
  recorded = json.loads((tmp_path / 'sweep.json').read_text())
  assert recorded['sweep'] == 'a.py'
  assert [each['changes'] for each in recorded['runs']] == [{'batch_size': 1}, {'batch_size': 2}]
  assert recorded['runs'][1]['command'] == two[1].command()
  assert recorded['runs'][1]['config'] == two[1].resolved
  assert sweep_runs.gone(two, tmp_path) == []
  assert sweep_runs.gone(two[:1], tmp_path) == [str(tmp_path / 'batch_size=2' / 'seed0')]


def test_a_sweep_file_is_loaded_with_its_argument(tmp_path):
  path = tmp_path / 'sweep.py'
  path.write_text(
    "METRICS = {'top-1': 'top1/motion'}\nCLAIMS = [('a', 'b', 'top-1')]\nDATA = 'there'\n"
    "def sweep(add, size='2'):\n  add({'batch_size': int(size)})\n"
  )
  loaded = sweep.load(f'{path}:16')
  assert (loaded.metrics, loaded.claims) == ({'top-1': 'top1/motion'}, [('a', 'b', 'top-1')])
  assert (loaded.data, loaded.prepare, loaded.extra_metrics) == (Path('there'), None, None)
  added = sweep.Sweep()
  loaded.rows(added)
  assert [row.changes for row in added.rows] == [{'batch_size': 16}]


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('x = 1', 'defines no `sweep(add)`'),
    ('1 / 0', 'cannot be loaded: ZeroDivisionError: division by zero'),
    ('def sweep(add):\n  add(1, 2)', 'sweep(add) raised TypeError'),
  ],
)
def test_a_bad_sweep_file_is_named(source, message, tmp_path):
  path = tmp_path / 'sweep.py'
  path.write_text(source)
  with pytest.raises(ConfigError) as caught:
    sweep.load(str(path)).rows(sweep.Sweep())
  assert message in str(caught.value)
  assert str(path) in str(caught.value)


def test_a_missing_sweep_file_is_named():
  with pytest.raises(ConfigError, match=r'nowhere.py cannot be loaded: FileNotFoundError'):
    sweep.load('nowhere.py')
