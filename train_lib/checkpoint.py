"""Checkpoints of a run: state, position in the data, and what is needed to understand them.

Orbax is used only here. A checkpoint is `<workdir>/checkpoints/<step>/` with the items `state`
(arrays) and `meta` (JSON: data position, config, preprocessing, class names, versions, git revision,
metrics).
"""

import contextlib
import importlib.metadata
import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from errors import CheckpointMismatchError
from train_lib.experiment import CheckpointConfig, DataFacts
from train_lib.state import PyTree, TrainState

FOLDER = 'checkpoints'
_VERSIONED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


class Checkpointer:
  """Saves asynchronously and restores strictly."""

  def __init__(self, workdir: Path, config: CheckpointConfig):
    self.folder = workdir / FOLDER
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
    self._manager = ocp.CheckpointManager(
      self.folder.absolute(),
      item_handlers=_handlers(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
        **best,
      ),
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
    """
    step = int(state.step)
    if step in self._manager.all_steps():  # Saved while its evaluation was cut short.
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(_as_dict(state)), meta=ocp.args.JsonSave(dict(meta))
      ),
      metrics=dict(metrics or {}),
    )

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
    """Like `restore` without the optimiser, whose settings then do not matter.

    Raises:
      CheckpointMismatchError: As `restore`.
    """
    parts = _as_dict(abstract_state)
    parts.pop('opt_state', None)
    rest: dict[str, PyTree] = {'opt_state': (), 'ema_params': None, 'model_state': {}}
    return TrainState(**{**rest, **self._restore(step, parts)})

  def _restore(self, step: int, parts: dict[str, PyTree]) -> dict[str, PyTree]:
    where = self.folder / str(step)
    with _readable(where):
      stored = _tree(self._manager.item_metadata(step)['state'])
    _check_same_leaves(
      {k: v for k, v in stored.items() if k in parts or k != 'opt_state'}, parts, where
    )
    arguments = ocp.args.PyTreeRestore(
      item=parts,
      restore_args=ocp.checkpoint_utils.construct_restore_args(parts),
      partial_restore=True,
    )
    with _readable(where):
      restored = self._manager.restore(step, args=ocp.args.Composite(state=arguments))
    state: dict[str, PyTree] = restored.state
    return state

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes pending saves and releases the manager's threads."""
    self._manager.close()


def latest_step(workdir: Path) -> int | None:
  """Step of the newest complete checkpoint of a run, or None; creates nothing."""
  # No manager: its barriers would wait for processes that look before the folder is there.
  folder = workdir / FOLDER
  steps: list[int] = ocp.utils.checkpoint_steps(folder.absolute()) if folder.is_dir() else []
  return max(steps, default=None)


def load_params(workdir: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """The newest parameters of another run (averaged ones if it kept an average), to start from.

  Args:
    workdir: That run's folder.

  Returns:
    Nested arrays in Scenic's naming, the trunk's leaves at the top and the heads as `heads_<task>`
    beside them; and the `meta` item.

  Raises:
    CheckpointMismatchError: The folder holds no checkpoint, or a damaged one.
  """
  step = latest_step(Path(workdir))
  if step is None:
    raise CheckpointMismatchError(
      f'`init_from.path` {workdir} is a folder without a complete checkpoint in {FOLDER}/: expected '
      'the workdir of a run, or a weight file.'
    )
  with _reader(Path(workdir)) as manager, _readable(Path(workdir) / FOLDER / str(step)):
    stored = _tree(manager.item_metadata(step)['state'])
    part = 'ema_params' if 'ema_params' in stored else 'params'
    wanted = {part: stored[part]}
    # As numpy arrays: the run may have been on other devices than these.
    arguments = ocp.args.PyTreeRestore(
      item=wanted,
      restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
      partial_restore=True,
    )
    restored = manager.restore(
      step, args=ocp.args.Composite(state=arguments, meta=ocp.args.JsonRestore())
    )
  params = restored.state[part]
  heads = {name: leaves for name, leaves in params.items() if name.startswith('heads_')}
  return {**params['trunk'], **heads}, restored.meta


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
    'versions': {name: importlib.metadata.version(name) for name in _VERSIONED},
    'git_revision': git_revision(),
  }


def git_revision() -> str:
  """Commit of the code that runs, with `+changes` when the tree differs; `unknown` outside git."""
  root = Path(__file__).parent
  try:
    revision = _git(root, 'rev-parse', 'HEAD')
    return revision + ('+changes' if _git(root, 'status', '--porcelain', '-uno') else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


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


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """`key: old -> new` for every key in which two resolved configs differ."""
  before, after = _flat(old), _flat(new)
  return [
    f'{key}: {before.get(key, "absent")!r} -> {after.get(key, "absent")!r}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  ]


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    nested = isinstance(value, Mapping)
    flat.update(_flat(value, f'{prefix}{key}.') if nested else {f'{prefix}{key}': value})
  return flat


def check_position(meta: Mapping[str, Any], position: Mapping[str, Any], where: Path) -> None:
  """Raises `CheckpointMismatchError` unless the data stream can go on exactly where it was."""
  stored = meta['position']
  for key, value in position.items():
    if key != 'step' and stored.get(key) != value:
      raise CheckpointMismatchError(
        f'{where} was trained with {key}={stored.get(key)!r}, but now it is {value!r}: the run '
        'would not be the same run. Restore the value, or start a fresh workdir with `init_from`.'
      )


def _reader(workdir: Path) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(create=False)
  folder = (workdir / FOLDER).absolute()
  return ocp.CheckpointManager(folder, item_handlers=_handlers(), options=options)


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


def _git(root: Path, *arguments: str) -> str:
  command = ['git', '-C', str(root), *arguments]
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _as_dict(state: TrainState) -> dict[str, PyTree]:
  """The state without empty parts, which Orbax would not bring back."""
  parts = {name: getattr(state, name) for name in state.__dataclass_fields__}
  return {name: value for name, value in parts.items() if jax.tree.leaves(value)}


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
    raise CheckpointMismatchError(
      f'{where} does not fit this experiment (- only in the model, + only in the checkpoint, '
      '! another shape):\n  '
      + '\n  '.join(_capped(lines))
      + '\nResume with the config the run was '
      'started with, or start a fresh workdir with `init_from`.'
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
