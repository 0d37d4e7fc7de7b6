"""Examples of several datasets in one stream, each labelled for its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.examples import Batch, TrainExamples
from datasets.mixture import Mixture

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class MixedExamples:
  """Position of this host's stream -> clips of a video of the dataset that the mixture draws.

  Every example has the labels of all tasks, zeros for those of other datasets, and `label_mask`
  {task: float32} that says which it carries.

  Attributes:
    parts: the datasets' streams, alike in the clips' shape and repeats, batch size and places; how
      they sample, resize and flip is theirs.
    mixture: whose draws are the positions of the stream over all hosts.
    first_rows: what to add to the rows of each dataset.
  """

  parts: Sequence[TrainExamples]
  mixture: Mixture
  first_rows: Sequence[int]

  @property
  def per_group(self) -> int:
    return self.parts[0].per_group

  @property
  def shape(self) -> tuple[int, ...]:
    return self.parts[0].shape

  def __call__(self, position: int, out: _Array) -> Sequence[Batch]:
    number, own_position = self.mixture.draw(self.parts[0].whole_position(position))
    part, first_row = self.parts[number], self.first_rows[number]
    return [self._labelled(e, number, first_row) for e in part.at(own_position, out)]

  def _labelled(self, example: Batch, number: int, first_row: int) -> Batch:
    label: dict[str, _Array] = {}
    mask: dict[str, _Array] = {}
    for i, part in enumerate(self.parts):
      own: Mapping[str, _Array] = example['label'] if i == number else part.dataset.empty_labels()
      label |= own
      mask |= {task: np.asarray(i == number, np.float32) for task in own}
    skipped = [(row + first_row, why) for row, why in example['skipped']]
    row = example['row'] + first_row
    return {**example, 'label': label, 'label_mask': mask, 'row': row, 'skipped': skipped}
