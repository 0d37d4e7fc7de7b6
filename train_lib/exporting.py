"""A trained model as one function of pixels, for programs that have none of this code."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import InconclusiveDimensionOperation

from errors import ConfigError, ExportError
from train_lib import params_file, provenance, weight_files
from train_lib.augment import normalize
from train_lib.eval_step import probabilities_of
from train_lib.trained import Trained, variables_of
from train_lib.weight_files import Arrays

# What is compiled for; no kernel of one of them is in the function.
PLATFORMS = ('cpu', 'cuda', 'tpu')
TOLERANCE = 1e-5
WEIGHTS, PROGRAM = 'model.safetensors', 'model.stablehlo'

# What tracing raises where a symbol must be a number, or be compared with one.
UNDECIDED = (TypeError, InconclusiveDimensionOperation)

Answers = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Interface:
  """What an exported function takes and gives.

  Attributes:
    tasks: The heads it runs.
    shape: (T, H, W, 3) of a clip.
    boxes: Whether it takes boxes as well.
    batch_size: Clips in a call; 0: any number.
  """

  tasks: tuple[str, ...]
  shape: tuple[int, int, int, int]
  boxes: bool
  batch_size: int = 0


def interface(model: Trained, task: str = '', batch_size: int = 0) -> Interface:
  """The interface of one task, or for '' of all.

  Raises:
    ConfigError: There is no such task, the tasks take clips of several shapes, or `batch_size` is negative.
  """
  tasks = model.experiment.tasks
  if task and task not in tasks:
    raise ConfigError(f'--task={task}: the checkpoint has {sorted(tasks)}.')
  if batch_size < 0:
    raise ConfigError(f'--batch_size={batch_size}: expected a number of clips, or 0 for any.')
  names = (task,) if task else tuple(tasks)
  shapes = {name: model.shown[tasks[name].dataset].clip.shape for name in names}
  if len(set(shapes.values())) > 1:
    raise ConfigError(
      f'The tasks take clips of several shapes, {shapes}: export each by itself, with --task.'
    )
  boxes = any(tasks[name].on_boxes for name in names)
  return Interface(names, shapes[names[0]], boxes, batch_size)


def function(model: Trained, face: Interface) -> Callable[..., dict[str, dict[str, jax.Array]]]:
  """The function to export.

  Returns:
    (arrays, video, boxes if the interface has them) -> task -> `{'logits', 'probabilities'}`: arrays as
    `Trained.arrays()` names them; video uint8 [B, T, H, W, 3], RGB, cut as the preprocessing says; boxes
    [B, N, 4] float32 (ymin, xmin, ymax, xmax) in [0, 1]; results float32 [B, K], of boxes [B, N, K].
    Normalisation is inside. Products are of full float32 precision on every platform, without which
    GPUs and TPUs would round each to fewer bits and give other numbers.
  """
  experiment = model.experiment
  pixels = model.shown[experiment.tasks[face.tasks[0]].dataset].pixels

  def classify(
    arrays: Arrays, video: jax.Array, boxes: jax.Array | None = None
  ) -> dict[str, dict[str, jax.Array]]:
    with jax.default_matmul_precision('highest'):
      inputs = normalize(video, pixels.mean, pixels.std)
      _, logits = model.model.apply(
        variables_of(arrays), inputs, boxes=boxes, tasks=face.tasks, train=False
      )
    return {
      task: {'logits': x, 'probabilities': probabilities_of(experiment, task, x)}
      for task, x in logits.items()
    }

  return classify


def symbolic_shapes(face: Interface) -> tuple[str, ...]:
  """The shape of each input, as `jax.export` spells those with sizes that are free."""
  batch = str(face.batch_size or 'batch')
  video = ', '.join([batch, *map(str, face.shape)])
  return (video, f'{batch}, boxes, 4') if face.boxes else (video,)


def write_weights(folder: Path, model: Trained) -> None:
  """Writes `WEIGHTS`, which `trained.load` reads."""
  params_file.write_arrays(folder / WEIGHTS, model.arrays(), model.meta)


def write_stablehlo(folder: Path, model: Trained, face: Interface) -> None:
  """Writes `PROGRAM`, a `jax.export` of `function`, and `WEIGHTS`, its first argument.

  Apart, as what `jax.export` serialises may not exceed 2 GiB.

  Raises:
    ConfigError: The model needs to know the number of clips, and `face` leaves it free.
  """
  arrays = model.arrays()
  inputs = inputs_of(face)
  try:
    exported = export.export(jax.jit(function(model, face)), platforms=PLATFORMS)(arrays, *inputs)
  except UNDECIDED as error:
    raise needs_batch_size(face, error) from error
  write_weights(folder, model)
  (folder / PROGRAM).write_bytes(exported.serialize())


def needs_batch_size(face: Interface, error: Exception) -> Exception:
  """`error`, or what it means where the number of clips is free."""
  if face.batch_size:
    return error
  reason = str(error).splitlines()[0].rstrip('.')
  return ConfigError(
    f'--batch_size=0: the model cannot be exported for any number of clips ({reason}). Give the number '
    'that it will be called with.'
  )


def inputs_of(face: Interface) -> list[jax.ShapeDtypeStruct]:
  """The inputs after the weights, with symbols for sizes that are free."""
  shapes = symbolic_shapes(face)
  scope = export.SymbolicScope()
  return [
    jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), dtype)
    for shape, dtype in zip(shapes, (jnp.uint8, jnp.float32))
  ]


def load_stablehlo(folder: str | Path) -> Callable[..., Answers]:
  """What `write_stablehlo` wrote, as a function of video and boxes; see `function`.

  Raises:
    ExportError: There is no such export in the folder.
    CheckpointMismatchError: Its weights cannot be read.
  """
  file = Path(folder) / PROGRAM
  if not file.is_file():
    raise ExportError(f'{file}: there is no such file; name a folder of `tools.export --out`.')
  exported = export.deserialize(bytearray(file.read_bytes()))
  arrays = weight_files.read_arrays(str(Path(folder) / WEIGHTS), 'the weights')
  return lambda *inputs: exported.call(arrays, *inputs)


# --- The check ---


def check(
  model: Trained, face: Interface, exported: Callable[..., Answers], file: str
) -> tuple[list[int], float]:
  """Compares what was written with the model, on random clips.

  Args:
    model: What was exported.
    face: Its interface.
    exported: (video, boxes if there are any) -> answers, of the file read again.
    file: What was written, for messages.

  Returns:
    The numbers of clips that it was called with, and the greatest difference of a logit, relative to
    max(1, |logit|).

  Raises:
    ExportError: It is more than `TOLERANCE`, or the names or shapes of the outputs differ.
  """
  ours = jax.jit(function(model, face))
  arrays, rng = model.arrays(), np.random.default_rng(0)
  sizes = [face.batch_size] if face.batch_size else [1, 2]
  worst = 0.0
  for size in sizes:
    inputs = example(face, size, rng)
    expected = ours(arrays, *inputs)
    _check_finite(expected)
    found = difference(expected, exported(*inputs), file)
    if not found <= TOLERANCE:  # NaN too.
      by_operation = function(model, face)(arrays, *inputs)
      raise ExportError(
        f'{file} does not compute what the model does: logits differ by {found:.3g} of max(1, |logit|), '
        f'allowed are {TOLERANCE:g}. Nothing was kept. The model itself, computed operation by operation, '
        f'differs by {difference(expected, by_operation, file):.3g}: if that is no less, float32 is too '
        'coarse for this model; if it is, report this. Either way, try another format.'
      )
    worst = max(worst, found)
  return sizes, worst


def _check_finite(answers: Answers) -> None:
  """Raises ExportError for a model that no export can be compared with."""
  wrong = [task for task, of in answers.items() if not np.isfinite(of['logits']).all()]
  if wrong:
    raise ExportError(
      f'The model gives logits of {wrong} that are not finite numbers for random clips: its training '
      'failed. Nothing was kept; export another checkpoint.'
    )


def example(face: Interface, size: int, rng: np.random.Generator) -> list[np.ndarray]:
  """Random clips and, if the interface has them, two boxes in each."""
  inputs = [rng.integers(0, 256, (size, *face.shape), np.uint8)]
  if face.boxes:
    low, high = rng.uniform(0, 0.5, (size, 2, 2)), rng.uniform(0.5, 1, (size, 2, 2))
    inputs.append(np.concatenate([low, high], -1).astype(np.float32))
  return inputs


def difference(expected: Answers, got: Answers, file: str) -> float:
  """The greatest difference of a logit, relative to max(1, |logit|), or of a probability.

  Raises:
    ExportError: The outputs have other names or shapes.
  """
  shapes = [{t: {k: x.shape for k, x in of.items()} for t, of in answers.items()} for answers in
            (expected, got)]  # fmt: skip
  if shapes[0] != shapes[1]:
    raise ExportError(f'{file} gives {shapes[1]}, the model {shapes[0]}.')
  pairs = (
    (np.asarray(x), np.asarray(got[t][k])) for t, of in expected.items() for k, x in of.items()
  )
  found = [np.max(np.abs(x - y) / np.maximum(1, np.abs(x)), initial=0) for x, y in pairs]
  return float(np.max(found))  # Python's max would lose NaN.


# --- export.json ---


def describe(model: Trained, face: Interface) -> dict[str, Any]:
  """What a program needs to know that calls the function; JSON-serialisable."""
  experiment = model.experiment
  names = ('video', 'boxes')
  about = (
    {'dtype': 'uint8', 'range': [0, 255], 'channels': 'RGB', 'axes': 'batch, time, height, width, channel'},
    {'dtype': 'float32', 'range': [0, 1], 'order': 'ymin, xmin, ymax, xmax', 'padding': 'zeros'},
  )  # fmt: skip
  inputs = {
    name: {'shape': [int(n) if n.isdigit() else n for n in shape.split(', ')], **text}
    for name, shape, text in zip(names, symbolic_shapes(face), about)
  }
  arrays = model.arrays()
  return {
    'inputs': inputs,
    'outputs': {task: _outputs(model, face, task) for task in face.tasks},
    'preprocessing': {task: _preprocessing(model, task) for task in face.tasks},
    'class_names': {task: list(model.class_names[task]) for task in face.tasks},
    'config': experiment.name,
    'trunk': model.meta['config']['trunk'],
    'step': model.meta['position'].get('step'),
    'git_revision': model.meta['git_revision'],
    'versions': {'trained with': model.meta['versions'], 'exported with': provenance.versions()},
    'parameters': {'count': sum(x.size for x in arrays.values()), 'sha256': digest(arrays)},
  }


def _outputs(model: Trained, face: Interface, task: str) -> dict[str, Any]:
  leading = [face.batch_size or 'batch']
  leading += ['boxes'] if model.experiment.tasks[task].on_boxes else []
  softmax = model.experiment.tasks[task].loss == 'softmax'
  shape = [*leading, len(model.class_names[task])]
  return {
    'logits': {'shape': shape, 'dtype': 'float32'},
    'probabilities': {
      'shape': shape,
      'dtype': 'float32',
      'of': 'softmax: one label' if softmax else 'sigmoid: each label by itself',
    },
  }


def _preprocessing(model: Trained, task: str) -> dict[str, Any]:
  """From a video to the input, and from the outputs of its views to its classes."""
  name = model.experiment.tasks[task].dataset
  clip, pixels = model.shown[name].clip, model.shown[name].pixels
  dataset = model.experiment.datasets[name]
  return {
    'frames': clip.frames,
    'stride': clip.stride,
    'stride_in': f'frames at {clip.fps:g} per second' if clip.fps else "the video's own frames",
    'seconds': clip.frames * clip.stride / clip.fps if clip.fps else None,
    'sampling': clip.sampling,
    'short_video': clip.short_clip,
    'resize': {'side': 'longer' if clip.fit == 'pad' else 'shorter', 'pixels': clip.resize},
    'fit': clip.fit,
    'crop': [clip.crop, clip.crop],
    'normalisation': {
      'where': 'inside the function',
      'of': '(x / 255 - mean) / std',
      'mean': pixels.mean,
      'std': pixels.std,
    },
    'views_of_evaluation': {
      'temporal': dataset.temporal_views,
      'spatial': dataset.spatial_views,
      'average_of': model.experiment.evaluation.average,
    },
  }


def digest(arrays: Arrays) -> str:
  """SHA-256 of names, shapes and numbers."""
  found = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    found.update(f'{name} {array.dtype} {array.shape}'.encode())
    found.update(np.require(array, requirements='C').tobytes())
  return found.hexdigest()
