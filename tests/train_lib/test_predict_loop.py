"""Predictions are those of the evaluation loop, bit for bit."""

import copy

import jax
import numpy as np
import pytest

from datasets import unlabelled
from errors import CheckpointMismatchError, ConfigError, DataError
from tests.datasets.videos import picture, write_video
from tests.train_lib.conftest import make_tiny_config
from tests.train_lib.models_on_disk import write_model
from train_lib import evaluation, params_file, predict, run, trained
from train_lib.predict import Predictor

CLASSES = ('down', 'left', 'up')
EVALUATED = 4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Class folders of small videos: 3 to train on and 6 to test."""
  root = tmp_path_factory.mktemp('videos')
  for number, name in enumerate(CLASSES * 3):
    path = root / ('train' if number < 3 else 'test') / name / f'{number}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)

    def frame(n, number=number):
      return np.roll(picture(n, 32, 40), 5 * number, 1)

    write_video(path, 10 + number, pictures=frame)
  return root


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def evaluated(request, folder, tmp_path_factory):
  """A run's folder, what its evaluation by `--mode=eval` said, and that with batches of one video.

  In bfloat16 also with an average of the parameters, and layers scanned and rematerialised.
  """
  config = make_tiny_config(folder)
  config.batch_size, config.duration, config.evaluation.every = 3, '2 steps', 'never'
  config.evaluation.batch_size = EVALUATED
  config.datasets.demo.spatial_views = 3
  config.tasks.motion.labels = 'label'
  config.compute_dtype = request.param
  if request.param == 'bfloat16':
    config.ema_decay = 0.5
    config.trunk.update({'num_layers': 2, 'scan_layers': True, 'remat': 'full'})
  workdir = str(tmp_path_factory.mktemp('runs') / request.param)
  run.run('train', config, workdir)
  found = []
  for size in (EVALUATED, 1):
    config.evaluation.batch_size = size
    found.append(_evaluation(config, workdir))
  return workdir, *found


def _evaluation(config, workdir):
  """Logits [N, K] of `main.py --mode=eval`, and the probabilities that it keeps, by class."""
  logits, results = [], []
  kept, evaluate = evaluation._kept, evaluation.evaluate

  def note(program, result):
    logits.append(jax.device_get(result['logits']['motion']))
    return kept(program, result)

  def note_results(*args):
    results.append(evaluate(*args))
    return results[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, '_kept', note)
    patch.setattr(evaluation, 'evaluate', note_results)
    run.run('eval', config, workdir)
  found = results[0].predictions['motion']
  order = np.argsort(found.top_classes, 1)
  assert results[0].rows.tolist() == list(range(6))
  return np.concatenate(logits)[:6], np.take_along_axis(found.top_probabilities, order, 1)


def predicted(workdir, paths, **options):
  predictor = Predictor(trained.load(workdir, as_trained=True), **options)
  infos = list(unlabelled.probe_each(paths))
  found = [video.tasks['motion'] for video in predictor.predict('demo', paths, infos)]
  return np.stack([f.logits for f in found]), np.stack([f.probabilities for f in found])


def test_predictions_are_those_of_the_evaluation(evaluated, folder):
  workdir, in_fours, alone = evaluated
  paths = sorted(folder.glob('test/*/*.mp4'))
  for part in (0, 1):  # logits, probabilities
    assert np.ptp(in_fours[part], axis=0).min() > 0
    np.testing.assert_array_equal(predicted(workdir, paths)[part], in_fours[part])
  # A single video is an evaluation of batches of one.
  for got, expected in zip(predicted(workdir, paths[:1]), alone):
    np.testing.assert_array_equal(got, expected[:1])
  # Or of the evaluation's own batches, in whatever place.
  for got, expected in zip(predicted(workdir, paths[:0:-1], batch_size=EVALUATED), in_fours):
    np.testing.assert_array_equal(got, expected[:0:-1])


def test_the_checkpoint_is_used_as_it_was_trained(evaluated):
  workdir, *_ = evaluated
  exact, plain = trained.load(workdir, as_trained=True), trained.load(workdir)
  assert plain.experiment.compute_dtype == 'float32'
  if exact.experiment.compute_dtype == 'bfloat16':
    assert exact.experiment.trunk.arguments['scan_layers'] is True
    assert exact.experiment.trunk.arguments['remat'] == 'full'
    assert plain.experiment.trunk.arguments['scan_layers'] is False


@pytest.fixture(scope='module')
def predictor(folder, tmp_path_factory):
  """A model of random numbers."""
  path = tmp_path_factory.mktemp('model') / 'model.npz'
  write_model(path, make_tiny_config(folder), {'motion': CLASSES})
  return Predictor(trained.load(str(path), as_trained=True))


def test_views(predictor, folder):
  assert predictor.views('demo') == '2 x 1 views of 4 frames at 16 x 16'
  other = Predictor(predictor.trained, views=(3, 1))
  assert other.views('demo') == '3 x 1 views of 4 frames at 16 x 16'
  paths = sorted(folder.glob('test/*/*.mp4'))[:1]
  video = next(other.predict('demo', paths, list(unlabelled.probe_each(paths))))
  assert video.indices.tolist() == [[0, 2, 4, 6], [3, 5, 7, 9], [6, 8, 10, 12]]
  np.testing.assert_allclose(video.tasks['motion'].probabilities.sum(), 1, rtol=1e-5)
  with pytest.raises(ConfigError, match='spatial_views: expected 1 or 3, got 2'):
    Predictor(predictor.trained, views=(4, 2))


def test_tasks(predictor):
  assert predictor.datasets_of() == predictor.datasets_of('motion') == {'demo': ['motion']}
  with pytest.raises(ConfigError, match=r"--task=verb: the checkpoint has \['motion'\]"):
    predictor.datasets_of('verb')


def test_a_video_that_breaks_off_is_told_and_the_others_go_on(predictor, folder, tmp_path):
  good = sorted(folder.glob('test/*/*.mp4'))[:2]
  broken = tmp_path / 'broken.mp4'
  broken.write_bytes(good[0].read_bytes())
  infos = list(unlabelled.probe_each([good[0], broken, good[1]]))
  broken.unlink()
  found = list(predictor.predict('demo', [good[0], broken, good[1]], infos))
  assert [isinstance(video, DataError) for video in found] == [False, True, False]
  assert 'broken.mp4: no such video file' in str(found[1])


def test_files_that_are_no_videos_are_told(folder, tmp_path):
  (tmp_path / 'empty.mp4').touch()
  good = sorted(folder.glob('test/*/*.mp4'))[0]
  found = list(unlabelled.probe_each([tmp_path / 'no.mp4', good, tmp_path / 'empty.mp4']))
  assert 'no such video file' in str(found[0])
  assert found[1].num_frames == 13
  assert 'the file is empty' in str(found[2])


def test_clips_are_predicted_like_videos_of_one_view(predictor, folder):
  from datasets import clips
  from datasets.one_video import OneVideo

  paths = sorted(folder.glob('test/*/*.mp4'))[:3]
  one = Predictor(predictor.trained, views=(1, 1), batch_size=2)
  whole = [
    v.tasks['motion'] for v in one.predict('demo', paths, list(unlabelled.probe_each(paths)))
  ]
  pixels = [clips.view_clips(OneVideo(path), one.clip('demo'), 0, 1, 1)[0] for path in paths]
  cut = [scores['motion'] for scores in one.predict_clips('demo', pixels, 2)]
  for a, b in zip(whole, cut, strict=True):
    np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_combinations_of_tasks():
  joint = {'action': ('verb', 'noun')}
  verb = predict.Scores(np.zeros(2), np.float32([0.25, 0.75]))
  noun = predict.Scores(np.zeros(3), np.float32([0.5, 0.125, 0.375]))
  assert predict.joint_scores(joint, {'verb': verb}) == {}
  action = predict.joint_scores(joint, {'verb': verb, 'noun': noun})['action']
  assert action.probabilities.tolist() == [0.125, 0.03125, 0.09375, 0.375, 0.09375, 0.28125]
  assert action.best(2).tolist() == [3, 5]
  assert predict.joint_names([('cut', 'wash'), ('cup', 'egg', 'pan')], 5) == ('wash', 'pan')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda meta: meta.pop('class_names'), 'has weights, but no class_names with them: expected'),
    (
      lambda meta: meta.pop('preprocessing'),
      'has weights, but no preprocessing with them: expected',
    ),
    (lambda meta: meta['class_names'].clear(), r"no class names of \['motion'\]"),
  ],
)
def test_a_checkpoint_without_all_it_needs(predictor, tmp_path, change, message):
  meta = copy.deepcopy(dict(predictor.trained.meta))
  change(meta)
  params_file.write(tmp_path / 'part.npz', predictor.trained.arrays(), meta)
  with pytest.raises(CheckpointMismatchError, match=message):
    trained.load(str(tmp_path / 'part.npz'), as_trained=True)


def test_a_checkpoint_without_class_names(tmp_path):
  np.savez(tmp_path / 'weights.npz', kernel=np.zeros(3, np.float32))
  with pytest.raises(
    CheckpointMismatchError, match=r'no config and no class names .* `python -m tools\.checkpoint'
  ):
    trained.load(str(tmp_path / 'weights.npz'), as_trained=True)
