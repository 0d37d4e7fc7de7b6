"""Matrices that resample an axis."""

import numpy as np
import pytest

from models.interpolation import METHODS, axis_weights


def test_linear_with_half_pixel_centres():
  expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
  np.testing.assert_array_equal(axis_weights(2, 4, 'bilinear'), expected)


def test_values_are_dealt_out():
  """Columns in the proportions of the rows above: 1 + 0.75 + 0.25 of the first value."""
  expected = [[0.5, 0], [0.375, 0.125], [0.125, 0.375], [0, 0.5]]
  np.testing.assert_array_equal(axis_weights(2, 4, 'bilinear', keep_sum=True), expected)


def test_equal_values_are_dealt_out_unevenly_near_the_borders():
  dealt = axis_weights(8, 16, 'bilinear_antialias', keep_sum=True).sum(axis=1)
  np.testing.assert_allclose(dealt[:8], [0.43, 0.55, 0.52, *[0.5] * 5], atol=5e-3)
  np.testing.assert_allclose(dealt, dealt[::-1])
  assert dealt.sum() == pytest.approx(8)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(('before', 'after'), [(3, 7), (8, 8), (1, 16), (16, 1), (16, 4)])
def test_sums(method, before, after):
  weights = axis_weights(before, after, method)
  assert weights.shape == (after, before)
  np.testing.assert_allclose(weights.sum(axis=1), 1)
  if np.all(weights.sum(axis=0)):
    np.testing.assert_allclose(axis_weights(before, after, method, keep_sum=True).sum(axis=0), 1)


@pytest.mark.parametrize('keep_sum', [False, True])
@pytest.mark.parametrize('method', METHODS)
def test_the_same_length_is_the_identity(method, keep_sum):
  np.testing.assert_allclose(axis_weights(5, 5, method, keep_sum), np.eye(5), atol=1e-15)


def test_what_cannot_be():
  with pytest.raises(ValueError, match="method='cubic': expected one of"):
    axis_weights(2, 4, 'cubic')
  with pytest.raises(ValueError, match="'bilinear' from 16 to 4 leaves values out"):
    axis_weights(16, 4, 'bilinear', keep_sum=True)
