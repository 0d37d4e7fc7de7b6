"""Every UniFormerV2 config parses, is the column of Table 11 it says, and costs what the paper says."""

import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from configs.uniformerv2 import ablations
from datasets import clips
from datasets.one_video import OneVideo
from tests.datasets.videos import write_video
from tools import summary
from train_lib import frozen, label_map
from train_lib.experiment import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs' / 'uniformerv2'
HELPERS = ('__init__', 'common', 'demo', 'trunks')
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in HELPERS)
# The rows of Tables 1 to 7.
ROWS = {
  'k400': (
    'b16_in21k_16x3x4',
    'l16_in22k_32x3x2',
    'l14_336_frozen_8x1x3',
    'l14_336_frozen_32x3x1',
    'b16_8x1x3',
    'b16_8x3x4',
    'l14_8x3x4',
    'l14_32x3x2',
    'l14_336_32x3x2',
    'l14_336_64x3x2',
  ),
  'k600': ('l14_336_frozen_32x3x1', 'l14_32x3x2', 'l14_336_32x3x2', 'l14_336_64x3x2'),
  'k700': ('l14_336_frozen_32x3x1', 'l14_32x3x2', 'l14_336_32x3x2', 'l14_336_64x3x2'),
  'mit': ('b16_8x3x4', 'l14_8x3x4', 'l14_336_8x3x4'),
  'ssv1': ('b16_16x3x1', 'b16_32x3x1', 'l14_16x3x1', 'l14_32x3x1'),
  'ssv2': ('b16_16x3x1', 'b16_32x3x1', 'l14_16x3x1', 'l14_32x3x1'),
  'anet': ('l14_16x3x10', 'l14_32x3x10'),
  'hacs': ('l14_16x3x10', 'l14_32x3x10'),
  'k710': ('b16_8x3x4', 'l14_8x3x4', 'l14_336_8x3x4', 'l14_336_frozen_8x3x4'),
}
WHOLE_ROWS = [(name, row) for name, rows in ROWS.items() for row in rows]
ABLATIONS = [(table, row) for table, rows in ablations.ROWS.items() for row in rows]


def load(name: str, arg: str = ''):
  module = importlib.import_module(f'configs.uniformerv2.{name}')
  return module, module.get_config(*filter(None, [arg]))


def experiment_of(name, arg=''):
  return parse(load(name, arg)[1])


@pytest.mark.parametrize('name', FILES)
def test_docstring_gives_the_command_and_the_rows(name):
  module, config = load(name)
  assert f'python main.py --config=configs/uniformerv2/{name}.py' in module.__doc__
  assert re.search(r'Tables? \d', module.__doc__)
  assert config.name == f'uniformerv2/{name}'
  if name in ROWS:
    named = set(re.findall(r'`(?::row=)?([bl]1[46]_\w+x\dx\d+)`', module.__doc__))
    assert set(ROWS[name]) <= named


@pytest.mark.parametrize(('name', 'row'), WHOLE_ROWS)
def test_rows(name, row):
  experiment = experiment_of(name, f'row={row}')
  (dataset,) = experiment.datasets.values()
  frames, crops, times = (int(n) for n in row.split('_')[-1].split('x'))
  trunk, crop = experiment.trunk.arguments, 336 if '_336' in row else 224
  assert (dataset.clip.frames, dataset.spatial_views, dataset.temporal_views) == (
    frames, crops, times
  )  # fmt: skip
  assert (dataset.clip.crop, dataset.clip.resize) == (crop, crop if crops == 3 else crop * 8 // 7)
  assert (dataset.clip.sampling, dataset.clip.random_crop) == ('segments', 'inception')
  assert trunk['patch_size'] == int(row[1:3])
  assert trunk['num_layers'] == (24 if row[0] == 'l' else 12)
  frozen = '_frozen' in row
  assert trunk['output'] == ('global' if frozen else 'fused')
  assert bool(experiment.optimizer.frozen) == frozen
  assert trunk['pre_norm'] == ('in2' not in row)
  assert trunk['gelu'] == ('tanh' if 'in21k' in row else 'erf' if 'in22k' in row else 'quick')
  batch = experiment.evaluation.batch_size
  assert batch % 8 == 0 and 8 <= batch <= 64
  # In frames of 224 x 224: 64 videos of 8 x 3 x 4, or 8 of whatever there is.
  assert batch * frames * crops * times * (crop / 224) ** 2 <= max(6144, 8 * 32 * 3 * 10)


# Table 11: batch size, learning rates, warm-up, epochs of base and large, repeats, drop path of both.
TABLE_11 = {
  'k710': (512, (2e-5, 1e-5), 5, (55, 40), 1, (0, 0)),
  'k400': (256, (2e-6, 1.5e-6), 1, (5, 5), 1, (0, 0)),
  'k600': (256, (2e-6, 1.5e-6), 1, (5, 5), 1, (0, 0)),
  'k700': (256, (2e-6, 1.5e-6), 1, (5, 5), 1, (0, 0)),
  'mit': (512, (2e-5, 1e-5), 5, (24, 18), 1, (0, 0)),
  'anet': (64, (None, 5e-6), 5, (None, 20), 2, (0.2, 0.4)),
  'hacs': (64, (None, 5e-6), 5, (None, 20), 2, (0.2, 0.4)),
  'ssv1': (128, (4e-5, 2e-5), 5, (22, 15), 2, (0.2, 0.4)),
  'ssv2': (128, (4e-5, 2e-5), 5, (22, 15), 2, (0.2, 0.4)),
}


@pytest.mark.parametrize(('name', 'size'), itertools.product(TABLE_11, ('b16', 'l14')))
def test_table_11(name, size):
  batch, rates, warmup, epochs, repeats, drop_path = TABLE_11[name]
  large = size == 'l14'
  if rates[large] is None:
    with pytest.raises(ValueError, match='no recipe of a base model for anet&hacs: use l14'):
      load(name, 'row=b16_16x3x4')
    return
  experiment = experiment_of(name, f'row={size}_8x3x1')
  (dataset,), (task,) = experiment.datasets.values(), experiment.tasks.values()
  optimizer, augment, trunk = experiment.optimizer, experiment.augment, experiment.trunk.arguments
  assert experiment.batch_size == batch * repeats
  assert dataset.clip.repeats == repeats
  assert optimizer.learning_rate == rates[large]
  assert (optimizer.warmup, experiment.duration) == (f'{warmup} epochs', f'{epochs[large]} epochs')
  assert (optimizer.min_learning_rate, optimizer.weight_decay) == (1e-6, 0.05)
  assert (trunk['stochastic_depth_rate'], trunk['global_stochastic_depth_rate']) == drop_path
  assert (trunk['global_dropout_rate'], task.head.arguments['dropout_rate']) == (0.5, 0.5)
  assert (dataset.clip.crop_area, dataset.clip.crop_aspect) == ((0.08, 1), (0.75, 1.33))
  jitter, rand = augment.color_jitter, augment.rand_augment
  assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4,) * 3 + (0,)
  assert (rand.num_layers, rand.magnitude, rand.magnitude_std) == (4, 7, 0.5)
  assert (augment.mix.mixup_alpha, augment.mix.cutmix_alpha, augment.random_erasing.prob) == (
    0,
  ) * 3
  assert task.label_smoothing == 0
  assert dataset.clip.flip_prob == (0 if name in ('ssv1', 'ssv2') else 0.5)


def test_evaluation_has_fewer_videos_of_larger_views():
  rows = {
    ('k400', 'b16_8x3x4'): 64,
    ('k400', 'b16_8x1x3'): 64,
    ('k400', 'l14_32x3x2'): 32,
    ('k400', 'l14_336_32x3x2'): 8,
    ('k400', 'l14_336_64x3x2'): 8,
    ('anet', 'l14_32x3x10'): 8,
  }
  for (name, row), videos in rows.items():
    assert experiment_of(name, f'row={row}').evaluation.batch_size == videos


@pytest.mark.parametrize('arg', ['', 'table=15,row=transformer'])
def test_what_does_not_decay(arg):
  """Norms, biases, the fusion's weight, and class tokens, that of a temporal encoder too."""
  spared = frozen.matcher(experiment_of('ablations', arg).optimizer.no_decay, 'optimizer.no_decay')
  yes = (
    'trunk/cls',
    'trunk/cls_TemporalTransformer',
    'trunk/fusion_balance',
    'trunk/embedding/bias',
  )
  no = (
    'trunk/query',
    'trunk/SpatialTransformer/posembed_input/pos_embedding',
    'trunk/clsx',
    'heads_cls/kernel',
  )
  assert [path for path in (*yes, *no) if spared(path)] == list(yes)


def test_designs_of_appendix_a():
  keys = ('temporal_module', 'local_repeats', 'temporal_downsampling', 'global_layers')
  found = {
    (name, size): tuple(experiment_of(name, f'row={size}_16x3x1').trunk.arguments[k] for k in keys)
    for name, size in itertools.product(('k400', 'ssv2'), ('b16', 'l14'))
  }
  assert found == {
    ('k400', 'b16'): ('none', 1, False, 4),
    ('k400', 'l14'): ('none', 1, False, 4),
    ('ssv2', 'b16'): ('local_mhra', 2, True, 8),
    ('ssv2', 'l14'): ('local_mhra', 2, True, 16),
  }


@pytest.mark.parametrize(('name', 'average'), [
  ('k710', 'probabilities'), ('k400', 'probabilities'), ('mit', 'probabilities'),
  ('anet', 'probabilities'), ('ssv1', 'logits'), ('ssv2', 'logits'),
])  # fmt: skip
def test_views_are_averaged_as_by_the_released_scripts(name, average):
  assert experiment_of(name).evaluation.average == average


def test_a_frozen_model_and_one_from_the_image_model_have_their_rates():
  frozen = experiment_of('k400', 'row=l14_336_frozen_32x3x1').optimizer
  assert (frozen.learning_rate, frozen.warmup) == (4e-4, '0 epochs')
  whole = experiment_of('k400', 'row=l14_8x3x4,start=image')
  assert (whole.optimizer.learning_rate, whole.duration, whole.batch_size) == (
    1e-5, '40 epochs', 512
  )  # fmt: skip
  assert experiment_of('k400', 'row=b16_in21k_16x3x4').duration == '55 epochs'


@pytest.mark.parametrize(('name', 'loaded'), [
  ('k710', False), ('k400', True), ('k600', True), ('k700', True), ('mit', False), ('anet', False),
])  # fmt: skip
def test_heads_come_with_kinetics_710_alone(name, loaded):
  init_from = experiment_of(name).init_from
  assert init_from.load_head == loaded
  synonyms = label_map.read_synonyms(init_from.class_synonyms and ROOT / init_from.class_synonyms)
  assert (('barbequing', 'barbecuing') in synonyms) == loaded
  assert Path(init_from.class_synonyms).is_absolute() == loaded  # From wherever it is started.


@pytest.mark.parametrize('dataset', ['k400', 'ssv2'])
@pytest.mark.parametrize(('table', 'row'), ABLATIONS)
def test_ablations(table, row, dataset):
  tables_of_both = ('9a', '9c')
  own = {'9e': 'k400', '12': 'k400'}.get(table, 'ssv2')
  if table not in tables_of_both and dataset != own:
    with pytest.raises(ValueError, match=f'Table {table} is of .*, not of {dataset!r}'):
      load('ablations', f'table={table},row={row},dataset={dataset}')
    return
  experiment = experiment_of('ablations', f'table={table},row={row},dataset={dataset}')
  experiment.trunk.build()  # Refuses settings that nothing reads.
  first = next(iter(experiment.datasets.values()))
  of_motion = dataset == 'ssv2'
  assert (first.spatial_views, first.temporal_views) == (3, 1 if of_motion else 4)
  frames = 16 if experiment.trunk.arguments['temporal_downsampling'] else 8
  assert first.clip.frames == frames


def test_kinetics_together_has_three_heads():
  joint, finetuned = (
    experiment_of('ablations', f'table=9e,row={row}') for row in ('joint', 'k710_joint')
  )
  names = {'kinetics400', 'kinetics600', 'kinetics700'}
  assert set(joint.datasets) == set(joint.tasks) == names
  assert (joint.duration, finetuned.duration) == ('55 epochs', '5 epochs')
  assert (joint.init_from.load_head, finetuned.init_from.load_head) == (False, True)
  alone = experiment_of('ablations', 'table=9e,row=k710_individual,dataset=k700')
  assert set(alone.tasks) == {'kinetics700'}
  assert (alone.duration, alone.init_from.load_head) == ('5 epochs', True)


@pytest.mark.parametrize(
  'row', ['b14_8x3x4', 'b16_8x2x4', 'b16_8x3', 'b16_frozen_336_8x3x4', 'l14_224_8x3x4', '']
)
def test_what_is_no_row(row):
  with pytest.raises(ValueError, match=r'Unknown row .* as .l14_336_frozen_32x3x1'):
    load('k400', f'row={row}')


def test_other_arguments_are_refused():
  with pytest.raises(ValueError, match='Unknown table=9a, row=both; known'):
    load('ablations', 'table=9a,row=both')
  with pytest.raises(ValueError, match="Unknown start 'scratch': 'image', 'run' or 'k710'"):
    load('k400', 'start=scratch')
  for name in ('k400', 'k600', 'k700'):
    with pytest.raises(ValueError, match=r'A row of in21k starts from ImageNet.*use start=image'):
      load(name, 'row=b16_in21k_16x3x4,start=k710')
  with pytest.raises(ValueError, match="Unknown config argument 'size'"):
    load('ssv2', 'size=B')


# Parameters, those that train, GFLOPs of a view and views: the released models, and the paper's.
PUBLISHED = {
  ('k400', 'b16_8x3x4'): (114_552_208, 114_552_208, 148.1, 12),
  ('ssv2', 'b16_16x3x1'): (162_992_814, 162_992_814, 187.2, 3),
  ('k400', 'l14_8x3x4'): (354_099_600, 354_099_600, 665.6, 12),
  ('k400', 'l14_336_frozen_8x1x3'): (354_426_256, 50_920_848, 1567.0, 3),
}


@pytest.mark.parametrize('row', PUBLISHED)
def test_published_costs(row):
  name, row = row
  parameters, trainable, gflops, views = PUBLISHED[name, row]
  values = summary.summarise(load(name, f'row={row}')[1])[0]
  assert (values['parameters'], values['trainable_parameters']) == (parameters, trainable)
  (cost,) = values['datasets'].values()
  assert cost['gflops_per_view'] == pytest.approx(gflops, rel=0.01)
  assert cost['views'] == views


def test_views_cover_the_whole_of_a_long_video(tmp_path):
  """Untrimmed videos are seen from beginning to end, at other moments in each of 4 clips."""
  video = OneVideo(write_video(tmp_path / 'long.mp4', 240))
  dataset = experiment_of('k400', 'row=b16_8x3x4').datasets['kinetics400']
  indices = clips.view_indices(video, dataset.clip, 0, dataset.temporal_views)
  segments = np.arange(8) * 30
  assert indices.tolist() == [(segments + offset).tolist() for offset in (3, 11, 18, 26)]
  views = clips.view_clips(video, dataset.clip, 0, dataset.temporal_views, dataset.spatial_views)
  assert views.shape == (12, 8, 224, 224, 3)
  assert len({view.tobytes() for view in views}) == 12
  many = experiment_of('anet').datasets['activitynet']
  starts = clips.view_indices(video, many.clip, 0, many.temporal_views)[:, 0]
  assert starts.tolist() == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14]
