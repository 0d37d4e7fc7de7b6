"""YouTube ids in the keys of examples."""

import pytest

from datasets import video_id


@pytest.mark.parametrize(
  ('key', 'expected'),
  [
    ('0347ZoDXyP0_000095_000105', '0347ZoDXyP0'),  # As tools.build_records names clips of Kinetics.
    ('abseiling/0347ZoDXyP0_000095_000105.mp4', '0347ZoDXyP0'),
    ('val/v_sJFgo9H6zNo.mp4@12.5-31', 'sJFgo9H6zNo'),  # ActivityNet and HACS, a segment.
    ('v_sJFgo9H6zNo', 'sJFgo9H6zNo'),
    ('-5KQ66BBWC4,0902', '-5KQ66BBWC4'),  # AVA.
    ('-5KQ66BBWC4,902.5', '-5KQ66BBWC4'),
    ('0347ZoDXyP0', '0347ZoDXyP0'),
    ('train/0347ZoDXyP0.webm@0-1e-05', '0347ZoDXyP0'),
    ('video_00004.mp4', None),  # Eleven characters, but a number.
    ('Video_00004.mp4', None),
    ('moves_left0', None),
    ('0347ZoDXyPz', None),  # No id ends in z.
    ('P01_01_0', None),
    ('train-00012', None),
    ('v_ApplyEyeMakeup_g01_c01.avi', None),
    ('0347ZoDXyP0.txt', None),
    ('', None),
  ],
)
def test_youtube_ids(key, expected):
  assert video_id.youtube_id(key) == expected


@pytest.mark.parametrize(
  ('key', 'expected'),
  [('ant/1', True), ('1.JPG', True), ('a.mp4@0-2', True), ('a.b', False), ('train-1', False)],
)
def test_paths(key, expected):
  assert video_id.is_path(key) is expected
