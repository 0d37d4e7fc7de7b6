"""TensorFlow's SavedModel of an exported function; needs TensorFlow to be written and to be run."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_lib import exporting
from train_lib.exporting import Interface
from train_lib.trained import Trained

FOLDER = 'saved_model'
SIGNATURE = 'serving_default'


def output_name(task: str, kind: str) -> str:
  """What the signature calls the `'logits'` or `'probabilities'` of a task."""
  return f'{task}_{kind}'


def write(folder: Path, model: Trained, face: Interface) -> None:
  """Writes `FOLDER`: one signature of video and boxes, with the weights as variables.

  Raises:
    ConfigError: The model needs to know the number of clips, and `face` leaves it free.
    OSError: The folder cannot be written.
  """
  import tensorflow as tf
  from jax.experimental import jax2tf

  shapes = exporting.symbolic_shapes(face)
  converted = jax2tf.convert(
    exporting.function(model, face),
    polymorphic_shapes=[None, *(f'({shape})' for shape in shapes)],
    native_serialization_platforms=exporting.PLATFORMS,
    with_gradient=False,
  )
  module = tf.Module()
  module.weights = {name: tf.Variable(array) for name, array in model.arrays().items()}

  def serve(**inputs: Any) -> dict[str, Any]:
    answers = converted(module.weights, *(inputs[name] for name in names))
    return {output_name(task, kind): x for task, of in answers.items() for kind, x in of.items()}

  names = ('video', 'boxes')[: len(shapes)]
  specs = {
    name: tf.TensorSpec([int(n) if n.isdigit() else None for n in shape.split(', ')], dtype, name)
    for name, shape, dtype in zip(names, shapes, (tf.uint8, tf.float32))
  }
  try:
    signature = tf.function(serve, autograph=False).get_concrete_function(**specs)
  except exporting.UNDECIDED as error:
    raise exporting.needs_batch_size(face, error) from error
  try:
    tf.saved_model.save(module, str(folder / FOLDER), signatures={SIGNATURE: signature})
  except tf.errors.OpError as error:
    raise OSError(errno.EIO, error.message) from error


def load(folder: Path, face: Interface) -> Callable[..., exporting.Answers]:
  """What `write` wrote, as a function of video and boxes; see `exporting.function`."""
  import tensorflow as tf

  loaded = tf.saved_model.load(str(folder / FOLDER))

  def call(*inputs: Any) -> exporting.Answers:
    named = dict(zip(('video', 'boxes'), map(tf.constant, inputs)))
    answers = {name: x.numpy() for name, x in loaded.signatures[SIGNATURE](**named).items()}
    kinds = ('logits', 'probabilities')
    return {task: {k: answers[output_name(task, k)] for k in kinds} for task in face.tasks}

  return call
