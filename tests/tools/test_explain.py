"""The heat lies where the evidence is, files are whole, and mistakes are named."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.vivit import demo
from datasets import video as video_lib
from datasets import video_writer
from datasets.one_video import OneVideo
from errors import CheckpointMismatchError, ConfigError, DataError
from tests.datasets.videos import write_video
from tests.train_lib.models_on_disk import write_model
from tools import explain as tool
from train_lib import activation_maps, explain, trained
from train_lib.augment import normalize

ROOT = Path(__file__).parents[2]
NAMES = ('nothing', 'white square', 'black square')


def picture(number):
  """Grey; of 8 frames the first two have a black square in a cell of 8 px, the last four a white one."""
  frame = np.full((32, 32, 3), 128, np.uint8)
  if number < 2:
    frame[:8, :8] = 0
  if number >= 4:
    frame[16:24, 24:32] = 255
  return frame


def model_of_squares(params):
  """One attention that looks everywhere alike, and classes that read one channel each.

  A cell's token is (b - 0.1, -b - 0.1, 1, -0.8), where b is its brightness about grey: a grey cell speaks
  against both squares.
  """
  params = {name: np.zeros_like(array) for name, array in params.items()}
  kernel = params['params/trunk/embedding/kernel']
  kernel[..., 0], kernel[..., 1] = 8 / kernel[..., 0].size, -8 / kernel[..., 1].size
  block = 'params/trunk/Transformer/encoderblock_0'
  params['params/trunk/embedding/bias'][:] = -0.1, -0.1, 1, -0.8
  params['params/trunk/cls'][:] = 0, 0, 10, -10
  for norm in (f'{block}/LayerNorm_0', f'{block}/LayerNorm_1'):
    params[f'{norm}/scale'][:] = 1
  params['params/trunk/Transformer/encoder_norm/scale'][:] = 1
  attention = f'{block}/MultiHeadDotProductAttention_0'
  params[f'{attention}/value/kernel'][:, 0] = params[f'{attention}/out/kernel'][0] = np.eye(4)
  params['params/heads_motion/output_projection/kernel'][:2, 1:] = 500 * np.eye(2)
  params['params/heads_motion/output_projection/bias'][0] = -50
  return params


@pytest.fixture(scope='module')
def squares(tmp_path_factory):
  """Paths of a checkpoint and of a video."""
  folder = tmp_path_factory.mktemp('squares')
  config = demo.get_config()
  config.trunk.update({'hidden_size': 4, 'num_layers': 1, 'num_heads': 1, 'mlp_dim': 4})
  config.trunk.update({'tubelet': (2, 8, 8), 'attention': 'spacetime'})
  for key in [key for key in config.trunk if key.startswith('temporal_')]:
    del config.trunk[key]
  clip = {'frames': 8, 'stride': 1, 'resize': 32, 'crop': 32}
  config.datasets.demo.clip.update(clip)
  config.datasets.demo.temporal_views = 2
  write_model(folder / 'squares.npz', config, {'motion': NAMES}, model_of_squares)
  write_video(folder / 'clip.mp4', 8, pictures=picture, rate=10, options={'crf': '1'})
  return str(folder / 'squares.npz'), str(folder / 'clip.mp4')


@pytest.fixture(scope='module')
def looked(squares):
  """The model and what it sees."""
  model = trained.load(squares[0])
  return model, explain.look(model, 'motion', OneVideo(squares[1]))


def test_views_are_those_of_evaluation(looked):
  _, views = looked
  assert views.pixels.shape == (2, 8, 32, 32, 3)
  assert views.logits.shape == (2, 3)
  np.testing.assert_allclose(views.probabilities.sum(), 1, rtol=1e-6)
  assert views.probabilities.argmax() == 1  # Two white cells for a black one.


def test_heat_is_where_the_object_is(looked):
  model, views = looked
  found = explain.explain(model, 'motion', views, 1, (), 3)
  assert list(found.heats) == ['1']  # The class token has left the patches at the final norm.
  heat = found.heats['1']
  assert heat.shape == (8, 32, 32)
  assert np.unravel_index(heat.argmax(), heat.shape)[1:] in [
    (y, x) for y in range(16, 24) for x in range(24, 32)
  ]
  own = heat[4:, 16:24, 24:].sum() / heat.sum()
  around = heat[3:, 12:28, 20:].sum() / heat.sum()
  assert own > 0.5  # The rest is what interpolation carries to the neighbours.
  assert around > 0.98
  other = explain.explain(model, 'motion', views, 2, ('1',), 3).heats['1']
  assert other[:3, :12, :12].sum() > 0.98 * other.sum()


def test_a_map_is_zero_beside_the_object(looked):
  model, views = looked
  video = normalize(jnp.asarray(views.pixels[:1]), (0.5,) * 3, (0.5,) * 3)
  layers = activation_maps.layers_of(model.model, model.variables, video.shape)[:1]
  found = activation_maps.make_maps(model.model, 'motion', layers)(model.variables, video[:1], 1)[0]
  assert found.shape == (4, 4, 4)
  assert [place.tolist() for place in np.nonzero(found)] == [[2, 3], [2, 2], [3, 3]]


def test_names_of_classes():
  assert explain.class_index('nothing', NAMES) == 0
  assert explain.class_index('top1', NAMES) is None
  assert explain.class_index('top1', ('a', 'top1')) == 1
  with pytest.raises(
    ConfigError, match=r"--class=white sqare: not among the 3 .* \['white square'"
  ):
    explain.class_index('white sqare', NAMES)


def test_strip_and_video(squares, tmp_path, capsys):
  files = tool.explain_video(*squares, str(tmp_path / 'out'))
  assert [file.name for file in files] == ['clip_white_square.png', 'clip_white_square.mp4']
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(f.name for f in files)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'clip.mp4: motion, 2 views'
  assert [' '.join(line.split()[1:]) for line in lines[1:4]] == [
    'white square',
    'black square',
    'nothing',
  ]
  assert lines[4].startswith(
    "Evidence for 'white square' in clip 1 of 2, frames 0 to 7, where it has "
  )
  info = video_lib.probe(files[1])
  assert (info.num_frames, info.height, info.width) == (8, 224, 448)
  assert info.frame_rate == pytest.approx(10)
  film = next(iter(video_lib.read_frames(files[1], info, [7]))).astype(int)
  assert film[140, 196].min() > 230  # The white square, and red above it on the right.
  assert film[140, 224 + 196, 0] - film[140, 224 + 196, 2] > 50
  assert film[20, 224 + 20, 2] - film[20, 224 + 20, 0] > 50
  red, _, blue = np.asarray(Image.open(files[0]).convert('RGB'), int).reshape(-1, 3).T
  assert (red - blue > 50).sum() > 100
  assert (blue - red > 50).sum() > 1000


def test_mistakes_are_named_and_write_nothing(squares, tmp_path):
  checkpoint, clip = squares
  cases = [
    ((checkpoint, str(tmp_path / 'no.mp4')), {}, DataError, 'no such video file'),
    ((str(tmp_path / 'no.npz'), clip), {}, CheckpointMismatchError, 'no such file or folder'),
    ((checkpoint, clip), {'task': 'verb'}, ConfigError, '--task=verb: the checkpoint has'),
    ((checkpoint, clip), {'class_name': 'x'}, ConfigError, '--class=x: not among the 3 classes'),
    (
      (checkpoint, clip),
      {'layers': ['2']},
      ConfigError,
      r'--layers has \[.2.\]; the model has 1, norm',
    ),
  ]
  for paths, options, error, message in cases:
    with pytest.raises(error, match=message):
      tool.explain_video(*paths, str(tmp_path / 'out'), **options)
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(ConfigError, match=r'--out=.*clip\.mp4 cannot be made: File exists'):
    tool.explain_video(checkpoint, clip, clip)


def test_flags_are_checked_before_anything_is_computed(squares, tmp_path, monkeypatch):
  def look(*_):
    raise AssertionError('Views were computed.')

  monkeypatch.setattr(explain, 'look', look)
  file = tmp_path / 'file'
  file.touch()
  (tmp_path / 'clip_white_square.mp4').mkdir()
  cases = [
    ({'layers': ['2']}, tmp_path / 'out', r'--layers has \[.2.\]; the model has 1, norm'),
    ({}, file, '--out=.*file cannot be made: File exists'),
    ({}, file / 'a' / 'b', '--out=.*b cannot be made: .*file is a file'),
    ({'class_name': 'white square'}, tmp_path, 'clip_white_square.mp4 is a folder: remove it'),
  ]
  for options, out, message in cases:
    with pytest.raises(ConfigError, match=message):
      tool.explain_video(*squares, str(out), **options)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['clip_white_square.mp4', 'file']


def test_a_strip_without_its_video_is_not_left(squares, tmp_path, monkeypatch):
  def write_mp4(*_):
    raise DataError('clip.mp4 cannot be written.')

  monkeypatch.setattr(video_writer, 'write_mp4', write_mp4)
  with pytest.raises(DataError, match='cannot be written'):
    tool.explain_video(*squares, str(tmp_path))
  (tmp_path / 'clip_white_square.png').mkdir()
  with pytest.raises(ConfigError, match=r'clip_white_square\.png is a folder'):
    tool.explain_video(*squares, str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['clip_white_square.png']


def test_names_of_files():
  names = (
    'x' * 300,
    '(:)',
    'hugging (not baby)',
    'hugging not baby',
    'a' * 91,
    'a' * 92,
    '\u72ac' * 31,
  )
  found = [tool.file_name('folder.d/clip.mp4', index, names) for index in range(len(names))]
  assert found == [
    f'clip_{"x" * 90}',
    'clip_1',
    'clip_hugging_not_baby_2',
    'clip_hugging_not_baby_3',
    f'clip_{"a" * 90}_4',
    f'clip_{"a" * 90}_5',
    'clip_' + '\u72ac' * 30,
  ]
  assert tool.file_name(f'{"v" * 200}.mp4', 1, names) == f'{"v" * 90}_1'


def test_a_map_of_nothing_is_called_that(squares, tmp_path, capsys):
  """The class token has left the patches at the final norm; the film is of the block before it."""
  files = tool.explain_video(*squares, str(tmp_path), layers=['block 1', 'norm'])
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == '  Nothing speaks for it in norm: such a row is blue.'
  film = next(iter(video_lib.read_frames(files[1], video_lib.probe(files[1]), [7]))).astype(int)
  assert film[140, 224 + 196, 0] - film[140, 224 + 196, 2] > 50


def test_a_video_shorter_than_the_clip_is_shown_as_in_evaluation(squares, tmp_path, capsys):
  short = write_video(tmp_path / 'short.mp4', 3, pictures=picture, rate=10)
  views = explain.look(trained.load(squares[0]), 'motion', OneVideo(short))
  assert views.indices.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]] * 2
  files = tool.explain_video(squares[0], str(short), str(tmp_path))
  assert 'in clip 1 of 2, frames 0 to 2, where' in capsys.readouterr().out
  assert video_lib.probe(files[1]).frame_rate == pytest.approx(10)


@pytest.mark.parametrize(
  ('indices', 'frame_rate', 'expected'),
  [
    ([0, 2, 4], 25, 12.5),
    ([0, 1, 2], 60, 30),
    ([0, 100, 200], 25, 4),
    ([5, 5, 5], 25, 4),
    ([7], 25, 4),
    ([0, 1, 0], 25, 25),  # Two frames, and the first again.
    ([0, 1, 2, 0, 1, 2, 0, 1], 10, 10),
    ([0, 5, 9, 14], 25, 5),
    ([0, 4], 0, 4),
  ],
)
def test_speed(indices, frame_rate, expected):
  assert tool.playing_rate(np.array(indices), frame_rate) == expected


def test_the_command(squares, tmp_path):
  command = [sys.executable, '-m', 'tools.explain', f'--video={squares[1]}', '--out=maps']
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}

  def run(*more):
    return subprocess.run(
      [*command, *more], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )

  done = run(f'--checkpoint={squares[0]}', '--class=black square', '--layers=norm,1')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-2:] == [
    '  maps/clip_black_square.png',
    '  maps/clip_black_square.mp4',
  ]
