"""Batches that hosts cut into tubelets train and evaluate like frames."""

import numpy as np
import pytest

from errors import ConfigError
from train_lib import data, evaluation
from train_lib.augment import normalize
from train_lib.experiment import parse
from train_lib.program import input_shape


def run(config, build, workdir):
  """Losses of three steps, the evaluation after them, the shape of a batch and the contact sheet."""
  config.augment.mix.mixup_alpha = 1.0
  config.tasks.motion.head.kernel_init = 'lecun_normal'
  program, train, test = build(config)
  state, stream = program.init(), data.train_stream(program, train, 0)
  shape = input_shape(program.experiment, 'demo', 8)
  losses = []
  for _ in range(3):
    batch = next(stream)
    assert batch['inputs'].shape == shape
    state, metrics = program.train_step(state, batch)
    losses.append(float(metrics['loss'][0]))
  stream.close()
  result = evaluation.evaluate(program, state.eval_variables, 'demo', test['demo'])
  workdir.mkdir()
  evaluation.write_results(result, workdir, program, 'demo', test['demo'])
  return losses, result, shape, (workdir / 'clips_motion.png').read_bytes()


def test_patches_train_and_evaluate_like_frames(tiny_config, build, tmp_path):
  tiny_config.evaluation.pictures = True
  frames = run(tiny_config, build, tmp_path / 'frames')
  tiny_config.host_patches = True
  patches = run(tiny_config, build, tmp_path / 'patches')
  assert (frames[2], patches[2]) == ((8, 4, 16, 16, 3), (8, 2, 2, 2, 384))
  np.testing.assert_allclose(patches[0], frames[0], rtol=1e-6)
  assert patches[1].metrics == pytest.approx(frames[1].metrics, rel=1e-5)
  assert patches[3] == frames[3]


def test_patches_are_normalised_per_channel():
  video = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
  mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
  patches = normalize(video.reshape(2, 12), mean, std)
  np.testing.assert_array_equal(patches, normalize(video, mean, std).reshape(2, 12))


@pytest.mark.parametrize(
  ('group', 'change'),
  [
    ('color_jitter', {'prob': 0.5}),
    ('rand_augment', {'num_layers': 1}),
    ('random_erasing', {'prob': 0.1}),
    ('mix', {'cutmix_alpha': 1.0}),
  ],
)
def test_augmentation_that_needs_frames_is_an_error(tiny_config, group, change):
  tiny_config.host_patches = True
  tiny_config.augment[group].update(change)
  with pytest.raises(ConfigError, match=f'`host_patches` is set, but augment.{group}'):
    parse(tiny_config)


def test_jitter_on_the_host_goes_with_patches(tiny_config):
  tiny_config.host_patches = True
  tiny_config.augment.color_jitter.update({'prob': 0.5, 'where': 'host'})
  assert parse(tiny_config).host_patch == (2, 8, 8)


def test_trunks_that_take_no_patches(tiny_config, build):
  tiny_config.host_patches = True
  tiny_config.trunk.update({'tokeniser': 'uniform_frames', 'num_sampled_frames': 2})
  tiny_config.trunk.tubelet = (1, 8, 8)
  with pytest.raises(ConfigError, match="'uniform_frames' takes frames: unset `host_patches`"):
    build(tiny_config)
  tiny_config.trunk = {'name': 'fake_models:MeanPixelTrunk'}
  with pytest.raises(ConfigError, match=r'MeanPixelTrunk has no `trunk\.tubelet`'):
    parse(tiny_config)


def test_patches_that_do_not_divide_the_clip(tiny_config, build):
  tiny_config.host_patches = True
  tiny_config.trunk.tubelet = (2, 8, 5)
  with pytest.raises(ConfigError, match=r'\(2, 8, 5\) does not divide the clip'):
    build(tiny_config)
