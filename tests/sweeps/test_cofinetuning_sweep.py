"""What co-finetuning's ablations train, in how many steps and from what."""

from pathlib import Path

import pytest

from configs.cofinetune import demo
from datasets import demo_actors, demo_relations
from tools.sweep import resolve
from train_lib import sweep, sweep_runs
from train_lib.experiment import lengths, parse

ROOT = Path(__file__).parents[2]
ONE, TWO = 'Table 1: one upstream dataset', 'Table 2: two upstream datasets'
MORE, SAMPLING = 'Table 3: more datasets', 'Table 4: how minibatches are drawn'
SIZES = {'actions': 480, 'stars': 160, 'comets': 160, 'actors': 160}
THREE = ('actions', 'stars', 'actors')

# Row -> tables, datasets, the row that it starts from.
ROWS = {
  'actions': ((ONE,), ('actions',), ''),
  'actions -> actors': ((ONE, MORE), ('actors',), 'actions'),
  'actions + actors': ((ONE, MORE), ('actions', 'actors'), ''),
  'actions -> stars': ((TWO,), ('stars',), 'actions'),
  'stars': ((TWO,), ('stars',), ''),
  'stars -> actions': ((TWO,), ('actions',), 'stars'),
  'actions -> stars -> actors': ((TWO,), ('actors',), 'actions -> stars'),
  'stars -> actions -> actors': ((TWO,), ('actors',), 'stars -> actions'),
  'actions + stars + actors': ((TWO, MORE, SAMPLING), THREE, ''),
  'actions + stars + comets + actors': ((MORE,), (*demo.CLIPS, 'actors'), ''),
  'alternating': ((SAMPLING,), THREE, ''),
}


@pytest.fixture(scope='module')
def description():
  return sweep.load(str(ROOT / 'sweeps' / 'cofinetuning.py'))


@pytest.fixture(scope='module')
def runs(description):
  """Row -> its run with seed 3."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    planned = sweep_runs.plan(description, Path('out'), resolve, seeds=(3,), data=Path('there'))
  return {run.name: run for run in planned}


def test_rows(runs):
  assert set(runs) == set(ROWS)
  for name, (groups, names, start) in ROWS.items():
    run = runs[name]
    assert (run.groups, set(run.resolved['datasets'])) == (groups, set(names))
    assert set(run.resolved['tasks']) == set(names)
    assert run.after == ((runs[start].workdir,) if start else ())
    assert run.resolved['init_from']['path'] == (str(runs[start].workdir) if start else '')
    for each in names:
      assert run.resolved['datasets'][each]['dir'] == f'there/{each}'
    if 'actors' in names:
      protocol = run.resolved['tasks']['actors']['protocol']
      assert protocol['class_groups'] == 'there/actors/class_groups.csv'
  drawn = {name: run.resolved['mixture']['sampling'] for name, run in runs.items()}
  assert drawn == {**dict.fromkeys(ROWS, 'weighted'), 'alternating': 'alternating'}


def test_the_stages_of_transfer_take_as_many_steps_as_cofinetuning(runs):
  def steps(name):
    run, start = runs[name], ROWS[name][2]
    examples = {each: SIZES[each] for each in ROWS[name][1]}
    own = lengths(parse(run.resolved), examples).total
    return own + (steps(start) if start else 0)

  assert steps('actions -> actors') == steps('actions + actors') == 800
  three = ('actions -> stars -> actors', 'stars -> actions -> actors', 'actions + stars + actors')
  assert [steps(name) for name in (*three, 'alternating')] == [1000] * 4


def test_sizes_are_those_that_are_written(description, monkeypatch):
  written = {}

  def write(folder, *_, train, test):
    written[folder.name] = train

  for module, names in (
    (demo_actors, ('write_actions', 'write_actors')),
    (demo_relations, ('write',)),
  ):
    for name in names:
      monkeypatch.setattr(module, name, write)
  description.prepare(Path('there'))
  assert written == SIZES


def test_claims_are_about_rows_of_their_tables(description):
  for one, other, label, table in description.claims:
    assert label in description.metrics
    assert table in ROWS[one][0] and table in ROWS[other][0]
    metric = description.metrics[label].rpartition('/')[2]
    assert metric in ROWS[one][1] and metric in ROWS[other][1]


def test_a_stage_may_be_datasets():
  assert set(demo.get_config('stage=stars+actors').datasets) == {'stars', 'actors'}
  assert demo.get_config('stage=stars+actors').name == 'cofinetune/demo_stars+actors'
  for stage in ('stars+stars', 'stars+', 'moons', ''):
    with pytest.raises(ValueError, match=r'Unknown stage .*; known: .*comets'):
      demo.get_config(f'stage={stage}')
