"""Boxes of a file are classified as an evaluation would, and drawn about their keyframes."""

import json

import numpy as np
import pytest

from datasets import ava_csv, video
from datasets.boxed_video import BoxedVideo
from errors import ConfigError, DataError
from projects.cofinetune import ava_csv as scored_csv
from tests.datasets.videos import picture, write_video
from tests.train_lib.conftest import make_actors_config
from tests.train_lib.models_on_disk import write_model
from tools import predict as tool
from train_lib import predicted, trained
from train_lib.predict import Predictor

ACTIONS = tuple(f'action {k}' for k in range(4))
ACTORS = tuple(f'does {k}' for k in range(19))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder with a checkpoint of clips and boxes, a video of 2 s, and its boxes."""
  folder = tmp_path_factory.mktemp('boxes')
  config = make_actors_config(folder)
  config.tasks.actors.protocol = None
  write_model(folder / 'model.npz', config, {'actions': ACTIONS, 'actors': ACTORS})
  write_video(folder / 'a.mp4', 50, pictures=lambda n: picture(n, 48, 64))
  (folder / 'boxes.csv').write_text(
    'a,0.4,0.1,0.1,0.5,0.9,0.9\na,0.4,0.5,0.1,0.9,0.9,0.95\na,0.4,0,0,0.2,0.2,0.1\na,1.6,0.2,0.2,0.8,0.8,1.0\n'
  )
  return folder


def test_boxes_are_classified_and_written(made, tmp_path, capsys):
  options = tool.Options(
    str(made / 'model.npz'),
    boxes=str(made / 'boxes.csv'),
    out=str(tmp_path),
    top=2,
    threshold=0.0,
  )
  tool.predict(options, [str(made / 'a.mp4')])
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == '  actors: 3 of 4 boxes at 2 keyframes'
  assert lines[2].startswith('        0.40 s  x 0.50 to 0.90, y 0.10 to 0.90  does ')
  found = json.loads((tmp_path / 'a.boxes.json').read_text())['keyframes']['actors']
  assert [key['time'] for key in found] == [0.4, 1.6]
  assert [[b['score'] for b in key['boxes']] for key in found] == [[0.95, 0.9], [1.0]]
  assert found[0]['boxes'][0]['box'] == [0.1, 0.5, 0.9, 0.9]
  assert len(found[0]['boxes'][0]['tasks']['actors']) == 2
  info = video.probe(tmp_path / 'a.actors.mp4')
  assert (info.num_frames, info.height, info.width) == (50, 240, 320)
  frames = dict(zip((10, 25), video.read_frames(tmp_path / 'a.actors.mp4', info, [10, 25])))
  side = slice(100, 160), slice(31, 34)  # The left side of a box, at x = 0.1.
  assert frames[10][side][..., 1].max() > 180  # Green.
  assert frames[25][side][..., 1].max() < 150  # Between the keyframes.


def test_detections_are_written_as_evaluations_write_them(made, tmp_path):
  (tmp_path / 'map.pbtxt').write_text(
    'item { name: "does 3" id: 30 }\nitem { name: "does 1" id: 12 }\n'
  )
  predictor = Predictor(trained.load(str(made / 'model.npz'), as_trained=True))
  boxes = ava_csv.read_boxes(made / 'boxes.csv')['a']
  info = video.probe(made / 'a.mp4')
  data = BoxedVideo(made / 'a.mp4', info, boxes, predictor.labels_of('actors'))
  expected = [probs['actors'] for _, probs, _ in predictor.predict_boxes('actors', data)]
  for labelmap, ids, classes in (
    ('', list(range(1, 20)), list(range(19))),
    (str(tmp_path / 'map.pbtxt'), [12, 30], [1, 3]),
  ):
    out = tmp_path / f'out{len(ids)}'
    settings = {'boxes': str(made / 'boxes.csv'), 'labelmap': labelmap, 'out': str(out)}
    tool.predict(tool.Options(str(made / 'model.npz'), **settings), [str(made / 'a.mp4')])
    table = scored_csv.read_boxes(out / 'a.actors.csv')
    assert table.keyframes == (('a', '0.400000'), ('a', '1.600000'))
    assert table.keyframe.tolist() == [0] * 2 * len(ids) + [1] * len(ids)
    assert table.labels.tolist() == ids * 3
    assert table.boxes[:: len(ids)].tolist() == [
      [0.1, 0.5, 0.9, 0.9], [0.1, 0.1, 0.9, 0.5], [0.2, 0.2, 0.8, 0.8],
    ]  # fmt: skip
    wanted = np.concatenate(expected)[:, classes].ravel()
    np.testing.assert_allclose(table.scores, wanted, rtol=0, atol=5e-10)


def test_a_label_map_of_other_classes(made, tmp_path):
  (tmp_path / 'map.pbtxt').write_text(
    'item { name: "does 3" id: 30 }\nitem { name: "sit" id: 1 }\n'
  )
  settings = {'boxes': str(made / 'boxes.csv'), 'labelmap': str(tmp_path / 'map.pbtxt')}
  with pytest.raises(ConfigError, match=r"1 of 2 classes are not the checkpoint's: \['sit'\]"):
    tool.predict(tool.Options(str(made / 'model.npz'), **settings), [str(made / 'a.mp4')])


def test_boxes_that_evaluations_leave_out(made, tmp_path, capsys):
  (tmp_path / 'low.csv').write_text('a,0.4,0.1,0.1,0.5,0.9,0.01\n')
  settings = {'boxes': str(tmp_path / 'low.csv'), 'out': str(tmp_path / 'out')}
  tool.predict(tool.Options(str(made / 'model.npz'), **settings), [str(made / 'a.mp4')])
  assert '  actors: 0 of 1 boxes at 1 keyframes' in capsys.readouterr().out
  assert (tmp_path / 'out' / 'a.actors.csv').read_text() == ''


def test_boxes_are_predicted_alike_alone_and_in_a_batch(made):
  predictor = Predictor(trained.load(str(made / 'model.npz'), as_trained=True), batch_size=2)
  boxes = ava_csv.read_boxes(made / 'boxes.csv')['a']
  info = video.probe(made / 'a.mp4')

  def run(keyframes):
    data = BoxedVideo(made / 'a.mp4', info, keyframes, predictor.labels_of('actors'))
    return list(predictor.predict_boxes('actors', data))

  (_, first, index), (_, second, _) = run(boxes)
  assert index.tolist() == [0, 1]
  assert first['actors'].shape == (2, 19)
  np.testing.assert_array_equal(run(boxes[1:])[0][1]['actors'], second['actors'])


def test_without_boxes_the_clips_are_classified(made, capsys):
  tool.predict(tool.Options(str(made / 'model.npz'), top=1), [str(made / 'a.mp4')])
  told = capsys.readouterr()
  assert 'actions: ' in told.out
  assert 'actors: ' not in told.out
  assert told.err == "[['actors']] are left out: they need --boxes=FILE.csv.\n"


@pytest.mark.parametrize(
  ('settings', 'error', 'message'),
  [
    ({'task': 'actors'}, ConfigError, r'classify boxes: give those .* --boxes=FILE\.csv.*detector'),
    ({'boxes': 'no.csv'}, DataError, r'no\.csv: cannot be read: No such file'),
    ({'boxes': 'boxes.csv', 'task': 'actions'}, ConfigError, 'classify clips, not boxes'),
  ],
)
def test_mistakes(made, monkeypatch, settings, error, message):
  monkeypatch.chdir(made)
  with pytest.raises(error, match=message):
    tool.predict(tool.Options('model.npz', **settings), ['a.mp4'])


def test_boxes_are_held_until_half_a_second_from_their_keyframe():
  one = {'box': [0.25, 0.25, 0.75, 0.75], 'tasks': {}}
  draw = predicted.drawn_boxes([{'time': 1.0, 'boxes': [one]}, {'time': 2.5, 'boxes': []}], 0.5)
  seen = {}
  for seconds in (0.4, 0.5, 1.5, 1.6, 2.5):
    frame = np.zeros((40, 40, 3), np.uint8)
    assert draw(frame, seconds) == []
    seen[seconds] = bool(frame.any())
  assert seen == {0.4: False, 0.5: True, 1.5: True, 1.6: False, 2.5: False}
