"""Features are what the classifier reads, of every window, and a second start repeats nothing."""

import contextlib
import json

import jax
import numpy as np
import pytest

from configs.vivit import demo
from datasets import clips, windows
from datasets.one_video import OneVideo
from errors import ConfigError, DataError
from tests.datasets.test_clips import Ramps
from tests.datasets.videos import write_video
from tests.train_lib.models_on_disk import write_model
from tools.extract_features import extract_features
from train_lib import explain, params_file, trained
from train_lib.extract import Settings
from train_lib.feature_files import of_dataset

HOP = Settings(hop=0.5, batch_size=2)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Path of a checkpoint whose clips are 4 frames a stride of 2 apart, and its variables."""
  config = demo.get_config()
  config.trunk.update({'hidden_size': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8})
  config.trunk.update({'tubelet': (2, 8, 8), 'attention': 'spacetime'})
  for key in [key for key in config.trunk if key.startswith('temporal_')]:
    del config.trunk[key]
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 18, 'crop': 16})
  config.datasets.demo.temporal_views = 2
  path = tmp_path_factory.mktemp('model') / 'model.npz'
  _, variables = write_model(path, config, {'motion': ('a', 'b', 'c')})
  return str(path), variables


@pytest.fixture
def folder(tmp_path):
  """Videos of 12 and 9 frames, 10 a second, in a folder and one below it."""
  (tmp_path / 'videos' / 'more').mkdir(parents=True)
  write_video(tmp_path / 'videos' / 'a.mp4', 12, rate=10)
  write_video(tmp_path / 'videos' / 'more' / 'a.mp4', 9, rate=10)
  return tmp_path / 'videos'


def load(path):
  with np.load(path) as archive:
    return dict(archive)


def test_a_head_on_pooled_features_gives_the_logits(model, folder, tmp_path, capsys):
  path, variables = model
  found = extract_features(path, str(tmp_path / 'out'), HOP, videos=[str(folder)])
  assert found.names == ['a.mp4', 'more/a.mp4']
  content = load(tmp_path / 'out' / 'a.mp4.npz')
  assert content['frames'].tolist() == [[0, 2, 4, 6], [5, 7, 9, 11]]
  assert content['start'].tolist() == [0, 0.5]
  assert content['centre'].tolist() == pytest.approx([0.3, 0.8])
  assert (content['features'].shape, content['features'].dtype) == ((2, 8), np.float32)
  views = explain.look(trained.load(path), 'motion', OneVideo(folder / 'a.mp4'))
  assert views.indices.tolist() == content['frames'].tolist()
  head = variables['params']['heads_motion']['output_projection']
  logits = content['features'] @ head['kernel'] + head['bias']
  np.testing.assert_allclose(logits, views.logits, rtol=1e-5, atol=1e-5)
  other = load(tmp_path / 'out' / 'more' / 'a.mp4.npz')
  assert other['frames'].tolist() == [[0, 2, 4, 6], [2, 4, 6, 8]]
  assert capsys.readouterr().out.splitlines() == [
    'a.mp4: 2 windows of 7 frames',
    'more/a.mp4: 2 windows of 7 frames',
    '2 videos, 4 windows of 8 numbers, 0.0 MiB; 0 videos are there already.',
  ]
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  assert manifest['videos']['more/a.mp4'] == {'file': 'more/a.mp4.npz', 'features': [2, 8]}
  assert (manifest['model'], manifest['step'], manifest['shape']) == ('models.vivit:ViViT', 0, [8])
  assert len(manifest['parameters_sha256']) == 64


def test_tokens_come_with_their_grid(model, folder, tmp_path):
  settings = Settings('tokens', batch_size=2)
  video = str(folder / 'a.mp4')
  extract_features(model[0], str(tmp_path / 'out'), settings, videos=[video])
  content = load(tmp_path / 'out' / 'a.mp4.npz')
  assert content['features'].shape == (3, 2, 2, 2, 8)
  assert content['start'].tolist() == [0, 0.3, 0.5]  # Half a window on, and the last with the end.


def test_crops_are_averaged(model, folder, tmp_path):
  settings = Settings(hop=1.0, views=3, batch_size=2)
  video = str(folder / 'more' / 'a.mp4')
  extract_features(model[0], str(tmp_path / 'out'), settings, videos=[video])
  found = trained.load(model[0])
  shown = found.shown['demo']
  pixels = clips.view_clips(OneVideo(video), shown.clip, 0, 2, 3).astype(np.float32)
  normal = (pixels / 255 - 0.5) / 0.5
  features, _ = jax.jit(lambda x: found.model.apply(found.variables, x, train=False))(normal)
  expected = features.pooled.reshape(3, 2, 8).mean(0)
  got = load(tmp_path / 'out' / 'a.mp4.npz')['features']
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_what_was_done_before_a_kill_is_not_repeated(model, folder, tmp_path, monkeypatch, capsys):
  out, videos = tmp_path / 'out', [str(folder)]
  original, looked_at = windows.cut_views, []

  def killed(dataset, *arguments):
    if dataset.where.endswith('more/a.mp4'):
      raise KeyboardInterrupt
    return original(dataset, *arguments)

  def noted(dataset, *arguments):
    looked_at.append(dataset.where)
    return original(dataset, *arguments)

  monkeypatch.setattr(windows, 'cut_views', killed)
  with contextlib.suppress(KeyboardInterrupt):
    extract_features(model[0], str(out), HOP, videos=videos)
  assert list(json.loads((out / 'manifest.json').read_text())['videos']) == ['a.mp4']
  monkeypatch.setattr(windows, 'cut_views', noted)
  found = extract_features(model[0], str(out), HOP, videos=videos)
  assert looked_at == [str(folder / 'more' / 'a.mp4')]
  assert found.names == ['a.mp4', 'more/a.mp4']
  assert '1 videos are there already' in capsys.readouterr().out
  (out / 'a.mp4.npz').write_bytes(b'PK half of it')
  extract_features(model[0], str(out), HOP, videos=videos)
  assert looked_at[1:] == [str(folder / 'a.mp4')]
  assert load(out / 'a.mp4.npz')['features'].shape == (2, 8)


def test_a_bad_video_is_told_of_and_the_others_are_done(model, folder, tmp_path):
  (folder / 'b.mp4').write_bytes(b'no video')
  with pytest.raises(DataError, match=r'1 of 3 inputs could not be used:\n  .*b\.mp4'):
    extract_features(model[0], str(tmp_path / 'out'), HOP, videos=[str(folder)])
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  assert list(manifest['videos']) == ['a.mp4', 'more/a.mp4']
  with pytest.raises(DataError, match=r'^\S*b\.mp4'):
    extract_features(model[0], str(tmp_path / 'out'), HOP, videos=[str(folder / 'b.mp4')])


def test_other_settings_want_another_folder(model, folder, tmp_path):
  out, videos = str(tmp_path / 'out'), [str(folder / 'a.mp4')]
  extract_features(model[0], out, HOP, videos=videos)
  with pytest.raises(ConfigError, match=r'other settings.*\n  hop: 0.5 there, 1.0 asked for$'):
    extract_features(model[0], out, Settings(hop=1.0), videos=videos)
  (tmp_path / 'out' / 'manifest.json').unlink()
  with pytest.raises(ConfigError, match=r'a\.mp4\.npz is there, but no manifest\.json'):
    extract_features(model[0], out, HOP, videos=videos)


def test_another_video_of_one_name_does_not_pass_for_the_first(model, folder, tmp_path):
  out, first, second = tmp_path / 'out', folder / 'a.mp4', folder / 'more' / 'a.mp4'
  extract_features(model[0], str(out), HOP, videos=[str(first)])
  before = load(out / 'a.mp4.npz')['features']
  with pytest.raises(DataError, match=r'of another video of this name \(.*frames: 12 there, 9 now'):
    extract_features(model[0], str(out), HOP, videos=[str(second)])
  assert (load(out / 'a.mp4.npz')['features'] == before).all()
  (folder / 'b.mp4').write_bytes(first.read_bytes())
  first.write_bytes(first.read_bytes() + b'more')
  with pytest.raises(DataError, match=r'1 of 2 inputs .*\n.*bytes: \d+ there, \d+ now'):
    extract_features(model[0], str(out), HOP, videos=[str(first), str(folder / 'b.mp4')])
  assert sorted(path.name for path in out.iterdir()) == ['a.mp4.npz', 'b.mp4.npz', 'manifest.json']


def test_a_file_says_of_what_it_is(model, folder, tmp_path):
  extract_features(model[0], str(tmp_path / 'out'), HOP, videos=[str(folder / 'a.mp4')])
  meta = params_file.read_meta(str(tmp_path / 'out' / 'a.mp4.npz'))
  size = (folder / 'a.mp4').stat().st_size
  assert meta.pop('video') == {
    'id': 'a.mp4', 'split': '', 'frames': 12, 'frame_rate': 10.0, 'bytes': size,
  }  # fmt: skip
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  del manifest['videos']
  assert meta == manifest


def test_two_that_write_to_one_folder_both_stand_in_its_manifest(
  model, folder, tmp_path, monkeypatch
):
  out, videos = tmp_path / 'out', [str(folder / 'a.mp4')]
  original = windows.cut_views

  def other_first(*arguments):
    monkeypatch.setattr(windows, 'cut_views', original)
    (folder / 'b.mp4').write_bytes((folder / 'a.mp4').read_bytes())
    extract_features(model[0], str(out), HOP, videos=[str(folder / 'b.mp4')])
    return original(*arguments)

  monkeypatch.setattr(windows, 'cut_views', other_first)
  assert extract_features(model[0], str(out), HOP, videos=videos).names == ['a.mp4', 'b.mp4']
  manifest = json.loads((out / 'manifest.json').read_text())
  assert list(manifest['videos']) == ['a.mp4', 'b.mp4']


def test_a_path_that_is_not_there_does_not_stop_the_others(model, folder, tmp_path):
  missing = str(folder / 'nothing.mp4')
  with pytest.raises(DataError, match=r'1 of 2 inputs could not be used:\n.*nothing\.mp4: no such'):
    extract_features(model[0], str(tmp_path / 'out'), HOP, videos=[missing, str(folder / 'a.mp4')])
  assert (tmp_path / 'out' / 'a.mp4.npz').exists()
  with pytest.raises(DataError, match=r'2 of 2 inputs'):
    extract_features(model[0], str(tmp_path / 'none'), HOP, videos=[missing, missing + '2'])
  assert not (tmp_path / 'none').exists()


def test_ids_that_look_like_rows_keep_their_names():
  class Ids(Ramps):
    def __init__(self, *ids):
      super().__init__(*[9] * len(ids))
      self.ids = ids

    def key(self, row):
      return self.ids[row]

  found = [video.name for video in of_dataset(Ids('x', 'x', 'x_1', 'a/b', 'a_b', '..'))]
  assert found == ['x~0', 'x~1', 'x_1', 'a_b~3', 'a_b~4', '~5']


def test_videos_of_a_dataset(model, demo_data_dir, tmp_path):
  found = extract_features(model[0], str(tmp_path / 'out'), Settings(), data=str(demo_data_dir))
  assert len(found.names) == 16
  assert found.names[0].startswith('test-00000-')
  assert load(tmp_path / 'out' / f'{found.names[0]}.npz')['features'].shape[1:] == (8,)


def test_mistakes_are_named(model, folder, tmp_path):
  out, video = str(tmp_path / 'out'), str(folder / 'a.mp4')
  with pytest.raises(ConfigError, match='one of the two'):
    extract_features(model[0], out, HOP)
  with pytest.raises(ConfigError, match=r'would both be written to a\.mp4\.npz'):
    extract_features(model[0], out, HOP, videos=[video, str(folder / 'more' / 'a.mp4')])
  with pytest.raises(ConfigError, match=r'as long as a window is'):
    extract_features(model[0], out, Settings(window=2.0), videos=[video])
  with pytest.raises(ConfigError, match=r"--dataset=k400: .*\['demo'\]"):
    extract_features(model[0], out, HOP, videos=[video], dataset='k400')
  for wrong in ({'views': 2}, {'hop': -1.0}, {'views': 3, 'layer': 'tokens'}, {'batch_size': 0}):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
      Settings(**wrong)
  with pytest.raises(ConfigError, match=r'--out=.*a\.mp4 cannot be made: File exists'):
    extract_features(model[0], video, HOP, videos=[video])
  assert not (tmp_path / 'out').exists()
