"""Checkpoints of a run: state, position in the data, and what is needed to understand them.

Orbax is used only here. A checkpoint is `<workdir>/checkpoints/<step>/` with the items `state`
(arrays) and `meta` (JSON: data position, config, class names, versions, git revision, metrics).
"""

import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
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
    if config.best_metric:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=lambda metrics: metrics[config.best_metric],
          reverse=config.best_metric.startswith('loss'),
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = ocp.CheckpointManager(
      self.folder.absolute(),
      item_handlers=_handlers(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
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
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_as_dict(state)), meta=ocp.args.JsonSave(dict(meta))
      ),
      metrics=None if metrics is None else dict(metrics),
    )

  def restore_meta(self, step: int) -> dict[str, Any]:
    """The `meta` item of a checkpoint."""
    restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    meta: dict[str, Any] = restored.meta
    return meta

  def restore(self, step: int, abstract_state: TrainState) -> TrainState:
    """Restores the state at `step` with the shapes, types and shardings of `abstract_state`.

    Raises:
      CheckpointMismatchError: Listing leaves that are missing, extra or of another shape.
    """
    stored = self._manager.item_metadata(step)['state']
    wanted = _as_dict(abstract_state)
    _check_same_leaves(
      stored.tree if hasattr(stored, 'tree') else stored, wanted, self.folder / str(step)
    )
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
    )
    return TrainState(**{'ema_params': None, 'model_state': {}, **restored.state})

  def wait(self) -> None:
    """Blocks until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes pending saves and releases the manager's threads."""
    self._manager.close()


def latest_step(workdir: Path) -> int | None:
  """Step of the newest complete checkpoint of a run, or None; creates nothing."""
  if not (workdir / FOLDER).is_dir():
    return None
  with _reader(workdir) as manager:
    step: int | None = manager.latest_step()
  return step


def load_params(workdir: str) -> dict[str, Any]:
  """The newest parameters of another run (averaged ones if it kept an average), to start from.

  Args:
    workdir: That run's folder.

  Returns:
    Nested arrays in Scenic's naming: the trunk's leaves at the top, and the head's beside them when
    the run had one head.

  Raises:
    CheckpointMismatchError: The folder holds no checkpoint.
  """
  step = latest_step(Path(workdir))
  if step is None:
    raise CheckpointMismatchError(
      f'`init_from.path` {workdir} is a folder without a complete checkpoint in {FOLDER}/: expected '
      'the workdir of a run, or a weight file.'
    )
  restore = ocp.args.Composite(state=ocp.args.StandardRestore())
  with _reader(Path(workdir)) as manager:
    state = manager.restore(step, args=restore).state
  params = state.get('ema_params') or state['params']
  heads = [name for name in params if name.startswith('heads_')]
  head = params[heads[0]] if len(heads) == 1 else {}
  return {**params['trunk'], **head}


def describe(
  config_json: Mapping[str, Any],
  facts: DataFacts,
  position: Mapping[str, Any],
  metrics: Mapping[str, float] | None,
) -> dict[str, Any]:
  """The `meta` item: everything about a checkpoint that is not an array."""
  return {
    'position': dict(position),
    'config': dict(config_json),
    'class_names': {task: list(names) for task, names in facts.class_names.items()},
    'metrics': None if metrics is None else dict(metrics),
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


def check_class_names(meta: Mapping[str, Any], facts: DataFacts, where: Path) -> None:
  """Compares a checkpoint's classes with the data's.

  Raises:
    CheckpointMismatchError: A task is missing, has another number of classes, or other names or
      another order of them.
  """
  for task, names in facts.class_names.items():
    stored = meta['class_names'].get(task)
    if stored is None:
      raise CheckpointMismatchError(
        f'{where} has no task {task!r}; it has {sorted(meta["class_names"])}. Start a fresh '
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


def _reader(workdir: Path) -> ocp.CheckpointManager:
  options = ocp.CheckpointManagerOptions(create=False)
  folder = (workdir / FOLDER).absolute()
  return ocp.CheckpointManager(folder, item_handlers=_handlers(), options=options)


def _handlers() -> dict[str, Any]:
  return {'state': ocp.StandardCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()}


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
      '! another shape):\n  ' + '\n  '.join(lines) + '\nResume with the config the run was '
      'started with, or start a fresh workdir with `init_from`.'
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {'/'.join(_key(k) for k in path): tuple(leaf.shape) for path, leaf in leaves}


def _key(entry: Any) -> str:
  """Name of one step of a tree path; Orbax stores attributes and indices as names too."""
  for attribute in ('key', 'name', 'idx'):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)
