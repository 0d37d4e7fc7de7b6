"""Training clips as the model sees them: drawn, augmented and mixed by the functions of training."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from datasets.box_pictures import KeyframeMarks, marks_of_example
from datasets.dataset import VideoDataset
from datasets.examples import Batch, train_examples
from datasets.samples import Sample, label_names, make_sample, window_note
from train_lib.experiment import DataFacts, Experiment
from train_lib.program import prepare

_Array = np.ndarray[Any, np.dtype[Any]]


def training_samples(
  experiment: Experiment, facts: DataFacts, name: str, dataset: VideoDataset, count: int
) -> list[Sample]:
  """The first `count` clips of a dataset that a training takes, at most those of the first epoch.

  Examples depend on (seed, step, position), so a clip is prepared alone, or with the one it is
  mixed with: its mirror image in its part of the batch. Of a mixture the dataset is shown as in a run
  of its own: the same clips and windows, but what the compiled step draws belongs to other steps.

  Raises:
    DataError: a frame cannot be read.
    ConfigError: flips would make labels wrong.
  """
  config, augment = experiment.datasets[name], experiment.augment_of(experiment.tasks_of(name))
  mix, color_jitter, repeats = augment.mix, augment.color_jitter, config.clip.repeats
  batch_size = experiment.batch_size_of(name)
  stream = train_examples(
    dataset,
    config.clip,
    batch_size=batch_size,
    seed=experiment.seed,
    boxes=config.boxes,
    color_jitter=color_jitter if color_jitter.active('host') else None,
    max_bad_records=max(config.max_bad_records - len(dataset.defects), 0),
  )
  prepared = jax.jit(functools.partial(prepare, experiment, facts))
  mixes = mix.prob > 0 and (mix.mixup_alpha > 0 or mix.cutmix_alpha > 0)

  def sample(number: int) -> Sample:
    step, position = divmod(number, batch_size)
    mate = partner(batch_size, experiment.grad_accumulation, position)
    positions = [position, mate] if mixes else [position]
    drawn = [stream.draw((number - position + p) // repeats) for p in positions]
    copies = [p % repeats for p in positions]
    clips = [d.clips[copy] for d, copy in zip(drawn, copies)]
    batch = {
      'inputs': np.stack([clip.pixels for clip in clips]),
      **_stacked([d.parts[copy] for d, copy in zip(drawn, copies)]),
      'batch_mask': np.ones(len(clips), np.float32),
      'position': np.array(positions),
    }
    video, targets, _ = prepared(batch, step)
    labels = label_names(dataset, {task: np.asarray(target)[0] for task, target in targets.items()})
    notes = [window_note(clips[0].window)]
    notes += [f'mixed with {dataset.key(d.row)}' for d in drawn[1:]]
    pixels = pixels_of(experiment, np.asarray(video)[0])
    boxes = None
    if config.boxes is not None:
      detected = config.boxes.train == 'detected'
      marks = marks_of_example(dataset, drawn[0].parts[copies[0]], detected=detected)
      boxes = KeyframeMarks(config.clip.frames // 2, marks)
    indices = clips[0].indices
    return make_sample(dataset, drawn[0].row, pixels, indices, labels, *notes, boxes=boxes)

  return [sample(number) for number in range(min(count, len(dataset) * repeats))]


def partner(batch_size: int, parts: int, position: int) -> int:
  """The position in a batch of the clip that the one at `position` is mixed with.

  Batches are dealt out to the parts of gradient accumulation (`program.deal`), and each part is
  mixed with its reverse.
  """
  place, part = divmod(position, parts)
  return (batch_size // parts - 1 - place) * parts + part


def pixels_of(experiment: Experiment, video: _Array) -> _Array:
  """Normalised values [..., 3] as the nearest pixels uint8."""
  values = video * np.array(experiment.pixels.std) + np.array(experiment.pixels.mean)
  return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)


def _stacked(parts: Sequence[Batch]) -> Batch:
  stacked: Batch = jax.tree.map(lambda *x: np.stack(x), *parts)
  return stacked
