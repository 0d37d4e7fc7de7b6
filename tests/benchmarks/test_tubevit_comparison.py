"""What the comparison of TubeViT trains, and how clips are scored by their parts."""

import json

import pytest

from benchmarks import tubevit
from configs.tubevit import demo
from datasets import demo_tubes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The demo's datasets with one example of each class."""
  folder = tmp_path_factory.mktemp('demo_tubes')
  demo_tubes.write_images(folder / 'images', train=8, test=8)
  demo_tubes.write_clips(folder / 'clips', train=32, test=32)
  return folder


def test_equal_steps_of_clips_and_equal_compute(folder):
  configs = {name: tubevit.config_of(name, 10, folder) for name in demo.MODES}
  steps = {name: tubevit.steps(config) for name, config in configs.items()}
  assert steps['video'] == steps['joint'] == 10 * demo.CLIPS // demo.BATCH
  assert configs['joint'].duration == f'{2 * steps["video"]} steps'
  assert set(configs['joint'].datasets) == {'clips', 'images'}
  flops = {name: tubevit.flops(config) for name, config in configs.items()}
  assert flops['joint'] == flops['video'] < flops['dense']
  compute = {name: steps[name] * flops[name] for name in steps}
  assert compute['dense'] == pytest.approx(compute['video'], rel=0.5 / steps['dense'])
  configs['video'].datasets.clips.batch_size = 8  # The clips' own counts.
  spent = tubevit.spent(configs['video'])
  assert spent == {
    'steps': steps['video'],
    'clips': 8 * steps['video'],
    'flops_of_a_clip': flops['video'],
  }
  assert f' {8 * steps["video"]:,} clips of ' in tubevit.describe('video', spent)
  for config in configs.values():
    total = int(config.duration.split()[0])
    assert config.optimizer.warmup == f'{total // 20} steps'


def test_a_clip_is_scored_by_its_parts():
  motions = len(demo_tubes.MOTIONS)
  # Right; right appearance; right motion; neither.
  pairs = [(5, 5), (5, 6), (5, 5 + motions), (5, 2 + 3 * motions)]
  lines = [{'clips': {'label': a, 'top5': [{'class': b}]}} for a, b in pairs]
  found = tubevit.parts('\n'.join(json.dumps(line) for line in lines))
  assert found == {'their appearance': 0.5, 'their motion': 0.5}


def test_other_arguments_are_refused():
  with pytest.raises(ValueError, match="Unknown mode 'images'; known"):
    demo.get_config('mode=images')
  with pytest.raises(ValueError, match='`epochs` is 0: expected at least 1'):
    demo.get_config('epochs=0')
