import json

import pytest

from errors import CheckpointMismatchError
from train_lib import experiment as experiment_lib
from train_lib import preprocessing, run


def test_travels_as_json(tiny_config):
  tiny_config.datasets.demo.clip.update({'scale_jitter': (1.0, 1.2), 'flip_prob': 0.0, 'fps': 10.0})
  experiment = experiment_lib.parse(tiny_config)
  described = preprocessing.of(experiment)
  stored = json.loads(json.dumps(preprocessing.to_json(described)))
  assert preprocessing.from_json(stored) == described
  clip = described['demo'].clip
  assert (clip.frames, clip.stride, clip.resize, clip.crop, clip.fps) == (4, 2, 18, 16, 10.0)
  assert clip.scale_jitter is None
  assert described['demo'].pixels.mean == (0.5, 0.5, 0.5)


def test_is_in_every_checkpoint(finished, tiny_config):
  folder, _ = finished
  (meta,) = (json.loads(p.read_text()) for p in folder.glob('checkpoints/6/meta/metadata'))
  assert meta['preprocessing'] == json.loads(
    json.dumps(preprocessing.to_json(preprocessing.of(experiment_lib.parse(tiny_config))))
  )


def test_evaluating_other_clips_says_so(finished, tiny_config, capsys):
  folder, _ = finished
  tiny_config.datasets.demo.clip.update({'stride': 3, 'scale_jitter': (0.5, 1.0)})
  run.run('eval', tiny_config, str(folder))
  printed = capsys.readouterr().out
  assert 'Videos are cut otherwise than in the training' in printed
  assert '  demo.clip.stride: 2 -> 3\n' in printed
  assert 'scale_jitter' not in printed


@pytest.mark.parametrize('mode', ['eval', 'train', 'init_from'])
def test_another_normalisation_is_an_error(finished, tiny_config, tmp_path, mode):
  folder, _ = finished
  tiny_config.pixels.mean = (0.45, 0.45, 0.45)
  if mode == 'init_from':
    tiny_config.init_from.path, folder, mode = str(folder), tmp_path / 'fresh', 'train'
  message = (
    r'normalised with mean \(0\.5, 0\.5, 0\.5\) .* but `pixels` says \(0\.45, 0\.45, 0\.45\)'
  )
  with pytest.raises(CheckpointMismatchError, match=message):
    run.run(mode, tiny_config, str(folder))
