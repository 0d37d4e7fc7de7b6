import json
import math
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from datasets import demo
from datasets import manifest as manifest_lib
from errors import CheckpointMismatchError, ConfigError, DataError, TrainingDivergedError
from train_lib import checkpoint, loop, run
from train_lib.experiment import CheckpointConfig


def scalars(workdir, prefix):
  """step -> metrics of the lines that have any named `prefix/...`."""
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  skip = ('step', 'time', 'train/clips_per_second')
  return {
    line['step']: {k: v for k, v in line.items() if k not in skip and '/time/' not in k}
    for line in lines
    if any(k.startswith(prefix) for k in line)
  }


def final_state(workdir, step):
  folder = workdir / checkpoint.FOLDER / str(step)
  assert folder.is_dir(), sorted(folder.parent.iterdir())
  return checkpoint.load_params(str(workdir))[0]


def test_a_run_leaves_everything_a_person_looks_for(finished):
  workdir, printed = finished
  assert 'step 6/6 | loss' in printed
  assert printed.startswith('START from scratch (step 0 of 6).\n')
  assert 'RESUME' not in printed
  for part in ('checkpoint', 'TensorBoard', 'predictions.jsonl', 'confusion_motion.png'):
    assert part in printed
  assert sorted(scalars(workdir, 'train/')) == [2, 3, 4, 6]
  assert sorted(scalars(workdir, 'eval/')) == [4, 6]
  assert list(workdir.glob('events.out.tfevents.*'))
  assert json.loads((workdir / 'config.json').read_text())['batch_size'] == 8
  results = workdir / 'eval' / 'demo' / 'test' / '00000006'
  names = {p.name for p in results.iterdir()}
  assert names == {'metrics.json', 'predictions.jsonl', 'confusion_motion.png', 'clips_motion.png'}
  lines = [json.loads(line) for line in (results / 'predictions.jsonl').read_text().splitlines()]
  accuracy = np.mean([x['motion']['top5'][0]['class'] == x['motion']['label'] for x in lines])
  metrics = json.loads((results / 'metrics.json').read_text())
  assert metrics['examples'] == len(lines) == len({x['id'] for x in lines})
  assert metrics['top1/motion'] == pytest.approx(accuracy)
  assert len(lines[0]['motion']['top5']) == 5
  ranks = np.array([x['motion']['rank'] for x in lines])
  assert metrics['top1/motion'] == pytest.approx(np.mean(ranks <= 1), abs=1e-7)
  assert metrics['top5/motion'] == pytest.approx(np.mean(ranks <= 5), abs=1e-7)
  assert {x['motion']['name'] for x in lines} == set(demo.CLASSES)
  assert metrics['shown'] == (
    '2 x 1 views, mean of logits, frames 4, stride 2, fps 0.0, sampling dense, short_clip loop, '
    'resize 18, crop 16, fit crop'
  )


def test_a_second_start_says_it_is_done(finished, tiny_config, capsys):
  workdir, _ = finished
  run.run('train', tiny_config, str(workdir))
  assert 'already trained to step 6 of 6: complete' in capsys.readouterr().out


def test_eval_mode_repeats_the_last_evaluation(finished, tiny_config, capsys):
  workdir, _ = finished
  before = (workdir / 'eval' / 'demo' / 'test' / '00000006' / 'predictions.jsonl').read_text()
  run.run('eval', tiny_config, str(workdir))
  assert 'eval of demo at 6' in capsys.readouterr().out
  assert (
    workdir / 'eval' / 'demo' / 'test' / '00000006' / 'predictions.jsonl'
  ).read_text() == before


def test_checkpoint_meta_tells_what_the_run_was(finished):
  workdir, _ = finished
  checkpointer = checkpoint.Checkpointer(workdir, CheckpointConfig('never'))
  meta = checkpointer.restore_meta(6)
  checkpointer.close()
  assert len(meta['class_names']['motion']) == 8
  assert len(meta['position'].pop('data')['demo']) == 64
  assert meta['position'] == {
    'step': 6,
    'seed': 0,
    'batch_size': {'demo': 8},
    'examples': {'demo': 32},
    'mixture': ['weighted', {}],
  }
  assert meta['config']['name'] == 'vivit/demo'
  assert set(meta['versions']) >= {'jax', 'flax'}
  assert set(meta['metrics']) == {'loss/motion', 'top1/motion', 'top5/motion'}


def test_the_same_seed_gives_the_same_run_and_another_does_not(finished, tiny_config, tmp_path):
  workdir, _ = finished
  run.run('train', tiny_config, str(tmp_path / 'again'))
  for prefix in ('train/', 'eval/'):
    assert scalars(tmp_path / 'again', prefix) == scalars(workdir, prefix)
  a, b = final_state(workdir, 6), final_state(tmp_path / 'again', 6)
  assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
  tiny_config.seed = 1
  tiny_config.evaluation.every = 'never'
  tiny_config.datasets.demo.eval_split = ''
  tiny_config.checkpoint.best_metric = ''
  run.run('train', tiny_config, str(tmp_path / 'other'))
  assert scalars(tmp_path / 'other', 'train/') != scalars(workdir, 'train/')


def run_and_interrupt_after(steps, config, workdir, monkeypatch):
  original = loop.MetricLog.add
  seen = []

  def interrupt(self, metrics, rows):
    original(self, metrics, rows)
    seen.append(1)
    if len(seen) == steps:
      raise KeyboardInterrupt

  monkeypatch.setattr(loop.MetricLog, 'add', interrupt)
  with pytest.raises(KeyboardInterrupt):
    run.run('train', config, str(workdir))
  monkeypatch.undo()


def test_an_interrupted_run_goes_on_bit_for_bit(
  finished, tiny_config, tmp_path, monkeypatch, capsys
):
  workdir, _ = finished
  run_and_interrupt_after(5, tiny_config, tmp_path / 'resumed', monkeypatch)
  capsys.readouterr()
  run.run('train', tiny_config, str(tmp_path / 'resumed'))
  assert 'RESUME at step 4 of 6' in capsys.readouterr().out
  for prefix in ('train/', 'eval/'):
    assert scalars(tmp_path / 'resumed', prefix) == scalars(workdir, prefix)
  a, b = final_state(workdir, 6), final_state(tmp_path / 'resumed', 6)
  assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def worse_and_worse(config):
  config.update({'duration': '8 steps'})
  config.evaluation.every = '2 steps'
  config.checkpoint.update({'every': 'never', 'keep': 1, 'best_metric': 'loss/motion'})
  config.optimizer.update({'learning_rate': 5.0, 'warmup': '7 steps', 'max_grad_norm': 0.0})
  return config


def kept(workdir):
  return {int(p.name) for p in (workdir / checkpoint.FOLDER).iterdir() if p.name.isdigit()}


def test_the_best_checkpoint_is_kept_across_a_resume(tiny_config, tmp_path, monkeypatch):
  config = worse_and_worse(tiny_config)
  run_and_interrupt_after(5, config, tmp_path, monkeypatch)
  run.run('train', config, str(tmp_path))
  losses = {s: m['eval/loss/motion'] for s, m in scalars(tmp_path, 'eval/').items()}
  best = min(losses, key=losses.get)
  assert best < 5  # It was saved before the interruption.
  assert kept(tmp_path) == {best, 8}


def diverging(config):
  config.duration = '9 steps'
  config.optimizer.update({'learning_rate': 1e30, 'max_grad_norm': 0.0, 'warmup': '4 steps'})
  config.evaluation.every = 'never'
  return config


def test_a_diverged_state_is_not_saved(tiny_config, tmp_path):
  diverging(tiny_config).log_every = 'never'
  with pytest.raises(TrainingDivergedError, match='Nothing was saved since'):
    run.run('train', tiny_config, str(tmp_path))
  for step in kept(tmp_path):
    assert step < 6
    params = checkpoint.load_params(str(tmp_path))[0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_a_misspelt_best_metric_is_an_error_at_once(tiny_config, tmp_path):
  tiny_config.checkpoint.best_metric = 'top1/moton'
  with pytest.raises(ConfigError, match=r"best_metric` is 'top1/moton', but .*'top1/motion'"):
    run.run('train', tiny_config, str(tmp_path / 'run'))


def test_resuming_tells_what_has_changed(finished, tiny_config, monkeypatch, capsys):
  workdir, _ = finished
  monkeypatch.setattr(run, 'train_steps', lambda *_, **__: None)  # It is told before the first.
  tiny_config.update({'duration': '7 steps'})
  tiny_config.optimizer.learning_rate = 1e-5
  run.run('train', tiny_config, str(workdir))
  printed = capsys.readouterr().out
  assert 'The config has changed since step 6' in printed
  assert 'optimizer.learning_rate: 0.002 -> 1e-05' in printed
  assert 'seed' not in printed


def test_a_damaged_checkpoint_is_named(finished, tiny_config):
  workdir, _ = finished
  for path in (workdir / checkpoint.FOLDER / '6' / 'state').rglob('d/*'):
    path.write_bytes(path.read_bytes()[:10])
  with pytest.raises(CheckpointMismatchError, match=r'checkpoints/6 cannot be read.*delete it'):
    run.run('eval', tiny_config, str(workdir))


def test_evaluation_does_not_depend_on_training_settings(finished, tiny_config, capsys):
  workdir, _ = finished
  tiny_config.update({'batch_size': 4, 'seed': 7})
  tiny_config.optimizer.max_grad_norm = 0.0
  run.run('eval', tiny_config, str(workdir))
  printed = capsys.readouterr().out
  assert 'eval of demo at 6' in printed
  assert 'eval/demo/test/00000006/predictions.jsonl' in printed


def test_evaluating_weights_without_a_head_is_an_error(finished, tiny_config, tmp_path):
  workdir, _ = finished
  tiny_config.init_from.path = str(workdir)
  with pytest.raises(CheckpointMismatchError, match=r'heads_motion.*random.*init_from.load_head'):
    run.run('eval', tiny_config, str(tmp_path / 'other'))
  assert not (tmp_path / 'other').exists()


def test_heads_of_a_run_with_other_classes_are_refused(finished, tiny_config, tmp_path):
  workdir, _ = finished
  tiny_config.datasets.demo.dir = str(other_classes(tiny_config.datasets.demo.dir, tmp_path / 'd'))
  tiny_config.init_from.update({'path': str(workdir), 'load_head': True})
  with pytest.raises(CheckpointMismatchError, match=r"task 'motion' has 8 classes there, but 9"):
    run.run('train', tiny_config, str(tmp_path / 'other'))


def test_init_from_a_run(finished, tiny_config, tmp_path, capsys):
  workdir, _ = finished
  tiny_config.init_from.update({'path': str(workdir), 'load_head': True})
  run.run('eval', tiny_config, str(tmp_path / 'other'))
  printed = capsys.readouterr().out
  assert 'loaded' in printed
  before = json.loads(
    (workdir / 'eval' / 'demo' / 'test' / '00000006' / 'metrics.json').read_text()
  )
  after = json.loads(
    (tmp_path / 'other' / 'eval' / 'demo' / 'test' / '00000000' / 'metrics.json').read_text()
  )
  assert after == pytest.approx(before)


def test_init_mode_prints_and_writes_nothing(tiny_config, tmp_path, capsys):
  run.run('init', tiny_config, str(tmp_path / 'new'))
  printed = capsys.readouterr().out
  assert 'trunk/SpatialTransformer/encoderblock_0' in printed
  assert 'GFLOPs per view' in printed
  assert 'SpatialTransformer' in printed
  assert not (tmp_path / 'new').exists()


def test_init_mode_without_data_uses_the_benchmarks_classes(tiny_config, tmp_path, capsys):
  tiny_config.datasets.demo.update({'dir': str(tmp_path / 'none'), 'benchmark': 'kinetics400'})
  tiny_config.tasks.motion.labels = 'label'
  run.run('init', tiny_config, str(tmp_path / 'new'))
  assert 'published figures of kinetics400' in capsys.readouterr().out


def test_divergence_stops_the_run_and_names_the_steps(tiny_config, tmp_path):
  with pytest.raises(TrainingDivergedError, match=r'in steps \d to \d.*learning_rate'):
    run.run('train', diverging(tiny_config), str(tmp_path))


# --- Bad input: one named error, before any compile, nothing left behind. ---


def rejects(config, workdir, error, message, monkeypatch, mode='train'):
  def no_compile(*_):
    raise AssertionError('initialised before the error')

  monkeypatch.setattr(run, 'fresh_state', no_compile)
  with pytest.raises(error, match=message):
    run.run(mode, config, str(workdir))
  assert not workdir.exists()


def test_missing_manifest(tiny_config, tmp_path, monkeypatch):
  tiny_config.datasets.demo.dir = str(tmp_path / 'none')
  rejects(tiny_config, tmp_path / 'run', DataError, r'none.*manifest.json', monkeypatch)


def test_missing_split(tiny_config, tmp_path, monkeypatch):
  tiny_config.datasets.demo.eval_split = 'holdout'
  rejects(tiny_config, tmp_path / 'run', DataError, r"holdout.*'?te?st'?", monkeypatch)


def test_unknown_label_group(tiny_config, tmp_path, monkeypatch):
  tiny_config.tasks.motion.labels = 'verb'
  rejects(tiny_config, tmp_path / 'run', DataError, r"'verb'.*\['motion'\]", monkeypatch)


def test_indivisible_input(tiny_config, tmp_path, monkeypatch):
  tiny_config.datasets.demo.clip.frames = 5
  rejects(tiny_config, tmp_path / 'run', ConfigError, r'trunk.tubelet.*\(5, 16, 16\)', monkeypatch)


def test_unknown_key(tiny_config, tmp_path, monkeypatch):
  tiny_config.trunk.hiden_size = 3
  message = r'`trunk.hiden_size`. Did you mean `hidden_size`\?'
  rejects(tiny_config, tmp_path / 'run', ConfigError, message, monkeypatch)


def test_eval_without_a_checkpoint(tiny_config, tmp_path):
  with pytest.raises(ConfigError, match=r'--mode=eval found no checkpoint in .*Train first'):
    run.run('eval', tiny_config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_unwritable_workdir(tiny_config, tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('in the way')
  with pytest.raises(ConfigError, match=r'--workdir=.*file/run is not writable'):
    run.run('train', tiny_config, str(blocked / 'run'))


def test_missing_weights_leave_no_workdir(tiny_config, tmp_path):
  tiny_config.init_from.path = str(tmp_path / 'none.npz')
  with pytest.raises(CheckpointMismatchError, match=r'none.npz'):
    run.run('train', tiny_config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_heads_cannot_come_from_nowhere(tiny_config, tmp_path):
  tiny_config.init_from.load_head = True
  with pytest.raises(
    ConfigError, match=r'init_from.load_head` is set, but `init_from.path` is empty'
  ):
    run.run('train', tiny_config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_run_says_that_what_is_frozen_is_random(tiny_config, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(run.Training, '_train', lambda *_: None)
  tiny_config.optimizer.frozen = ('^trunk/',)
  run.run('train', tiny_config, str(tmp_path / 'run'))
  lines = capsys.readouterr().out.splitlines()
  assert lines[1] == '`init_from.path` is empty: FROZEN PARAMETERS ARE RANDOM, and stay so.'


def test_class_count_disagrees_with_the_checkpoint(finished, tiny_config, tmp_path):
  workdir, _ = finished
  smaller = other_classes(tiny_config.datasets.demo.dir, tmp_path / 'data')
  tiny_config.datasets.demo.dir = str(smaller)
  with pytest.raises(CheckpointMismatchError, match=r"task 'motion' has 8 classes there, but 9"):
    run.run('train', tiny_config, str(workdir))


def other_classes(source, target):
  """The same records under a manifest with one more class."""
  shutil.copytree(source, target)
  old = manifest_lib.load(target)
  group = old.tasks['motion']
  tasks = {'motion': ((*group.classes, 'stands still'), group.multi_label)}
  manifest_lib.write(target, manifest_lib.create(list(old.splits.values()), tasks))
  return target


def test_another_batch_size_is_not_the_same_run(finished, tiny_config):
  workdir, _ = finished
  tiny_config.update({'batch_size': 4, 'duration': '9 steps'})
  with pytest.raises(
    CheckpointMismatchError, match=r"batch_size={'demo': 8}, but now it is {'demo': 4}"
  ):
    run.run('train', tiny_config, str(workdir))


def test_another_model_lists_the_paths(finished, tiny_config):
  workdir, _ = finished
  tiny_config.update({'duration': '9 steps'})
  tiny_config.trunk.hidden_size = 8
  with pytest.raises(CheckpointMismatchError) as caught:
    run.run('train', tiny_config, str(workdir))
  message = str(caught.value)
  assert (
    '! params/heads_motion/output_projection/kernel: checkpoint (16, 8), model (8, 8)' in message
  )
  assert 'more' in message.splitlines()[-2]
  assert 'opt_state' not in message  # What matters first, and no more than fits on a screen.


def test_scalars_are_finite(finished):
  workdir, _ = finished
  for line in scalars(workdir, 'train/').values():
    assert all(math.isfinite(v) for v in line.values())


def test_training_and_evaluation_import_no_tensorflow(demo_data_dir, tmp_path):
  script = (
    'import sys\n'
    'from tests.train_lib.conftest import make_tiny_config\n'
    'from train_lib import run\n'
    f'config = make_tiny_config({str(demo_data_dir)!r})\n'
    'config.loader_processes = config.loader_threads = 1\n'
    f'run.run("train", config, {str(tmp_path / "run")!r})\n'
    'print("tensorflow" in sys.modules)\n'
  )
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == 'False'
