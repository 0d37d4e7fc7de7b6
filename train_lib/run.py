"""A run: an experiment in its workdir, trained, evaluated or inspected."""

import contextlib
import errno
import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from datasets import regions
from datasets.dataset import VideoDataset
from errors import CheckpointError, ConfigError, PreemptedError
from train_lib import (
  checkpoint,
  class_report,
  consistency,
  cost,
  data,
  evaluation,
  layer_rates,
  multi_label,
  overlap,
  preprocessing,
  profiling,
  resume,
  tables,
)
from train_lib import experiment as experiment_lib
from train_lib.console import duration, say, scalars
from train_lib.example_log import ExampleLog
from train_lib.experiment import Experiment
from train_lib.files import write_atomically
from train_lib.goodput import Goodput
from train_lib.initial import Weights, fresh_state, read_weights
from train_lib.loop import Hooks, train_steps
from train_lib.mesh import make_mesh
from train_lib.metric_writers import create_writers
from train_lib.preemption import Preemption
from train_lib.program import Program, build_program
from train_lib.state import TrainState
from train_lib.workdir_lock import only_trainer

CONFIG_FILE = 'config.json'


def run(mode: str, config: Any, workdir: str) -> None:
  """Runs an experiment.

  Args:
    mode: `'train'` (goes on if the workdir has a checkpoint), `'eval'` (of the newest checkpoint,
      or of `init_from`), `'profile'` (traces a few steps from fresh weights), or `'init'` (builds,
      prints what there is to know, and stops).
    config: As `experiment.parse` takes it.
    workdir: Folder of the run; `'init'` writes nothing to it.

  Raises:
    TubeletError: One of its kinds, before anything is compiled or written where that is possible.
  """
  if not workdir:
    raise ConfigError('--workdir is empty: name the folder of the run.')
  experiment = experiment_lib.parse(config)
  if mode == 'init':
    _inspect(experiment)
  elif mode == 'eval':
    _evaluate(experiment, Path(workdir))
  elif mode == 'profile':
    _profile(experiment, Path(workdir))
  else:
    _train(experiment, Path(workdir), experiment_lib.to_json(config))


def _inspect(experiment: Experiment) -> None:
  mesh = make_mesh(experiment.mesh)
  program = build_program(experiment, data.facts_or_nominal(experiment), mesh)
  state = fresh_state(program, read_weights(program))
  say(tables.parameter_table(state.params))
  _say_layers(program)
  for name in experiment.datasets:
    say(f'{name}:\n{tables.cost_table(cost.cost_of(experiment, program.facts, name))}')
  lengths = program.lengths
  say(
    f'training         {lengths.total:,} steps, {lengths.total / lengths.epoch:.1f} epochs\n'
    f'classes          {program.facts.describe()}'
  )


def _say_layers(program: Program) -> None:
  config, params = program.experiment.optimizer, program.abstract_state.params
  if table := tables.layer_table(config, layer_rates.groups(config, program.model.trunk, params)):
    say(table)


def _profile(experiment: Experiment, folder: Path) -> None:
  train_data = data.open_train_splits(experiment)
  program = build_program(
    experiment, data.facts_of(experiment, train_data), make_mesh(experiment.mesh)
  )
  _make_writable(folder)
  state = fresh_state(program, None)
  say('Compiling the step ...')
  with contextlib.closing(data.train_stream(program, train_data, 0)) as stream:
    trace = profiling.profile(program, state, stream, folder)
  say(
    f'trace            {trace}\n'
    f'To look at it:   pip install xprof && tensorboard --logdir {folder}   (tab "Profile")'
  )


def _evaluate(experiment: Experiment, folder: Path) -> None:
  step = checkpoint.latest_step(folder)
  if step is None and not experiment.init_from.path:
    raise ConfigError(
      f'--mode=eval found no checkpoint in {folder}. Train first, or set `init_from.path` (and '
      '`init_from.load_head`) to evaluate other weights.'
    )
  eval_data = data.open_eval_splits(experiment)
  if not eval_data:
    raise ConfigError('--mode=eval: no dataset has an `eval_split`.')
  # The heads of a dataset that is not evaluated are in the checkpoint too.
  every = {
    name: eval_data[name]
    if name in eval_data
    else data.open_split(experiment, name, config.train_split)
    for name, config in experiment.datasets.items()
  }
  facts = data.facts_of(experiment, every)
  program = build_program(experiment, facts, make_mesh(experiment.mesh))
  weights = read_weights(program, whole=True) if step is None else None
  _make_writable(folder)
  if step is None:
    state = fresh_state(program, weights)
  else:
    with contextlib.closing(checkpoint.CheckpointReader(folder)) as reader:
      where = reader.folder / str(step)
      meta = reader.restore_meta(step)
      checkpoint.check_class_names(meta['class_names'], program.facts, where)
      say(f'Evaluating {where}.')
      preprocessing.say_changes(meta, experiment, where)
      state = reader.restore_for_evaluation(step, program.abstract_state)
  _, files = evaluate(program, state, step or 0, eval_data, folder)
  say('\n'.join(f'  {file}' for file in files))


def evaluate(
  program: Program,
  state: TrainState,
  step: int,
  datasets: Mapping[str, VideoDataset],
  folder: Path,
  stop: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], list[Path]]:
  """Evaluates a state on a split of each dataset and writes the results.

  Returns:
    The metrics, and the files under `eval/<dataset>/<split>/<step>`.

  Raises:
    PreemptedError: `stop` said so; of the dataset at hand nothing is written then.
  """
  metrics: dict[str, float] = {}
  files: list[Path] = []
  for name, dataset in datasets.items():
    begin = time.monotonic()
    results = evaluation.evaluate(program, state.eval_variables, name, dataset, stop)
    target = None
    if jax.process_index() == 0:
      target = results_folder(folder, name, dataset.split, step)
      target.mkdir(parents=True, exist_ok=True)
    results, written, report = evaluation.score_boxes(results, program, dataset, target)
    results, more, labels_report = multi_label.score_labels(results, program, dataset, target)
    if target is not None:
      results_files = evaluation.write_results(results, target, program, name, dataset)
      written = [*results_files, *written, *more]
    seconds = duration(time.monotonic() - begin)
    bad = f', {results.unreadable:,} more could not be read' if results.unreadable else ''
    counted = f'{results.examples:,} videos in {seconds}{bad}'
    for text in filter(None, (report, labels_report)):
      say(text)
    say(f'eval of {name} at {step:,}: {scalars(results.metrics)} | {counted}')
    metrics |= results.metrics
    files += written
  return metrics, files


def results_folder(folder: Path, dataset: str, split: str, step: int) -> Path:
  """Where the results of an evaluation are."""
  return folder / 'eval' / dataset / split / f'{step:08d}'


def _train(experiment: Experiment, folder: Path, config_json: str) -> None:
  fresh = checkpoint.latest_step(folder) is None
  if fresh:
    consistency.check_start(experiment)
  train_data, eval_data = data.open_train_splits(experiment), data.open_eval_splits(experiment)
  overlap.check(train_data, eval_data, allowed=experiment.mixture.allow_overlap)
  facts = data.facts_of(experiment, train_data)
  program = build_program(experiment, facts, make_mesh(experiment.mesh))
  weights = read_weights(program) if fresh else None
  _make_writable(folder)
  with only_trainer(folder), _disk_errors_named(folder):
    training = Training(program, folder, config_json, train_data, eval_data)
    try:
      training.run(weights)
    finally:
      training.checkpointer.close()


class Training:
  """A training run in its workdir."""

  def __init__(
    self,
    program: Program,
    folder: Path,
    config_json: str,
    train_data: data.Splits,
    eval_data: data.Splits,
  ):
    self.program = program
    self.folder = folder
    self.config_json = config_json
    self.train_data = train_data
    self.eval_data = eval_data
    self.checkpointer = checkpoint.Checkpointer(folder, program.experiment.checkpoint)
    self._last_save: tuple[Any, ...] = ()
    self.goodput = Goodput()
    self.stop = Preemption()

  def run(self, weights: Weights | None) -> None:
    """Trains to the end, from the newest checkpoint or from `weights`.

    Raises:
      PreemptedError: Asked to stop; what there was is saved.
      CheckpointError: It could not be saved.
    """
    total = self.program.lengths.total
    with self.goodput, self.stop:
      with self.goodput.spend('starting'):
        state, start, evaluated = self._restore_or_init(weights)
      if start >= total and evaluated:
        say(
          f'{self.folder} is already trained to step {start:,} of {total:,}: complete. Raise '
          '`duration` to train on, or choose another --workdir.'
        )
      else:
        self._train(state, start, evaluated)
    self._say_where(max(start, total))

  def _train(self, state: TrainState, start: int, evaluated: bool) -> None:
    experiment = self.program.experiment
    if jax.process_index() == 0:
      write_atomically(self.folder / CONFIG_FILE, self.config_json)
    say(tables.parameter_table(state.params))
    _say_layers(self.program)
    self._say_plan()
    with contextlib.ExitStack() as stack:
      stack.callback(lambda: say(f'Time  {self.goodput.summary()}'))
      names = data.ExampleNames(self.train_data)
      examples = ExampleLog(self.folder, names, start, experiment.log_examples)
      stack.callback(examples.close)
      writer = create_writers(self.folder, resume_step=start)
      stack.callback(writer.close)
      stream = data.train_stream(self.program, self.train_data, start)
      stack.callback(stream.close)
      save_failed = self.checkpointer.failed
      hooks = Hooks(
        writer, self._evaluate, self._save, save_failed, examples, self.goodput, self.stop
      )
      try:
        train_steps(self.program, state, start, stream, hooks, evaluated=evaluated)
      except PreemptedError as error:
        self._finish_saving()
        raise PreemptedError(
          f'{error} Saved in {self.checkpointer.folder}; the same command goes on from there.'
        ) from error
      self._finish_saving()

  def _finish_saving(self) -> None:
    """Waits until the last state is on disk; after it no step has taken its arrays."""
    with self.goodput.spend('saving'):
      while not self.checkpointer.wait():
        self._save(*self._last_save)

  def _restore_or_init(self, weights: Weights | None) -> tuple[TrainState, int, bool]:
    """State, its step, and whether the evaluation due at that step, if any, was done."""
    step, total = self.checkpointer.latest_step, self.program.lengths.total
    if step is None:
      experiment = self.program.experiment
      say(f'START from {experiment.init_from.path or "scratch"} (step 0 of {total:,}).')
      if experiment.optimizer.frozen and not experiment.init_from.path:
        say('`init_from.path` is empty: FROZEN PARAMETERS ARE RANDOM, and stay so.')
      return fresh_state(self.program, weights), 0, True
    where = self.checkpointer.folder / str(step)
    meta = self.checkpointer.restore_meta(step)
    resume.check_same_start(meta, self.program.experiment, where)
    say(f'RESUME at step {step:,} of {total:,} from {where}.')
    checkpoint.check_class_names(meta['class_names'], self.program.facts, where)
    checkpoint.check_position(meta, self._position(step), where)
    # The normalisation must be the same.
    preprocessing.changes(meta, self.program.experiment, where)
    resume.say_changes(meta, json.loads(self.config_json), self.program, step)
    state = self.checkpointer.restore(step, self.program.abstract_state)
    return state, step, bool(meta['evaluated'])

  def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    metrics, _ = evaluate(self.program, state, step, self.eval_data, self.folder, self.stop)
    best = self.program.experiment.checkpoint.best_metric
    if best and best not in metrics:
      splits = ', '.join(f'{name}: {opened.split!r}' for name, opened in self.eval_data.items())
      logging.getLogger(__name__).warning(
        '`checkpoint.best_metric` is %r, but the evaluation at step %d (%s) did not give it, as where '
        'no example has a label: this checkpoint ranks last.',
        best,
        step,
        splits,
      )
    return metrics

  def _save(
    self, state: TrainState, step: int, metrics: Mapping[str, float] | None, evaluated: bool
  ) -> None:
    config = json.loads(self.config_json)
    meta = checkpoint.describe(
      config,
      self.program.facts,
      preprocessing.to_json(preprocessing.of(self.program.experiment)),
      self._position(step),
      metrics,
      evaluated,
    )
    self.checkpointer.save(state, meta, metrics)
    self._last_save = state, step, metrics, evaluated

  def _position(self, step: int) -> dict[str, Any]:
    return data.position(self.program, self.train_data, step)

  def _say_plan(self) -> None:
    lengths, mesh = self.program.lengths, self.program.mesh
    epochs = lengths.total / lengths.epoch
    devices = mesh.devices.flat[0].device_kind
    sizes = self.program.facts.train_examples
    say(
      f'Training {lengths.total:,} steps ({epochs:.1f} epochs of {sum(sizes.values()):,} clips) '
      f'on {mesh.size} x {devices}, {dict(mesh.shape)}. Compiling the first step ...'
    )
    if len(sizes) > 1:
      sampling = self.program.experiment.mixture.sampling
      seen = self.program.examples_seen(lengths.total)
      parts = [f'{name} {seen[name]:,} ({seen[name] / n:.1f} epochs)' for name, n in sizes.items()]
      say(f'Mixture  {sampling}: {", ".join(parts)}')
    for name, dataset in self.train_data.items():
      boxes = self.program.experiment.datasets[name].boxes
      if boxes is not None:
        say(f'Boxes    {name}: {regions.count_training(dataset.box_table(), boxes)}')

  def _say_where(self, step: int) -> None:
    say(
      f'\nDone.\n  checkpoint    {self.checkpointer.folder / str(step)}\n'
      f'  metrics       {self.folder / "metrics.jsonl"}\n'
      f'  TensorBoard   tensorboard --logdir {self.folder}'
    )
    for name, dataset in self.eval_data.items():
      results = results_folder(self.folder, name, dataset.split, step)
      say(f'  predictions   {results / "predictions.jsonl"}')
      for picture in sorted(results.glob('*.png')):
        say(f'  picture       {picture}')
    if not all(task.on_boxes for task in self.program.experiment.tasks.values()):
      checkpoint_flag = shlex.quote(f'--checkpoint={self.folder}')
      say(f'  predict       python -m tools.predict {checkpoint_flag} --video=FILE')
    for name, dataset in self.eval_data.items():
      self._say_classes(name, results_folder(self.folder, name, dataset.split, step))

  def _say_classes(self, name: str, results: Path) -> None:
    tasks = self.program.experiment.tasks_of(name)
    names = self.program.facts.class_names
    single = {task: names[task] for task, c in tasks.items() if c.loss == 'softmax'}
    if text := class_report.report(results / 'predictions.jsonl', single):
      say(text)


@contextlib.contextmanager
def _disk_errors_named(folder: Path) -> Iterator[None]:
  """Raises `CheckpointError` where writing to the workdir fails because the disk does not take it."""
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
      raise
    newest = checkpoint.latest_step(folder)
    raise CheckpointError(
      f'Writing to {error.filename or folder} has failed: {error.strerror}. The newest good '
      f'checkpoint is {"none" if newest is None else folder / checkpoint.FOLDER / str(newest)}. '
      'Free space there or make it writable, then start the same command again: it goes on from it.'
    ) from error


def _make_writable(folder: Path) -> None:
  """Creates the workdir.

  Raises:
    ConfigError: It cannot be created or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    os.unlink(name)
  except OSError as error:
    raise ConfigError(
      f'--workdir={folder} is not writable: {error.strerror}. Choose another folder.'
    ) from error
