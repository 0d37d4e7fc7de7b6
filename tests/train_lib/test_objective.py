"""An objective with parameters of its own: trained and kept with the model's, absent at inference."""

import contextlib
import json

import jax
import numpy as np
import pytest
from test_mixtures import mix_two

from errors import CheckpointMismatchError, ConfigError
from tests.train_lib.conftest import make_tiny_config
from tools import checkpoint as checkpoint_tool
from tools import summary
from train_lib import checkpoint, cost, initial, params_file, run
from train_lib.pretrained import load_pretrained
from train_lib.state import model_params

OWN = {
  'objective/expander/Dense_0/bias', 'objective/expander/Dense_0/kernel',
  'objective/expander/Dense_1/bias', 'objective/expander/Dense_1/kernel',
  'objective/from_a/to_b', 'objective/from_b/to_a',
  'objective/log_sigma_a', 'objective/log_sigma_b',
}  # fmt: skip


def multitrain(data_dir):
  config = mix_two(make_tiny_config(data_dir))
  config.duration = '2 steps'
  config.evaluation.every = 'never'
  config.mixture.sampling = 'mixed'
  config.ema_decay = 0.5
  config.objective = {
    'name': 'projects.multitrain.objective:MultiTrain', 'expander_size': 8,
  }  # fmt: skip
  return config


def plain(data_dir):
  config = multitrain(data_dir)
  config.objective = {'name': 'train_lib.objective:WeightedSum'}
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory, demo_data_dir):
  """The folder of a finished run of two steps."""
  workdir = tmp_path_factory.mktemp('runs') / 'multitrain'
  run.run('train', multitrain(demo_data_dir), str(workdir))
  return workdir


def paths(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


def own(params):
  return {path for path in paths(params) if path.startswith('objective')}


def test_its_parameters_train_and_are_averaged(trained, build, demo_data_dir):
  program, *_ = build(multitrain(demo_data_dir))
  start = program.init()
  assert own(start.params) == own(start.ema_params) == OWN
  assert not own(start.eval_variables['params'])
  with contextlib.closing(checkpoint.CheckpointReader(trained)) as reader:
    state = reader.restore(2, program.abstract_state)
  for part in (state.params, state.ema_params):
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), start.params, part)
    assert all(jax.tree.leaves(moved['objective']))
  assert len({float(x.params['objective']['log_sigma_a']) for x in (start, state)}) == 2
  line = json.loads((trained / 'metrics.jsonl').read_text().splitlines()[0])
  terms = {'variance', 'covariance', 'loss/a', 'loss/b', 'sigma/a', 'sigma/b'}
  assert {f'train/{term}' for term in terms} < line.keys()


def test_an_objective_without_parameters_has_no_key(build, demo_data_dir):
  program, *_ = build(plain(demo_data_dir))
  assert {key.partition('_')[0] for key in program.abstract_state.params} == {'trunk', 'heads'}


def report_of(config, build, source, **options):
  config.init_from.update({'path': str(source), **options})
  program, *_ = build(config)
  weights = initial.read_weights(program)
  _, report = load_pretrained(
    program.abstract_state.params,
    weights,
    grid=program.position_grid,
    options=program.experiment.init_from,
  )
  rows = [row for row in report.rows if 'objective/' in row.target + row.source]
  return {status: {row.target or row.source for row in rows if row.status == status}
          for status in {row.status for row in rows}}  # fmt: skip


def test_a_run_starts_from_one_with_the_same_objective(trained, build, demo_data_dir):
  config = multitrain(demo_data_dir)
  assert report_of(config, build, trained, load_head=True) == {'loaded': OWN}
  # Without the heads there is nothing that the objective's parameters belong to.
  config = multitrain(demo_data_dir)
  assert report_of(config, build, trained) == {'new': OWN, 'skipped': OWN}
  config = multitrain(demo_data_dir)
  config.objective.expander_size = 16
  other = {path for path in OWN if 'expander' in path} - {'objective/expander/Dense_1/bias'}
  assert report_of(config, build, trained, load_head=True) == {
    'loaded': OWN - other, 'new': other, 'skipped': other,
  }  # fmt: skip


def test_a_run_starts_from_one_with_another_objective(trained, build, demo_data_dir, tmp_path):
  config = plain(demo_data_dir)
  assert report_of(config, build, trained, load_head=True) == {'skipped': OWN}
  params_file.write(tmp_path / 'model.npz', *checkpoint.load_params(str(trained)))
  config = multitrain(demo_data_dir)
  assert report_of(config, build, tmp_path / 'model.npz', load_head=True) == {'new': OWN}


def test_what_is_exported_is_the_model(trained, tmp_path):
  params, meta = checkpoint.load_params(str(trained))
  assert own(params) == OWN
  size = params_file.write(tmp_path / 'model.npz', params, meta)
  with np.load(tmp_path / 'model.npz') as archive:
    names = {name for name in archive.files if not name.startswith('__')}
  assert names == paths(params) - OWN
  shown = checkpoint_tool.describe(params, meta).splitlines()
  assert f'parameters    {size:,}, in training {cost.count(params):,}' in shown
  assert any(line.startswith('objective/from_a/to_b') for line in shown)


def test_evaluation_does_without_it(trained, build, demo_data_dir):
  """Another config's objective, or none, does not matter; going on with another one is refused."""
  program, *_ = build(plain(demo_data_dir))
  with contextlib.closing(checkpoint.CheckpointReader(trained)) as reader:
    state = reader.restore_for_evaluation(2, program.abstract_state)
    with pytest.raises(CheckpointMismatchError, match=r'\+ params/objective/from_a/to_b \(8, 8\)'):
      reader.restore(2, program.abstract_state)
  assert paths(state.params) == paths(program.abstract_state.params)
  same, *_ = build(multitrain(demo_data_dir))
  with contextlib.closing(checkpoint.CheckpointReader(trained)) as reader:
    whole = reader.restore(2, same.abstract_state)
    state = reader.restore_for_evaluation(2, same.abstract_state)
  assert not own(state.params)
  for key in ('params', 'ema_params'):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(state, key), model_params(getattr(whole, key))
    )


def test_the_summary_counts_both_ways(demo_data_dir):
  values, table = summary.summarise(multitrain(demo_data_dir))
  alone, plain_table = summary.summarise(plain(demo_data_dir))
  width, hidden, classes = 16, 8, 8
  added = 2 * width * hidden + hidden + width + 2 * classes**2 + 2
  assert values['parameters'] == alone['parameters'] == alone['training_parameters']
  assert values['training_parameters'] == values['parameters'] + added
  assert f'parameters       {values["parameters"]:,}, in training' in table
  assert 'in training' not in plain_table
  for name in ('a', 'b'):
    flops, without = values['datasets'][name], alone['datasets'][name]
    assert flops['gflops_per_view'] == without['gflops_per_view']
    assert without['gflops_per_view'] == without['training_gflops_per_view']


def test_a_forward_pass_costs_more_in_training(build, demo_data_dir):
  program, *_ = build(multitrain(demo_data_dir))
  result = cost.cost_of(program.experiment, program.facts, 'a')
  products = 2 * 16 * 8 + 2 * 8 * 8 + 16 * 8 + 16 * 16  # expander, projections, head b, covariance
  elementwise = 1500
  assert products < result.training[1] - result.flops < products + elementwise


def test_what_it_cannot_train_is_said_before(build, demo_data_dir):
  config = multitrain(demo_data_dir)
  config.grad_accumulation = 8
  with pytest.raises(ConfigError, match='parts of one example, which has no variance'):
    build(config)


def test_terms_of_a_task_do_not_count_where_it_has_no_label(build, demo_data_dir):
  program, *_ = build(multitrain(demo_data_dir))
  state = program.init()
  before = jax.device_get(state.params)
  size = program.experiment.batch_size
  rng = np.random.default_rng(0)
  batch = {
    'inputs': rng.integers(0, 256, program.abstract_batch('a')['inputs'].shape, np.uint8),
    'label': {name: np.arange(size, dtype=np.int32) for name in ('a', 'b')},
    'label_mask': {'a': np.ones(size, np.float32), 'b': np.zeros(size, np.float32)},
    'batch_mask': np.ones(size, np.float32),
    'row': np.arange(size),
  }
  state, metrics = program.train_step(state, program.to_device(batch))
  for term in ('loss', 'sigma'):
    assert [float(x) for x in metrics[f'{term}/b']] == [0.0, 0.0]
    assert float(metrics[f'{term}/a'][0]) > 0
  assert all(np.isfinite(float(value)) for value, _ in metrics.values())
  after = state.params['objective']
  assert float(after['log_sigma_b']) == 0 != float(after['log_sigma_a'])
  assert (after['from_b']['to_a'] != before['objective']['from_b']['to_a']).any()
