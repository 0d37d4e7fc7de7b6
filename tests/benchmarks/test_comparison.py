"""What the comparison programs print."""

import dataclasses
import json

import pytest

from benchmarks.comparison import Comparison
from errors import ConfigError

COMPARISON = Comparison(
  {'old': 'the old way', 'new': 'the new way', 'idle': 'nothing'},
  {'top-1': 'top1/a', 'mAP': 'mAP/b'},
  (('new', 'old', 'top-1'), ('new', 'old', 'mAP'), ('new', 'idle', 'mAP')),
)
RESULTS = {
  'old': [{'top-1': 0.5, 'mAP': 0.25}, {'top-1': 0.6, 'mAP': 0.25}],
  'new': [{'top-1': 0.75, 'mAP': 0.2}, {'top-1': 0.55, 'mAP': 0.3}],
}


def test_table_has_mean_and_deviation():
  lines = [' '.join(line.split()) for line in COMPARISON.table(RESULTS).splitlines()]
  assert lines == [
    'top-1 mAP',
    'the old way 55.0 ± 7.1 25.0 ± 0.0',
    'the new way 65.0 ± 14.1 25.0 ± 7.1',
  ]
  single = COMPARISON.table({'old': RESULTS['old'][:1]})
  assert single.splitlines()[1].split() == ['the', 'old', 'way', '50.0', '25.0']


def test_verdicts_go_seed_by_seed():
  assert COMPARISON.verdicts(RESULTS) == [
    'the new way beats the old way on top-1: holds on average, in 1 of 2 seeds (+25.0, -5.0)',
    'the new way beats the old way on mAP: DOES NOT HOLD on average, in 1 of 2 seeds (-5.0, +5.0)',
  ]


def test_report(tmp_path, capsys):
  COMPARISON.report(tmp_path, [0, 1], 3, RESULTS)
  stored = json.loads((tmp_path / 'results.json').read_text())
  assert stored == {'seeds': [0, 1], 'epochs': 3, 'results': RESULTS}
  assert (tmp_path / 'results.png').read_bytes().startswith(b'\x89PNG')
  assert 'Demo data, 3 epochs, 2 seed(s), in percent:' in capsys.readouterr().out


def test_report_says_what_the_epochs_are_of_and_what_was_spent(tmp_path, capsys):
  spent = {'old': {'steps': 5}, 'new': {'steps': 4}}
  ours = dataclasses.replace(COMPARISON, epochs='epochs of the clips')
  ours.report(tmp_path, [0, 1], 3, RESULTS, spent=spent)
  assert json.loads((tmp_path / 'results.json').read_text())['spent'] == spent
  assert 'Demo data, 3 epochs of the clips, 2 seed(s), in percent:' in capsys.readouterr().out


def test_unknown_strategies():
  assert COMPARISON.check(['old', 'idle'], ['10', '2']) == [10, 2]
  with pytest.raises(ConfigError, match=r"--strategies: \['odd'\] are unknown; known: \['idle'"):
    COMPARISON.check(['new', 'odd'], ['0'])


@pytest.mark.parametrize(
  ('strategies', 'seeds', 'message'),
  [
    ([], ['0'], r'--strategies: expected at least one, each once; got \[\]'),
    (['new', 'old', 'new'], ['0'], r"--strategies: .* got \['new', 'old', 'new'\]"),
    (['new'], [], r'--seeds: expected at least one, each once; got \[\]'),
    (['new'], ['1', '01'], r'--seeds: .* got \[1, 1\]'),
    (['new'], ['0', '-1', 'x', ''], r"--seeds: \['-1', 'x', ''\] are not whole numbers"),
  ],
)
def test_lists_are_checked(strategies, seeds, message):
  with pytest.raises(ConfigError, match=message):
    COMPARISON.check(strategies, seeds)
