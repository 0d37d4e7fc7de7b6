"""The helpers that configs share."""

import pytest

from configs import common
from train_lib import configuration
from train_lib.erasing import RandomErasingConfig
from train_lib.experiment import AugmentConfig
from train_lib.mixing import MixConfig
from train_lib.randaugment import RandAugmentConfig


def test_no_augmentation_is_off_and_otherwise_the_defaults():
  config = configuration.parse(AugmentConfig, common.no_augmentation().to_dict(), 'augment')
  assert (config.color_jitter.prob, config.color_jitter.grayscale_prob) == (0, 0)
  assert config.rand_augment == RandAugmentConfig(num_layers=0, magnitude=0.0)
  assert config.random_erasing == RandomErasingConfig(prob=0.0)
  assert config.mix == MixConfig(mixup_alpha=0.0, cutmix_alpha=0.0)


@pytest.mark.parametrize(
  ('text', 'layers', 'magnitude', 'deviation'),
  [
    ('rand-m7-n4-mstd0.5-inc1', 4, 7.0, 0.5),
    ('rand-inc1-mstd1-m9', 2, 9.0, 1.0),
    ('rand-inc1', 2, 10.0, 0.0),
  ],
)
def test_timms_notation(text, layers, magnitude, deviation):
  augment = common.no_augmentation()
  augment.rand_augment.update(common.rand_augment_from(text))
  config = configuration.parse(AugmentConfig, augment.to_dict(), 'augment').rand_augment
  assert config == RandAugmentConfig(layers, magnitude, 'increasing', deviation, op_prob=0.5)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('rand-m7-n4-mstd0.5', "must begin with 'rand-' and contain 'inc1'"),
    ('rand-m7-inc0', "contain 'inc1'"),
    ('augmix-m5-inc1', "must begin with 'rand-'"),
    ('rand-m7-w0-inc1', "Unknown part 'w0'"),
    ('rand-m-inc1', "Unknown part 'm'"),
  ],
)
def test_other_notations_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    common.rand_augment_from(text)
