"""The compiled program of an experiment: init, one train step, one eval step.

The loop, the tools and the tests all build it here. Which program runs is selected by the batch's
pytree structure: a batch that labels other tasks traces another step, with no code of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import FrozenDict
from jax.sharding import Mesh, NamedSharding

from datasets.mixture import Mixture
from datasets.patches import patch_shape
from errors import ConfigError
from models.features import Features
from models.video_model import VideoModel
from train_lib import frozen, losses
from train_lib import mesh as mesh_lib
from train_lib.augment import augment, example_keys, normalize
from train_lib.erasing import erase
from train_lib.eval_step import jit_eval_step
from train_lib.experiment import DataFacts, Experiment, Lengths, lengths
from train_lib.labels import Batch, Metrics, best_is_right, masks_of, targets_of
from train_lib.layer_rates import LayerRates
from train_lib.mixing import mix
from train_lib.mixture import make_mixture
from train_lib.objective import ModelOutputs
from train_lib.optimizer import learning_rate_schedule, make_optimizer
from train_lib.state import OBJECTIVE, PyTree, TrainState, model_params, random_key

# Arrays of a batch that the device needs.
DEVICE_KEYS = (
  'inputs',
  'label',
  'label_mask',
  'boxes',
  'box_mask',
  'box_index',
  'batch_mask',
  'row',
)


@dataclasses.dataclass(frozen=True)
class Program:
  """An experiment's functions on a mesh.

  Attributes:
    init: () -> TrainState, from the experiment's seed; the objective's parameters among the model's.
    train_step: (state, batch) -> (state, metrics); donates `state`. Metrics are (sum, count).
    eval_step: (variables, batch) -> `{'metrics', 'top_classes', 'top_probabilities', 'label_ranks',
      'logits', 'probabilities'}`, but for the first by task; only the last two have tasks on boxes.
    abstract_state: Shapes and types of the state, with shardings.
    mixture: Which dataset each batch is from, numbered as in `experiment.datasets`.
  """

  experiment: Experiment
  facts: DataFacts
  lengths: Lengths
  mesh: Mesh
  model: VideoModel
  init: Callable[[], TrainState]
  train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  eval_step: Callable[[PyTree, Batch], dict[str, Any]]
  abstract_state: TrainState
  mixture: Mixture

  @property
  def position_grid(self) -> tuple[int, int, int]:
    """(nt, nh, nw) that the trunk's position tables are for."""
    trunk, first = self.experiment.trunk, next(iter(self.experiment.datasets))
    own: tuple[int, int, int] | None = trunk.arguments.get('position_grid')
    # The grid of a trunk that pools is smaller than that of its patches.
    grid = getattr(self.model.trunk, 'patch_grid', self.model.trunk.grid)
    return own or grid(input_shape(self.experiment, first, 1))

  @property
  def num_structures(self) -> int:
    """Kinds of training batches, each compiled once."""
    return 1 if self.experiment.mixture.mixed else len(self.experiment.datasets)

  def structure_at(self, step: int) -> str:
    """Which kind a step's batch is: the name of its dataset, or `'mixed'`."""
    if self.experiment.mixture.mixed:
      return 'mixed'
    return list(self.experiment.datasets)[self.mixture.draw(step)[0]]

  def examples_seen(self, step: int) -> dict[str, int]:
    """Dataset -> clips of it that the first `step` steps train on."""
    experiment = self.experiment
    sizes = [experiment.batch_size_of(name) for name in experiment.datasets]
    draws = step
    if experiment.mixture.mixed:  # A draw is a group of repeats of one video.
      repeats = next(iter(experiment.datasets.values())).clip.repeats
      draws, sizes = step * experiment.batch_size // repeats, [repeats] * len(sizes)
    counts = self.mixture.counts(draws)
    return {name: int(n) * b for name, n, b in zip(experiment.datasets, counts, sizes)}

  def to_device(self, batch: Batch) -> Batch:
    """Places this host's part of a batch; examples are split over the mesh's batch axes."""
    return to_device(self.mesh, batch)

  def abstract_batch(self, dataset: str) -> Batch:
    """A training batch of a dataset as `to_device` places it, without its numbers."""
    experiment, sharding = self.experiment, mesh_lib.batch_sharding(self.mesh)
    config, size = experiment.datasets[dataset], experiment.batch_size_of(dataset)
    mixed = experiment.mixture.mixed
    tasks = experiment.tasks if mixed else experiment.tasks_of(dataset)

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)

    def label(name: str) -> jax.ShapeDtypeStruct:
      # One label a clip is a number, several are a multi-hot row, of every box where boxes have them.
      if experiment.tasks[name].loss == 'softmax':
        return array(jnp.int32)
      boxes = (config.boxes.max_boxes,) if config.boxes and tasks[name].on_boxes else ()
      return array(jnp.float32, *boxes, self.facts.num_classes(name))

    batch: dict[str, Any] = {
      'inputs': array(jnp.uint8, *input_shape(experiment, dataset, size)[1:]),
      'label': {name: label(name) for name in tasks},
      'batch_mask': array(jnp.float32),
      'row': array(jnp.int32),
    }
    if mixed:
      batch['label_mask'] = {name: array(jnp.float32) for name in tasks}
    if config.boxes:
      batch['boxes'] = array(jnp.float32, config.boxes.max_boxes, 4)
      batch['box_mask'] = array(jnp.float32, config.boxes.max_boxes)
    return batch


def build_model(experiment: Experiment, facts: DataFacts) -> VideoModel:
  """The trunk with one head per task, in the experiment's compute type."""
  dtype = jnp.dtype(experiment.compute_dtype)
  heads = {
    name: task.head.build(num_classes=facts.num_classes(name), dtype=dtype)
    for name, task in experiment.tasks.items()
  }
  return VideoModel(trunk=experiment.trunk.build(dtype=dtype), heads=FrozenDict(heads))


def build_objective(experiment: Experiment, facts: DataFacts) -> nn.Module:
  """The objective, if it accepts the experiment.

  Raises:
    ConfigError: It does not.
  """
  objective: nn.Module = experiment.objective.build(tasks=experiment.tasks)
  if hasattr(objective, 'check'):
    objective.check(experiment, facts)
  return objective


def input_shape(experiment: Experiment, dataset: str, batch_size: int) -> tuple[int, ...]:
  """[B, T, H, W, 3] of a dataset's batch, with `host_patches` [B, T/t, H/h, W/w, t*h*w*3].

  Raises:
    ConfigError: The patches do not divide the clip.
  """
  shape = (batch_size, *experiment.datasets[dataset].clip.shape)
  patch = experiment.host_patch
  return shape if patch is None else patch_shape(shape, patch)


def build_program(experiment: Experiment, facts: DataFacts, mesh: Mesh) -> Program:
  """Builds an experiment's program; checks shapes, arguments and layout without computing.

  Raises:
    ConfigError: The config does not make a program, such as an input the tubelet does not divide, or
      its objective refuses it.
    ShardingError: A parameter does not divide over the mesh.
  """
  for name, dataset in experiment.datasets.items():
    part = experiment.batch_size_of(name) // experiment.grad_accumulation
    path = f'datasets.{name}.batch_size' if dataset.batch_size else 'batch_size'
    mesh_lib.check_batch(mesh, part, path)
  mesh_lib.check_batch(mesh, experiment.evaluation.batch_size, 'evaluation.batch_size')
  model = build_model(experiment, facts)
  _check_grids(experiment, model)
  objective = build_objective(experiment, facts)
  plan = lengths(experiment, facts.train_examples)
  rates = LayerRates(experiment.optimizer, model.trunk)
  optimizer = make_optimizer(experiment.optimizer, plan, rates)

  def boxed_init() -> TrainState:
    variables = init_variables(experiment, model, objective)
    params = variables.pop('params')
    ema = params if experiment.ema_decay else None
    zero = jnp.int32(0)
    trainable, _ = frozen.split(params, experiment.optimizer.frozen)
    return TrainState(zero, params, optimizer.init(trainable), variables, ema, zero)

  init = mesh_lib.on_mesh(mesh, boxed_init)
  boxed = jax.eval_shape(init)
  shardings = mesh_lib.state_shardings(boxed, mesh)
  step = mesh_lib.on_mesh(
    mesh, _make_train_step(experiment, facts, plan, model, objective, optimizer)
  )
  whole: NamedSharding = mesh_lib.replicated(mesh)
  return Program(
    experiment=experiment,
    facts=facts,
    lengths=plan,
    mesh=mesh,
    model=model,
    init=jax.jit(lambda: nn.meta.unbox(init()), out_shardings=shardings),
    train_step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole)),
    eval_step=jit_eval_step(experiment, facts, model, mesh),
    abstract_state=jax.tree.map(
      lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
      nn.meta.unbox(boxed),
      shardings,
    ),
    mixture=make_mixture(
      experiment.mixture,
      experiment.seed,
      facts.train_examples,
      experiment.batch_sizes,
      experiment.weights,
    ),
  )


def to_device(mesh: Mesh, batch: Batch) -> Batch:
  """Places this host's part of a batch; examples are split over the mesh's batch axes."""
  sharding = mesh_lib.batch_sharding(mesh)
  # Every process holds an equal share, whatever the batch's size.
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  size = len(batch['row']) * shards // len(mesh_lib.host_places(mesh, shards))
  places = mesh_lib.host_places(mesh, size)

  def place(x: np.ndarray) -> jax.Array:
    def part(index: Any) -> np.ndarray:
      first = int(np.searchsorted(places, index[0].start or 0))
      return x[first : first + size // shards]

    return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

  return jax.tree.map(place, {k: batch[k] for k in DEVICE_KEYS if k in batch})


def init_variables(
  experiment: Experiment, model: VideoModel, objective: nn.Module
) -> dict[str, PyTree]:
  """The model's variables by collection, boxed; `params` has the objective's too, if it has any."""
  rngs = {s: random_key(experiment.seed, s) for s in ('params', 'dropout')}
  (features, logits), variables = model.init_with_output(
    rngs, **example_inputs(experiment), train=False
  )
  key = random_key(experiment.seed, OBJECTIVE)
  own = objective.init(key, example_outputs(features, logits)).get('params')
  params = {**variables['params'], **({OBJECTIVE: own} if own else {})}
  return {**variables, 'params': params}


def example_outputs(features: Features, logits: Mapping[str, jax.Array]) -> ModelOutputs:
  """What an objective can be initialised on: targets of the right shapes."""
  masks = {name: jnp.ones(x.shape[:-1]) for name, x in logits.items()}
  return ModelOutputs(features, logits, targets=logits, masks=masks)


def example_inputs(experiment: Experiment) -> dict[str, Any]:
  """What every head can be initialised on: a clip of the first dataset, and a box if any takes one."""
  first = next(iter(experiment.datasets))
  inputs = {'video': jnp.zeros(input_shape(experiment, first, 1))}
  if any(task.on_boxes for task in experiment.tasks.values()):
    inputs['boxes'] = jnp.zeros((1, 1, 4))
  return inputs


def _check_grids(experiment: Experiment, model: VideoModel) -> None:
  """Raises ConfigError if clips make different grids of tokens and the trunk was not told of it."""
  shapes = {n: input_shape(experiment, n, 1) for n in experiment.datasets}
  if len(set(shapes.values())) == 1:
    return
  grids = {n: model.trunk.grid(shape) for n, shape in shapes.items()}
  if len(set(grids.values())) > 1 and experiment.trunk.arguments.get('position_grid') is None:
    raise ConfigError(
      f'The datasets differ in frames or size: their clips are {grids} tokens (t, h, w). Set '
      '`trunk.position_grid` to the grid that position embeddings are kept for; they are resized to '
      'the others.'
    )


def _make_train_step(
  experiment: Experiment,
  facts: DataFacts,
  plan: Lengths,
  model: VideoModel,
  objective: nn.Module,
  optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  schedule = learning_rate_schedule(experiment.optimizer, plan)
  gradients = _make_gradients(experiment, facts, model, objective)
  resting = experiment.tasks if experiment.optimizer.inactive_heads == 'freeze' else ()
  split = functools.partial(frozen.split, patterns=experiment.optimizer.frozen)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    grads, model_state, metrics = gradients(state, batch)
    old, fixed = split(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, old)
    trained = optax.apply_updates(old, updates)
    active = {f'heads_{task}': _carried(experiment, batch, task) for task in resting}
    trained = _update_where(active, trained, old)
    opt_state = _update_where(active, opt_state, state.opt_state)
    params, ema = frozen.merge(trained, fixed), state.ema_params
    if ema is not None:
      average = optax.incremental_update(trained, split(ema)[0], 1 - experiment.ema_decay)
      ema = frozen.merge(average, fixed)
    one = jnp.float32(1)
    metrics['gradient_norm'] = (optax.global_norm(grads), one)
    metrics['learning_rate'] = (jnp.float32(schedule(state.step)), one)
    new = TrainState(state.step + 1, params, opt_state, model_state, ema, state.skipped_steps)
    if experiment.max_skipped_steps:
      new = _skip_nonfinite(new, state, metrics)
      metrics['skipped_steps'] = (jnp.float32(new.skipped_steps), one)
    return new, metrics

  return train_step


def _carried(experiment: Experiment, batch: Batch, task: str) -> Any:
  """Whether a batch has labels of a task: False, or a scalar of bool where it may have none."""
  return task in batch['label'] and jnp.any(masks_of(experiment, batch)[task] > 0)


def _update_where(active: Mapping[str, Any], new: PyTree, old: PyTree) -> PyTree:
  """`new`, but the leaves of `old` under the keys that are not active."""

  def choose(path: Any, a: Any, b: Any) -> Any:
    head = next((k.key for k in path if getattr(k, 'key', None) in active), None)
    if head is None:
      return a
    return b if active[head] is False else jnp.where(active[head], a, b)

  return jax.tree_util.tree_map_with_path(choose, new, old)


def _skip_nonfinite(new: TrainState, old: TrainState, metrics: Metrics) -> TrainState:
  """`new`, or the old state a step further where a metric of the update is not finite."""
  finite = jnp.all(jnp.stack([jnp.isfinite(value) for value, _ in metrics.values()]))
  unchanged = dataclasses.replace(old, step=new.step, skipped_steps=old.skipped_steps + 1)
  kept: TrainState = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, unchanged)
  return kept


def _make_gradients(
  experiment: Experiment, facts: DataFacts, model: VideoModel, objective: nn.Module
) -> Callable[[TrainState, Batch], tuple[PyTree, PyTree, Metrics]]:
  """Gradients of what trains, taken in `grad_accumulation` equal parts of a batch and averaged.

  Parts weigh alike, also where one has more labelled examples or boxes than another.
  """
  parts = experiment.grad_accumulation

  def loss_of_part(
    trainable: PyTree,
    fixed: PyTree,
    model_state: PyTree,
    batch: Batch,
    step: jax.Array,
    dropout_key: jax.Array,
  ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
    params = frozen.merge(trainable, fixed)
    video, targets, masks = prepare(experiment, facts, batch, step)
    (features, logits), model_state = model.apply(
      {'params': model_params(params), **model_state},
      video,
      boxes=batch.get('boxes'),
      tasks=tuple(targets),
      train=True,
      rngs={'dropout': dropout_key},
      mutable=list(model_state),
    )
    outputs = ModelOutputs(features, logits, targets, masks)
    loss, terms = objective.apply({'params': params.get(OBJECTIVE, {})}, outputs)
    metrics = {'loss': (loss, jnp.float32(1))}
    for name, value in terms.items():  # A term `.../TASK` counts where a label of the task does.
      mask = masks.get(name.partition('/')[2], jnp.ones(1))
      counts = jnp.float32(jnp.any(mask > 0))
      metrics[name] = (value * counts, counts)
    for name, target in targets.items():
      metric, correct = best_is_right(experiment, name, logits[name], target)
      metrics[f'{metric}/{name}'] = losses.weighted_sum(correct, outputs.masks[name])
    return loss, (model_state, metrics)

  part_gradients = jax.grad(loss_of_part, has_aux=True)

  def gradients(state: TrainState, batch: Batch) -> tuple[PyTree, PyTree, Metrics]:
    key, step = random_key(experiment.seed, 'train', state.step), state.step
    batch = {**batch, 'position': jnp.arange(len(batch['batch_mask']))}
    params = frozen.split(state.params, experiment.optimizer.frozen)
    if parts == 1:
      grads, (model_state, metrics) = part_gradients(*params, state.model_state, batch, step, key)
      return grads, model_state, metrics

    def body(carry: tuple[PyTree, PyTree], inputs: tuple[Batch, jax.Array]) -> Any:
      total, model_state = carry
      part, part_key = inputs
      grads, (model_state, metrics) = part_gradients(*params, model_state, part, step, part_key)
      return (jax.tree.map(jnp.add, total, grads), model_state), metrics

    zeros = jax.tree.map(jnp.zeros_like, params[0])
    (total, model_state), metrics = jax.lax.scan(
      body, (zeros, state.model_state), (deal(batch, parts), jax.random.split(key, parts))
    )
    grads = jax.tree.map(lambda g: g / parts, total)
    return grads, model_state, jax.tree.map(lambda m: jnp.sum(m, 0), metrics)

  return gradients


def deal(batch: PyTree, parts: int) -> PyTree:
  """Deals the examples out in turn, so that every device keeps its own: [B] -> [parts, B/parts]."""
  return jax.tree.map(
    lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )


def prepare(
  experiment: Experiment, facts: DataFacts, batch: Batch, step: jax.Array | int
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
  """What the model trains on: inputs augmented, normalised, erased and mixed, and their targets.

  Until they are mixed, examples depend on (seed, step, position) alone, not on the batch's size
  nor on how it is split. The draw of the mix depends on (seed, step).

  Args:
    experiment: seed, augmentation and normalisation.
    facts: classes of every task.
    batch: a training batch or a part of one; inputs uint8 as `input_shape` says; besides,
      `position`, [B] int places in the global batch.
    step: of the training.

  Returns:
    Video of the inputs' shape, float32; task -> targets [B, K] float32, or [B, N, K] of boxes; task
    -> weight of each label, [B] or [B, N] float32.
  """
  config, position = experiment.augment_of(batch['label']), batch['position']

  def keys(stream: str) -> jax.Array:
    return example_keys(random_key(experiment.seed, stream, step), position)

  video = augment(keys('augment'), batch['inputs'], config.color_jitter, config.rand_augment)
  video = normalize(video, experiment.pixels.mean, experiment.pixels.std)
  video = erase(keys('random_erasing'), video, config.random_erasing)
  targets = targets_of(batch['label'], facts)
  mix_key = random_key(experiment.seed, 'mix', step)
  return mix(mix_key, video, targets, masks_of(experiment, batch), config.mix)
