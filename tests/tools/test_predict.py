"""The command tells of every video, writes it labelled, and names what it cannot use."""

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.vivit import demo
from datasets import camera, unlabelled
from datasets import video as video_lib
from errors import ConfigError, DataError
from tests.datasets.videos import picture, write_audio, write_video
from tests.train_lib.models_on_disk import write_model
from tools import predict as tool
from tools.predict import Options
from train_lib import params_file, timeline, trained
from train_lib.predict import Predictor

ROOT = Path(__file__).parents[2]
NAMES = ('opens', 'closes', 'türmt auf')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder with a checkpoint and two videos: frame rate 10, 12 and 30 frames of 4 a clip."""
  folder = tmp_path_factory.mktemp('predict')
  config = demo.get_config()
  config.trunk.update({'hidden_size': 8, 'num_layers': 1, 'num_heads': 1, 'mlp_dim': 8})
  config.trunk.update({'tubelet': (2, 8, 8), 'attention': 'spacetime'})
  for key in [key for key in config.trunk if key.startswith('temporal_')]:
    del config.trunk[key]
  config.datasets.demo.clip.update({'frames': 4, 'stride': 2, 'resize': 16, 'crop': 16})
  config.datasets.demo.temporal_views = 2
  write_model(folder / 'model.npz', config, {'motion': NAMES})
  write_video(folder / 'a.mp4', 12, rate=10)
  write_video(folder / 'long.mp4', 30, rate=10, pictures=lambda n: picture(8 * n + 1, 300, 400))
  return folder


def options(made, **settings):
  return Options(str(made / 'model.npz'), **settings)


def test_a_video_on_the_terminal(made, capsys):
  tool.predict(options(made, top=2), [str(made / 'a.mp4')])
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == [str(made / 'a.mp4'), '  motion: 2 x 1 views of 4 frames at 16 x 16']
  assert len(lines) == 4
  percent, *bar, name = lines[2].split(maxsplit=2)
  assert name in NAMES
  assert len(bar[0]) == round(float(percent.rstrip('%')) / 100 * 24)


def test_several_heads_need_no_further_flag(made, tmp_path, capsys):
  config = trained.load(str(made / 'model.npz')).meta['config']
  config['datasets']['other'] = config['datasets']['demo']
  own = config['tasks']['motion']
  config['tasks'] = {'motion': own, 'verb': own, 'noun': {**own, 'dataset': 'other'}}
  names = {'motion': NAMES, 'verb': ('puts', 'takes'), 'noun': ('cup', 'lid')}
  write_model(tmp_path / 'three.npz', ConfigDict(config), names)
  tool.predict(Options(str(tmp_path / 'three.npz')), [str(made / 'a.mp4')])
  lines = capsys.readouterr().out.splitlines()
  heads = [line.split(':')[0].strip() for line in lines if 'views of' in line]
  assert heads == ['motion', 'verb', 'noun']
  assert {line.split()[-1] for line in lines[-2:]} == {'cup', 'lid'}


def test_json_has_the_numbers_of_the_predictor_and_nothing_else(made, tmp_path, capsys):
  tool.predict(options(made, json=True, out=str(tmp_path / 'out')), [str(made)])
  found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [one['video'] for one in found] == [str(made / 'a.mp4'), str(made / 'long.mp4')]
  paths = [made / 'a.mp4', made / 'long.mp4']
  predictor = Predictor(trained.load(str(made / 'model.npz'), as_trained=True))
  exact = list(predictor.predict('demo', paths, list(unlabelled.probe_each(paths))))
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
    'a.json', 'a.mp4', 'long.json', 'long.mp4',
  ]  # fmt: skip
  for name, one, video in zip(['a', 'long'], found, exact, strict=True):
    own = video.tasks['motion']
    best = one['tasks']['motion']['top']
    assert [b['name'] for b in best] == [NAMES[k] for k in own.best(3)]
    assert [np.float32(b['probability']) for b in best] == own.probabilities[own.best(3)].tolist()
    assert one['tasks']['motion']['frames'] == video.indices.tolist()
    whole = json.loads((tmp_path / 'out' / f'{name}.json').read_text())['all']['motion']
    assert whole['classes'] == list(NAMES)
    assert np.array_equal(np.float32(whole['logits']), own.logits)
    assert np.array_equal(np.float32(whole['probabilities']), own.probabilities)


def test_a_labelled_video_has_its_own_speed_and_size(made, tmp_path, capsys):
  tool.predict(options(made, out=str(tmp_path)), [str(made / 'long.mp4')])
  assert capsys.readouterr().out.splitlines()[-2:] == [
    f'  {tmp_path / "long.mp4"}',
    f'  {tmp_path / "long.json"}',
  ]
  before, after = (video_lib.probe(f / 'long.mp4') for f in (made, tmp_path))
  assert (after.num_frames, after.height, after.width) == (30, 300, 400)
  assert after.frame_rate == pytest.approx(before.frame_rate)
  old, new = (
    next(iter(video_lib.read_frames(folder / 'long.mp4', info, [20]))).astype(int)
    for folder, info in ((made, before), (tmp_path, after))
  )
  assert np.abs(new[150:] - old[150:]).mean() < 4  # Below the label the picture is as it was.
  assert (new[:60, :200].min(-1) > 200).sum() > 100  # White letters.
  assert new[2:5, 2:46].mean() < 0.5 * old[2:5, 2:46].mean()  # Darkened around them.


def test_small_frames_are_enlarged(made, tmp_path):
  tool.predict(options(made, out=str(tmp_path)), [str(made / 'a.mp4')])
  info = video_lib.probe(tmp_path / 'a.mp4')
  assert (info.height, info.width, info.num_frames) == (240, 320, 12)


def test_videos_of_one_name_have_files_of_their_own(made, tmp_path):
  for folder in ('x', 'y'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'a.mp4').symlink_to(made / 'a.mp4')
  out = tmp_path / 'out'
  tool.predict(options(made, out=str(out)), [str(tmp_path / 'x'), str(tmp_path / 'y')])
  assert sorted(p.name for p in out.glob('*.json')) == ['x_a.json', 'y_a.json']


def test_a_timeline(made, tmp_path, capsys):
  settings = {'timeline': True, 'hop': 0.5, 'out': str(tmp_path), 'top': 2}
  tool.predict(options(made, **settings), [str(made / 'long.mp4')])
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == '  motion: 6 windows of 0.70 s'
  names = ['long.mp4', 'long.timeline.csv', 'long.timeline.json', 'long.timeline.motion.png']
  assert sorted(p.name for p in tmp_path.iterdir()) == names
  with open(tmp_path / 'long.timeline.csv') as file:
    rows = list(csv.DictReader(file))
  assert [(r['start'], r['end']) for r in rows[::2]] == [
    ('0.0', '0.7'), ('0.5', '1.2'), ('1.0', '1.7'), ('1.5', '2.2'), ('2.0', '2.7'), ('2.3', '3.0'),
  ]  # fmt: skip
  stored = json.loads((tmp_path / 'long.timeline.json').read_text())['motion']
  assert len(stored) == 6
  assert [one['name'] for one in stored[0]['top']] == [row['class'] for row in rows[:2]]
  # A window is predicted as the video of its frames would be, with one view.
  part = write_video(
    tmp_path / 'p.mp4', 7, rate=10, pictures=lambda n: picture(8 * n + 1, 300, 400)
  )
  alone = Predictor(trained.load(str(made / 'model.npz'), as_trained=True), views=(1, 1))
  first = next(alone.predict('demo', [part], list(unlabelled.probe_each([part]))))
  best = max(first.tasks['motion'].probabilities)
  assert stored[0]['top'][0]['probability'] == pytest.approx(float(best), abs=0.02)
  assert video_lib.probe(tmp_path / 'long.mp4').num_frames == 30


def test_windows_of_frames_at_uneven_times(made, tmp_path):
  times = [n / 10 if n < 10 else 1 + (n - 10) / 5 for n in range(20)]
  path = write_video(tmp_path / 'v.mp4', 20, times=times)
  predictor = Predictor(trained.load(str(made / 'model.npz'), as_trained=True))
  found = timeline.make_timeline(predictor, 'demo', path, hop=0.4)
  rate = (20 - 1) / times[-1]
  span = 1 + (3 * 2)
  firsts = [*range(0, 20 - span, round(0.4 * rate)), 20 - span]
  np.testing.assert_allclose(found.starts, [times[n] for n in firsts], atol=1e-4)
  ends = [times[n + span - 1] + 1 / rate for n in firsts]
  np.testing.assert_allclose(found.ends, ends, atol=1e-4)


def test_a_picture_of_classes_with_odd_names(tmp_path, monkeypatch):
  names, save = [], timeline.save_png

  def note(figure, path):
    names.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    save(figure, path)

  monkeypatch.setattr(timeline, 'save_png', note)
  found = timeline.Timeline(np.zeros(1), np.ones(1), {'t': np.eye(1, 3)})
  odd = ('_a', r'$\x$', 'b')
  timeline.timeline_png(tmp_path / 'x.png', found, 't', odd, r'$\y$')
  assert names == [name.replace('$', r'\$') for name in odd]  # Or they would be formulas.
  assert (tmp_path / 'x.png').exists()


@pytest.mark.parametrize('settings', [{}, {'json': True}, {'timeline': True}])
def test_a_model_that_gives_nan(made, tmp_path, settings, capsys):
  loaded = trained.load(str(made / 'model.npz'))
  arrays = {k: x * np.nan if k.startswith('heads_') else x for k, x in loaded.arrays().items()}
  params_file.write(tmp_path / 'nan.npz', arrays, loaded.meta)
  with pytest.raises(DataError, match=r"a\.mp4: the model's probabilities of motion are NaN"):
    tool.predict(Options(str(tmp_path / 'nan.npz'), **settings), [str(made / 'a.mp4')])
  assert capsys.readouterr().out == ''


def test_bad_videos_are_listed_and_the_others_predicted(made, tmp_path, capsys):
  write_audio(tmp_path / 'sound.mp4')
  (tmp_path / 'empty.mp4').touch()
  (tmp_path / 'text.mp4').write_text('no video')
  cut = (made / 'long.mp4').read_bytes()
  (tmp_path / 'cut.mp4').write_bytes(cut[: len(cut) // 2])
  named = [str(tmp_path / 'no.mp4'), str(tmp_path), str(made / 'a.mp4'), str(tmp_path / 'nothing')]
  (tmp_path / 'nothing').mkdir()
  with pytest.raises(DataError) as raised:
    tool.predict(options(made, json=True), named)
  assert [json.loads(x)['video'] for x in capsys.readouterr().out.splitlines()] == [named[2]]
  message = str(raised.value)
  assert message.startswith('6 of 7 inputs could not be used:\n')
  for part in (
    'no.mp4: no such video file',
    'nothing: a folder without videos',
    'empty.mp4: the file is empty (0 bytes)',
    'sound.mp4: has no video stream, only audio',
    'text.mp4: ',
    'cut.mp4: ',
  ):
    assert message.count(part) == 1


@pytest.mark.parametrize(
  ('named', 'settings', 'error', 'message'),
  [
    (['no.mp4'], {}, DataError, r'no\.mp4: no such video file'),
    ([], {}, ConfigError, r'Expected videos and folders.* got \[\]'),
    (['0', 'a.mp4'], {}, ConfigError, 'one webcam or stream'),
    (['0'], {'timeline': True}, ConfigError, '0 is a stream'),
    (['97'], {}, DataError, '97: there is no such webcam'),
    (['a.mp4'], {'top': 0}, ConfigError, '--top=0: expected at least 1'),
    (['a.mp4'], {'views': '4'}, ConfigError, '--views=4: expected CLIPSxCROPS'),
    (['a.mp4'], {'views': '0x3'}, ConfigError, '--views=0x3: expected CLIPSxCROPS'),
    (['a.mp4'], {'views': '4x2'}, ConfigError, 'spatial_views: expected 1 or 3, got 2'),
    (['a.mp4'], {'task': 'verb'}, ConfigError, r"--task=verb: the checkpoint has \['motion'\]"),
    (['a.mp4'], {'boxes': 'b.csv'}, ConfigError, 'classify clips, not boxes'),
    (['a.mp4'], {'out': 'a.mp4/x'}, ConfigError, r'--out=a\.mp4/x cannot be made'),
    (['a.mp4'], {'timeline': True, 'window': 2.0}, ConfigError, '--window=2: .* spans, 0.70 s'),
    (['a.mp4', ''], {}, ConfigError, r"got \['a.mp4', ''\]"),
    (
      ['a.mp4'],
      {'timeline': True, 'hop': float('nan')},
      ConfigError,
      '--hop=nan: expected seconds',
    ),
    (['0'], {'seconds': float('inf')}, ConfigError, '--seconds=inf: expected seconds'),
    (
      ['a.mp4'],
      {'timeline': True, 'views': '4x3'},
      ConfigError,
      'for whole videos, not for --timeline',
    ),
    (
      ['a.mp4'],
      {'timeline': True, 'boxes': 'b.csv'},
      ConfigError,
      '--timeline is .* not for --boxes',
    ),
    (['a.mp4'], {'hop': 1.0}, ConfigError, '--hop=1.0 is for --timeline or a stream'),
    (['a.mp4'], {'seconds': 1.0}, ConfigError, '--seconds=1.0 is for a stream'),
    (['0'], {'batch_size': 2}, ConfigError, 'for whole videos or --boxes, not for a stream'),
    (['a.mp4'], {'threshold': 0.1}, ConfigError, '--threshold=0.1 is for --boxes'),
    (['a.mp4'], {'out': '.'}, ConfigError, r'--out=\. is in the folder of a\.mp4'),
    (['.'], {'out': 'x/y'}, ConfigError, r'--out=x/y is in the folder of \.: '),
  ],
)
def test_mistakes_are_named(made, monkeypatch, named, settings, error, message):
  monkeypatch.chdir(made)
  before = sorted(made.iterdir())
  with pytest.raises(error, match=message):
    tool.predict(options(made, **settings), named)
  assert sorted(made.iterdir()) == before


def test_a_stream_is_watched_to_its_end(made, monkeypatch, capsys):
  monkeypatch.setattr(camera, 'is_live', lambda name: name.endswith('.mp4'))
  tool.predict(options(made, json=True, hop=0.1), [str(made / 'long.mp4')])
  found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert found
  for one in found:
    assert one['tasks']['motion'][0]['name'] in NAMES
    assert one['lag'] >= 0
    assert one['dropped'] <= 30 - 7
  tool.predict(options(made), [str(made / 'long.mp4')])
  assert 'lag ' in capsys.readouterr().out


def test_a_stream_that_stands_still_ends_in_time(made, monkeypatch):
  class Still:
    released = False

    def read(self):
      still.wait()
      return False, None

    def release(self):
      self.released = True

  still, source = threading.Event(), Still()
  monkeypatch.setattr(camera, 'open_camera', lambda name: (source, 10.0))
  monkeypatch.setattr(camera, '_LONGEST_READ', 0.01)
  try:
    with pytest.raises(DataError, match=r'^7: only 0 frames came in 0\.1 s, and a window has 7'):
      tool.predict(options(made, seconds=0.1), ['7'])
  finally:
    still.set()


def test_a_name_that_is_no_text(made, tmp_path, capsys):
  path = os.fsdecode(os.fsencode(tmp_path / 'x') + b'\xff.mp4')
  os.symlink(made / 'a.mp4', path)
  tool.predict(options(made, json=True, out=str(tmp_path / 'out')), [path])
  assert json.loads(capsys.readouterr().out)['video'] == path
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['x?.json', 'x?.mp4']


def test_the_command(made):
  command = [sys.executable, '-m', 'tools.predict', f'--checkpoint={made}/model.npz', '--json']
  done = subprocess.run(
    [*command, '--top=1', f'--video={made}/a.mp4,no.mp4', f'{made}/long.mp4'],
    cwd=made,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert [len(one['tasks']['motion']['top']) for one in lines] == [1, 1]
  assert done.stderr.splitlines()[-2:] == [
    'DataError: 1 of 3 inputs could not be used:',
    '  no.mp4: no such video file, and no such folder of videos.',
  ]
