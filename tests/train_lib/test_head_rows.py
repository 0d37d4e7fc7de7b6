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
    "not exact: 'dogs walk' <- \"dog's walk\", 'jog' <- 'run'; not used: 1, 'Sit_down'"
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


def test_names_that_several_rows_have():
  stored = {'old': ['run', 'Run', 'x', 'y', 'x']}
  arrays = head(classes=5)
  with pytest.raises(CheckpointMismatchError) as error:
    mapped({'new': ['RUN', 'x', 'y']}, stored=stored, arrays=arrays)
  assert '0 classes have no row by name, 2 have several, 0 rows would serve' in str(error.value)
  assert (
    "\n  ? 'RUN': several rows have this name (but for case and symbols): ['run', 'Run']"
    "\n  ? 'x': several rows have this name (exact): ['x', 'x']\n"
  ) in str(error.value)
  with pytest.raises(
    CheckpointMismatchError, match=r"'jog': several .* \(by synonym\): \['run', 'wave'\]"
  ):
    mapped({'new': ['jog']}, [('jog', 'wave'), ('run', 'jog')])
  # Two names of one row are no question.
  assert mapped({'new': ['jog']}, [('jog', 'run'), ('jog', 'RUN')])[1][0].indices == (0,)


def test_names_of_symbols_are_not_alike():
  arrays, stored = head(classes=2), {'old': ['+', '👍']}
  (rows,) = mapped({'new': ['👍', '+']}, stored=stored, arrays=arrays)[1]
  assert rows.counts == {'exact': 2} and not rows.inexact
  with pytest.raises(CheckpointMismatchError, match=r"- '-'\n  - '👎'\n"):
    mapped({'new': ['-', '👎']}, stored=stored, arrays=arrays)
  (rows,) = mapped({'new': ['1']}, stored={'old': ['-1', '👍']}, arrays=arrays)[1]
  assert "; not exact: '1' <- '-1';" in str(rows)


def test_many_inexact_pairs_are_shown_in_part():
  names = [f'class {i}' for i in range(7)]
  (rows,) = mapped(
    {'new': names}, stored={'old': [name.upper() for name in names]}, arrays=head(classes=7)
  )[1]
  assert str(rows).endswith("'class 4' <- 'CLASS 4' ...")


def test_a_head_that_may_be_new_beside_those_of_one_head():
  arrays = {**head('k710', 3), 'objective/sigma': np.zeros(3)}
  wanted, stored = {'k400': ['b', 'a'], 'ssv2': ['p', 'q', 'r']}, {'k710': ['a', 'b', 'c']}
  with pytest.raises(CheckpointMismatchError, match=r"allow_new=\('heads_ssv2/\*',\)"):
    label_map.map_heads(arrays, stored, wanted, [], 'there')
  result, rows = label_map.map_heads(arrays, stored, wanted, [], 'there', optional=['ssv2'])
  assert [found.task for found in rows] == ['k400']
  assert result.keys() == {f'heads_k400/output_projection/{leaf}' for leaf in ('kernel', 'bias')}
  # Where it has the classes, it takes their rows.
  both = wanted | {'ssv2': ['c']}
  rows = label_map.map_heads(arrays, stored, both, [], 'there', optional=['ssv2'])[1]
  assert [found.indices for found in rows] == [(1, 0), (2,)]


@pytest.mark.parametrize('own', ['new', ''])
def test_a_head_that_stays_new_is_not_filled_by_position(own):
  arrays = head('new') if own else {p.removeprefix('heads_new/'): a for p, a in head('new').items()}
  result, rows = label_map.map_heads(
    {**arrays, 'cls': np.ones(1)}, {own: NAMES}, {'new': list('abcd')}, [], 'there', ['new']
  )
  assert result.keys() == {'cls'} and not rows


def test_one_named_head_of_two_fills_no_other():
  arrays = {**head('k400', 2), **head('k600', 3)}
  with pytest.raises(
    CheckpointMismatchError,
    match=r"no task 'k600'; it has \['k400'\], and heads without class names: \['k600'\]",
  ):
    label_map.map_heads(arrays, {'k400': ['a', 'b']}, {'k600': ['b', 'a']}, [], 'there')
  result, _ = label_map.map_heads(arrays, {'k400': ['a', 'b']}, {'k400': ['b', 'a']}, [], 'there')
  assert result['heads_k400/output_projection/bias'].tolist() == [1, 0]
  assert result['heads_k600/output_projection/bias'].tolist() == [0, 1, 2]


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


def test_a_head_that_the_config_lets_be_new(run_of, tiny_config, build, capsys):
  names, save = run_of
  _, path = save([f'other {name}' for name in names])
  tiny_config.init_from.update({'path': str(path), 'load_head': True})
  with pytest.raises(CheckpointMismatchError, match=r"allow_new=\('heads_motion/\*',\)"):
    initial.read_weights(build(tiny_config)[0])
  tiny_config.init_from.allow_new = ('heads_motion/*',)
  weights = initial.read_weights(build(tiny_config)[0])
  assert not [name for name in weights if name.startswith('heads_')]
  assert 'by name' not in capsys.readouterr().out


def test_a_file_that_does_not_name_its_classes(run_of, tiny_config, build, tmp_path, capsys):
  names, save = run_of
  _, path = save(names)
  path = tmp_path / 'plain.npz'
  arrays = weight_files.flatten(checkpoint.load_params(str(tmp_path / 'run'))[0])
  params_file.write_arrays(path, arrays)
  tiny_config.init_from.path = str(path)
  initial.read_weights(build(tiny_config)[0])
  assert 'names' not in capsys.readouterr().out  # The head is not loaded.
  tiny_config.init_from.load_head = True
  initial.read_weights(build(tiny_config)[0])
  assert capsys.readouterr().out.endswith(
    f'{path} does not name its classes: rows are taken in the order they have. If scores are at '
    'chance, import it with --class_names=FILE.\n'
  )


@pytest.fixture
def imported(tmp_path):
  """A function that imports heads of two classes with --class_names; returns the file."""

  def call(names, *given, task='', also=(), file='classes.txt'):
    heads = [f'heads_{t}/output_projection/bias' if t else 'output_projection/bias' for t in (task, *also)]  # fmt: skip
    (tmp_path / file).write_text('\n'.join(names))
    np.savez(tmp_path / 'official.npz', fc=np.zeros(2, np.float32))
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(
      checkpoint=str(tmp_path / 'official.npz'),
      out=str(tmp_path / 'ours.npz'),
      class_names=[one.format(tmp_path / file) for one in given],
    ):
      import_weights.convert(lambda arrays: dict.fromkeys(heads, arrays['fc']))
    return str(tmp_path / 'ours.npz')

  return call


def test_imported_weights_carry_their_class_names(imported):
  assert params_file.read_meta(imported(['b', 'a'], '{}')) == {'class_names': {'': ['b', 'a']}}
  path = imported(['b', 'a'], 'k710={}', task='k710')
  assert params_file.read_meta(path) == {'class_names': {'k710': ['b', 'a']}}
  result, _ = mapped({'new': ['a']}, stored={'': ['b', 'a']}, arrays={'output_projection/bias': np.arange(2)})  # fmt: skip
  assert {name: array.tolist() for name, array in result.items()} == {
    'heads_new/output_projection/bias': [1]
  }


def test_class_names_that_do_not_belong_to_the_weights(imported):
  with pytest.raises(ConfigError, match='has 3 names, but the head 2 classes'):
    imported(['a', 'b', 'c'], '{}')
  with pytest.raises(ConfigError, match=r"no heads_k400/output_projection/bias; .*\['output_proj"):
    imported(['a', 'b'], 'k400={}')
  with pytest.raises(ConfigError, match=r"of \['k400'\], but not of \['heads_k600/out"):
    imported(['a', 'b'], 'k400={}', task='k400', also=['k600'])
  with pytest.raises(ConfigError, match=r'k400=.*: the head has class names already'):
    imported(['a', 'b'], 'k400={}', 'k400={}', task='k400')
  with pytest.raises(ConfigError, match=r"do not: \[\['run', 'Run!'\]\]. Change"):
    imported(['run', 'Run!'], '{}')
  with pytest.raises(DataError, match=r"class names repeat: \['run'\]"):
    imported(['run', 'run'], '{}')


def test_a_file_name_may_hold_an_equals_sign(imported):
  for given, task in (('{}', ''), ('k400={}', 'k400')):
    path = imported(['b', 'a'], given, task=task, file='c=5.txt')
    assert params_file.read_meta(path) == {'class_names': {task: ['b', 'a']}}


def test_import_without_class_names_says_so(imported, capsys):
  path = imported(['b', 'a'])
  assert capsys.readouterr().out == (
    f'{path}: 2 parameters (heads 2).\n{path} does not name its classes: rows are taken in the order '
    'they have. If scores are at chance, import it with --class_names=FILE.\n'
  )
  assert params_file.read_meta(path) is None
  imported(['b', 'a'], '{}')
  assert 'does not name' not in capsys.readouterr().out


def test_classes_without_a_row_may_start_new():
  wanted = {'own': ['fly', 'WAVE', 'run', 'swim']}
  result, (rows,) = label_map.map_heads(
    head(), {'old': NAMES}, wanted, [], 'there', unmatched='new'
  )
  assert rows.indices == (-1, 2, 0, -1) and not rows.same
  assert str(rows) == (
    'heads_own: 2 of 4 rows of heads_old by name (1 but for case and symbols, 1 exact); '
    "new: 2, 'fly', 'swim'; not exact: 'WAVE' <- 'wave'; not used: 2, 'Sit_down', \"dog's walk\""
  )
  initial_head = {
    'output_projection': {'kernel': np.full((3, 4), 7.0, 'f4'), 'bias': np.full(4, 8.0, 'f4')}
  }
  model = VideoModel(
    trunk=ViViT(**{**TRUNK, 'attention': 'spacetime', 'pooling': 'token'}), heads={}
  )
  trunk = flax.linen.meta.unbox(
    model.init(jax.random.key(0), np.zeros((1, 1, 4, 4, 3), np.float32), train=False)
  )['params']['trunk']
  arrays = weight_files.flatten({**trunk, **result})
  options = InitFromConfig('x', load_head=True, unmatched_classes='new')
  params = {'trunk': trunk, 'heads_own': initial_head}
  filled, report = load_pretrained(params, arrays, grid=(1, 1, 1), options=options)
  found, old = filled['heads_own']['output_projection'], head()
  assert not isinstance(found['kernel'], np.ma.MaskedArray)
  np.testing.assert_array_equal(found['bias'], [8, 2, 0, 8])
  np.testing.assert_array_equal(found['kernel'][:, [0, 3]], np.full((3, 2), 7.0))
  np.testing.assert_array_equal(
    found['kernel'][:, [1, 2]], old['heads_old/output_projection/kernel'][:, [2, 0]]
  )
  assert {row.how for row in report.rows if row.target.startswith('heads_')} == {
    '2 of 4 classes new'
  }


def test_what_stays_an_error_where_classes_may_be_new():
  new = functools.partial(label_map.map_heads, synonyms=[], where='there', unmatched='new')
  with pytest.raises(CheckpointMismatchError, match=r"\+ 'wave': \['wave', 'Wave!'\]"):
    new(head(), {'old': NAMES}, {'own': ['wave', 'Wave!', 'x']})
  with pytest.raises(CheckpointMismatchError, match=r"\? 'RUN': several rows have this name"):
    new(head(), {'old': ['run', 'Run', 'b', 'c']}, {'own': ['RUN', 'x']})
  with pytest.raises(ConfigError, match=r"init_from\.unmatched_classes='random'"):
    InitFromConfig('x', unmatched_classes='random')
  result, (rows,) = new(head(), {'old': NAMES}, {'own': ['p', 'q']})
  assert str(rows).startswith(
    "heads_own: 0 of 4 rows of heads_old by name (none); new: 2, 'p', 'q'"
  )
  assert all(array.mask.all() for array in result.values())
