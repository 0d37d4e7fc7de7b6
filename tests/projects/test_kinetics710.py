"""Merging Kinetics-400, -600 and -700: classes, videos, what is dropped, and what is refused."""

import csv
import dataclasses
import hashlib

import pytest
from absl import flags
from absl.testing import flagsaver

from datasets import annotation_layouts, annotations
from errors import ConfigError, DataError
from projects.uniformerv2 import kinetics710, kinetics_lists, label_table, merging, merging_files
from train_lib import label_map

# UniFormerV2, appendix F: 8 and 2 labels are in Kinetics-400 and Kinetics-600 alone.
ONLY_K400 = {
  'cleaning floor', 'drinking beer', 'riding mountain bike', 'strumming guitar', 'swinging legs',
  'taking a shower', 'using computer', 'vault',
}  # fmt: skip
ONLY_K600 = {'bull fighting', 'chopping vegetables'}
HEADER = 'label,youtube_id,time_start,time_end,split'


def video(number):
  return f'{number:02d}-abc_EFGH'


def row(label, number, split='train', start=0):
  return f'{label},{video(number)},{start},{start + 10},{split}'


LISTS = {
  # 1: in K600 under a finer label; 2: in K700's validation; 3: K400's own test; 4 is only here.
  'k400': [
    row('hugging', 1), row('yoga', 2), row('archery', 3), row('"vault"', 4),
    row('archery', 5, 'validate'), row('', 3, 'test'),
  ],
  # 5 is K400's validation; 6 occurs twice; 7 is K700's too, at another time.
  'k600': [
    row('hugging baby', 1), row('archery', 5), row('yoga', 6), row('yoga', 6), row('luge', 7),
    row('luge', 8, 'val'),
  ],
  # 8 is validation in both.
  'k700': [
    row('luge', 7, start=30), row('barbequing', 9), row('yoga', 2, 'validate'),
    row('luge', 8, 'validate'),
  ],
}  # fmt: skip


def write_lists(folder, **changes):
  """Flags for annotation files of the three sets, a file for each split."""
  paths = {}
  for name, rows in (LISTS | changes).items():
    by_split = {}
    for line in rows:
      by_split.setdefault(line.rsplit(',', 1)[1], []).append(line)
    paths[name] = []
    for split, lines in by_split.items():
      path = folder / f'{name}_{split}.csv'
      path.write_text('\n'.join([HEADER, *lines]) + '\n')
      paths[name].append(str(path))
  return paths


def call(out, paths):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(out=str(out), **paths):
    kinetics710.main()


def ids(path):
  return [r['youtube_id'] for r in csv.DictReader(path.read_text().splitlines())]


def test_the_official_lists_give_710_classes():
  table = label_table.load()
  assert len(set(table.labels)) == 710 and list(table.labels) == sorted(table.labels)
  official = {name: set(spellings.values()) for name, spellings in table.official.items()}
  assert {name: len(names) for name, names in official.items()} == {
    'k400': 400,
    'k600': 600,
    'k700': 700,
  }
  aligned = {s: {table.label_of(s, name) for name in names} for s, names in official.items()}
  assert [len(aligned[name]) for name in label_table.SETS] == [400, 600, 700]
  assert set.union(*aligned.values()) == set(table.labels)
  assert aligned['k400'] - aligned['k600'] - aligned['k700'] == ONLY_K400
  assert aligned['k600'] - aligned['k400'] - aligned['k700'] == ONLY_K600


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('k400', 'a8dafb93a1204d4ecfa904f943ce5ee0c62ddeeb1df71aa1f96983fca17d777e'),
    ('k600', '5d9a560f98fcfed08f6129dd498f97e043edf729efb3c02dd96b482d2970f9c0'),
    ('k700', 'a34c9fed41f5f9ed56d95b7d0f60ce3af073064691da8dc75dcda06f394af1c9'),
  ],
)
def test_the_official_lists_are_those_published(name, expected):
  names = sorted(label_table.load().official[name].values())
  assert hashlib.sha256('\n'.join(names).encode()).hexdigest() == expected


def test_the_slips_of_table_20_are_corrected():
  official = label_table.load().official
  assert official['k700']['filling eyebrows'] == 'filling eyebrows'
  assert 'leatherworking' not in official['k400'] and 'massaging neck' not in official['k400']
  assert official['k400']['smelling feet'] == 'sniffing'
  assert official['k600']['smelling feet'] == 'smelling feet'


def test_symbols_and_case_do_not_matter_and_synonyms_do():
  table = label_table.load()
  assert table.label_of('k600', 'Passing_American football (not in GAME)') == (
    'passing American football (not in game)'
  )
  assert table.label_of('k400', "massaging person\\'s head") == "massaging person's head"
  assert table.label_of('k400', 'dying hair') == table.label_of('k400', 'dyeing hair')
  assert table.label_of('k600', 'dying hair') is None  # Kinetics-600 does not say so.
  assert table.label_of('k600', 'vault') is None
  assert len(table.synonyms()) == 16 and table.synonyms()['tying tie'] == 'tying necktie'
  assert label_map.read_synonyms(label_table.SYNONYMS) == list(table.synonyms().items())


def test_a_merge(tmp_path, capsys):
  paths = write_lists(tmp_path)
  call(tmp_path / 'out', paths)
  out = tmp_path / 'out'
  # The newest set has the video; what is evaluated on anywhere is not trained on.
  assert (out / 'train.csv').read_text().splitlines() == [
    f'{HEADER},set',
    f'luge,{video(7)},30,40,train,k700',
    f'barbecuing,{video(9)},0,10,train,k700',
    f'hugging baby,{video(1)},0,10,train,k600',
    f'yoga,{video(6)},0,10,train,k600',
    f'vault,{video(4)},0,10,train,k400',
  ]
  assert ids(out / 'validation.csv') == [video(2), video(8), video(5)]
  assert ids(out / 'k400_train.csv') == [video(1), video(4)]
  assert (out / 'k400_train.csv').read_text().splitlines()[1].startswith('hugging,')
  assert (out / 'classes.txt').read_text().splitlines() == list(label_table.load().labels)
  assert 'hugging,hugging (not baby)' in (out / 'class_synonyms.csv').read_text().splitlines()
  changes = [tuple(r.values())[:6] for r in csv.DictReader((out / 'changes.csv').open())]
  assert changes == [
    ('renamed', 'k400', '', '', '', ''),
    ('renamed', 'k700', '', '', '', ''),
    ('evaluated on', 'k600', 'train', 'k600_train.csv', '3', video(5)),
    ('evaluated on', 'k400', 'train', 'k400_train.csv', '3', video(2)),
    ('evaluated on', 'k400', 'train', 'k400_train.csv', '4', video(3)),
    ('repeated', 'k600', 'train', 'k600_train.csv', '5', video(6)),
    ('repeated, other times', 'k600', 'train', 'k600_train.csv', '6', video(7)),
    ('repeated, other label', 'k400', 'train', 'k400_train.csv', '2', video(1)),
    ('repeated', 'k600', 'validation', 'k600_val.csv', '2', video(8)),
  ]
  printed = capsys.readouterr().out
  assert 'k400: 4 of 400 classes, train 4, validation 1, test 1\n' in printed
  assert 'k700: 3 of 700 classes, train 2, validation 2, test 0 (no test list' in printed
  assert "renamed: 2 class names, 2 clips\n  k400 'hugging' -> 'hugging (not baby)': 1" in printed
  assert 'merged: train 5, validation 3 videos\ndropped: 7 clips\n' in printed
  assert '  3 train clips evaluated on\n  1 train clips repeated\n' in printed
  assert 'train/eval overlap: 0 videos, recounted' in printed
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ['out']


def test_the_lists_are_what_build_records_takes(tmp_path):
  call(tmp_path / 'out', write_lists(tmp_path))
  for folder, number in (('k600/train/hugging baby', 1), ('k400/val/archery', 5)):
    path = tmp_path / 'videos' / folder / f'{video(number)}_000000_000010.mp4'
    path.parent.mkdir(parents=True)
    path.touch()
  classes = annotations.read_classes(tmp_path / 'out' / 'classes.txt')
  for split, number, label in (('train', 1, 'hugging baby'), ('validation', 5, 'archery')):
    read = annotation_layouts.read(
      tmp_path / 'out' / f'{split}.csv', 'kinetics', video_root=tmp_path / 'videos', classes=classes
    )
    (found,) = read.rows
    assert found.key == f'{video(number)}_000000_000010' and found.split == split
    assert found.labels == {'label': (label,)} and read.groups['label'].classes == classes


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'k400': [*LISTS['k400'], 'yoga,,0,10,train']}, r'k400_train.csv, row 6: has no youtube_id'),
    ({'k600': [*LISTS['k600'], 'yoga,#NAME?,0,10,train']}, r"row 7: .*'#NAME\?', .* formulas"),
    ({'k600': [*LISTS['k600'], 'yoga,P01_01_0,0,10,train']}, r"'P01_01_0', expected 11 letters"),
    ({'k700': [*LISTS['k700'], row('yoga', 11, 'holdout')]}, r"split is 'holdout', expected one"),
    ({'k700': [*LISTS['k700'], row('', 11)]}, r'k700_train.csv, row 4: has no label'),
    (
      {'k600': [*LISTS['k600'], row('hugging babies', 11), row('hugging babies', 12)]},
      r"row 7 \(2 in all\): 'hugging babies' is not among the 600 .*nearest: 'hugging baby'",
    ),
    (
      {'k700': [*LISTS['k700'], row('bar-bequing', 11), row('Luge', 12)]},
      r"row 4 \(1 in all\): 'bar-bequing' is not among",
    ),
    (
      {'k700': [*LISTS['k700'], row('LUGE', 12), row('barbecuing', 13)]},
      r"2 classes are spelt(.|\n)*'luge' \(k700_train.csv, row 2\) and 'LUGE' \(k700_train.csv, row 4\)"
      r"\n  'barbequing' .* and 'barbecuing'",
    ),
    (
      {'k700': [*LISTS['k700'], f'yoga,{video(11)},abc,,train']},
      r"k700_train.csv, row 4: time_start is 'abc' and time_end '', expected seconds",
    ),
    ({'k700': [*LISTS['k700'], f'yoga,{video(11)},10,10.0,train']}, r"row 4: time_start is '10' and"),
    ({'k700': [*LISTS['k700'], f'yoga,{video(11)},nan,5,val']}, r"k700_val.csv, row 2: time_start is"),
    ({'k600': LISTS['k600'][:-1]}, r"k600: no rows of split \['validation'\]"),
  ],
)  # fmt: skip
def test_mistakes_are_named_and_nothing_is_written(tmp_path, changes, message):
  with pytest.raises(DataError, match=message):
    call(tmp_path / 'out', write_lists(tmp_path, **changes))
  assert not (tmp_path / 'out').exists() and not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_test_list_needs_no_times(tmp_path):
  rows = [*LISTS['k400'], f',{video(12)},,,test']
  call(tmp_path / 'out', write_lists(tmp_path, k400=rows))
  assert len(ids(tmp_path / 'out' / 'train.csv')) == 5


def test_lists_that_would_not_be_apart_are_not_written(tmp_path):
  paths = write_lists(tmp_path)
  clips = [clip for name in LISTS for clip in kinetics_lists.read(name, paths[name])]
  tested = next(clip for clip in clips if (clip.youtube_id, clip.split) == (video(3), 'train'))
  merged = merging.merge(clips)
  # As if the merge had not known the test list.
  own = dict(merged.own_train, k400=[*merged.own_train['k400'], tested])
  held_out = {name: clip for name, clip in merged.held_out.items() if name != video(3)}
  careless = dataclasses.replace(merged, own_train=own, held_out=held_out)
  with pytest.raises(DataError, match=r"'train.csv': 0, 'k400_train.csv': 1, 'k600_train.csv': 0"):
    merging_files.write(tmp_path / 'out', careless)
  with pytest.raises(DataError, match='Nothing is left to train on'):
    merging_files.write(
      tmp_path / 'out', dataclasses.replace(merged, splits=dict(merged.splits, train=[]))
    )
  assert not [path for path in tmp_path.iterdir() if path.is_dir()]
  assert set(merging_files.write(tmp_path / 'out', merged).values()) == {0}


def test_many_mistakes_are_counted(tmp_path):
  rows = [*LISTS['k400'], *(f'yoga,,{i},10,train' for i in range(20))]
  with pytest.raises(DataError, match=r'k400: 20 mistakes(.|\n)*row 15: (.|\n)*and 10 more'):
    call(tmp_path / 'out', write_lists(tmp_path, k400=rows))


def test_files_of_another_kind_and_missing_flags(tmp_path):
  paths = write_lists(tmp_path)
  (tmp_path / 'other.csv').write_text('path,label\na.mp4,yoga\n')
  with pytest.raises(DataError, match=r"other.csv: no annotation file of Kinetics: .*'youtube_id'"):
    call(tmp_path / 'out', paths | {'k700': [str(tmp_path / 'other.csv')]})
  with pytest.raises(ConfigError, match='--k600 missing'):
    call(tmp_path / 'out', paths | {'k600': []})
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine.txt').touch()
  with pytest.raises(ConfigError, match='out is there already'):
    call(tmp_path / 'out', paths)


def test_ids_with_times_are_the_same_video(tmp_path):
  paths = write_lists(tmp_path)
  clips = [clip for name in LISTS for clip in kinetics_lists.read(name, paths[name])]
  longer = f'yoga,{video(5)}_000020_000030,20,30,train'
  (tmp_path / 'more.csv').write_text(f'{HEADER}\n{longer}\n')
  more = kinetics_lists.read('k700', [*paths['k700'], str(tmp_path / 'more.csv')])
  merged = merging.merge([*clips, more[-1]])
  assert more[-1].youtube_id == video(5) and more[-1] not in merged.splits['train']
