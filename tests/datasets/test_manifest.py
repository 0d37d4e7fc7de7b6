import json

import pytest

from datasets import manifest
from errors import DataError


@pytest.fixture
def written(tmp_path):
  (tmp_path / 'a').write_bytes(b'x' * 10)
  (tmp_path / 'b').write_bytes(b'x' * 20)
  split = manifest.Split('train', (manifest.Shard('a', 10, 2), manifest.Shard('b', 20, 3)))
  groups = {'verb': ([f'v{i}' for i in range(97)], False), 'noun': (['n0', 'n1'], True)}
  made = manifest.create([split], groups, {'seed': 1})
  manifest.write(tmp_path, made)
  return tmp_path, made


def edit(directory, change):
  path = directory / 'manifest.json'
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def test_round_trip_and_offsets(written):
  directory, made = written
  loaded = manifest.load(directory)
  assert loaded == made
  assert loaded.splits['train'].examples == 5
  assert loaded.tasks['verb'].offset == 0
  assert loaded.tasks['noun'].offset == 97
  assert loaded.tasks['noun'] == manifest.TaskLabels(('n0', 'n1'), True, 97)
  assert loaded.num_labels == 99
  assert sorted(path.name for path in directory.iterdir()) == ['a', 'b', 'manifest.json']


def test_file_content(written):
  directory, made = written
  content = json.loads((directory / 'manifest.json').read_text())
  assert content['splits']['train'] == {
    'examples': 5,
    'shards': [
      {'name': 'a', 'bytes': 10, 'examples': 2},
      {'name': 'b', 'bytes': 20, 'examples': 3},
    ],
  }
  assert content['tasks']['noun'] == {'classes': ['n0', 'n1'], 'multi_label': True}
  assert content['sha256'] == made.sha256


def test_hash_follows_group_order_sizes_and_source():
  split = manifest.Split('train', (manifest.Shard('a', 10, 2),))
  larger = manifest.Split('train', (manifest.Shard('a', 11, 2),))
  groups = {'x': (['p'], False), 'y': (['q'], False)}
  swapped = dict(reversed(groups.items()))
  hashes = {
    manifest.create([split], groups).sha256,
    manifest.create([split], swapped).sha256,
    manifest.create([larger], groups).sha256,
    manifest.create([split], groups, {'seed': 1}).sha256,
  }
  assert len(hashes) == 4


def test_missing_names_path_and_remedy(tmp_path):
  with pytest.raises(DataError, match=r'nowhere/manifest\.json.*tools\.make_demo_data'):
    manifest.load(tmp_path / 'nowhere')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda m: m.update(format_version=99), 'format_version is 99, expected 1'),
    (lambda m: m.pop('tasks'), "broken manifest .*'tasks'"),
    (lambda m: m['splits']['train'].update(examples=6), 'says 6 examples, its shards 5'),
    (lambda m: m['tasks']['noun'].update(classes=['n1', 'n0']), 'edited by hand'),
    (lambda m: m.update(sha256='0'), 'edited by hand'),
    (lambda m: m['tasks']['noun'].update(classes=['n0', 'n0']), 'repeats class names'),
    (lambda m: m['tasks']['noun'].update(classes=[]), 'has no classes'),
    (lambda m: m.update(splits={}), 'at least one split'),
    (lambda m: m['splits'].update(val={'examples': 0, 'shards': []}), "'val' holds no examples"),
    (lambda m: m['splits']['train']['shards'][0].update(name='../a'), 'plain file names'),
    (lambda m: m.update(splits=3), 'broken manifest'),
  ],
)
def test_bad_content(written, change, message):
  directory, _ = written
  edit(directory, change)
  with pytest.raises(DataError, match=message):
    manifest.load(directory)


@pytest.mark.parametrize('text', ['{', '[1]', '\x00'])
def test_broken_json(written, text):
  directory, _ = written
  (directory / 'manifest.json').write_text(text)
  with pytest.raises(DataError, match=r'manifest\.json: (not valid JSON|expected a JSON object)'):
    manifest.load(directory)


def test_shard_of_other_size(written):
  directory, _ = written
  (directory / 'b').write_bytes(b'x' * 19)
  with pytest.raises(DataError, match=r'b: has 19 bytes, manifest\.json says 20'):
    manifest.load(directory)


def test_missing_shard(written):
  directory, _ = written
  (directory / 'a').unlink()
  with pytest.raises(DataError, match=r'a: shard listed in manifest\.json is missing'):
    manifest.load(directory)


def test_empty_split_cannot_be_made():
  with pytest.raises(DataError, match="'train' holds no examples"):
    manifest.create([manifest.Split('train', ())], {'x': (['p'], False)})
