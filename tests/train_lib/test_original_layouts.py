"""What other code wrote comes out as it was, by the tables that read it."""

import json
from pathlib import Path

import numpy as np
import pytest

from errors import CheckpointMismatchError
from train_lib import pretrained_torch as torch_layouts
from train_lib import pretrained_vit
from train_lib.pretrained_vit import UNUSED

FIXTURES = Path(__file__).parents[1] / 'fixtures'


def state(name):
  """The state dict of a committed case."""
  with np.load(FIXTURES / f'{name}.npz') as archive:
    prefix = 'state_dict/'
    return {k.removeprefix(prefix): archive[k] for k in archive.files if k.startswith(prefix)}


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
  ('name', 'read', 'write', 'projection'),
  [
    ('openai_clip_visual', torch_layouts.from_clip, torch_layouts.to_clip, 'visual.proj'),
    (
      'hf_clip_vision',
      torch_layouts.from_hugging_face_clip,
      torch_layouts.to_hugging_face_clip,
      'visual_projection.weight',
    ),
  ],
)
def test_clip_comes_back(name, read, write, projection):
  official = state(name)
  canonical = {k: v for k, v in read(official, 4).items() if not k.startswith(UNUSED)}
  written = write(canonical)
  assert_same(written, {k: v for k, v in official.items() if k != projection})
  assert_same(read(written, 4), canonical)


def test_vivit_comes_back_by_the_names_of_the_hub():
  official = state('hf_vivit')
  names = json.loads((FIXTURES / 'hf_vivit.json').read_text())['key_map_current_to_hub']
  canonical = torch_layouts.from_hugging_face(official, 4)
  written = torch_layouts.to_hugging_face_vivit(canonical)
  assert_same(written, {names[name]: array for name, array in official.items()})
  assert_same(torch_layouts.from_hugging_face(written, 4), canonical)


def test_groups_may_change_places_and_spellings():
  stems = ((r'a\.(\d+)\.(?:old|older)\.(x|y)', r'ours_\2/n_\1'),)
  arrays = {'a.3.old.x.bias': np.arange(2.0), 'a.4.older.y.weight': np.arange(6.0).reshape(2, 3)}
  ours = pretrained_vit.from_torch(arrays, 1, stems)
  assert sorted(ours) == ['ours_x/n_3/bias', 'ours_y/n_4/kernel']
  written = pretrained_vit.to_torch(ours, stems)
  assert_same(
    written,
    {'a.3.old.x.bias': arrays['a.3.old.x.bias'], 'a.4.old.y.weight': arrays['a.4.older.y.weight']},
  )


def test_arrays_without_a_place_are_listed():
  message = r'no place for 2 arrays of the model: extra/kernel, more\.'
  with pytest.raises(CheckpointMismatchError, match=message):
    pretrained_vit.to_torch({'more': np.zeros(1), 'extra/kernel': np.zeros((1, 1))}, ())
