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
    ('v_sJFgo9H6zNo_000010_000020.mp4', 'sJFgo9H6zNo'),
    ('sJFgo9H6zNo_12.5_22.5.mp4', 'sJFgo9H6zNo'),
    ('v_sJFgo9H6zNo_12.5_22.5.mp4', 'sJFgo9H6zNo'),
    ('yt-0Bsz3ua8ULM_8.mp4', '0Bsz3ua8ULM'),  # HACS.
    ('yt-0Bsz3ua8ULM', '0Bsz3ua8ULM'),
    ('j7_LQ8Kbg4Q_00234.mp4', 'j7_LQ8Kbg4Q'),
    ('0347ZoDXyP0_95_105', '0347ZoDXyP0'),
    ('abseiling/0347ZoDXyP0.f137.mp4', '0347ZoDXyP0'),
    ('0347ZoDXyP0.mp4.webm', '0347ZoDXyP0'),
    ('BoxingClass_000010_000020', 'BoxingClass'),  # Numbers of six digits are Kinetics' times.
    ('kitchen_cam_01_05.mp4', None),
    ('session_001_0001_0250.mp4', None),
    ('BoxingClass_01_02.mp4', None),
    ('BoxingClass.mp4', None),
    ('person01_d1_02_03', None),
    ('Video_00_04', None),
    ('Kitchen_A_8', None),
    ('Cam1_A2_C04', None),
    ('0347ZoDXyP0_1_2_3', None),
    ('0347ZoDXyPz_000010_000020', None),
    ('v_0347ZoDXyPz', None),
    ('train_00001,0902', None),
    ('0347ZoDXyP0.f137', None),
  ],
)
def test_youtube_ids(key, expected):
  assert video_id.youtube_id(key) == expected
