"""The objective against the equations in numpy, on batches that lack things, and what it refuses."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from configs import common
from configs.vivit import demo
from errors import ConfigError
from models.features import Features
from projects.multitrain.objective import MultiTrain
from train_lib import experiment as experiment_lib
from train_lib.configuration import Component
from train_lib.experiment import DataFacts, TaskConfig
from train_lib.objective import ModelOutputs

HEAD = Component('models.heads:LinearHead', {})
TASKS = {'a': TaskConfig('a', 'x', HEAD), 'b': TaskConfig('b', 'x', HEAD, weight=0.5)}
CLASSES = {'a': 3, 'b': 4, 'c': 2}
SIZE, WIDTH = 6, 5


def draw(names=('a', 'b'), seed=0):
  """Outputs of a batch in which each example is of one task."""
  rng = np.random.default_rng(seed)
  pooled = rng.normal(size=(SIZE, WIDTH)).astype(np.float32)
  owner = np.arange(SIZE) % len(names)
  hot = {name: np.eye(CLASSES[name])[rng.integers(0, CLASSES[name], SIZE)] for name in names}
  return ModelOutputs(
    Features(pooled[:, None], pooled, (1, 1, 1)),
    {name: 2 * rng.normal(size=(SIZE, CLASSES[name])).astype(np.float32) for name in names},
    {name: x.astype(np.float32) for name, x in hot.items()},
    {name: np.float32(owner == i) for i, name in enumerate(names)},
  )


def make(tasks=None, **fields):
  return MultiTrain(TASKS if tasks is None else tasks, expander_size=7, **fields)


def shapes_of(objective, outputs):
  abstract = jax.eval_shape(objective.init, jax.random.key(0), outputs)
  return flax.core.meta.unbox(abstract)['params']


def init(objective, outputs):
  """Parameters of a size that makes every term count."""
  params = shapes_of(objective, outputs)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: 0.7 * rng.normal(size=x.shape).astype(np.float32), params)


def both(objective, params, outputs):
  """(loss, terms), and the gradients with respect to parameters, logits and features."""

  @jax.jit
  def run(params, logits, pooled):
    features = dataclasses.replace(outputs.features, pooled=pooled)
    changed = dataclasses.replace(outputs, features=features, logits=logits)
    return objective.apply({'params': params}, changed)

  run = jax.value_and_grad(run, (0, 1, 2), has_aux=True)
  return run(params, outputs.logits, outputs.features.pooled)


def expected(params, outputs, projection, average):
  """Loss and terms as the paper writes them, in float64; all masks are 0 or 1."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  e = p['expander']
  z = np.asarray(outputs.features.pooled, np.float64)
  x = z @ e['Dense_0']['kernel'] + e['Dense_0']['bias']
  x = x * special.ndtr(x) @ e['Dense_1']['kernel'] + e['Dense_1']['bias']  # exact GELU
  covariance = np.cov(x.T)
  deviation = np.sqrt(np.diag(covariance) + 1e-4)
  off = covariance - np.diag(np.diag(covariance))
  terms = {
    'variance': np.maximum(0, 1 - deviation).mean(),
    'covariance': np.square(off).sum() / WIDTH,
  }
  total = 2.0 * terms['variance'] + 3.0 * terms['covariance']
  for name, other in (('a', 'b'), ('b', 'a')):
    logits = np.asarray(outputs.logits[name], np.float64)
    projected = np.asarray(outputs.logits[other], np.float64) @ p[f'from_{other}'][f'to_{name}']
    own = outputs.masks[name] > 0

    def loss(scores, own=own, targets=outputs.targets[name]):
      return -(targets * special.log_softmax(scores, -1)).sum(-1)[own].mean()

    if projection == 'added':
      terms[f'loss/{name}'] = combined = loss(logits + 0.3 * projected)
    else:
      terms[f'loss/{name}'], terms[f'projection/{name}'] = loss(logits), loss(projected)
      combined = terms[f'loss/{name}'] + 0.3 * terms[f'projection/{name}']
    combined *= TASKS[name].weight * (1.0 if average == 'dataset' else own.mean())
    sigma = terms[f'sigma/{name}'] = np.exp(p[f'log_sigma_{name}'])
    total += combined / (2 * sigma**2) + np.log(sigma)
  return total, terms


@pytest.mark.parametrize(('projection', 'average'), [('added', 'dataset'), ('separate', 'batch')])
def test_it_is_equations_2_to_6(projection, average):
  objective = make(
    projection=projection,
    average=average,
    projection_weight=0.3,
    variance_weight=2.0,
    covariance_weight=3.0,
  )
  outputs = draw()
  params = init(objective, outputs)
  (loss, terms), gradients = both(objective, params, outputs)
  total, parts = expected(params, outputs, projection, average)
  assert terms.keys() == parts.keys()
  assert {name: float(x) for name, x in terms.items()} == pytest.approx(parts, rel=1e-5)
  assert float(loss) == pytest.approx(total, rel=1e-5)
  # Every example trains every head: its own, and those that project to it.
  assert all(np.abs(x).min() > 0 for x in gradients[1].values())


def test_parts_that_are_off_have_no_parameters():
  objective = make(projection='none', variance_weight=0.0, covariance_weight=0.0, uncertainty=False)
  outputs = draw()
  assert objective.init(jax.random.key(0), outputs) == {}
  loss, terms = objective.apply({}, outputs)
  assert terms.keys() == {'loss/a', 'loss/b'}
  assert float(loss) == pytest.approx(float(terms['loss/a'] + 0.5 * terms['loss/b']), rel=1e-6)


def test_sigma_begins_at_one():
  outputs = draw()
  (_, terms), _ = jax.jit(make().init_with_output)(jax.random.key(0), outputs)
  assert [float(terms[f'sigma/{name}']) for name in TASKS] == [1.0, 1.0]


def test_statistics_are_float32_whatever_the_features_are():
  outputs = draw()
  half = outputs.features.pooled.astype(jnp.bfloat16)
  of_half, of_rounded = (
    dataclasses.replace(outputs, features=dataclasses.replace(outputs.features, pooled=x))
    for x in (half, half.astype(jnp.float32))
  )
  objective = make()
  params = init(objective, outputs)
  (loss, terms), gradients = both(objective, params, of_half)
  (same, _), of_params = both(objective, params, of_rounded)
  assert {x.dtype for x in (loss, *terms.values())} == {np.dtype('float32')}
  assert float(loss) == float(same)
  jax.tree.map(np.testing.assert_array_equal, gradients[0], of_params[0])


def extended(outputs, rows, value):
  """The outputs with `rows` examples of padding, whose numbers are `value`."""

  def pad(x, fill):
    return np.concatenate([x, np.full((rows, *x.shape[1:]), fill, x.dtype)])

  longer = {
    field: {k: pad(x, fill) for k, x in getattr(outputs, field).items()}
    for field, fill in (('logits', value), ('targets', 0), ('masks', 0))
  }
  pooled = pad(outputs.features.pooled, value)
  return ModelOutputs(Features(pooled[:, None], pooled, (1, 1, 1)), **longer)


@pytest.mark.parametrize('average', ['dataset', 'batch'])
def test_padding_enters_nothing(average):
  objective, outputs = make(average=average), draw()
  params = init(objective, outputs)
  (loss, terms), gradients = both(objective, params, outputs)
  (padded_loss, padded_terms), padded = both(objective, params, extended(outputs, 3, 9.0))
  assert float(padded_loss) == pytest.approx(float(loss), rel=1e-6)
  for name, value in terms.items():
    assert float(padded_terms[name]) == pytest.approx(float(value), rel=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), gradients[0], padded[0]
  )
  assert all((x[SIZE:] == 0).all() for x in (*padded[1].values(), padded[2]))


@pytest.mark.parametrize('projection', ['added', 'separate'])
def test_a_batch_that_lacks_a_dataset(projection):
  objective, outputs = make(projection=projection), draw()
  params = init(objective, outputs)
  ones, zeros = np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32)
  outputs = dataclasses.replace(outputs, masks={'a': ones, 'b': zeros})
  (loss, terms), gradients = both(objective, params, outputs)
  assert float(terms['loss/b']) == 0 == float(terms.get('projection/b', 0))
  assert np.isfinite(float(loss))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
  # Nothing is learned of what there is no example of.
  assert (gradients[0]['from_a']['to_b'] == 0).all()
  assert float(gradients[0]['log_sigma_b']) == 0 != float(gradients[0]['log_sigma_a'])
  without = dataclasses.replace(outputs, targets={**outputs.targets, 'b': 9 * outputs.targets['b']})
  assert float(objective.apply({'params': params}, without)[0]) == pytest.approx(float(loss))


@pytest.mark.parametrize('carried', [0, 1])
def test_a_batch_of_one_example_or_none_is_finite(carried):
  """Training refuses such batches, but padding may leave a host's last one like this."""
  objective, outputs = make(), draw()
  params = init(objective, outputs)
  mask = np.float32(np.arange(SIZE) < carried)
  outputs = dataclasses.replace(outputs, masks={'a': mask, 'b': 0 * mask})
  (loss, terms), gradients = both(objective, params, outputs)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, terms, gradients)))
  assert float(terms['covariance']) == 0


def test_names_of_tasks_that_would_run_together():
  names = ('a', 'a_b', 'b_c', 'c', 'name', 'expander')
  tasks = {name: TaskConfig(name, 'x', HEAD) for name in names}
  rng = np.random.default_rng(0)
  logits = {name: rng.normal(size=(SIZE, 2 + i)) for i, name in enumerate(names)}
  outputs = dataclasses.replace(
    draw(),
    logits=logits,
    targets=logits,
    masks=dict.fromkeys(names, np.ones(SIZE, np.float32)),
  )
  params = shapes_of(make(tasks), outputs)
  shapes = {
    (source, target): params[f'from_{source}'][f'to_{target}'].shape
    for source in names
    for target in names
    if source != target
  }
  assert shapes == {
    (s, t): (logits[s].shape[1], logits[t].shape[1]) for s in names for t in names if s != t
  }


def test_tasks_of_one_dataset_do_not_project_to_each_other():
  tasks = {'a': TASKS['a'], 'b': TaskConfig('a', 'y', HEAD), 'c': TaskConfig('c', 'x', HEAD)}
  outputs = draw(('a', 'b', 'c'))
  params = shapes_of(make(tasks), outputs)
  pairs = {(s, t) for s, to in params.items() if s.startswith('from_') for t in to}
  assert pairs == {
    ('from_a', 'to_c'), ('from_b', 'to_c'), ('from_c', 'to_a'), ('from_c', 'to_b'),
  }  # fmt: skip


def test_tasks_of_several_labels_take_part():
  tasks = {'a': TASKS['a'], 'b': TaskConfig('b', 'x', HEAD, loss='sigmoid')}
  objective, outputs = make(tasks, projection='separate'), draw()
  outputs.targets['b'][:] = 1.0
  params = init(objective, outputs)
  _, terms = objective.apply({'params': params}, outputs)
  projected = outputs.logits['a'] @ params['from_a']['to_b']
  own = outputs.masks['b'] > 0
  losses = -special.log_expit(projected.astype(np.float64)).sum(-1)[own]
  assert float(terms['projection/b']) == pytest.approx(losses.mean(), rel=1e-5)


def check(change, classes=2):
  """Checks the objective in a config of two datasets `a` and `b` in mixed batches."""
  config = demo.get_config()
  dataset, task = config.datasets.demo, config.tasks.motion
  config.datasets = {name: dataset for name in TASKS}
  config.tasks = {name: {**task, 'dataset': name} for name in TASKS}
  config.objective = {'name': 'projects.multitrain.objective:MultiTrain', 'variance_weight': 1.0}
  config.mixture.sampling = 'mixed'
  config.checkpoint.best_metric = ''
  with config.unlocked():
    change(config)
  experiment = experiment_lib.parse(config)
  names = {'a': ('run', 'walk'), 'b': ('jump', 'sit')[:classes]}
  MultiTrain.check(experiment, DataFacts({}, names, 'the test'))


def alone(config):
  del config.datasets['b'], config.tasks['b']


def boxes(config):
  alone(config)
  config.tasks.a = common.detection_task('a', 'motion')
  config.datasets.a.boxes = common.boxes(4)
  config.datasets.a.update({'temporal_views': 1, 'clip': {'sampling': 'keyframe'}})
  config.mixture.sampling = 'weighted'
  config.objective.projection = 'none'


@pytest.mark.parametrize(
  ('change', 'classes', 'message'),
  [
    (lambda c: None, 1, r"`tasks.b` has one class, 'jump', in the test.*Leave `datasets.b` out"),
    (lambda c: c.update({'batch_size': 1}), 2, r'`batch_size` 1 in `grad_accumulation` 1 parts'),
    (
      lambda c: c.update({'batch_size': 4, 'grad_accumulation': 4}),
      2,
      r'parts of one example, which has no variance. Use at least two',
    ),
    (boxes, 2, r'`tasks.a` has a head on boxes'),
    (lambda c: c.mixture.update({'sampling': 'weighted'}), 2, r"is 'weighted', .* to 'mixed'"),
    (alone, 2, r"`objective.projection` is 'added', but .* one dataset, 'a'.* Set it to 'none'"),
    (lambda c: c.objective.update({'projection': 'add'}), 2, r'Did you mean `added`'),
    (lambda c: c.objective.update({'projection_weight': -1.0}), 2, r'objective.projection_weight'),
    (lambda c: c.objective.update({'expander_size': 0}), 2, r'objective.expander_size'),
    (
      lambda c: c.tasks.a.update({'weight': 0.0}),
      2,
      r'`tasks.a.weight` is 0 .* would fall without end',
    ),
    (lambda c: c.objective.update({'tasks': {}}), 2, r'`objective.tasks` follows from the rest'),
  ],
)
def test_what_cannot_be_trained(change, classes, message):
  with pytest.raises(ConfigError, match=message):
    check(change, classes)


def test_what_can_be_trained():
  check(lambda c: None)
  without = {'variance_weight': 0.0, 'covariance_weight': 0.0}
  check(lambda c: (c.objective.update(without), c.update({'batch_size': 1})))
  check(lambda c: (alone(c), c.objective.update({'projection': 'none'})))
