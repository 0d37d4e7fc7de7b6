"""What is taken of which trunk and how long videos are cut into windows, without computing."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from datasets.clip_config import ClipConfig
from errors import ConfigError, DataError
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT
from projects.multitrain.mvit import MViT
from projects.tubevit.tubes import Tube
from projects.tubevit.tubevit import TubeViT
from projects.uniformerv2.uniformerv2 import UniFormerV2
from tests.datasets.test_clips import Ramps
from tests.train_lib.fake_models import MeanPixelTrunk
from train_lib.experiment import PixelConfig
from train_lib.extract import Extractor, Features, Settings, Video, fingerprint
from train_lib.preprocessing import Preprocessing
from train_lib.trained import Trained

ENCODER = {'hidden_size': 8, 'num_layers': 2, 'num_heads': 2, 'mlp_dim': 8}
TUBES = {
  'a': Tube(kernel=(2, 4, 4), stride=(2, 8, 8)),
  'b': Tube(kernel=(1, 8, 8), stride=(4, 8, 8)),
}
PIXELS = PixelConfig((0.5,) * 3, (0.5,) * 3)
CLIP = ClipConfig(frames=4, stride=2, resize=16, crop=16)


def model(trunk, **shown):
  """With shapes for variables."""
  heads = FrozenDict({'action': LinearHead(num_classes=3)})
  made = VideoModel(trunk=trunk, heads=heads)
  video = jnp.zeros((1, 4, 16, 16, 3))
  variables = jax.eval_shape(lambda: made.init(jax.random.key(0), video, train=False))
  described = {name: Preprocessing(clip, PIXELS) for name, clip in (shown or {'a': CLIP}).items()}
  return Trained(None, made, flax.linen.meta.unbox(variables), {}, described)


MVIT = MViT(
  hidden_sizes=(4, 8),
  num_layers=(1, 2),
  num_heads=(1, 2),
  query_strides=((1, 1, 1), (1, 2, 2)),
  key_value_strides=((1, 2, 2), (1, 1, 1)),
  patch_kernel=(3, 5, 5),
  patch_stride=(2, 4, 4),
)


@pytest.mark.parametrize(
  ('trunk', 'tokens'),
  [
    (ViViT(**ENCODER, tubelet=(2, 8, 8), attention='spacetime', pooling='mean'), (2, 2, 2, 8)),
    (MVIT, (2, 2, 2, 8)),
    (TubeViT(**ENCODER, tubes=TUBES), (12, 8)),
    (UniFormerV2(**ENCODER, patch_size=8, global_layers=1), (4, 2, 2, 8)),
  ],
  ids=['vivit', 'mvit', 'tubevit', 'uniformerv2'],
)
def test_every_trunk_has_features(trunk, tokens):
  trained = model(trunk)
  assert Extractor(trained, Settings()).shape == tokens[-1:]
  assert Extractor(trained, Settings('tokens')).shape == tokens


def test_windows_are_as_long_as_clips():
  plan = Extractor(model(MeanPixelTrunk()), Settings(hop=0.4)).plan(Video('v', Ramps(50)))
  assert (plan.windows.span, plan.count) == (7, 6)
  assert plan.windows.starts.tolist() == [0, 10, 20, 30, 40, 43]
  plan = Extractor(model(MeanPixelTrunk()), Settings()).plan(Video('v', Ramps(20)))
  assert plan.windows.starts.tolist() == [0, 3, 6, 9, 12, 13]


def test_models_of_whole_videos_may_be_given_a_window():
  clip = ClipConfig(frames=4, stride=1, resize=16, crop=16, sampling='uniform')
  trained, video = model(MeanPixelTrunk(), a=clip), Video('v', Ramps(50))
  assert Extractor(trained, Settings()).plan(video).windows.span == 50
  plan = Extractor(trained, Settings(window=1.0, hop=0.5)).plan(video)
  assert (plan.windows.span, plan.windows.starts.tolist()) == (25, [0, 12, 24, 25])


def test_windows_need_a_frame_rate():
  with pytest.raises(DataError, match=r"frame rate of 'video 0' \(row 0\) is not stored"):
    Extractor(model(MeanPixelTrunk()), Settings()).plan(Video('v', Ramps(50, frame_rate=0)))


def test_datasets_that_are_shown_otherwise_must_be_told_apart():
  other = ClipConfig(frames=4, stride=3, resize=16, crop=16)
  trained = model(MeanPixelTrunk(), a=CLIP, b=CLIP, c=other)
  with pytest.raises(ConfigError, match='cut in 2 ways: say by --dataset'):
    Extractor(trained, Settings())
  assert Extractor(trained, Settings(), 'c').shown.clip == other
  assert Extractor(model(MeanPixelTrunk(), a=CLIP, b=CLIP), Settings()).shown.clip == CLIP


def test_windows_of_several_videos_share_batches(monkeypatch):
  trained = model(MeanPixelTrunk())
  videos = [Video(str(frames), Ramps(frames)) for frames in (7, 21, 9)]
  extractor = Extractor(trained, Settings(hop=0.28, batch_size=4))
  sizes = []

  def compute(_, pixels):
    sizes.append(pixels.shape)
    return jnp.asarray(pixels[:, :, 0, 0, 0], jnp.float32).mean(1)[:, None]  # The mean frame.

  monkeypatch.setattr(extractor, '_apply', compute)
  monkeypatch.setitem(vars(extractor), '_variables', {})
  found = dict(extractor.extract([extractor.plan(video) for video in videos]))
  assert sizes == [(4, 4, 16, 16, 3)] * 2
  assert [video.name for video in found] == ['7', '21', '9']
  assert [x.features[:, 0].tolist() for x in found.values()] == [[3], [3, 10, 17], [3, 5]]
  last = list(found.values())[-1]
  assert isinstance(last, Features)
  np.testing.assert_allclose(last.start, [0, 2 / 25])
  np.testing.assert_allclose(last.centre, [3 / 25, 5 / 25])


def test_fingerprint_is_of_names_and_numbers():
  one = {'params': {'a': np.zeros(2, np.float32), 'b': np.ones(1, np.float32)}}
  same = {'params': {'b': np.ones(1, np.float32), 'a': np.zeros(2, np.float32)}}
  assert fingerprint(one) == fingerprint(same)
  for other in ({'params': {**one['params'], 'b': np.zeros(1, np.float32)}}, {'c': one['params']}):
    assert fingerprint(one) != fingerprint(other)
