"""Writes a trained model for other programs, and checks that what was written computes the same.

  python -m tools.export --checkpoint=runs/k400 --format=stablehlo --out=exported
  python -m tools.export --checkpoint=runs/k400 --format=saved_model --batch_size=8 --out=exported
  python -m tools.export --checkpoint=runs/k400 --format=safetensors --layout=hf_vivit --out=hf

Formats:
  stablehlo    model.stablehlo, a function of `jax.export`, and model.safetensors, its weights
  saved_model  saved_model/, for TensorFlow
  safetensors  model.safetensors, which every --checkpoint and init_from.path reads; with --layout by the
               names of other code: hf_vivit, uniformerv2, clip, hf_clip

The function takes uint8 clips [batch, T, H, W, 3], cut as the checkpoint's preprocessing says, and boxes
[batch, N, 4] if a head asks for them; normalisation is inside. It gives logits and probabilities of every
task, or of --task, in float32, for any number of clips unless --batch_size fixes it, on CPUs, NVIDIA GPUs
and TPUs. export.json tells inputs, outputs, preprocessing and class names. docs/export.md says which
models fit which format.

The file is read again and called with random clips: logits that differ by more than 1e-5 of max(1, |logit|)
are an error, and nothing is kept. It all runs on the CPU.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from errors import ConfigError
from tools import command, out_folder

if TYPE_CHECKING:
  from train_lib.exporting import Interface
  from train_lib.original_layouts import Layout
  from train_lib.trained import Trained

FORMATS = ('stablehlo', 'saved_model', 'safetensors')
OURS = 'ours'
LAYOUTS = (OURS, 'hf_vivit', 'uniformerv2', 'clip', 'hf_clip')

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, "A run's folder, or a file of it.", required=True, allow_override=True
)
_FORMAT = flags.DEFINE_string(
  'format', None, f'One of {", ".join(FORMATS)}.', required=True, allow_override=True
)
_OUT = flags.DEFINE_string(
  'out', None, 'The folder to write: new, or empty.', required=True, allow_override=True
)
_TASK = flags.DEFINE_string('task', '', 'A head; default: all.', allow_override=True)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 0, 'Clips in a call; 0: any number.', allow_override=True
)
_LAYOUT = flags.DEFINE_string(
  'layout', OURS, f'Names of the arrays: one of {", ".join(LAYOUTS)}.', allow_override=True
)


def export_model(
  checkpoint: str,
  format: str,
  out: str,
  *,
  task: str = '',
  batch_size: int = 0,
  layout: str = OURS,
) -> dict[str, Any]:
  """Exports a checkpoint and checks what was written; see the flags of this command.

  Returns:
    The content of `export.json`.

  Raises:
    ConfigError: No such format, layout or task, or they do not go together; `out` is there and not empty
      or cannot be written.
    CheckpointMismatchError: As `trained.load`, or the layout has no place for an array.
    ExportError: The layout cannot hold the model, or what was written does not compute what it does.
  """
  _check_flags(format, layout, batch_size)
  folder = Path(out)
  _check_folder(folder)
  from train_lib import exporting, trained

  model = trained.load(checkpoint)
  face = exporting.interface(model, task, batch_size)
  try:
    with _appearing(folder) as part:
      if layout == OURS:
        description = _write(part, model, face, format)
      else:
        description = _write_layout(part, model, task, layout)
      text = json.dumps({'format': format, 'layout': layout, **description}, indent=2)
      (part / 'export.json').write_text(text + '\n', encoding='utf-8')
  except OSError as error:
    raise ConfigError(f'--out={out} cannot be written: {error.strerror}.') from error
  return description


def _check_flags(format: str, layout: str, batch_size: int) -> None:
  """Raises ConfigError for names that are not known or that do not go together."""
  for flag, value, known in (('format', format, FORMATS), ('layout', layout, LAYOUTS)):
    if value not in known:
      raise ConfigError(f'--{flag}={value}: there is no such {flag}; known: {", ".join(known)}.')
  if layout != OURS and format != 'safetensors':
    raise ConfigError(
      f'--layout={layout} names arrays of --format=safetensors, and the format is {format}.'
    )
  if batch_size and format == 'safetensors':
    raise ConfigError(
      f'--batch_size={batch_size}: --format=safetensors has weights and no function.'
    )


def _check_folder(folder: Path) -> None:
  """Raises ConfigError if there is something that would be replaced, or nothing can be written."""
  there = out_folder.nearest(folder)
  if there == folder and not (folder.is_dir() and not any(folder.iterdir())):
    raise ConfigError(
      f'--out={folder} is there and not an empty folder: choose another, or remove it.'
    )
  out_folder.check_out(folder)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
  """A folder to write to; what is in it is in `folder` afterwards, or nowhere after an error."""
  there = out_folder.nearest(folder)
  with tempfile.TemporaryDirectory(dir=there, prefix='.export-') as made:
    part = Path(made) / 'export'
    part.mkdir()
    yield part
    if there == folder:  # It may be a link, a volume, or where we are: these cannot be replaced.
      for path in part.iterdir():
        path.replace(folder / path.name)
    else:
      folder.parent.mkdir(parents=True, exist_ok=True)
      part.replace(folder)


def _write(folder: Path, model: 'Trained', face: 'Interface', format: str) -> dict[str, Any]:
  """Writes a format in our names and checks it; returns its description."""
  import jax

  from tools import saved_model
  from train_lib import exporting, trained

  if format == 'stablehlo':
    exporting.write_stablehlo(folder, model, face)
    exported, file = exporting.load_stablehlo(folder), exporting.PROGRAM
  elif format == 'saved_model':
    saved_model.write(folder, model, face)
    exported, file = saved_model.load(folder, face), saved_model.FOLDER
  else:
    exporting.write_weights(folder, model)
    again, file = trained.load(str(folder / exporting.WEIGHTS)), exporting.WEIGHTS
    classify = jax.jit(exporting.function(again, face))
    exported = lambda *inputs: classify(again.arrays(), *inputs)  # noqa: E731
  sizes, worst = exporting.check(model, face, exported, file)
  return {
    'file': file,
    **exporting.describe(model, face),
    'platforms': exporting.PLATFORMS,
    'checked': {'batch_sizes': sizes, 'greatest_difference_of_logits': worst},
  }


def _write_layout(folder: Path, model: 'Trained', task: str, name: str) -> dict[str, Any]:
  """Writes a model by the names of other code, with that code's settings beside it."""
  from train_lib import exporting, original_layouts

  task, layout = model.task(task), _layouts()[name]
  count = original_layouts.write(folder / exporting.WEIGHTS, layout, model, task)
  for file, content in layout.settings(model, task).items():
    (folder / file).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
  described = exporting.describe(model, exporting.interface(model, task))
  kept = ('preprocessing', 'class_names', 'config', 'trunk', 'step', 'git_revision', 'versions')
  return {
    'file': exporting.WEIGHTS,
    **{key: described[key] for key in kept},
    'parameters': {'count': count},
    'checked': 'read again by the importer: equal bit for bit',
  }


def _layouts() -> 'dict[str, Layout]':
  """The layouts besides ours, by name."""
  from projects.uniformerv2 import layouts
  from projects.vivit import hugging_face

  return {
    'hf_vivit': hugging_face.LAYOUT,
    'uniformerv2': layouts.RELEASED,
    'clip': layouts.CLIP,
    'hf_clip': layouts.HUGGING_FACE_CLIP,
  }


_USE = {
  'stablehlo': """\
  from jax import export
  from safetensors.numpy import load_file
  model = export.deserialize(bytearray(open('{out}/model.stablehlo', 'rb').read()))
  answers = model.call(load_file('{out}/model.safetensors'), {inputs})
  answers['{task}']['probabilities']""",
  'saved_model': """\
  import tensorflow as tf
  model = tf.saved_model.load('{out}/saved_model')
  answers = model.signatures['serving_default']({named})
  answers['{task}_probabilities']""",
  'safetensors': """\
  python -m tools.explain --checkpoint={out}/model.safetensors --video=clip.mp4
  python main.py --config=... --config.init_from.path={out}/model.safetensors""",
  'hf_vivit': """\
  from transformers import VivitForVideoClassification
  model = VivitForVideoClassification.from_pretrained('{out}')""",
  'hf_clip': """\
  from transformers import CLIPVisionModel
  model = CLIPVisionModel.from_pretrained('{out}')""",
  'uniformerv2': """\
  from safetensors.torch import load_file
  model.load_state_dict({{k.removeprefix('backbone.'): x for k, x in load_file('{out}/model.safetensors').items()}})""",
  'clip': """\
  from safetensors.torch import load_file
  model.load_state_dict(load_file('{out}/model.safetensors'), strict=False)  # The image tower alone.""",
}


def summary(description: dict[str, Any], format: str, layout: str, out: str) -> str:
  """What the command prints: what was written, how it was checked, how to use it."""
  count, checked = description['parameters']['count'], description['checked']
  lines = [f'{out}/{description["file"]}: {count:,} parameters, export.json beside it.']
  if layout != OURS:
    lines.append(f'Checked: {checked}.')
  else:
    sizes = ' and '.join(map(str, checked['batch_sizes']))
    worst = checked['greatest_difference_of_logits']
    lines.append(
      f'Checked: logits of {sizes} clips differ by at most {worst:.2g} of max(1, |logit|).'
    )
    for name, value in description['inputs'].items():
      lines.append(f'  {name:6} {value["dtype"]} {value["shape"]}'.replace("'", ''))
    for task, value in description['outputs'].items():
      shape = str(value['probabilities']['shape']).replace("'", '')
      lines.append(f'  {task}: logits and probabilities float32 {shape}')
  names = list(description.get('inputs', ()))
  use = _USE[format if layout == OURS else layout]
  named = ', '.join(f'{name}={name}' for name in names)
  task = next(iter(description['class_names']))
  return '\n'.join([*lines, use.format(out=out, inputs=', '.join(names), named=named, task=task)])


def main() -> None:
  """Exports."""
  _check_flags(_FORMAT.value, _LAYOUT.value, _BATCH_SIZE.value)
  _check_folder(Path(_OUT.value))
  import jax

  jax.config.update('jax_platforms', 'cpu')
  description = export_model(
    _CHECKPOINT.value,
    _FORMAT.value,
    _OUT.value,
    task=_TASK.value,
    batch_size=_BATCH_SIZE.value,
    layout=_LAYOUT.value,
  )
  print(summary(description, _FORMAT.value, _LAYOUT.value, _OUT.value))


if __name__ == '__main__':
  command.run(main)
