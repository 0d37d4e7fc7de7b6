"""Checkpoints of states of a few numbers: what survives when saving, or the run, is cut short."""

import errno
import os
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from errors import CheckpointError, CheckpointMismatchError
from train_lib import checkpoint
from train_lib.experiment import CheckpointConfig
from train_lib.state import TrainState


def state_at(step):
  return TrainState(
    step=jnp.int32(step),
    params={'w': jnp.full(4, step, jnp.float32)},
    opt_state={'m': jnp.zeros(2)},
    model_state={},
    ema_params=None,
    skipped_steps=jnp.int32(0),
  )


@pytest.fixture
def opened(tmp_path):
  """Opens checkpointers of one workdir, closed at the end."""
  all_opened = []

  def open_(**config):
    all_opened.append(checkpoint.Checkpointer(tmp_path, CheckpointConfig('1 step', **config)))
    return all_opened[-1]

  yield open_
  for checkpointer in all_opened:
    checkpointer.close()


def save(checkpointer, step, **metrics):
  checkpointer.save(state_at(step), {'of': step}, metrics or None)
  return checkpointer.wait()


def folders(tmp_path):
  return sorted(p.name for p in (tmp_path / checkpoint.FOLDER).iterdir())


def no_space(*_, **__):
  raise OSError(errno.ENOSPC, 'No space left on device')


def test_the_newest_and_the_best_are_kept_across_a_restart(opened, tmp_path):
  first = opened(keep=2, best_metric='top1/a')
  for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.6)):
    assert save(first, step, **{'top1/a': top1})
  first.close()
  second = opened(keep=2, best_metric='top1/a')
  for step, top1 in ((4, 0.7), (5, 0.8)):
    assert save(second, step, **{'top1/a': top1})
  assert save(second, 6)  # Without an evaluation.
  assert folders(tmp_path) == ['2', '5', '6']


def test_what_a_cut_save_leaves_is_removed_and_said(opened, tmp_path, capsys):
  save(opened(), 1)
  left = tmp_path / checkpoint.FOLDER / '2.orbax-checkpoint-tmp'
  (left / 'state').mkdir(parents=True)
  (left / 'state' / 'half').write_text('x')
  assert checkpoint.latest_step(tmp_path) == 1
  assert opened().latest_step == 1
  assert folders(tmp_path) == ['1']
  assert f'{left} was left by a save that did not finish: removed.' in capsys.readouterr().out


@pytest.mark.parametrize('lost', ['meta/metadata', 'state/manifest.ocdbt'])
def test_a_torn_checkpoint_is_ignored_set_aside_and_said(lost, opened, tmp_path, capsys):
  first = opened()
  save(first, 1)
  save(first, 2)
  first.close()
  torn = tmp_path / checkpoint.FOLDER / '2'
  (torn / lost).write_text('')
  assert checkpoint.latest_step(tmp_path) == 1
  second = opened()
  assert second.latest_step == 1
  assert f'{torn} is torn (no {lost}): ignored, and renamed to 2.torn.' in capsys.readouterr().out
  assert save(second, 2)
  assert folders(tmp_path) == ['1', '2', '2.torn']


def test_a_reader_leaves_a_running_trainers_folder_alone(opened, tmp_path):
  save(opened(), 1)
  left = tmp_path / checkpoint.FOLDER / '2.orbax-checkpoint-tmp'
  left.mkdir()
  reader = checkpoint.CheckpointReader(tmp_path)
  assert reader.restore_meta(1) == {'of': 1}
  reader.close()
  assert left.is_dir()


def test_after_a_failed_save_the_next_state_is_saved_instead(opened, tmp_path, capsys, monkeypatch):
  checkpointer = opened(keep=1)
  assert save(checkpointer, 1)
  assert not checkpointer.failed()
  with monkeypatch.context() as patch:
    patch.setattr(os, 'rename', no_space)
    assert not save(checkpointer, 2)
  assert checkpointer.failed()
  assert folders(tmp_path) == ['1']
  folder = tmp_path / checkpoint.FOLDER
  printed = capsys.readouterr().out
  assert f'Saving step 2 to {folder} has failed: [Errno 28] No space left on device' in printed
  assert f'Attempt 1 of 3; newest good checkpoint: {folder / "1"}.' in printed
  assert save(checkpointer, 3)
  assert not checkpointer.failed()
  assert folders(tmp_path) == ['3']  # Orbax had forgotten step 1, which it did not delete.


def test_looking_for_a_failure_does_not_wait_for_the_save(opened, tmp_path, monkeypatch):
  checkpointer = opened()
  go, rename = threading.Event(), os.rename

  def wait_and_fail(*arguments, **options):
    go.wait(60)
    no_space()

  monkeypatch.setattr(os, 'rename', wait_and_fail)
  checkpointer.save(state_at(1), {}, None)
  assert not checkpointer.failed()
  go.set()
  while not checkpointer.failed():
    time.sleep(0.01)
  monkeypatch.setattr(os, 'rename', rename)
  assert save(checkpointer, 2)
  assert folders(tmp_path) == ['2']


def test_the_third_failure_in_a_row_stops_the_run(opened, tmp_path, monkeypatch, caplog):
  def tensorstore_fails(*_, **__):
    raise ValueError('RESOURCE_EXHAUSTED: Error writing "params.w": No space left on device\nmore')

  checkpointer = opened()
  save(checkpointer, 1)
  with monkeypatch.context() as patch:
    patch.setattr(os, 'rename', tensorstore_fails)
    assert not save(checkpointer, 2)
    assert not save(checkpointer, 3)
    checkpointer.save(state_at(4), {}, None)
    with pytest.raises(CheckpointError) as caught:
      checkpointer.wait()
  message = str(caught.value)
  assert 'Saving step 4' in message
  assert 'RESOURCE_EXHAUSTED: Error writing "params.w": No space left on device\nThat' in message
  assert 'attempt 3 of 3, so the run stops' in message
  assert f'good checkpoint is {tmp_path / checkpoint.FOLDER / "1"}. Free space' in message
  assert folders(tmp_path) == ['1']
  assert 'Traceback' not in caplog.text  # Orbax would log three of each.


def test_a_folder_that_cannot_be_written_to_is_a_failed_save(opened, tmp_path):
  checkpointer = opened()
  checkpointer.folder.rmdir()
  checkpointer.folder.write_text('in the way')
  assert not save(checkpointer, 1)
  assert checkpointer.failed()
  checkpointer.folder.unlink()
  checkpointer.folder.mkdir()
  assert save(checkpointer, 2)
  assert folders(tmp_path) == ['2']


def test_a_saved_state_comes_back(opened):
  checkpointer = opened()
  save(checkpointer, 7)
  assert checkpointer.restore_meta(7) == {'of': 7}
  restored = checkpointer.restore(7, state_at(0))
  assert int(restored.step) == 7
  np.testing.assert_array_equal(restored.params['w'], np.full(4, 7, np.float32))


def test_what_another_state_needs_is_named(opened):
  checkpointer = opened()
  save(checkpointer, 7)
  wanted = state_at(0).replace(opt_state={})  # As where everything is frozen.
  with pytest.raises(CheckpointMismatchError) as caught:
    checkpointer.restore(7, wanted)
  assert '+ opt_state/m (2,)' in str(caught.value)
  hint = 'Its `optimizer.rule` or `optimizer.frozen` is another. Resume with the config'
  assert hint in str(caught.value)
  with pytest.raises(CheckpointMismatchError) as caught:
    checkpointer.restore(7, wanted.replace(params={'w': jnp.zeros(5)}))
  assert '! params/w: checkpoint (4,), model (5,)' in str(caught.value)
  assert 'optimizer' not in str(caught.value)
