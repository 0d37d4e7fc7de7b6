"""A trained model as its checkpoint describes it, to be used outside a run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from errors import CheckpointMismatchError, ConfigError
from models.video_model import VideoModel
from train_lib import checkpoint, params_file, preprocessing, weight_files
from train_lib import experiment as experiment_lib
from train_lib.experiment import DataFacts, Experiment
from train_lib.preprocessing import Preprocessing
from train_lib.program import build_model, example_inputs
from train_lib.state import OBJECTIVE, STATISTICS, PyTree

# How a model is computed and not what: parameters are the same, and no layer is hidden in a loop.
_PLAIN = {'scan_layers': False, 'remat': 'none'}

_EXPECTED = (
  'expected the folder of a run, or a file that `python -m tools.checkpoint --out` or `tools.export` '
  'wrote.'
)


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model with all that its checkpoint knows.

  Attributes:
    experiment: As it was trained; but in float32 and with unrolled layers, unless it was loaded
      `as_trained`.
    model: The trunk with its heads.
    variables: `params` and other collections, float32 numpy arrays.
    class_names: Task -> names in label order.
    shown: Dataset -> how its videos are shown to the model.
    meta: All that was kept beside the arrays, as `checkpoint.describe` gives it; none of other code.
  """

  experiment: Experiment
  model: VideoModel
  variables: dict[str, PyTree]
  class_names: Mapping[str, tuple[str, ...]]
  shown: Mapping[str, Preprocessing]
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def arrays(self) -> dict[str, np.ndarray]:
    """The variables as weight files name them: what `variables_of` reads."""
    flat = flax.traverse_util.flatten_dict(self.variables, sep='/')
    return {name.removeprefix('params/').removeprefix('trunk/'): x for name, x in flat.items()}

  @property
  def facts(self) -> DataFacts:
    """The classes; it is not known how many examples there were."""
    return DataFacts({}, self.class_names, 'the checkpoint')

  def task(self, name: str) -> str:
    """The task called `name`, or for '' the only one that classifies clips.

    Raises:
      ConfigError: There is no such task, its head is on boxes, or '' leaves a choice.
    """
    tasks = self.experiment.tasks
    if name and name not in tasks:
      raise ConfigError(f'--task={name}: the checkpoint has {sorted(tasks)}.')
    if name and tasks[name].on_boxes:
      raise ConfigError(
        f'--task={name}: its head classifies boxes, not clips. Choose another of {sorted(tasks)}.'
      )
    of_clips = [name] if name else [task for task in tasks if not tasks[task].on_boxes]
    if len(of_clips) != 1:
      raise ConfigError(
        f'The checkpoint has {len(of_clips)} tasks that classify clips, {of_clips}: '
        + ('name one of them by --task.' if of_clips else 'one is needed.')
      )
    return of_clips[0]


def load(path: str, *, as_trained: bool = False) -> Trained:
  """Loads a model from a run's folder (its newest checkpoint) or a file of `tools.checkpoint --out`.

  Args:
    path: of the folder or file.
    as_trained: whether it computes as its evaluations did: in the experiment's `compute_dtype`, and
      with its layers scanned and rematerialised if they were. Otherwise in float32 and unrolled.

  Raises:
    CheckpointMismatchError: There is nothing there, it is damaged, it is a weight file that does not
      describe its model or name its classes, or the parameters are not those of the model it describes.
    ConfigError: Its config is of another version of this code.
  """
  arrays, meta = _read(path)
  config = dict(meta['config'])
  if not as_trained:
    config['trunk'] = {key: _PLAIN.get(key, value) for key, value in config['trunk'].items()}
    config['compute_dtype'] = 'float32'
  experiment = experiment_lib.parse(config)
  _check_named(experiment, meta, path)
  class_names = {task: tuple(names) for task, names in meta['class_names'].items()}
  model = build_model(experiment, DataFacts({}, class_names, path))
  variables = variables_of(arrays)
  _check(model, experiment, variables, path)
  shown = preprocessing.from_json(meta['preprocessing'])
  return Trained(experiment, model, variables, class_names, shown, meta)


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Path -> array as `init_from.path` takes it, and `meta`."""
  if Path(path).is_dir():
    tree, meta = checkpoint.load_params(path)
    return weight_files.flatten(tree), _complete(meta, path)
  if not Path(path).is_file():
    raise CheckpointMismatchError(
      f'{path}: there is no such file or folder; name the folder of a run, or a file that '
      '`python -m tools.checkpoint --out` wrote.'
    )
  arrays, stored = weight_files.read_arrays(path, '--checkpoint'), params_file.read_meta(path)
  if stored is None or 'config' not in stored:  # Imported weights may have class names alone.
    raise CheckpointMismatchError(
      f'{path} has weights, but no config and no class names with them: {_EXPECTED}'
    )
  return arrays, _complete(stored, path)


def _complete(meta: dict[str, Any], path: str) -> dict[str, Any]:
  missing = [key for key in ('config', 'class_names', 'preprocessing') if key not in meta]
  if missing:
    raise CheckpointMismatchError(
      f'{path} has weights, but no {" and no ".join(missing)} with them: {_EXPECTED}'
    )
  return meta


def _check_named(experiment: Experiment, meta: Mapping[str, Any], path: str) -> None:
  """Raises CheckpointMismatchError for tasks whose classes the checkpoint does not name."""
  unnamed = sorted(task for task in experiment.tasks if not (meta['class_names'] or {}).get(task))
  if unnamed:
    raise CheckpointMismatchError(
      f'{path} has no class names of {unnamed}, which its config has: expected the names of each task in '
      'label order. Write the file again, with `python -m tools.checkpoint --out`, from the run.'
    )


def variables_of(arrays: Mapping[str, Any]) -> dict[str, PyTree]:
  """The variables by collection, of arrays as weight files name them; without the objective's."""
  flat = {}
  for name, array in arrays.items():
    scope = name.split('/')[0]
    if scope == STATISTICS:
      flat[name] = array
    elif scope != OBJECTIVE:
      flat[f'params/{name}' if scope.startswith('heads_') else f'params/trunk/{name}'] = array
  variables: dict[str, PyTree] = flax.traverse_util.unflatten_dict(flat, sep='/')
  return variables


def _check(
  model: VideoModel, experiment: Experiment, variables: dict[str, PyTree], path: str
) -> None:
  """Raises CheckpointMismatchError unless the variables are those of the model."""
  inputs = example_inputs(experiment)
  wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), **inputs, train=False))
  expected, found = _shapes(flax.core.unfreeze(flax.linen.meta.unbox(wanted))), _shapes(variables)
  wrong = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
  if wrong:
    lines = [f'{key}: {found.get(key, "missing")}, {expected.get(key, "not")} in the model'
             for key in wrong[:10]]  # fmt: skip
    raise CheckpointMismatchError(
      f'{path} does not hold the model it describes; {len(wrong)} arrays differ:\n  '
      + '\n  '.join(lines)
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  flat = flax.traverse_util.flatten_dict(tree, sep='/')
  return {name: tuple(leaf.shape) for name, leaf in flat.items()}
