"""What ViViT's ablations train, from what weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs.vivit import demo_ablations as config
from datasets import demo, demo_scenes
from tools.sweep import resolve
from train_lib import cost, sweep, sweep_runs
from train_lib.experiment import DataFacts, parse
from train_lib.mesh import make_mesh
from train_lib.pretrained import load_pretrained
from train_lib.program import build_program

ROOT = Path(__file__).parents[2]
INPUTS, MODELS, LAYERS = (
  'Table 1: input encoding',
  'Table 2: model architectures',
  'Table 3: temporal transformer layers',
)
ENCODER = 'factorised_encoder'

# Row -> tables, attention, tokens of time, what becomes of the image model's kernel.
ROWS = {
  'uniform frame sampling': ((INPUTS,), 'spacetime', 3, 'loaded', ''),
  'random initialisation': ((INPUTS,), 'spacetime', 3, 'new', ''),
  'filter inflation': ((INPUTS,), 'spacetime', 3, 'inflated', 'average'),
  'central frame': ((INPUTS,), 'spacetime', 3, 'inflated', 'central_frame'),
  'Model 1': ((MODELS,), 'spacetime', 6, 'inflated', 'central_frame'),
  'average pool, Lt=0': ((MODELS, LAYERS), ENCODER, 6, 'inflated', 'central_frame'),
  'Model 2, Lt=1': ((LAYERS,), ENCODER, 6, 'inflated', 'central_frame'),
  'Model 2, Lt=2': ((MODELS, LAYERS), ENCODER, 6, 'inflated', 'central_frame'),
  'Model 2, Lt=4': ((LAYERS,), ENCODER, 6, 'inflated', 'central_frame'),
  'Model 3': ((MODELS,), 'factorised_self_attention', 6, 'inflated', 'central_frame'),
  'Model 4': ((MODELS,), 'factorised_dot_product', 6, 'inflated', 'central_frame'),
}


@pytest.fixture(scope='module')
def description():
  return sweep.load(str(ROOT / 'sweeps' / 'vivit.py'))


@pytest.fixture(scope='module')
def runs(description):
  """Row -> its run with seed 2."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(ROOT)
    planned = sweep_runs.plan(description, Path('out'), resolve, seeds=(2,), data=Path('there'))
  return {run.name: run for run in planned}


def test_rows(runs):
  assert set(runs) == {'image ViT', *ROWS}
  stills = Path('out/image_ViT/seed2')
  assert (runs['image ViT'].workdir, runs['image ViT'].shown) == (stills, False)
  assert runs['image ViT'].resolved['datasets']['stills']['dir'] == 'there/stills'
  for name, (groups, attention, _, _, _) in ROWS.items():
    run = runs[name]
    assert (run.groups, run.after, run.shown) == (groups, (stills,), True)
    assert run.resolved['trunk']['attention'] == attention
    assert run.resolved['init_from']['path'] == str(stills)
    assert {key: each['dir'] for key, each in run.resolved['datasets'].items()} == {
      'motions': 'there/motions',
      'scenes': 'there/scenes',
    }


def test_rows_differ_in_nothing_else(runs):
  def rest(name):
    plain = {k: v for k, v in runs[name].resolved.items() if k not in ('trunk', 'name')}
    return {**plain, 'init_from': {**plain['init_from'], 'kernel_inflation': ''}}

  assert all(rest(name) == rest('Model 1') for name in ROWS)
  layers = [runs[name].resolved['trunk'] for name in ROWS if LAYERS in ROWS[name][0]]
  assert [trunk['temporal_num_layers'] for trunk in layers] == [0, 1, 2, 4]
  assert all({**trunk, 'temporal_num_layers': 2} == layers[2] for trunk in layers)


def test_claims_are_about_rows_of_their_tables(description):
  for one, other, label, *table in description.claims:
    assert label in ('motions', 'scenes')
    assert set(table or [INPUTS]) <= {*ROWS[one][0]} & {*ROWS[other][0]}


def test_every_seed_has_an_image_vit_of_its_own(description, monkeypatch):
  monkeypatch.chdir(ROOT)
  planned = sweep_runs.plan(description, Path('out'), resolve)
  assert len(planned) == 3 * 12
  assert {run.seed for run in planned} == {1, 2, 3}
  for run in planned:
    assert all(path.name == f'seed{run.seed}' for path in run.after)


def program_of(run):
  names = {
    'stills': demo_scenes.STILLS,
    'motions': demo.CLASSES,
    'scenes': demo_scenes.SCENES,
  }
  experiment = parse(run.resolved)
  tasks = experiment.tasks
  facts = DataFacts(dict.fromkeys(tasks, 640), {task: names[task] for task in tasks}, 'the test')
  return build_program(experiment, facts, make_mesh(experiment.mesh))


@pytest.fixture(scope='module')
def image_vit(runs):
  """Its parameters, as zeros."""
  params = nn.meta.unbox(program_of(runs['image ViT']).abstract_state.params)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)


@pytest.mark.parametrize('name', ROWS)
def test_rows_start_from_the_image_vit(name, runs, image_vit):
  program = program_of(runs[name])
  _, _, tokens, status, how = ROWS[name]
  assert program.position_grid == (tokens, config.SIDE // 8, config.SIDE // 8)
  _, report = load_pretrained(
    program.abstract_state.params,
    image_vit['trunk'],
    grid=program.position_grid,
    options=program.experiment.init_from,
  )
  (kernel,) = [row for row in report.rows if row.target == 'trunk/embedding/kernel']
  assert (kernel.status, how in kernel.how) == (status, True)
  # What only video has is new, and the heads: no block of the image model's is.
  new = [row.target for row in report.rows if row.status == 'new']
  assert not [path for path in new if 'encoderblock' in path and not _of_time(path)]


def _of_time(path):
  return path.startswith('trunk/TemporalTransformer/') or '_time/' in path


def test_costs_are_those_of_the_run_and_alike_for_all_seeds(runs, tmp_path, monkeypatch):
  for seed in (1, 2):
    resolved = {**runs['Model 1'].resolved, 'seed': seed}
    (tmp_path / f'seed{seed}').mkdir()
    (tmp_path / f'seed{seed}' / 'config.json').write_text(json.dumps(resolved))
  facts = DataFacts({}, {'motions': demo.CLASSES, 'scenes': demo_scenes.SCENES}, 'the test')
  counted = []
  monkeypatch.setattr(cost.data, 'facts_or_nominal', lambda e: counted.append(e) or facts)
  found = [cost.metrics_of_run(tmp_path / f'seed{seed}') for seed in (1, 2)]
  assert found[0] == found[1] and len(counted) == 1
  assert found[0]['cost/parameters_millions'] == 0.132496
  assert 0.005 < found[0]['cost/gflops'] < 0.03
