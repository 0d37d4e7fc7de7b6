import math

import jax
import numpy as np
import pytest

from configs.common import rand_augment_from
from datasets.memory import Pool
from errors import ConfigError
from train_lib import data, evaluation
from train_lib.program import deal, input_shape, prepare
from train_lib.state import random_key


def batch_of(program, num_classes, size=8, views=None, label=None, mask=None):
  rng = np.random.default_rng(0)
  clip = input_shape(program.experiment, 'demo', 1)[1:]
  shape = (size, views, *clip) if views else (size, *clip)
  return {
    'inputs': rng.integers(0, 256, shape, dtype=np.uint8),
    'label': {'motion': np.arange(size, dtype=np.int32) % num_classes if label is None else label},
    'batch_mask': np.ones(size, np.float32) if mask is None else mask,
    'row': np.arange(size),
  }


def fake(config, head='FavouriteHead', **head_arguments):
  config.trunk = {'name': 'fake_models:MeanPixelTrunk'}
  config.tasks.motion.head = {'name': f'fake_models:{head}', **head_arguments}
  return config


def leaves_equal(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_fake_model_gives_exact_loss_and_accuracy(tiny_config, build):
  program, *_ = build(fake(tiny_config, favourite=2, favourite_logit=3.0))
  state = program.init()
  _, metrics = program.train_step(state, program.to_device(batch_of(program, 8)))
  log_z = math.log(math.exp(3) + 7)
  assert float(metrics['loss'][0]) == pytest.approx(log_z - 3 / 8, rel=1e-6)
  assert [float(x) for x in metrics['top1/motion']] == [1.0, 8.0]


def test_label_smoothing_enters_the_training_loss_only(tiny_config, build):
  tiny_config.tasks.motion.label_smoothing = 0.5
  program, *_ = build(fake(tiny_config, favourite=0, favourite_logit=2.0))
  label = np.zeros(8, np.int32)
  _, metrics = program.train_step(
    program.init(), program.to_device(batch_of(program, 8, label=label))
  )
  log_z = math.log(math.exp(2) + 7)
  assert float(metrics['loss'][0]) == pytest.approx(log_z - 2 * (0.5 + 0.5 / 8), rel=1e-6)
  evaluated = program.eval_step(
    program.init().eval_variables, program.to_device(batch_of(program, 8, views=1, label=label))
  )
  total, count = evaluated['metrics']['loss/motion']
  assert float(total / count) == pytest.approx(log_z - 2, rel=1e-6)


def test_padding_does_not_count(tiny_config, build):
  program, *_ = build(fake(tiny_config, favourite=1))
  mask = np.array([1, 1, 1, 0, 0, 0], np.float32)
  label = np.array([1, 0, 1, 1, 1, 1], np.int32)
  batch = batch_of(program, 8, size=6, views=2, label=label, mask=mask)
  metrics = program.eval_step(program.init().eval_variables, program.to_device(batch))['metrics']
  assert [float(x) for x in metrics['top1/motion']] == [2.0, 3.0]
  assert float(metrics['loss/motion'][1]) == 3.0


# Brightness of the three views of six videos.
VIEWS = np.uint8(
  [[0, 128, 255], [255, 255, 0], [10, 20, 30], [250, 200, 240], [0, 0, 255], [128, 0, 255]]
)


def evaluate_views(config, build, average):
  """The first logit of each view [6, 3], the others being 0, and what the eval step gives."""
  config.evaluation.average = average
  program, *_ = build(fake(config, head='PixelHead'))
  batch = batch_of(program, 8, size=6, views=3)
  batch['inputs'] = np.broadcast_to(VIEWS[..., None, None, None, None], batch['inputs'].shape)
  if config.tasks.motion.loss == 'sigmoid':
    batch['label']['motion'] = np.eye(8, dtype=np.float32)[:6]
  result = program.eval_step(program.init().eval_variables, program.to_device(batch))
  return VIEWS / 127.5 - 1, result


def check_probabilities(result, first, others):
  """Compares with the probabilities [6] of class 0 and of each other class."""
  classes = np.asarray(result['top_classes']['motion'])
  expected = np.where(classes == 0, first[:, None], others[:, None])
  np.testing.assert_allclose(result['top_probabilities']['motion'], expected, rtol=1e-5)
  assert 0 < (classes == 0).any(1).sum() < 6


def test_logits_are_averaged_over_views(tiny_config, build):
  logits, result = evaluate_views(tiny_config, build, 'logits')
  odds = np.exp(logits.mean(1))
  check_probabilities(result, odds / (odds + 7), 1 / (odds + 7))


def test_probabilities_are_averaged_over_views(tiny_config, build):
  logits, result = evaluate_views(tiny_config, build, 'probabilities')
  odds = np.exp(logits)
  first, others = (odds / (odds + 7)).mean(1), (1 / (odds + 7)).mean(1)
  check_probabilities(result, first, others)
  # The loss is that of these probabilities; the labels are 0 to 5.
  loss = -np.log([first[0], *others[1:]]).sum()
  assert float(result['metrics']['loss/motion'][0]) == pytest.approx(loss, rel=1e-5)


def test_probabilities_of_several_labels_are_averaged_over_views(tiny_config, build):
  tiny_config.tasks.motion.loss = 'sigmoid'
  tiny_config.checkpoint.best_metric = ''
  logits, result = evaluate_views(tiny_config, build, 'probabilities')
  first = (1 / (1 + np.exp(-logits))).mean(1)
  check_probabilities(result, first, np.full(6, 0.5))
  loss = -np.log([first[0], *(1 - first[1:])]).sum() + 6 * 7 * np.log(2)
  assert float(result['metrics']['loss/motion'][0]) == pytest.approx(loss, rel=1e-5)


def test_joint_metric_is_the_top_scoring_pair(tiny_config, build):
  tiny_config.tasks = {
    'verb': {**tiny_config.tasks.motion.to_dict(), 'head': {'name': 'fake_models:FavouriteHead', 'favourite': 1}},
    'noun': {**tiny_config.tasks.motion.to_dict(), 'head': {'name': 'fake_models:FavouriteHead', 'favourite': 2}},
  }  # fmt: skip
  tiny_config.trunk = {'name': 'fake_models:MeanPixelTrunk'}
  tiny_config.evaluation.joint_tasks = {'action': ('verb', 'noun')}
  tiny_config.checkpoint.best_metric = 'top1/action'
  program, *_ = build(tiny_config)
  batch = batch_of(program, 8, size=6, views=1)
  batch['label'] = {
    'verb': np.array([1, 1, 0, 1, 3, 1], np.int32),
    'noun': np.array([2, 2, 2, 0, 4, 2], np.int32),
  }
  metrics = program.eval_step(program.init().eval_variables, program.to_device(batch))['metrics']
  assert float(metrics['top1/action'][0]) == 3
  assert float(metrics['top1/verb'][0]) == 4
  assert float(metrics['top1/noun'][0]) == 4


def test_accumulation_gives_the_gradient_of_the_whole_batch(tiny_config, build):
  tiny_config.tasks.motion.head.kernel_init = 'lecun_normal'
  # Plain momentum: Adam would blow rounding errors of tiny gradients up to whole steps.
  tiny_config.optimizer.rule = {'name': 'optax:trace', 'decay': 0.9, 'nesterov': False}
  whole, *_ = build(tiny_config)
  tiny_config.grad_accumulation = 4
  parts, *_ = build(tiny_config)
  batch = batch_of(whole, 8)
  a, metrics_a = whole.train_step(whole.init(), whole.to_device(batch))
  b, metrics_b = parts.train_step(parts.init(), parts.to_device(batch))
  norm_a, norm_b = metrics_a['gradient_norm'][0], metrics_b['gradient_norm'][0]
  assert float(norm_a) == pytest.approx(float(norm_b), rel=1e-4)
  loss_b, count_b = metrics_b['loss']
  assert float(metrics_a['loss'][0]) == pytest.approx(float(loss_b / count_b), rel=1e-5)
  assert not leaves_equal(a.params, whole.init().params)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a.params, b.params)


def test_model_state_is_carried_through_accumulation(tiny_config, build):
  tiny_config.trunk = {'name': 'fake_models:CountingTrunk'}
  tiny_config.grad_accumulation = 2
  program, *_ = build(tiny_config)
  state = program.init()
  for _ in range(2):
    state, _ = program.train_step(state, program.to_device(batch_of(program, 8)))
  assert float(state.model_state['batch_stats']['trunk']['count']) == 16


def test_average_follows_the_parameters(tiny_config, build):
  tiny_config.ema_decay = 0.75
  program, *_ = build(fake(tiny_config, head='PixelHead'))
  before = jax.device_get(program.init().params)
  state, _ = program.train_step(program.init(), program.to_device(batch_of(program, 8)))
  expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, state.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), expected, state.ema_params)
  assert leaves_equal(state.eval_variables['params'], state.ema_params)


def test_bfloat16_keeps_parameters_and_logits_in_float32(tiny_config, build):
  tiny_config.compute_dtype = 'bfloat16'
  program, *_ = build(tiny_config)
  state, metrics = program.train_step(program.init(), program.to_device(batch_of(program, 8)))
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype('float32')}
  assert metrics['loss'][0].dtype == np.float32
  assert math.isfinite(float(metrics['loss'][0]))
  features, logits = program.model.apply(
    {'params': state.params},
    np.zeros(input_shape(program.experiment, 'demo', 1), np.float32),
    train=False,
  )
  assert features.pooled.dtype == 'bfloat16'
  assert logits['motion'].dtype == np.float32


def augment_everything(config):
  config.augment.color_jitter.update({'prob': 0.8, 'grayscale_prob': 0.2})
  config.augment.rand_augment.update(rand_augment_from('rand-m7-n1-mstd0.5-inc1'))
  config.augment.random_erasing.prob = 0.5
  return config


def test_everything_runs_inside_the_step(tiny_config, build):
  augment_everything(tiny_config).augment.mix.update({'mixup_alpha': 0.5, 'cutmix_alpha': 1.0})
  program, *_ = build(fake(tiny_config, favourite_logit=0.0))
  _, metrics = program.train_step(program.init(), program.to_device(batch_of(program, 8)))
  assert float(metrics['loss'][0]) == pytest.approx(math.log(8), rel=1e-5)


def test_an_example_is_augmented_alike_however_the_batch_is_split(tiny_config, build):
  program, *_ = build(augment_everything(fake(tiny_config, head='PixelHead')))
  batch = {**batch_of(program, 8), 'position': np.arange(8)}
  prepare_part = jax.jit(lambda part: prepare(program.experiment, program.facts, part, step=3)[0])
  whole = prepare_part(batch)
  assert all(np.any(whole[i] != whole[j]) for i in range(8) for j in range(i))
  for part in range(2):
    dealt = jax.tree.map(lambda x, p=part: x[p], deal(batch, 2))
    np.testing.assert_array_equal(dealt['position'], np.arange(part, 8, 2))
    # Other shapes are compiled otherwise: where a byte is cut, it may be the next one.
    difference = np.abs(prepare_part(dealt) - whole[part::2])
    assert np.mean(difference > 1e-5) < 0.01
    assert np.quantile(difference, 0.999) <= 1.01 / 255 / 0.5


def test_accumulation_augments_alike(tiny_config, build):
  fake(tiny_config, head='PixelHead').augment.color_jitter.prob = 0.8
  tiny_config.augment.random_erasing.prob = 0.5
  losses = []
  for parts in (1, 2):
    tiny_config.grad_accumulation = parts
    program, *_ = build(tiny_config)
    state = program.init()
    _, metrics = program.train_step(state, program.to_device(batch_of(program, 8)))
    losses.append(float(metrics['loss'][0]) / float(metrics['loss'][1]))
  assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_padding_is_no_partner(tiny_config, build):
  tiny_config.augment.mix.mixup_alpha = 1.0
  program, *_ = build(fake(tiny_config, head='PixelHead'))
  mask = np.asarray([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
  batch = {**batch_of(program, 8, mask=mask), 'position': np.arange(8)}
  video, targets, _ = prepare(program.experiment, program.facts, batch, step=0)
  np.testing.assert_allclose(video[0], batch['inputs'][0] / 127.5 - 1, atol=1e-5)
  assert list(np.count_nonzero(targets['motion'], axis=1)) == [1, 2, 2, 2, 2, 2, 2, 1]


def test_each_label_structure_is_traced_once(tiny_config, build):
  program, train, _ = build(fake(tiny_config))
  state = program.init()
  stream = data.train_stream(program, train, 0)
  for _ in range(3):
    state, _ = program.train_step(state, next(stream))
  stream.close()
  assert program.train_step._cache_size() == 1


def test_evaluation_counts_every_example_once(tiny_config, build):
  tiny_config.tasks.motion.head.kernel_init = 'lecun_normal'
  program, _, splits = build(tiny_config)
  test = splits['demo']
  assert len(test) % 6  # The last batch is padded.
  result = evaluation.evaluate(program, program.init().eval_variables, 'demo', test)
  assert result.examples == len(test)
  assert sorted(result.rows) == list(range(len(test)))
  predictions = result.predictions['motion']
  assert predictions.top_classes.shape == (len(test), 5)
  assert result.metrics['top1/motion'] == pytest.approx(predictions.correct.mean())
  np.testing.assert_array_equal(
    predictions.labels, [test.labels(r)['motion'] for r in range(len(test))]
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.datasets.demo.clip.update({'crop': 18}), r'trunk.tubelet.*does not divide'),
    (lambda c: c.update({'duration': '1 step'}), r'`optimizer.warmup` .* is only 1'),
    (lambda c: c.mesh.update({'fsdp': 3}), r'`mesh` .* does not lay out 1 devices'),
    (lambda c: c.update({'grad_accumulation': 3}), r'`batch_size` 8 does not divide'),
    (lambda c: c.tasks.motion.update({'dataset': 'ssv2'}), r'`tasks.motion.dataset` is .ssv2.'),
    (lambda c: c.optimizer.update({'no_decay': ('(',)}), r'`optimizer.no_decay`'),
    (lambda c: c.optimizer.update({'learning_rate': math.nan}), r'`learning_rate` must be'),
    (lambda c: c.pixels.update({'std': (0.0, 1.0, 1.0)}), r'In `pixels`: `std` must be positive'),
    (lambda c: c.tasks.motion.head.update({'num_classes': 3}), r'num_classes` follows from'),
    (lambda c: c.trunk.update({'hidden_size': 15}), r'trunk.num_heads=2 does not divide'),
    (lambda c: c.trunk.update({'tubelet': (2.0, 8.0, 8.0)}), r'`trunk.tubelet\[0\]` must be int'),
    (
      lambda c: c.optimizer.update({'rule': {'name': 'optax:adamw', 'learning_rate': 0.1}}),
      r'takes a learning rate of its own',
    ),
  ],
)
def test_configs_that_make_no_program(tiny_config, build, change, message):
  change(tiny_config)
  with pytest.raises(ConfigError, match=message):
    build(tiny_config)


def test_several_labels_a_clip(tiny_config, build):
  tiny_config.tasks.motion.loss = 'sigmoid'
  tiny_config.checkpoint.best_metric = 'hit1/motion'
  program, *_ = build(fake(tiny_config, favourite=2, favourite_logit=3.0))
  label = np.zeros((8, 8), np.float32)
  label[:4, [2, 5]] = 1  # The favourite is one of the labels of four clips.
  label[4:, 1] = 1
  state = program.init()
  evaluated = program.eval_step(
    state.eval_variables, program.to_device(batch_of(program, 8, views=1, label=label))
  )
  assert [float(x) for x in evaluated['metrics']['hit1/motion']] == [4.0, 8.0]
  _, metrics = program.train_step(state, program.to_device(batch_of(program, 8, label=label)))
  assert [float(x) for x in metrics['hit1/motion']] == [4.0, 8.0]
  on, off = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
  expected = (4 * on + 4 * off) / 8 + 7 * math.log(2)
  assert float(metrics['loss'][0]) == pytest.approx(expected, rel=1e-5)


def test_random_streams_differ_by_seed_name_and_step():
  keys = [random_key(0, 'a'), random_key(1, 'a'), random_key(0, 'b'), random_key(0, 'a', 1)]
  assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == 4


def test_a_device_array_keeps_the_memory_of_its_batch():
  pool = Pool((1 << 16,))
  host = pool.empty()
  host[...] = 1
  device = jax.device_put(host)
  del host
  pool.empty()[...] = 2
  pool.empty()[...] = 3
  assert np.asarray(device).min() == np.asarray(device).max() == 1
