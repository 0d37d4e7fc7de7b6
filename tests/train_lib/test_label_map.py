"""Heads by class names: from Kinetics-710 to its three sets, reordered lists, and what has no row."""

import functools

import flax
import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from errors import CheckpointMismatchError, ConfigError, DataError
from models.heads import LinearHead
from models.video_model import VideoModel
from models.vivit import ViViT
from projects.uniformerv2 import label_table
from train_lib import checkpoint, import_weights, initial, label_map, params_file, weight_files
from train_lib.experiment import CheckpointConfig
from train_lib.pretrained import InitFromConfig, load_pretrained
from train_lib.state import TrainState

NAMES = ['run', 'Sit_down', 'wave', "dog's walk"]
TRUNK = {'hidden_size': 4, 'num_layers': 1, 'num_heads': 1, 'mlp_dim': 4, 'tubelet': (1, 4, 4)}


def head(task='old', classes=4, width=3, seed=0):
  """Arrays of a head: the kernel's columns and the bias tell the classes apart."""
  rng = np.random.default_rng(seed)
  return {
    f'heads_{task}/output_projection/kernel': rng.normal(size=(width, classes)).astype('float32'),
    f'heads_{task}/output_projection/bias': np.arange(classes, dtype=np.float32),
  }


def mapped(wanted, synonyms=(), stored=None, arrays=None):
  stored = {'old': NAMES} if stored is None else stored
  arrays = head() if arrays is None else arrays
  return label_map.map_heads(arrays, stored, wanted, synonyms, 'there')


def test_rows_by_name_exact_then_plain_then_synonym():
  result, (rows,) = mapped({'new': ['dogs walk', 'wave', 'jog']}, [('jog', 'run')])
  assert rows.indices == (3, 2, 0) and not rows.same
  for leaf, array in head().items():
    found = result[leaf.replace('old', 'new')]
    np.testing.assert_array_equal(found, array[..., [3, 2, 0]])
  assert len(result) == 2
  assert str(rows) == (
    'heads_new: 3 of 4 rows of heads_old by name (1 but for case and symbols, 1 exact, 1 by synonym); '
    "not used: 1, 'Sit_down'"
  )


def test_a_pair_of_synonyms_holds_both_ways_and_the_exact_name_comes_first():
  (rows,) = mapped({'new': ['stroll', 'RUN']}, [("dog's walk", 'Stroll'), ('run', 'wave')])[1]
  assert rows.indices == (3, 0)
  (rows,) = mapped({'new': ['sit down', 'b']}, stored={'old': ['Sit Down', 'sit down', 'b', 'c']})[
    1
  ]
  assert rows.indices == (1, 2)


def test_the_same_list_is_taken_as_it_is():
  arrays = {**head(), 'cls': np.ones(2), 'objective/sigma': np.zeros(3)}
  result, (rows,) = mapped({'old': NAMES}, arrays=arrays)
  assert rows.same and result.keys() == arrays.keys()
  assert all(result[name] is arrays[name] or name.startswith('heads') for name in arrays)
  assert str(rows) == 'heads_old: 4 of 4 rows of heads_old by name (4 exact)'
  # What an objective relates between classes does not move with the rows.
  assert 'objective/sigma' not in mapped({'old': NAMES[::-1]}, arrays=arrays)[0]


def test_several_heads_are_matched_by_task():
  arrays = {**head('a', 2), **head('b', 3)}
  stored = {'a': ['x', 'y'], 'b': ['x', 'y', 'z']}
  result, _ = mapped({'b': ['z', 'x']}, stored=stored, arrays=arrays)
  np.testing.assert_array_equal(result['heads_b/output_projection/bias'], [2, 0])
  assert result['heads_a/output_projection/bias'].tolist() == [0, 1]  # For the report: not used.
  with pytest.raises(CheckpointMismatchError, match=r"there has no task 'c'; it has \['a', 'b'\]"):
    mapped({'c': ['x']}, stored=stored, arrays=arrays)


def test_names_without_a_row_are_all_listed():
  with pytest.raises(CheckpointMismatchError) as error:
    mapped({'new': ['runs', 'wave', 'sit  down', 'xyz']})
  text = str(error.value)
  assert (
    "class 0 of task 'old' is 'run' there, but 'runs' in the data. 2 classes have no row" in text
  )
  assert "\n  - 'runs'; nearest: 'run'\n  - 'xyz'\n" in text and 'init_from.class_synonyms' in text
  with pytest.raises(CheckpointMismatchError, match=r"\+ 'wave': \['wave', 'Wave!'\]"):
    mapped({'new': ['wave', 'Wave!']})
  # Two rows there of one plain name: it is not known which is meant.
  with pytest.raises(CheckpointMismatchError, match=r"'RUN'"):
    mapped({'new': ['RUN', 'b', 'c', 'd']}, stored={'old': ['run', 'Run', 'b', 'c']})


def test_names_must_be_as_many_as_rows():
  with pytest.raises(
    CheckpointMismatchError, match='has 4 rows, but the checkpoint names 3 classes'
  ):
    mapped({'new': ['run']}, stored={'old': NAMES[:3]})


def test_synonyms_files(tmp_path):
  path = tmp_path / 'synonyms.csv'
  path.write_text('name,label\nhugging,hugging (not baby)\n"a, b",c\n')
  assert label_map.read_synonyms(path) == [('hugging', 'hugging (not baby)'), ('a, b', 'c')]
  assert label_map.read_synonyms('') == []
  path.write_text('name,label\na,b,c\n')
  with pytest.raises(DataError, match=r"synonyms.csv, row 2: expected two names, .*'c'"):
    label_map.read_synonyms(path)
  path.write_text('a,b\n')
  with pytest.raises(DataError, match='expected the header name,label'):
    label_map.read_synonyms(path)


def classifier(**classes):
  heads = {
    task: LinearHead(num_classes=n, kernel_init='normal_0.02') for task, n in classes.items()
  }
  return VideoModel(ViViT(**TRUNK, attention='spacetime', pooling='mean'), heads)


def test_kinetics_710_to_its_three_sets_at_once():
  table = label_table.load()
  one, three = classifier(k710=710), classifier(k400=400, k600=600, k700=700)
  video = np.random.default_rng(0).normal(size=(1, 1, 4, 8, 3)).astype(np.float32)
  init = jax.jit(functools.partial(one.init, train=False))
  before = flax.core.meta.unbox(init(jax.random.key(1), video)['params'])
  before['heads_k710']['output_projection']['bias'] = np.linspace(-1, 1, 710, dtype=np.float32)
  shapes = jax.eval_shape(functools.partial(three.init, train=False), jax.random.key(0), video)
  arrays = weight_files.flatten({**before['trunk'], 'heads_k710': before['heads_k710']})
  wanted = {name: tuple(sorted(table.official[name].values())) for name in label_table.SETS}
  arrays, rows = label_map.map_heads(
    arrays,
    {'k710': table.labels},
    wanted,
    label_map.read_synonyms(label_table.SYNONYMS),
    'k710.npz',
  )
  after, report = load_pretrained(
    shapes['params'], arrays, grid=(1, 1, 2), options=InitFromConfig('', load_head=True)
  )
  assert report.count('new', 'skipped') == 0
  logits = one.apply({'params': before}, video, train=False)[1]['k710'][0]
  found = three.apply({'params': after}, video, train=False)[1]
  for name in label_table.SETS:
    labels = [table.labels.index(table.label_of(name, own)) for own in wanted[name]]
    np.testing.assert_allclose(found[name][0], logits[np.array(labels)], rtol=1e-6, atol=1e-7)
  counts = [dict(found.counts) for found in rows]
  assert counts[0] == {'exact': 386, 'by synonym': 14}
  assert counts[1] == {'exact': 594, 'by synonym': 5, 'but for case and symbols': 1}
  assert counts[2] == {'exact': 696, 'by synonym': 4}


@pytest.fixture
def run_of(tiny_config, build, tmp_path):
  """A program, and a function that saves a run with other class names; it returns the folder."""
  program = build(tiny_config)[0]
  names = list(program.facts.class_names['motion'])

  def save(stored):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), program.abstract_state.params
    )
    checkpointer = checkpoint.Checkpointer(tmp_path / 'run', CheckpointConfig('1 step'))
    meta = {'class_names': {'motion': stored}, 'preprocessing': {}}
    checkpointer.save(TrainState(np.int32(1), params, (), {}, None, np.int32(0)), meta, None)
    checkpointer.close()
    return params['heads_motion']['output_projection'], tmp_path / 'run'

  return names, save


def test_a_reordered_list_of_a_run(run_of, tiny_config, build, capsys):
  names, save = run_of
  stored, path = save([name.upper() for name in names[::-1]])
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  weights = initial.read_weights(build(tiny_config)[0], whole=True)
  for leaf in ('kernel', 'bias'):
    found = weights[f'heads_motion/output_projection/{leaf}']
    np.testing.assert_array_equal(found, stored[leaf][..., ::-1])
  assert (
    'heads_motion: 8 of 8 rows of heads_motion by name (8 but for case' in capsys.readouterr().out
  )


def test_synonyms_of_the_config(run_of, tiny_config, build, tmp_path, capsys):
  names, save = run_of
  _, path = save([*names[:-1], 'Something else'])
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  program = build(tiny_config)[0]
  with pytest.raises(CheckpointMismatchError, match=rf"- '{names[-1]}'"):
    initial.read_weights(program)
  (tmp_path / 'synonyms.csv').write_text(f'name,label\n{names[-1]},something-else\n')
  tiny_config.init_from.class_synonyms = str(tmp_path / 'synonyms.csv')
  initial.read_weights(build(tiny_config)[0])
  assert '(7 exact, 1 by synonym)' in capsys.readouterr().out


@pytest.fixture
def imported(tmp_path):
  """A function that imports a head of two classes with --class_names; returns the file."""

  def call(names, given='{}', task=''):
    head = f'heads_{task}/output_projection/bias' if task else 'output_projection/bias'
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    np.savez(tmp_path / 'official.npz', fc=np.zeros(2, np.float32))
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(
      checkpoint=str(tmp_path / 'official.npz'),
      out=str(tmp_path / 'ours.npz'),
      class_names=[given.format(tmp_path / 'classes.txt')],
    ):
      import_weights.convert(lambda arrays: {head: arrays['fc']})
    return str(tmp_path / 'ours.npz')

  return call


def test_imported_weights_carry_their_class_names(imported):
  assert params_file.read_meta(imported(['b', 'a'])) == {'class_names': {'': ['b', 'a']}}
  path = imported(['b', 'a'], 'k710={}', task='k710')
  assert params_file.read_meta(path) == {'class_names': {'k710': ['b', 'a']}}
  result, _ = mapped({'new': ['a']}, stored={'': ['b', 'a']}, arrays={'output_projection/bias': np.arange(2)})  # fmt: skip
  assert {name: array.tolist() for name, array in result.items()} == {
    'heads_new/output_projection/bias': [1]
  }


def test_class_names_that_do_not_belong_to_the_weights(imported):
  with pytest.raises(ConfigError, match='has 3 names, but the head 2 classes'):
    imported(['a', 'b', 'c'])
  with pytest.raises(ConfigError, match=r"no heads_k400/output_projection/bias; .*\['output_proj"):
    imported(['a', 'b'], 'k400={}')
