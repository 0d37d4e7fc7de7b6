"""Exported checkpoints of models that were never trained."""

import json

import flax
import jax
import numpy as np

from train_lib import checkpoint, params_file, preprocessing
from train_lib import experiment as experiment_lib
from train_lib.experiment import DataFacts
from train_lib.program import build_model, example_inputs


def write_model(path, config, class_names, change=lambda params: params):
  """Writes what `tools.checkpoint --out` would of a model of random numbers.

  Args:
    path: the `.npz`.
    config: of the experiment.
    class_names: task -> names.
    change: path -> array of the random parameters, to those that are written.

  Returns:
    The model and its variables.
  """
  experiment = experiment_lib.parse(config)
  facts = DataFacts(dict.fromkeys(experiment.datasets, 1), class_names, 'the test')
  model = build_model(experiment, facts)
  inputs = example_inputs(experiment)
  made = jax.eval_shape(lambda: model.init(jax.random.key(0), **inputs, train=False))
  flat = flax.traverse_util.flatten_dict(flax.core.unfreeze(flax.linen.meta.unbox(made)), sep='/')
  rng = np.random.default_rng(0)
  flat = {k: np.abs(rng.normal(0, 0.3, x.shape)).astype(np.float32) for k, x in flat.items()}
  variables = flax.traverse_util.unflatten_dict(change(flat), sep='/')
  described = preprocessing.to_json(preprocessing.of(experiment))
  config_json = json.loads(experiment_lib.to_json(config))
  meta = checkpoint.describe(config_json, facts, described, {'step': 0}, None, False)
  others = dict(variables)
  params = dict(others.pop('params'))
  params_file.write(path, {**params.pop('trunk'), **params, **others}, meta)
  return model, variables
