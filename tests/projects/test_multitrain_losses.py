"""Every recorded value and gradient of the authors' losses; some cases put our parts together their way.

Cases are in tests/fixtures/multitrain (see PROVENANCE.md) and, where it exists, in the larger
collection named by TUBELET_FIXTURES or found beside the checkout.
"""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.features import Features
from projects.multitrain import losses
from projects.multitrain.objective import MultiTrain
from train_lib import mixing
from train_lib.configuration import Component
from train_lib.experiment import TaskConfig
from train_lib.losses import sigmoid_cross_entropy, smooth_labels, softmax_cross_entropy
from train_lib.objective import ModelOutputs

COMMITTED = pathlib.Path(__file__).parents[1] / 'fixtures'
COLLECTION = pathlib.Path(
  os.environ.get('TUBELET_FIXTURES', COMMITTED.parents[2] / 'shared' / 'fixtures')
)
FOLDERS = [COLLECTION / 'multitrain', COMMITTED / 'multitrain']
MODELS = sorted({p.name.split('.')[0] for f in FOLDERS for p in f.glob('multitrain_*ds.*.npz')})
VARIANTS = json.loads((FOLDERS[1] / 'losses.json').read_text())['multihead_variants']
HEAD = Component('models.heads:LinearHead', {})
# Prefix of a model's recorded values and gradients, and the `projection` they are of.
RECORDED = [('released', 'separate'), ('no_cross_proj', 'none'), ('paper_add_mtl', 'added')]


@functools.cache
def read(name):
  """All arrays of a fixture, from whatever files it is in."""
  paths = [p for f in FOLDERS for p in sorted(f.glob(f'{name}*.npz'))]
  return {key: x for path in paths for key, x in np.load(path).items()}


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


def learned(embeddings, sigma_sq):
  """Both losses with weights of their own, as the released code can learn them."""
  terms = (losses.variance_loss(embeddings), losses.covariance_loss(embeddings))
  return sum(losses.uncertainty_weighted(x, 0.5 * jnp.log(s)) for x, s in zip(terms, sigma_sq))


def released_informative(embeddings):
  return 25 * losses.variance_loss(embeddings) + losses.covariance_loss(embeddings)


@pytest.mark.parametrize('case', ['inf0', 'inf1', 'inf2'])
def test_informative_losses_and_their_gradients(case):
  arrays = read('losses')
  embeddings, sigma_sq = arrays[f'{case}/emb'], arrays[f'{case}/sigma_sq']
  terms = {
    'std_loss': losses.variance_loss,
    'cov_loss': losses.covariance_loss,
    'released_25std_1cov': released_informative,
    'learned': functools.partial(learned, sigma_sq=sigma_sq),
  }
  for name, function in terms.items():
    value, gradient = jax.value_and_grad(function)(embeddings)
    close(value, arrays[f'{case}/{name}_f64'])
    close(gradient, arrays[f'{case}/grad_emb/{name}_f64'])
  close(0.1 * released_informative(embeddings), arrays[f'{case}/train_term_0.1x_f64'])
  gradient = jax.grad(learned, 1)(embeddings, sigma_sq)
  close(gradient, arrays[f'{case}/grad_sigma_sq_f64'])


@pytest.mark.parametrize('case', ['inf0', 'inf1', 'inf2'])
def test_what_the_printed_equation_2_would_give(case):
  """Pins how far the DEVIATION is from the paper's text."""
  arrays = read('losses')
  x = arrays[f'{case}/emb'].astype(np.float64)
  squares = np.square(x - x.mean(0)).sum(0)
  n, d = x.shape
  for divisor, name in ((d - 1, 'std_loss_eq2_divide_by_d-1'), (n - 1, 'std_loss_n-1')):
    printed = np.maximum(0, 1 - np.sqrt(squares / divisor) + 1e-4).mean()
    close(printed, arrays[f'{case}/paper_literal/{name}_eps_outside'])
    assert abs(printed - float(losses.variance_loss(x))) > 1e-5


def multihead(predictions, sigma_sq, labels, masks, options):
  """The authors' sum over datasets: of sums, over all examples, with their weights of datasets."""
  options = {'MULTI_ADD_CROSS_PROJ': True, 'MULTI_PROJ_LOSS_WEIGHT': 1.0, **options}
  weight, total, size = options['MULTI_PROJ_LOSS_WEIGHT'], 0.0, len(next(iter(masks.values())))
  kinds = options.get('MULTI_LOSS_FUNCS', ['soft_cross_entropy'] * len(masks))
  for k, (name, kind) in enumerate(zip(masks, kinds)):
    logits, real = predictions[name], jnp.ones(size)
    projected = [x for key, x in predictions.items() if key.endswith(f'_{name}')]
    added = options.get('MULTI_CROSS_PROJ_ADD_TO_PRED', False)
    if projected and added:
      logits = losses.added_logits(logits, projected, weight)
    values = softmax_cross_entropy(logits, labels[name])
    if kind == 'bce_logit':
      values = sigmoid_cross_entropy(logits, labels[name]) / logits.shape[-1]
    if projected and not added:
      others = [softmax_cross_entropy(x, labels[name]) for x in projected]
      values += weight * sum(others) / len(others)
    if options.get('MULTI_USE_MTL_WEIGHT', False):
      summed = jnp.sum(masks[name] * values)
      total += losses.uncertainty_weighted(summed, 0.5 * jnp.log(sigma_sq[k])) / size
    else:
      own = options.get('MULTI_LOSS_WEIGHTS', [1.0] * len(masks))[k]
      total += own * losses.average_loss(values, masks[name], real, 'batch')
  return total


@pytest.mark.parametrize('variant', VARIANTS)
def test_losses_of_several_heads_and_their_gradients(variant):
  arrays, description = read('losses'), VARIANTS[variant]
  options, kind = description['MODEL_overrides'], description['labels']
  names = ['kinetics', 'mit', 'ssv2']
  predictions = {name: arrays[f'mh/logits/{name}'] for name in names}
  if options.get('MULTI_ADD_CROSS_PROJ', True):
    predictions |= {k.removeprefix('mh/cross/'): x for k, x in arrays.items() if 'mh/cross/' in k}
  masks = {name: arrays[f'mh/masks/{name}'] for name in names}
  if 'absent' in variant:
    masks['ssv2'] = arrays['mh/masks_last_absent/ssv2']
    assert not masks['ssv2'].any()
  labels = {name: arrays[f'{kind}/{name}'] for name in names}
  value, (gradients, of_sigma) = jax.value_and_grad(multihead, (0, 1))(
    predictions, arrays['mh/sigma_sq'], labels, masks, options
  )
  close(value, arrays[f'mhloss/{variant}_f64'])
  recorded = {k.rpartition('/')[2]: x for k, x in arrays.items() if f'mhgrad/{variant}/' in k}
  assert recorded.keys() - {'sigma_sq'} == predictions.keys()
  for name, gradient in {**gradients, 'sigma_sq': of_sigma}.items():
    if name in recorded:
      close(gradient, recorded[name])


def test_the_whole_released_objective():
  arrays = read('losses')
  total = arrays['mhloss/cross_separate_w1(released)_f64']
  total += 0.1 * released_informative(arrays['inf0/emb'])
  close(total, arrays['total/released_multihead_plus_0.1_inf0'])


def test_mixup_of_smoothed_labels():
  arrays = read('losses')
  smoothed = smooth_labels(jax.nn.one_hot(arrays['mixup_int/labels'], 5), 0.1)
  _, mixed = mixing.mix_with_reverse(
    jnp.zeros(6), {'task': smoothed}, 1.0, arrays['mixup_int/lam'].astype(np.float32)
  )
  close(mixed['task'], arrays['mixup_int/targets_C5_s0.1'])


def recorded_outputs(arrays):
  names = [key.removeprefix('masks/') for key in arrays if key.startswith('masks/')]
  pooled = jnp.zeros((len(arrays[f'masks/{names[0]}']), 1))
  return ModelOutputs(
    Features(pooled[:, None], pooled, (1, 1, 1)),
    {name: arrays[f'train/out/{name}'] for name in names},
    {name: arrays[f'labels/{name}'] for name in names},
    {name: arrays[f'masks/{name}'] for name in names},
  )


def projections(arrays):
  """The recorded weights [C_k, C_i] as our parameters."""
  params = {}
  for key, x in arrays.items():
    if key.startswith('head.cross_dataset_heads.'):
      source, target = key.split('.')[2].split('_')
      params.setdefault(f'from_{source}', {})[f'to_{target}'] = x.T
  return params


def recorded_objective(tasks, projection, variance_weight, covariance_weight):
  return MultiTrain(
    {name: TaskConfig(name, 'label', HEAD) for name in tasks},
    projection=projection,
    variance_weight=variance_weight,
    covariance_weight=covariance_weight,
    expander_size=4096,
    uncertainty=False,
    average='batch',
  )


def recorded_total(objective, params, outputs, sigma_sq):
  """The objective's loss; where logits are added, with the authors' weights of datasets."""
  loss, terms = objective.apply({'params': params}, outputs)
  if objective.projection != 'added':
    return loss
  # In place of means theirs weights sums, and divides log sigma, too, by the size of the batch.
  sums = [terms[f'loss/{name}'] * mask.sum() for name, mask in outputs.masks.items()]
  weighted = [losses.uncertainty_weighted(x, jnp.log(s) / 2) for x, s in zip(sums, sigma_sq)]
  return loss + (sum(weighted) - sum(sums)) / len(outputs.features.pooled)


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize(('variant', 'projection'), RECORDED)
def test_the_objective_on_a_models_recorded_outputs(model, variant, projection):
  arrays = read(model)
  outputs = recorded_outputs(arrays)
  objective = recorded_objective(outputs.masks, projection, 0.0, 0.0)

  def total(params, sigma_sq):
    return recorded_total(objective, params, outputs, sigma_sq)

  params = projections(arrays) if projection != 'none' else {}
  value, (gradients, of_sigma) = jax.value_and_grad(total, (0, 1))(params, arrays['sigma_sq'])
  assert value == pytest.approx(arrays[f'loss/{variant}/multihead_f64'], rel=1e-5)
  compared = 0
  for key, expected in arrays.items():
    if key.startswith(f'{variant}/head.cross_dataset_heads.'):
      source, target = key.split('.')[2].split('_')
      actual = gradients[f'from_{source}'][f'to_{target}'].T
      assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
      compared += 1
  assert (compared > 0) == (projection != 'none')
  if projection == 'added':
    np.testing.assert_allclose(of_sigma, arrays[f'{variant}/sigma_sq'], rtol=1e-4)
  informative = 0.1 * released_informative(arrays['train/out/expander'])
  assert informative == pytest.approx(arrays[f'loss/{variant}/informative_weighted_f64'], rel=1e-5)
