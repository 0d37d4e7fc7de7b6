"""What a run says when it starts or goes on, and what it refuses to take for the same run."""

import errno
import fcntl
import json
import os

import pytest

from errors import CheckpointError, ConfigError
from train_lib import checkpoint, resume, run, workdir_lock


def rewrite_meta(workdir, change):
  path = workdir / checkpoint.FOLDER / '6' / 'meta' / 'metadata'
  meta = json.loads(path.read_text())
  change(meta)
  path.write_text(json.dumps(meta))


def test_other_starting_weights_than_the_runs_own_are_refused(finished, tiny_config):
  workdir, _ = finished
  tiny_config.init_from.path = 'ViT-B_16.npz'
  message = r'ViT-B_16.npz, but .*checkpoints/6 is .* started from scratch: .*another --workdir'
  with pytest.raises(ConfigError, match=message):
    run.run('train', tiny_config, str(workdir))


def test_the_starting_weights_of_the_run_are_not_read_again(finished, tiny_config, capsys):
  workdir, _ = finished
  rewrite_meta(workdir, lambda meta: meta['config']['init_from'].update(path='gone.npz'))
  tiny_config.init_from.path = 'gone.npz'
  run.run('train', tiny_config, str(workdir))
  printed = capsys.readouterr().out
  assert printed.splitlines()[0].startswith('RESUME at step 6 of 6 from ')
  assert 'already trained to step 6 of 6: complete. Raise `duration`' in printed


def test_a_longer_run_tells_both_learning_rates(finished, tiny_config, build, capsys):
  workdir, _ = finished
  reader = checkpoint.CheckpointReader(workdir)
  meta = reader.restore_meta(6)
  reader.close()
  tiny_config.duration = '12 steps'
  tiny_config.evaluation.pictures = True  # As in `finished`.
  program, _, _ = build(tiny_config)
  config = json.loads(json.dumps(tiny_config.to_dict()))
  resume.say_changes(meta, config, program, step=4)
  # 2e-3 (1 + cos(pi x)) / 2 one step after the warm-up's one: x = 4/6, then 4/12.
  assert capsys.readouterr().out.splitlines() == [
    'The config has changed since step 4:',
    "  duration: '6 steps' -> '12 steps'",
    '  learning rate at this step: 0.0005 -> 0.0015',
  ]


def test_a_config_of_an_earlier_version_is_compared_by_its_keys(
  finished, tiny_config, build, capsys
):
  workdir, _ = finished
  program, _, _ = build(tiny_config)
  config = json.loads((workdir / 'config.json').read_text())
  resume.say_changes({'config': {**config, 'old_key': 1}}, config, program, step=6)
  assert capsys.readouterr().out.splitlines() == [
    'The config has changed since step 6:',
    '  old_key: 1 -> absent',
  ]


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(finished, tiny_config, capsys):
  workdir, _ = finished
  (workdir / checkpoint.FOLDER / '6' / 'meta' / 'metadata').unlink()
  tiny_config.checkpoint.best_metric = ''
  run.run('eval', tiny_config, str(workdir))
  assert 'eval of demo at 4' in capsys.readouterr().out
  run.run('train', tiny_config, str(workdir))
  printed = capsys.readouterr().out
  assert 'checkpoints/6 is torn (no meta/metadata): ignored, and renamed to 6.torn.' in printed
  assert 'RESUME at step 4 of 6' in printed
  assert checkpoint.latest_step(workdir) == 6


def test_a_second_trainer_refuses_before_it_touches_anything(finished, tiny_config):
  workdir, _ = finished
  left = workdir / checkpoint.FOLDER / '7.orbax-checkpoint-tmp'
  left.mkdir()
  with (workdir / workdir_lock.FILE).open('a') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match=r'Another trainer is at work in .*finished'):
      run.run('train', tiny_config, str(workdir))
  assert left.is_dir()


def fail_the_first_save(monkeypatch):
  """The folder of the first checkpoint cannot get its final name, as on a full disk."""
  calls, rename = [], os.rename

  def fail_once(*arguments, **options):
    calls.append(1)
    if len(calls) == 1:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return rename(*arguments, **options)

  monkeypatch.setattr(os, 'rename', fail_once)


def test_a_save_that_fails_within_a_run_is_repeated_at_the_next_log_step(
  tiny_config, tmp_path, monkeypatch, capsys
):
  original = checkpoint.Checkpointer.save

  def save_and_end(self, *arguments):
    original(self, *arguments)
    self._manager.is_saving_in_progress = lambda: False  # `failed` then waits for the save.

  monkeypatch.setattr(checkpoint.Checkpointer, 'save', save_and_end)
  fail_the_first_save(monkeypatch)
  tiny_config.log_every = '1 step'
  tiny_config.evaluation.every = 'never'
  tiny_config.checkpoint.update({'every': '2 steps', 'keep': 9, 'best_metric': ''})
  run.run('train', tiny_config, str(tmp_path / 'run'))
  assert 'Saving step 2 to ' in capsys.readouterr().out
  saved = sorted(p.name for p in (tmp_path / 'run' / checkpoint.FOLDER).iterdir())
  assert saved == ['3', '4', '6']


def test_the_last_save_is_repeated_when_it_fails(tiny_config, tmp_path, monkeypatch, capsys):
  fail_the_first_save(monkeypatch)
  tiny_config.evaluation.every = tiny_config.checkpoint.every = 'never'
  run.run('train', tiny_config, str(tmp_path / 'run'))
  printed = capsys.readouterr().out
  assert 'Saving step 6 to ' in printed
  assert 'Attempt 1 of 3; newest good checkpoint: none.' in printed
  assert checkpoint.latest_step(tmp_path / 'run') == 6
