"""The papers' datasets: classes, sizes, length, views to test with, flips, and where labels come from.

Facts for people and for tools that need sizes when no data is there; a manifest always comes first.
Every figure says who states it, and figures that differ stand side by side. 'Table 10' is that of
UniFormerV2, which counts the videos its authors still had and, starred, those first published.

The ViViT paper (Sec. 4.1, "Datasets") states sizes over all splits, not training sets: its 267 000
and 446 000 for Kinetics are train + val + test of the configs released with it. `train_examples` is
therefore the training set's size, with the paper's own figure beside it in `source`.
"""

import dataclasses
from collections.abc import Mapping

TABLE_10 = 'UniFormerV2, Table 10'
TABLE_10_ORIGINAL = 'as first published (UniFormerV2, Table 10, starred)'
COUNTED = 'rows of the published annotation file'
_CRAWLER = f'{COUNTED} (github.com/activitynet/ActivityNet)'


@dataclasses.dataclass(frozen=True)
class Size:
  """Clips (or videos, where `source` says so) of each split, None where not stated."""

  source: str
  train: int | None = None
  validation: int | None = None
  test: int | None = None


@dataclasses.dataclass(frozen=True)
class Views:
  """How a paper tests: `temporal` clips of a video times `spatial` crops, and what it feeds."""

  paper: str
  temporal: int
  spatial: int
  note: str


@dataclasses.dataclass(frozen=True)
class Flip:
  """What a horizontal flip does to the labels.

  Attributes:
    rule: 'keep': labels stay true; 'swap': those in `pairs` change places; 'never': no label for
      the flipped clip exists.
    reason: why, and what the papers do.
    pairs: class names that a flip turns into each other.
  """

  rule: str
  reason: str
  pairs: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A dataset of the papers.

  Attributes:
    name: what configs call it (`benchmark`).
    title: its own name.
    tasks: label group -> number of classes.
    train_examples: training clips that tools assume when no data is there.
    source: who states `train_examples`, and what else is stated for it.
    flip: what a horizontal flip does to the labels.
    annotations: where the annotation files come from.
    layout: what reads them in `datasets.annotation_layouts` or `datasets.ava_csv`; '' where nothing does yet.
    sizes: what is stated about the sizes.
    seconds: mean length of a video (of the whole one where it is untrimmed); None: not stated.
    views: how the papers test.
    notes: anything else to know before using it.
  """

  name: str
  title: str
  tasks: Mapping[str, int]
  train_examples: int
  source: str
  flip: Flip
  annotations: str
  layout: str = ''
  sizes: tuple[Size, ...] = ()
  seconds: float | None = None
  views: tuple[Views, ...] = ()
  notes: str = ''


_DIRECTIONS = (
  ('Pulling something from left to right', 'Pulling something from right to left'),
  ('Pushing something from left to right', 'Pushing something from right to left'),
  (
    'Turning the camera left while filming something',
    'Turning the camera right while filming something',
  ),
)
_SSV_FLIP = Flip(
  'swap',
  'Six of the 174 class names state a direction; the other labels stay true. ViViT (Table 7) flips '
  'with probability 0.5 and keeps the labels; MultiTrain (supplement 2.1) does not flip; '
  'mmaction2 swaps these three pairs.',
  _DIRECTIONS,
)
_KINETICS_FLIP = Flip('keep', 'No class name of Kinetics-400, -600 or -700 states a side.')
_NO_SIDE = Flip('keep', 'No class is known to state a side; the papers name no exception for it.')
_KINETICS_PAGE = (
  'csv files of the CVD Foundation (github.com/cvdfoundation/kinetics-dataset), which also hosts '
  'the videos; the project is Kinetics of Google DeepMind.'
)
_SSV_PAGE = 'Qualcomm, "Something-Something V2 Dataset" (before: 20bn.com); a licence to accept.'
_VIVIT = Views('ViViT', 4, 1, '32 frames at stride 2 (Sec. 4.1); 4 x 3 for its large models')
_VIVIT_4X3 = Views('ViViT', 4, 3, 'large and huge models; UniFormerV2 (Table 1) lists 32 x 3 x 4')
_UNIFORMER = Views('UniFormerV2', 4, 3, '8 frames, sparse: "8 x 3 x 4" (frames x crops x clips)')
_UNIFORMER_LARGE = Views('UniFormerV2', 2, 3, '32 or 64 frames: "32 x 3 x 2" (Tables 1, 2 and 16)')
_MULTITRAIN = Views('MultiTrain', 3, 3, '32 frames at stride 3; softmax averaged (supplement 2.1)')
_COFINETUNING = Views('co-finetuning', 1, 1, '32 frames at stride 2, single view (Sec. 4.1)')
_TUBEVIT = (
  'TubeViT (supplement, Table 1) feeds {} frames at {} a second; the supplement names no views.'
)

_KINETICS = (
  Dataset(
    'kinetics400',
    'Kinetics-400',
    {'label': 400},
    214_834,
    'Scenic, ViViT and PolyViT configs (train 214834, val 17637, test 34579; YouTube removals '
    'change it); ViViT Sec. 4.1: about 267 000 over all splits.',
    _KINETICS_FLIP,
    _KINETICS_PAGE,
    'kinetics',
    (
      Size(TABLE_10_ORIGINAL, 246_245, 20_000),
      Size(TABLE_10, 240_436, 19_787),
      Size(_CRAWLER, validation=19_906, test=38_685),
      Size('MultiTrain, supplement Table 1', 234_583, 19_760),
      Size('Scenic, ViViT configs', 214_834, 17_637, 34_579),
    ),
    10,
    (_VIVIT, _VIVIT_4X3, _UNIFORMER, _UNIFORMER_LARGE, _MULTITRAIN, _COFINETUNING),
    _TUBEVIT.format(64, 15),
  ),
  Dataset(
    'kinetics600',
    'Kinetics-600',
    {'label': 600},
    363_213,
    'Scenic, video transformer configs for Kinetics 600 (train 363213, val 27676, test 55377; '
    'YouTube removals change it); ViViT Sec. 4.1: about 446 000 over all splits.',
    _KINETICS_FLIP,
    _KINETICS_PAGE,
    'kinetics',
    (
      Size(TABLE_10_ORIGINAL, 392_622, 30_000),
      Size(TABLE_10, 366_006, 27_935),
      Size(_CRAWLER, validation=30_000, test=72_924),
      Size('Scenic, Kinetics-600 configs', 363_213, 27_676, 55_377),
    ),
    10,
    (_VIVIT, _VIVIT_4X3, _UNIFORMER, _UNIFORMER_LARGE),
    _TUBEVIT.format(64, 15),
  ),
  Dataset(
    'kinetics700',
    'Kinetics-700',
    {'label': 700},
    545_317,
    'UniFormerV2, Table 10, starred; 529 573 were left for UniFormerV2, 525 460 for MultiTrain.',
    _KINETICS_FLIP,
    _KINETICS_PAGE,
    'kinetics',
    (
      Size(TABLE_10_ORIGINAL, 545_317, 35_000),
      Size(TABLE_10, 529_573, 33_861),
      Size('MultiTrain, supplement Table 1', 525_460, 33_370),
    ),
    10,
    (_UNIFORMER, _UNIFORMER_LARGE, _MULTITRAIN, _COFINETUNING),
    _TUBEVIT.format(64, 15) + ' The files hosted now are of the 2020 edition, which adds clips.',
  ),
  Dataset(
    'kinetics710',
    'Kinetics-710',
    {'label': 710},
    658_340,
    'UniFormerV2, Table 10.',
    _KINETICS_FLIP,
    'Made by UniFormerV2: the union of Kinetics-400, -600 and -700 without their duplicates, '
    'labels merged by Table 20. `python -m projects.uniformerv2.kinetics710` makes its lists from those '
    'of the three sets.',
    'kinetics',
    (Size(TABLE_10, 658_340, 66_803),),
    10,
    (),
    'For pretraining only.',
  ),
)

_CLIPS = (
  Dataset(
    'moments_in_time',
    'Moments in Time v1',
    {'label': 339},
    791_297,
    'Scenic, ViViT and PolyViT configs; ViViT Sec. 4.1: 800 000.',
    _NO_SIDE,
    'MIT, moments.csail.mit.edu: trainingSet.csv, validationSet.csv, moments_categories.txt.',
    'moments_in_time',
    (
      Size(TABLE_10_ORIGINAL, 802_264, 33_900),
      Size(TABLE_10, 802_244, 33_899),
      Size('Scenic, ViViT configs', 791_297),
    ),
    3,
    (_VIVIT, _UNIFORMER, _COFINETUNING),
    'UniFormerV2 (Table 3) lists ViViT-L with 32 x 3 x 1, our config follows 4 x 3.',
  ),
  Dataset(
    'moments_in_time_v2',
    'Moments in Time v2',
    {'label': 305},
    727_000,
    'MultiTrain, Sec. 4.1, in thousands; its Sec. 2 speaks of 305 classes, and a million clips.',
    _NO_SIDE,
    'MIT, moments.csail.mit.edu, as v1.',
    'moments_in_time',
    (Size('MultiTrain, Sec. 4.1 (thousands)', 727_000, 30_000),),
    3,
    (_MULTITRAIN,),
  ),
  Dataset(
    'ssv1',
    'Something-Something v1',
    {'label': 174},
    86_017,
    'UniFormerV2, Table 10.',
    _SSV_FLIP,
    _SSV_PAGE,
    '',
    (Size(TABLE_10, 86_017, 11_522),),
    4.0,
    (Views('UniFormerV2', 1, 3, '16 or 32 frames: "16 x 3 x 1" (Table 18; 2 clips add 0.1-0.4)'),),
    "Comes as folders of JPEGs 100 pixels high, not as videos; its class list is v2's in another "
    'order, so match classes by name.',
  ),
  Dataset(
    'ssv2',
    'Something-Something v2',
    {'label': 174},
    168_913,
    'Something-Something v2 train split, as in Scenic (val 24777); ViViT Sec. 4.1: 220 000 over '
    'all splits.',
    _SSV_FLIP,
    _SSV_PAGE,
    'ssv2',
    (
      Size(TABLE_10, 168_913, 24_777),
      Size('publisher: 220,847 in all, so the rest are test', 168_913, 24_777, 27_157),
      Size('MultiTrain, Sec. 4.1 (thousands)', 168_000, 24_000),
    ),
    4.0,
    (
      Views(
        'ViViT', 4, 3, '32 frames at stride 2; UniFormerV2 (Table 4) counts 47.6 TFLOPs, 12 views'
      ),
      Views('UniFormerV2', 1, 3, '16 or 32 frames: "16 x 3 x 1" (Tables 13, 14 and 18)'),
      Views('MultiTrain', 3, 3, '32 frames uniformly over the video (supplement 2.1)'),
      _COFINETUNING,
    ),
    'The labels of the test set are withheld. ' + _TUBEVIT.format(32, 24),
  ),
  Dataset(
    'epic_kitchens',
    'EPIC-KITCHENS-100',
    {'verb': 97, 'noun': 300},
    67_217,
    'EPIC-KITCHENS-100 train split, as in Scenic (val 9668); ViViT Sec. 4.1: 90 000 over all '
    'splits.',
    Flip(
      'keep', 'No verb or noun class states a side; ViViT flips with probability 0.5 (Table 7).'
    ),
    'University of Bristol, epic-kitchens.github.io; csv files in '
    'github.com/epic-kitchens/epic-kitchens-100-annotations.',
    'epic_kitchens',
    (
      Size('Scenic, ViViT configs', 67_217, 9_668),
      Size(COUNTED, validation=9_668, test=13_092),
    ),
    None,
    (_VIVIT, Views('ViViT', 4, 3, 'large model')),
    'Segments of long videos, of very different lengths. An action is right when verb and noun are. '
    'The labels of the test set are withheld.',
  ),
  Dataset(
    'charades',
    'Charades',
    {'label': 157},
    7_985,
    'Published split: 7985 train, 1863 test of 9848 videos.',
    _NO_SIDE,
    'Allen Institute for AI, prior.allenai.org/projects/charades: Charades_v1_train.csv and '
    'Charades_v1_test.csv (the set that papers report on).',
    'charades',
    (Size('published split', 7_985, None, 1_863),),
    30,
    (),
    'Multi-label: use a sigmoid loss; the metric is mAP. ' + _TUBEVIT.format(128, 6),
  ),
)

_UNTRIMMED = (
  Dataset(
    'activitynet',
    'ActivityNet 1.3',
    {'label': 200},
    10_024,
    'UniFormerV2, Table 10, in videos; cut into clips, MultiTrain trains on 107 000.',
    _NO_SIDE,
    'activity-net.org/download.html: activity_net.v1-3.min.json.',
    'activitynet',
    (
      Size('activity-net.org, videos', 10_024, 4_926, 5_044),
      Size(f'{TABLE_10}, videos', 10_024, 4_926),
      Size('activity-net.org, annotated segments', 15_410, 7_654),
      Size('MultiTrain, Sec. 4.1: segments cut into 10 s (thousands)', 107_000, None, 16_000),
    ),
    117,
    (
      Views(
        'UniFormerV2', 10, 3, '16 or 32 frames, sparse over the whole untrimmed video (Table 19)'
      ),
      _MULTITRAIN,
    ),
    'The layout makes a clip of every annotated segment, as UniFormerV2 trains, and with '
    '--segment_seconds=10 clips of 10 s, as MultiTrain trains and tests. UniFormerV2 tests on the '
    'whole video: --whole_videos=validation. Test labels are withheld.',
  ),
  Dataset(
    'hacs',
    'HACS',
    {'label': 200},
    37_452,
    'UniFormerV2, Table 10, in videos of HACS Segments; HACS Clips has 1 509 497 clips, positive '
    'and negative.',
    _NO_SIDE,
    'MIT, hacs.csail.mit.edu; annotation files in github.com/hangzhaomit/HACS-dataset.',
    'hacs',
    (
      Size('HACS Segments, publisher, videos', 37_618, 5_982, 5_988),
      Size(f'{TABLE_10}, videos', 37_452, 5_953),
      Size('HACS Clips, publisher, clips of 2 s with negatives', 1_509_497, 20_249, 20_296),
    ),
    149,
    (
      Views(
        'UniFormerV2', 10, 3, '16 or 32 frames, sparse over the whole untrimmed video (Table 19)'
      ),
    ),
    'Of HACS Clips the layout takes the positive rows. For the whole video see ActivityNet.',
  ),
)

_BOXES = (
  Dataset(
    'ava',
    'AVA 2.2',
    {'label': 80},
    211_000,
    'SlowFast paper: 211 000 training keyframes in version 2.1 (57 000 for validation).',
    Flip('keep', 'No class states a side; boxes flip with the frames.'),
    'Google Research, research.google.com/ava.',
    'ava',
    (
      Size('publisher, videos of 15 minutes, a keyframe a second', 235, 64, 131),
      Size('SlowFast paper, keyframes of version 2.1 (thousands)', 211_000, 57_000),
    ),
    900,
    (_COFINETUNING,),
    'Boxes around people with several of 80 actions each, of which 60 are evaluated (frame mAP at '
    'IoU 0.5).',
  ),
  Dataset(
    'ava_kinetics',
    'AVA-Kinetics',
    {'label': 80},
    230_000,
    'Publisher: over 230 000 keyframes over all splits; the training share is not stated here.',
    Flip('keep', 'As AVA.'),
    'Google Research, research.google.com/ava; videos of Kinetics-700 with one keyframe each.',
    'ava_kinetics',
    (),
    10,
    (_COFINETUNING,),
    'The union of AVA and of Kinetics-700 clips with boxes on one keyframe.',
  ),
)

_OTHERS = (
  Dataset(
    'imagenet',
    'ImageNet-1k (ILSVRC 2012)',
    {'label': 1000},
    1_281_167,
    'ILSVRC 2012 (Russakovsky et al., IJCV 2015, arxiv.org/abs/1409.0575); TFDS counts the same.',
    Flip('keep', 'Image classifiers are trained with flips.'),
    'image-net.org; a licence to accept. Prepared by TFDS as imagenet2012 (dir=tfds:imagenet2012) '
    'from its archives in DATA_DIR/downloads/manual: splits train and validation, and where the '
    'archive of the test images is there test, without labels (-1). Or as TFRecords, through '
    'tools.make_manifest.',
    '',
    (Size('ILSVRC 2012, images (arxiv.org/abs/1409.0575)', 1_281_167, 50_000, 100_000),),
    None,
    (),
    'Still images: TubeViT trains on them jointly with Kinetics, a head each.',
  ),
  Dataset(
    'demo',
    'Demo: eight motions',
    {'motion': 8},
    1600,
    'datasets.demo, as `make demo` writes it.',
    Flip(
      'swap',
      'Left and right, and both senses of turning, change places; the demo does not flip.',
      (('moves left', 'moves right'), ('turns clockwise', 'turns anticlockwise')),
    ),
    'Made by `python -m tools.make_demo_data`.',
    '',
    (Size('as `make demo` writes it', 1600, None, 160),),
    2.0,
    (),
  ),
)

DATASETS: Mapping[str, Dataset] = {
  dataset.name: dataset for dataset in (*_KINETICS, *_CLIPS, *_UNTRIMMED, *_BOXES, *_OTHERS)
}
"""By name."""
