"""The catalogue against the papers, and against the code that its entries name."""

from datasets import annotation_layouts, annotations, ava_csv, demo
from datasets.catalogue import DATASETS, TABLE_10, TABLE_10_ORIGINAL

# UniFormerV2, Table 10: training and validation samples, seconds, actions.
TABLE = {
  'kinetics710': (658_340, 66_803, 10, 710),
  'kinetics400': (240_436, 19_787, 10, 400),
  'kinetics600': (366_006, 27_935, 10, 600),
  'kinetics700': (529_573, 33_861, 10, 700),
  'moments_in_time': (802_244, 33_899, 3, 339),
  'ssv1': (86_017, 11_522, 4.0, 174),
  'ssv2': (168_913, 24_777, 4.0, 174),
  'activitynet': (10_024, 4_926, 117, 200),
  'hacs': (37_452, 5_953, 149, 200),
}
ORIGINAL = {
  'kinetics400': (246_245, 20_000),
  'kinetics600': (392_622, 30_000),
  'kinetics700': (545_317, 35_000),
  'moments_in_time': (802_264, 33_900),
}


def stated(name, source):
  found = [s for s in DATASETS[name].sizes if s.source.removesuffix(', videos') == source]
  assert len(found) == 1, name
  return found[0].train, found[0].validation


def test_table_10():
  for name, (train, validation, seconds, actions) in TABLE.items():
    assert stated(name, TABLE_10) == (train, validation)
    assert DATASETS[name].seconds == seconds
    assert DATASETS[name].tasks == {'label': actions}
  for name, sizes in ORIGINAL.items():
    assert stated(name, TABLE_10_ORIGINAL) == sizes


def test_sizes_tools_assume_without_data():
  assert {name: d.train_examples for name, d in DATASETS.items() if name in (
    'kinetics400', 'kinetics600', 'moments_in_time', 'epic_kitchens', 'ssv2', 'demo',
  )} == {
    'kinetics400': 214_834,
    'kinetics600': 363_213,
    'moments_in_time': 791_297,
    'epic_kitchens': 67_217,
    'ssv2': 168_913,
    'demo': 1600,
  }  # fmt: skip
  assert DATASETS['epic_kitchens'].tasks == {'verb': 97, 'noun': 300}
  assert DATASETS['demo'].tasks == {demo.GROUP: len(demo.CLASSES)}
  assert all(d.source and d.annotations and d.flip.reason for d in DATASETS.values())
  assert len(DATASETS) == 16


def test_what_multitrain_trains_on():
  classes = {'kinetics400': 400, 'kinetics700': 700, 'moments_in_time_v2': 305, 'ssv2': 174}
  for name, count in {**classes, 'activitynet': 200}.items():
    dataset = DATASETS[name]
    assert dataset.tasks == {'label': count}
    assert any('MultiTrain' in size.source for size in dataset.sizes)
    assert ('MultiTrain', 3, 3) in {(v.paper, v.temporal, v.spatial) for v in dataset.views}


def test_layouts_are_those_that_exist_and_give_the_stated_groups():
  named = {dataset.layout for dataset in DATASETS.values()} - {''}
  assert named == {*annotation_layouts.LAYOUTS, *ava_csv.LAYOUTS}
  for dataset in DATASETS.values():
    if dataset.layout in ava_csv.LAYOUTS:
      assert list(dataset.tasks) == [annotations.GROUP]
    elif dataset.layout:
      groups = annotation_layouts.LAYOUTS[dataset.layout].groups
      assert list(groups) == list(dataset.tasks)
      for name, group in groups.items():
        assert not group.classes or len(group.classes) == dataset.tasks[name]


def test_views():
  views = {
    name: {(v.paper, v.temporal, v.spatial) for v in DATASETS[name].views} for name in DATASETS
  }
  assert {('ViViT', 4, 1), ('ViViT', 4, 3), ('UniFormerV2', 4, 3), ('MultiTrain', 3, 3)} <= views[
    'kinetics400'
  ]
  assert {('UniFormerV2', 1, 3), ('MultiTrain', 3, 3), ('co-finetuning', 1, 1)} <= views['ssv2']
  assert views['ava'] == {('co-finetuning', 1, 1)}


def test_flips():
  rules = {name: dataset.flip.rule for name, dataset in DATASETS.items()}
  assert set(rules.values()) <= {'keep', 'swap', 'never'}
  assert {name for name, rule in rules.items() if rule == 'swap'} == {'ssv1', 'ssv2', 'demo'}
  for dataset in DATASETS.values():
    assert bool(dataset.flip.pairs) == (dataset.flip.rule == 'swap')
    names = [name for pair in dataset.flip.pairs for name in pair]
    assert len(set(names)) == len(names)
  assert len(DATASETS['ssv2'].flip.pairs) == 3
  for one, other in DATASETS['ssv2'].flip.pairs:
    swapped = one.replace('left', '*').replace('right', 'left').replace('*', 'right')
    assert swapped == other
  assert {name for pair in DATASETS['demo'].flip.pairs for name in pair} <= set(demo.CLASSES)
