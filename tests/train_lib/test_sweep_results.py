"""Tables, verdicts and pictures of sweeps."""

from pathlib import Path

import pytest

from errors import ConfigError
from train_lib.sweep_charts import chart_png, varied_number
from train_lib.sweep_results import (
  Group,
  Result,
  cells,
  check_metrics,
  markdown,
  scale,
  spread,
  verdicts,
)
from train_lib.sweep_runs import Run


def table(title, rows, key='size'):
  """Rows: name -> accuracy of each seed; the row's number is its place."""
  return Group(
    title,
    {
      name: [
        Result(
          Run(
            name, (title,), s, True, {key: i + 1}, 'c.py', {}, {key: i + 1}, Path(f'o/{name}'), ()
          ),
          'finished',
          '',
          {'top1/a': value},
        )
        for s, value in enumerate(values)
      ]
      for i, (name, values) in enumerate(rows.items())
    },
  )


def test_means_and_sample_deviations_are_in_percent():
  assert spread([10.0, 20.0], 100) == '15.0 ± 7.1'
  assert spread([1.5], 1) == '1.500'
  assert spread([], 100) == '-'
  assert spread([0.25, 0.25], 1) == '0.250'
  assert spread([25.0, 25.0], 100) == '25.0 ± 0.0'


def test_costs_are_no_percentages():
  assert [scale(metric) for metric in ('top1/a', 'mAP/a', 'loss/a', 'cost/gflops')] == [
    100,
    100,
    1,
    1,
  ]


def test_markdown_is_a_table():
  lines = cells(table('', {'a|b': [0.5]}), {'top-1': 'top1/a'})
  assert markdown(lines) == '|  | top-1 | seeds |\n|---|---:|---:|\n| a\\|b | 50.0 | 1 |'


def test_claims_are_judged_by_table_and_seed():
  tables = [
    table('A', {'x': [0.5, 0.75], 'y': [0.25, 0.875]}),
    table('B', {'x': [0.25], 'y': [0.5]}),
  ]
  metrics = {'top-1': 'top1/a'}
  assert verdicts(tables, metrics, [('x', 'y', 'top-1'), ('y', 'x', 'top-1', 'B')]) == [
    'A: x beats y on top-1: holds on average, in 1 of 2 seeds (+25.0, -12.5)',
    'B: x beats y on top-1: DOES NOT HOLD on average, in 0 of 1 seeds (-25.0)',
    'B: y beats x on top-1: holds on average, in 1 of 1 seeds (+25.0)',
  ]
  for claim in [('x', 'y'), ('x', 'z', 'top-1'), ('x', 'y', 'top-5'), ('x', 'y', 'top-1', 'C')]:
    with pytest.raises(ConfigError, match='CLAIMS'):
      verdicts(tables, metrics, [claim])


def test_a_metric_that_nothing_gave_is_named():
  results = [r for rows in table('', {'x': [0.5]}).rows.values() for r in rows]
  check_metrics(results, {'top-1': 'top1/a'})
  with pytest.raises(
    ConfigError, match=r"'top-1' is 'top1/b', which no evaluation gave; there are top1/a"
  ):
    check_metrics(results, {'top-1': 'top1/b'})


def test_one_number_makes_a_curve_and_names_make_bars(tmp_path):
  curve = table('', {'a': [0.5, 0.7], 'b': [0.6, 0.8], 'c': [0.7]})
  assert varied_number(curve) == ('size', {'a': 1, 'b': 2, 'c': 3})
  bars = table('', {'a': [0.5], 'b': [0.25, 0.5]})
  assert varied_number(bars) is None
  for name, each in (('curve', curve), ('bars', bars)):
    chart_png(tmp_path / f'{name}.png', each, {'top-1': 'top1/a'})
    assert (tmp_path / f'{name}.png').read_bytes().startswith(b'\x89PNG')
