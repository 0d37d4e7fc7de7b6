"""Checkpoints of a run: state, position in the data, and what is needed to understand them.

Orbax is used only here. A checkpoint is `<workdir>/checkpoints/<step>/` with the items `state`
(arrays) and `meta` (JSON: data position, config, preprocessing, class names, versions, git revision,
metrics).
"""

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from errors import CheckpointError, CheckpointMismatchError
from train_lib import provenance
from train_lib.console import say
from train_lib.experiment import CheckpointConfig, DataFacts
from train_lib.files import write_atomically
from train_lib.state import PyTree, TrainState, model_params

FOLDER = 'checkpoints'
ATTEMPTS = 3  # Saves that may fail in a row before the run stops.
# What file systems, and TensorStore on top of them, raise.
SAVE_ERRORS = (OSError, ValueError)
_ESSENTIAL = ('_CHECKPOINT_METADATA', 'meta/metadata', 'state/_METADATA', 'state/manifest.ocdbt')


def _unsaid(record: logging.LogRecord) -> bool:
  """False for the tracebacks that Orbax logs of a failed save: here it is said in a line."""
  return not (record.exc_info and 'orbax' in record.pathname)


logging.getLogger('absl').addFilter(_unsaid)


class CheckpointReader:
  """Restores strictly from the checkpoints of a run; writes nothing."""

  def __init__(self, workdir: Path):
    self.folder = workdir / FOLDER
    self._manager = self._open(ocp.CheckpointManagerOptions(create=False))

  def _open(self, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(self.folder.absolute(), item_handlers=_handlers(), options=options)

  def restore_meta(self, step: int) -> dict[str, Any]:
    """The `meta` item of a checkpoint."""
    with _readable(self.folder / str(step)):
      restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    meta: dict[str, Any] = restored.meta
    return meta

  def restore(self, step: int, abstract_state: TrainState) -> TrainState:
    """Restores the state at `step` with the shapes, types and shardings of `abstract_state`.

    Raises:
      CheckpointMismatchError: Listing leaves that are missing, extra or of another shape.
    """
    parts = _as_dict(abstract_state)
    return TrainState(**{'ema_params': None, 'model_state': {}, **self._restore(step, parts)})

  def restore_for_evaluation(self, step: int, abstract_state: TrainState) -> TrainState:
    """Like `restore` without the optimiser and the objective, whose settings then do not matter.

    Raises:
      CheckpointMismatchError: As `restore`.
    """
    parts = _of_model(_as_dict(abstract_state))
    rest: dict[str, PyTree] = {'opt_state': (), 'ema_params': None, 'model_state': {}}
    return TrainState(**{**rest, **self._restore(step, parts, _of_model)})

  def restore_params(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters, averaged ones if the run kept an average, as numpy arrays; and `meta`.

    Statistics of batch normalisation, if there are any, are under `'batch_stats'` among them.

    Raises:
      CheckpointMismatchError: The checkpoint is damaged.
    """
    with _readable(self.folder / str(step)):
      stored = _tree(self._manager.item_metadata(step)['state'])
      part = 'ema_params' if 'ema_params' in stored else 'params'
      wanted = {name: stored[name] for name in (part, 'model_state') if name in stored}
      # As numpy arrays: the run may have been on other devices than these.
      arguments = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
        partial_restore=True,
      )
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=arguments, meta=ocp.args.JsonRestore())
      )
    return {**restored.state[part], **restored.state.get('model_state', {})}, restored.meta

  def _restore(
    self, step: int, parts: dict[str, PyTree], needed: Callable[[PyTree], PyTree] = dict
  ) -> dict[str, PyTree]:
    """Restores `parts`, which must be all that is `needed` of what the checkpoint has."""
    where = self.folder / str(step)
    with _readable(where):
      stored = _tree(self._manager.item_metadata(step)['state'])
    _check_same_leaves(needed(stored), parts, where)
    arguments = ocp.args.PyTreeRestore(
      item=parts,
      restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
      partial_restore=True,
    )
    with _readable(where):
      restored = self._manager.restore(step, args=ocp.args.Composite(state=arguments))
    state: dict[str, PyTree] = restored.state
    return state

  def close(self) -> None:
    """Releases the manager's threads."""
    self._manager.close()


class Checkpointer(CheckpointReader):
  """Saves asynchronously and notices when that fails; the only writer of its folder.

  A save that fails is reported and has to be repeated with the state of that time, as the arrays of
  the failed one are gone: `failed` and `wait` tell when.
  """

  def __init__(self, workdir: Path, config: CheckpointConfig):
    """Opens or creates the folder and clears it of what a killed run has left half-written."""
    self.folder = workdir / FOLDER
    self._saving: int | None = None  # Step of the save that is not known to have ended well.
    self._failures = 0  # In a row.
    if jax.process_index() == 0:
      _set_torn_aside(self.folder)
    policies: list[Any] = [checkpoint_managers.LatestN(config.keep)]
    best: dict[str, Any] = {}
    if config.best_metric:
      smallest = config.best_metric.startswith('loss')
      worst = math.inf if smallest else -math.inf

      def measure(metrics: Mapping[str, float]) -> float:
        return metrics.get(config.best_metric, worst)  # Saved without an evaluation: no metrics.

      # Without `best_fn` Orbax does not store metrics, and a resumed run would not know its best.
      best = {'best_fn': measure, 'best_mode': 'min' if smallest else 'max'}
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=measure, reverse=smallest, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._manager = self._open(
      ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
        # In the background, a folder that cannot be made would leave threads that wait for it for
        # five minutes, and the run could not end before.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        **best,
      )
    )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    step: int | None = self._manager.latest_step()
    return step

  def save(
    self, state: TrainState, meta: Mapping[str, Any], metrics: Mapping[str, float] | None
  ) -> None:
    """Starts saving `state`; returns once the arrays are copied off the device.

    Args:
      state: The state; its step names the checkpoint.
      meta: JSON-serialisable description, see `describe`.
      metrics: Results of the evaluation at this step, if there was one; they rank it for
        `best_metric`.

    Raises:
      CheckpointError: Saving has failed `ATTEMPTS` times in a row.
    """
    self._confirm()
    step = int(state.step)
    try:
      if self._failures:  # Orbax has forgotten the checkpoints that the failed save was to replace.
        self._manager.reload()
      if step in self._manager.all_steps():
        self._add_evaluation(step, meta, metrics)
        return
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(_as_dict(state)), meta=ocp.args.JsonSave(dict(meta))
        ),
        metrics=dict(metrics or {}),
      )
    except SAVE_ERRORS as error:
      self._note_failure(step, error)
    else:
      self._saving = step

  def _add_evaluation(
    self, step: int, meta: Mapping[str, Any], metrics: Mapping[str, float] | None
  ) -> None:
    """Completes a checkpoint that was saved while its evaluation was cut short; its arrays stay.

    Killed in between, it still counts as not evaluated: `meta`, which says so, comes last.
    """
    if jax.process_index() == 0:
      for name, values in (('metrics/metrics', metrics or {}), ('meta/metadata', meta)):
        write_atomically(self.folder / str(step) / name, json.dumps(dict(values)))
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f'evaluation of step {step} is stored')
    self._manager.reload()

  def failed(self) -> bool:
    """Whether the last save has failed, so that the state should be saved again now.

    Does not wait for a save that is still being written; cheap enough for every log step.

    Raises:
      CheckpointError: As `save`.
    """
    if self._saving is not None and not self._manager.is_saving_in_progress():
      self._confirm()
    return self._saving is None and self._failures > 0

  def wait(self) -> bool:
    """Blocks until the last save has ended; whether it is on disk. If not, save again.

    Raises:
      CheckpointError: As `save`.
    """
    self._confirm()
    return self._failures == 0

  def close(self) -> None:
    """Finishes the pending save and releases the manager's threads."""
    try:
      self._confirm()
    finally:
      super().close()

  def _confirm(self) -> None:
    """Waits for the save under way, if any, and notes how it ended."""
    step, self._saving = self._saving, None
    if step is None:
      return
    try:
      self._manager.wait_until_finished()
    except SAVE_ERRORS as error:
      self._note_failure(step, error)
    else:
      self._failures = 0

  def _note_failure(self, step: int, error: Exception) -> None:
    """Says that a save has failed; the last of the attempts stops the run."""
    self._failures += 1
    for left in _unfinished(self.folder, step):  # A full disk needs the space.
      shutil.rmtree(left, ignore_errors=True)
    # Hosts see a failure at different times, so they cannot agree on a step to repeat it at.
    attempts = ATTEMPTS if jax.process_count() == 1 else 1
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    message = f'Saving step {step:,} to {self.folder} has failed: {reason}'
    newest = latest_step(self.folder.parent)
    kept = 'none' if newest is None else str(self.folder / str(newest))
    if self._failures >= attempts:
      raise CheckpointError(
        f'{message}\nThat was attempt {self._failures} of {attempts}, so the run stops. The newest '
        f'good checkpoint is {kept}. Free space there or make the folder writable (`df`, `ls -ld`), '
        'then start the same command again: it goes on from it.'
      ) from error
    say(f'{message}\nAttempt {self._failures} of {attempts}; newest good checkpoint: {kept}.')


def latest_step(workdir: Path) -> int | None:
  """Step of the newest complete checkpoint of a run, or None; creates nothing."""
  return max(complete_steps(workdir), default=None)


def complete_steps(workdir: Path) -> list[int]:
  """Steps of a run's complete checkpoints in order; creates nothing."""
  # No manager: its barriers would wait for processes that look before the folder is there.
  folder = workdir / FOLDER
  return sorted(step for step in _steps(folder) if not _missing(folder / str(step)))


def _steps(folder: Path) -> list[int]:
  """Steps of the folders that are named like checkpoints."""
  steps: list[int] = ocp.utils.checkpoint_steps(folder.absolute()) if folder.is_dir() else []
  return steps


def _missing(checkpoint: Path) -> list[str]:
  """Files without which a checkpoint cannot be read: it was copied or deleted in part."""
  return [
    name
    for name in _ESSENTIAL
    if not (checkpoint / name).is_file() or not (checkpoint / name).stat().st_size
  ]


def _unfinished(folder: Path, step: int | str = '*') -> list[Path]:
  """Folders in which Orbax was writing a checkpoint; it renames them when they are complete."""
  return sorted(folder.glob(f'{step}{ocp.utils.TMP_DIR_SUFFIX}*'))


def _set_torn_aside(folder: Path) -> None:
  """Removes what saves have left unfinished and renames checkpoints that are not whole."""
  for left in _unfinished(folder):
    say(f'{left} was left by a save that did not finish: removed.')
    shutil.rmtree(left)
  for step in sorted(_steps(folder)):
    torn = folder / str(step)
    missing = _missing(torn)
    if missing:
      target = torn.with_name(f'{step}.torn')
      shutil.rmtree(target, ignore_errors=True)
      torn.rename(target)
      say(f'{torn} is torn (no {", ".join(missing)}): ignored, and renamed to {target.name}.')


def load_params(workdir: str, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
  """The parameters of another run (averaged ones if it kept an average).

  Args:
    workdir: That run's folder.
    step: Of the checkpoint; None: the newest.

  Returns:
    Nested arrays in Scenic's naming, the trunk's leaves at the top, the heads as `heads_<task>`, the
    objective's own as `objective` and statistics as `batch_stats` beside them; and the `meta` item.

  Raises:
    CheckpointMismatchError: The folder holds no such checkpoint, or a damaged one.
  """
  there = complete_steps(Path(workdir))
  if not there or step not in (None, *there):
    wanted = 'a complete checkpoint' if step is None else f'a complete checkpoint of step {step:,}'
    raise CheckpointMismatchError(
      f'{workdir} is a folder without {wanted} in {FOLDER}/ (there: {there}): expected the workdir '
      'of a run, or a weight file.'
    )
  step = there[-1] if step is None else step
  with contextlib.closing(CheckpointReader(Path(workdir))) as reader:
    params, meta = reader.restore_params(step)
  return {**params.pop('trunk'), **params}, meta


def describe(
  config_json: Mapping[str, Any],
  facts: DataFacts,
  preprocessing: Mapping[str, Any],
  position: Mapping[str, Any],
  metrics: Mapping[str, float] | None,
  evaluated: bool,
) -> dict[str, Any]:
  """The `meta` item: everything about a checkpoint that is not an array.

  `evaluated` tells whether the evaluation due at its step, if any, was done before it was saved.
  """
  return {
    'position': dict(position),
    'config': dict(config_json),
    'preprocessing': dict(preprocessing),
    'class_names': {task: list(names) for task, names in facts.class_names.items()},
    'metrics': None if metrics is None else dict(metrics),
    'evaluated': evaluated,
    'versions': provenance.versions(),
    'git_revision': provenance.git_revision(),
  }


def check_class_names(
  class_names: Mapping[str, Sequence[str]], facts: DataFacts, where: Path
) -> None:
  """Compares a checkpoint's classes with the data's.

  Raises:
    CheckpointMismatchError: A task is missing, has another number of classes, or other names or
      another order of them.
  """
  for task, names in facts.class_names.items():
    stored = class_names.get(task)
    if stored is None:
      raise CheckpointMismatchError(
        f'{where} has no task {task!r}; it has {sorted(class_names)}. Start a fresh '
        'workdir with `init_from` to change the tasks.'
      )
    if len(stored) != len(names):
      raise CheckpointMismatchError(
        f'{where}: task {task!r} has {len(stored)} classes there, but {len(names)} in '
        f'{facts.source}. Use the data it was trained on, or a fresh workdir with `init_from`.'
      )
    for i, (old, new) in enumerate(zip(stored, names)):
      if old != new:
        raise CheckpointMismatchError(
          f'{where}: class {i} of task {task!r} is {old!r} there, but {new!r} in {facts.source}.'
        )


def check_position(meta: Mapping[str, Any], position: Mapping[str, Any], where: Path) -> None:
  """Raises `CheckpointMismatchError` unless the data stream can go on exactly where it was."""
  stored = meta['position']
  for key, value in position.items():
    if key != 'step' and stored.get(key) != value:
      raise CheckpointMismatchError(
        f'{where} was trained with {key}={stored.get(key)!r}, but now it is {value!r}: the run '
        'would not be the same run. Restore the value, or start a fresh workdir with `init_from`.'
      )


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
  """Names the checkpoint when Orbax or TensorStore cannot read it."""
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    raise CheckpointMismatchError(
      f'{folder} cannot be read: {reason}. It is damaged or incomplete: delete it to go on from the '
      'checkpoint before.'
    ) from error


def _handlers() -> dict[str, Any]:
  return {'state': ocp.PyTreeCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()}


def _tree(metadata: Any) -> dict[str, Any]:
  """The tree of array descriptions that Orbax wraps in a metadata object."""
  tree: dict[str, Any] = metadata.tree if hasattr(metadata, 'tree') else metadata
  return dict(tree)


def _as_dict(state: TrainState) -> dict[str, PyTree]:
  """The state without empty parts, which Orbax would not bring back."""
  parts = {name: getattr(state, name) for name in state.__dataclass_fields__}
  return {name: value for name, value in parts.items() if jax.tree.leaves(value)}


def _of_model(parts: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """The parts of a state that evaluation needs."""
  params = {k: model_params(parts[k]) for k in ('params', 'ema_params') if k in parts}
  return {k: v for k, v in {**parts, **params}.items() if k != 'opt_state'}


def _check_same_leaves(stored: PyTree, wanted: PyTree, where: Path) -> None:
  old, new = _shapes(stored), _shapes(wanted)
  lines = [f'- {path} {new[path]}' for path in sorted(new.keys() - old.keys())]
  lines += [f'+ {path} {old[path]}' for path in sorted(old.keys() - new.keys())]
  lines += [
    f'! {path}: checkpoint {old[path]}, model {new[path]}'
    for path in sorted(old.keys() & new.keys())
    if old[path] != new[path]
  ]
  if lines:
    only_optimiser = all(line[2:].startswith('opt_state/') for line in lines)
    hint = 'Its `optimizer.rule` or `optimizer.frozen` is another. ' if only_optimiser else ''
    raise CheckpointMismatchError(
      f'{where} does not fit this experiment (- only in the model, + only in the checkpoint, '
      '! another shape):\n  '
      + '\n  '.join(_capped(lines))
      + f'\n{hint}Resume with the config the run was started with, or start a fresh workdir with '
      '`init_from`.'
    )


def _capped(lines: list[str], most: int = 20) -> list[str]:
  """Shape mismatches and parameters first, and no more than fit on a screen."""
  lines = sorted(lines, key=lambda line: (line[0] != '!', 'opt_state' in line))
  return lines[:most] + ([f'... and {len(lines) - most} more'] if len(lines) > most else [])


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {'/'.join(_key(k) for k in path): tuple(leaf.shape) for path, leaf in leaves}


def _key(entry: Any) -> str:
  """Name of one step of a tree path; Orbax stores attributes and indices as names too."""
  for attribute in ('key', 'name', 'idx'):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)
