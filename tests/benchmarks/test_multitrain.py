"""How recovered relations are scored."""

import numpy as np

from benchmarks import multitrain
from datasets.demo_relations import LOOKS, RELATIONS


def planted_weights(pairs):
  """Weights that are largest where the relations of these pairs of datasets are planted."""
  weights = {}
  for source, target in RELATIONS:
    own, other = (list(LOOKS[name].classes) for name in (source, target))
    values = np.random.default_rng(0).uniform(-1, 0, (8, 8))
    for a, b in RELATIONS[source, target] if (source, target) in pairs else ():
      values[own.index(a), other.index(b)] = 1
    weights[source, target] = values + np.arange(8)[:, None]  # A softmax does not see rows move.
  return weights


def test_precision_is_of_planted_relations():
  found = multitrain.recovered(planted_weights(RELATIONS))
  assert len(found) == 34
  assert multitrain.precision(found) == 1
  assert multitrain.chance() == 0.125
  one = found[0]
  assert (one.source, one.target) == ('blocks', 'stars')
  assert (one.own, one.planted, one.found) == ('turns like a clock', 'spins', 'spins')


def test_relations_are_listed():
  known = [pair for pair in RELATIONS if pair != ('comets', 'stars')]
  run = multitrain.recovered(planted_weights(known))
  missed = [one for one in run if one.planted != one.found]
  assert {(one.source, one.target) for one in missed} == {('comets', 'stars')}
  lines = multitrain.describe({'multitrain': [run, run]})
  assert lines[0] == 'planted relations recovered, precision@1 in percent (chance 12.5):'
  score = f'{100 * multitrain.precision(run):.1f}'
  assert lines[1].split() == ['MultiTrain', score, f'({score},', f'{score})']
  at = lines.index('  comets -> stars')
  assert f'no: {missed[0].found}' in '\n'.join(lines[at:])
  assert sum(line.endswith('yes') for line in lines) == 34 - len(missed)
