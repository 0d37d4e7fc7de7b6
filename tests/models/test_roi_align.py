"""ROI-Align against torchvision's numbers and against a plain loop."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import ConfigError
from models.roi_align import roi_align

FIXTURE = pathlib.Path(__file__).parents[1] / 'fixtures' / 'torchvision_roi_align.npz'
ABOUT = json.loads(FIXTURE.with_suffix('.json').read_text())
CASES = {case['array']: case for case in ABOUT['cases']}


@pytest.fixture(scope='module')
def arrays():
  return dict(np.load(FIXTURE))


@pytest.fixture(scope='module')
def inputs(arrays):
  """Features [2, 14, 14, 5] and boxes [2, 9, 4] of the fixture in our order."""
  images, corners = arrays['rois'][:, 0], arrays['rois'][:, [2, 1, 4, 3]]
  assert (images == np.repeat([0, 1], 9)).all()
  return np.moveaxis(arrays['features'], 1, -1), (corners / 16).reshape(2, 9, 4)


def options(case):
  return {
    'output_size': tuple(case['output_size']),
    'sampling_ratio': case['sampling_ratio'],
    'aligned': case['aligned'],
  }


@pytest.fixture(scope='module')
def results(inputs):
  """Every setting's result as torchvision lays it out, [18, 5, ph, pw], from one program."""

  @jax.jit
  def every(features, boxes):
    return {name: roi_align(features, boxes, **options(case)) for name, case in CASES.items()}

  out = jax.device_get(every(*inputs))
  return {name: np.moveaxis(x.reshape(18, *x.shape[2:]), -1, 1) for name, x in out.items()}


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, **ABOUT['tolerance'])


def test_fixture_has_every_setting():
  settings = {(*o['output_size'], o['sampling_ratio'], o['aligned']) for o in CASES.values()}
  sizes = ((7, 7), (1, 1), (3, 5))
  ratios = (-1, 0, 1, 2, 3)
  assert settings == {(*size, r, a) for size in sizes for r in ratios for a in (True, False)}


@pytest.mark.parametrize('name', CASES)
def test_torchvision(name, arrays, results):
  close(results[name], arrays[name])


def test_torchvision_pooled(arrays, results):
  cells = results['out_7x7_sr0_aligned1']
  close(cells.max(axis=(2, 3)), arrays['slowfast_head_maxpool'])
  close(cells.mean(axis=(2, 3)), arrays['mean_of_7x7_sr0_aligned1'])


def test_torchvision_gradient(arrays, inputs):
  name = 'out_3x5_sr2_aligned1'
  weights = np.moveaxis(arrays[f'grad_weights_{name}'], 1, -1).reshape(2, 9, 3, 5, 5)
  loss = lambda *x: (roi_align(*x, **options(CASES[name])) * weights).sum()  # noqa: E731
  gradient, to_boxes = jax.jit(jax.grad(loss, argnums=(0, 1)))(*inputs)
  close(np.moveaxis(gradient, -1, 1), arrays[f'grad_features_{name}'])
  np.testing.assert_array_equal(to_boxes, 0.0)


def looped(features, box, output_size, ratio, aligned):
  """The definition in float64, one sample at a time: features [H, W], box [4] -> [ph, pw]."""
  limits = features.shape
  offset = 0.5 if aligned else 0.0
  start = [box[axis] - offset for axis in (0, 1)]
  size = [box[axis + 2] - box[axis] for axis in (0, 1)]
  if not aligned:
    size = [max(x, 1.0) for x in size]
  cell = [x / cells for x, cells in zip(size, output_size)]
  count = [ratio if ratio > 0 else math.ceil(x) for x in cell]
  out = np.zeros(output_size)
  for p, q in np.ndindex(*output_size):
    for i in range(count[0]):
      for j in range(count[1]):
        y = start[0] + p * cell[0] + (i + 0.5) * cell[0] / count[0]
        x = start[1] + q * cell[1] + (j + 0.5) * cell[1] / count[1]
        if -1 <= y <= limits[0] and -1 <= x <= limits[1]:
          out[p, q] += bilinear(features, y, x)
  return out / max(count[0] * count[1], 1)


def bilinear(features, y, x):
  y, x = (min(max(v, 0.0), n - 1.0) for v, n in zip((y, x), features.shape))
  top, left = math.floor(y), math.floor(x)
  bottom, right = min(top + 1, features.shape[0] - 1), min(left + 1, features.shape[1] - 1)
  v, u = y - top, x - left
  upper = (1 - u) * features[top, left] + u * features[top, right]
  lower = (1 - u) * features[bottom, left] + u * features[bottom, right]
  return (1 - v) * upper + v * lower


BOXES = {
  'larger than the map': (-3.2, -7.1, 9.3, 12.6),
  'far larger': (-130.7, -61.3, 150.9, 77.7),
  'far larger, off centre': (-1.5, -90.3, 211.2, 5.6),
  'large, ending inside': (-97.3, -3.1, 2.3, 4.4),
  'inside': (0.7, 2.1, 3.9, 6.2),
  'thin': (1.3, 0.2, 1.31, 6.9),
  'no area': (2.0, 3.0, 2.0, 3.0),
  'no width': (1.0, 3.0, 4.0, 3.0),
  'padding': (0.0, 0.0, 0.0, 0.0),
  'outside, touching': (-2.0, 1.0, 0.0, 5.0),
  'outside': (9.0, 15.0, 12.0, 20.0),
  'turned round': (3.0, 5.0, 1.0, 2.0),
}


@pytest.fixture(scope='module', params=[(0, True), (0, False), (2, True)], ids=str)
def against_loop(request):
  """(ours, the loop's) results for `BOXES` on a map of 5 x 8 that is not square."""
  ratio, aligned = request.param
  features = np.random.default_rng(0).normal(size=(5, 8))
  expected = [looped(features, box, (2, 3), ratio, aligned) for box in BOXES.values()]
  call = functools.partial(roi_align, output_size=(2, 3), sampling_ratio=ratio, aligned=aligned)
  boxes = np.asarray(list(BOXES.values()), np.float32)[None]
  ours = jax.jit(call)(features[None, ..., None].astype(np.float32), boxes)
  return dict(zip(BOXES, np.asarray(ours)[0, ..., 0])), dict(zip(BOXES, expected))


@pytest.mark.parametrize('name', BOXES)
def test_boxes_of_any_size_and_place(name, against_loop):
  ours, loop = against_loop
  np.testing.assert_allclose(ours[name], loop[name], atol=2e-5)


def test_bfloat16_features_are_weighed_in_float32(inputs):
  features, boxes = inputs
  rounded = features.astype(jnp.bfloat16)
  call = jax.jit(functools.partial(roi_align, output_size=(3, 5)))
  out = call(rounded, boxes)
  assert out.dtype == jnp.bfloat16
  exact = call(rounded.astype(jnp.float32), boxes).astype(jnp.bfloat16)
  np.testing.assert_array_equal(out, exact)


@pytest.mark.parametrize('size', [(7,), (0, 7)])
def test_output_size_is_checked(size):
  with pytest.raises(ConfigError, match='output_size'):
    roi_align(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1, 4)), output_size=size)
