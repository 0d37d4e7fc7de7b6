"""A small hand-made file of every public layout, each with a row that cannot be used."""

import json

import pytest

from datasets import annotation_layouts as layouts
from datasets import annotations
from errors import DataError


@pytest.fixture
def root(tmp_path):
  """A folder `videos` to fill with `make`."""
  (tmp_path / 'videos').mkdir()
  return tmp_path / 'videos'


def make(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write(tmp_path, content, name='annotations'):
  path = tmp_path / name
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def rows(got, group='label'):
  return [(r.number, r.path, r.labels[group], r.start, r.end, r.key, r.split) for r in got.rows]


def rejected(got):
  return [(r.number, r.path, r.reason) for r in got.rejected]


KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,---abc,10,20,train,0
"air drumming",-_x y,5,15,train,0
abseiling,gone,0,10,train,0
abseiling,bad,zero,10,train,0
,flat,7,17,train,0
abseiling,flat,7,17,validate,0
"""


def test_kinetics(tmp_path, root):
  make(
    root, 'abseiling/---abc_000010_000020.mp4', 'air_drumming/-_x y.mkv', 'flat_000007_000017.mp4'
  )
  make(root, 'other/-_x y.mp4')
  path = write(tmp_path, KINETICS)
  got = layouts.read(path, 'kinetics', video_root=root, split='train')
  assert rows(got) == [
    (2, 'abseiling/---abc_000010_000020.mp4', ('abseiling',), None, None, '---abc_000010_000020', 'train'),
    (3, 'air_drumming/-_x y.mkv', ('air drumming',), 5.0, 15.0, '-_x y_000005_000015', 'train'),
  ]  # fmt: skip
  assert rejected(got) == [
    (4, 'gone_000000_000010', f"no video named 'gone_000000_000010' or 'gone' under {root}"),
    (5, 'bad', 'time_start or time_end is wrong'),
    (6, 'flat_000007_000017.mp4', "no label in the single-label group 'label'"),
  ]
  both = layouts.read(path, 'kinetics', video_root=root)
  assert [(row.number, row.split) for row in both.rows] == [(2, 'train'), (3, 'train'), (7, 'validation')]  # fmt: skip
  assert both.groups['label'].classes == ('abseiling', 'air drumming')
  cut = layouts.read(path, 'kinetics', video_root=root, split='train', trimmed=True)
  assert [(row.start, row.end) for row in cut.rows] == [(None, None), (None, None)]
  assert cut.rows[1].key == '-_x y_000005_000015'
  with pytest.raises(DataError, match=r"no split 'test'; it has \['train', 'validation'\]"):
    layouts.read(path, 'kinetics', video_root=root, split='test')


def test_moments_in_time(tmp_path, root):
  make(root, 'training/run/yt-a.b_1.mp4', 'training/jump/getty_2.mp4', 'training/run/getty_2.mp4')
  path = write(
    tmp_path,
    'run/yt-a.b_1.mp4,run,4,0\njump/getty_2.mp4,jump,3,1\nrun/none.mp4,run,3,0\nbroken\n'
    'run/yt-a.b_1.mp4,fly,3,0\n',
  )
  classes = layouts.read_classes(write(tmp_path, 'run,1\njump,0\n', 'c.txt'), 'moments_in_time')
  assert classes == ('jump', 'run')
  got = layouts.read(path, 'moments_in_time', video_root=root, classes=classes)
  assert rows(got) == [
    (1, 'training/run/yt-a.b_1.mp4', ('run',), None, None, 'training/run/yt-a.b_1.mp4', ''),
    (2, 'training/jump/getty_2.mp4', ('jump',), None, None, 'training/jump/getty_2.mp4', ''),
  ]
  assert [(r.number, r.reason) for r in got.rejected] == [
    (3, f"no video named 'none' under {root}"),
    (4, 'expected CLASS/NAME.mp4,CLASS[,votes]'),
    (5, "'fly' is not among the 2 classes of 'label'"),
  ]


def test_ssv2(tmp_path, root):
  make(root, '78687.webm', '12.webm', '13.webm')
  entries = [
    {
      'id': '78687',
      'label': 'putting cup, red, onto table',
      'template': 'Putting [something] onto [something]',
      'placeholders': ['cup, red,', 'table'],
    },
    {'id': '12', 'label': 'opening box', 'template': 'Opening [something]'},
    {'id': '13', 'label': 'opening box'},
    {'id': '14', 'template': 'Opening [something]'},
    7,
  ]
  names = {'Putting something onto something': '0', 'Opening something': '1'}
  classes = layouts.read_classes(write(tmp_path, names, 'labels.json'), 'ssv2')
  assert classes == ('Putting something onto something', 'Opening something')
  path = write(tmp_path, entries)
  got = layouts.read(path, 'ssv2', video_root=root, classes=classes)
  assert rows(got) == [
    (1, '78687.webm', ('Putting something onto something',), None, None, '78687.webm', ''),
    (2, '12.webm', ('Opening something',), None, None, '12.webm', ''),
  ]
  assert [(r.number, r.path) for r in got.rejected] == [(3, '13'), (4, '14'), (5, '')]
  with pytest.raises(DataError, match='test set, whose labels are withheld'):
    layouts.read(write(tmp_path, [{'id': '1'}]), 'ssv2', video_root=root)


EPIC = """uid,narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,\
start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
0,P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,1,\
"['door', 'cup']","[1, 2]"
1,P01_01_1,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,take cup,take,0,cup,299,['cup'],[2]
2,P01_01_2,P01,P01_01,00:00:01.089,01:00:00.00,00:00:03.37,8,202,take cup,take,0,cup,2,['cup'],[2]
3,P01_01_3,P01,P01_01,00:00:01.089,00:00:00.14,00:00:04.00,8,202,take cup,take,97,cup,2,['cup'],[2]
4,P01_01_1,P01,P01_01,00:00:01.089,00:00:09.14,00:00:10.00,8,202,take cup,take,0,cup,2,['cup'],[2]
5,P02_01_0,P02,P02_01,00:00:01.089,00:00:09.14,00:00:10.00,8,202,take cup,take,0,cup,2,['cup'],[2]
"""


def test_epic_kitchens(tmp_path, root):
  make(root, 'P01/videos/P01_01.MP4')
  path = write(tmp_path, EPIC)
  got = layouts.read(path, 'epic_kitchens', video_root=root)
  where = 'P01/videos/P01_01.MP4'
  assert rows(got, 'verb') == [
    (2, where, ('verb 3',), 0.14, 3.37, 'P01_01_0', ''),
    (3, where, ('verb 0',), 0.14, 3.37, 'P01_01_1', ''),  # The same seconds, another action.
  ]
  assert [row.labels['noun'] for row in got.rows] == [('noun 1',), ('noun 299',)]
  assert {name: len(group.classes) for name, group in got.groups.items()} == {
    'verb': 97,
    'noun': 300,
  }
  assert [(r.number, r.reason) for r in got.rejected] == [
    (4, 'end (3.37 s) is not after start (3600 s)'),
    (5, "verb class is '97', expected 0 to 96"),
    (6, "same key 'P01_01_1' as row 3"),
    (7, f"no video named 'P02_01' under {root}"),
  ]


def test_epic_kitchens_class_names(tmp_path, root):
  make(root, 'P01_01.mp4')
  text = (
    "id,key,instances,category\n1,put,\"['put', 'place']\",leave\n0,take,\"['take']\",retrieve\n"
  )
  verbs = layouts.read_classes(write(tmp_path, text, 'v.csv'), 'epic_kitchens')
  assert verbs == ('take', 'put')
  got = layouts.read(
    write(tmp_path, EPIC), 'epic_kitchens', video_root=root, classes={'verb': verbs}
  )
  assert [(r.labels['verb'], r.labels['noun']) for r in got.rows] == [(('take',), ('noun 299',))]
  assert got.rejected[0].reason == "verb class is '3', expected 0 to 1"
  assert len(got.groups['noun'].classes) == 300
  unlabelled = 'narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n'
  with pytest.raises(DataError, match=r'no labels, as published test sets have none'):
    layouts.read(write(tmp_path, unlabelled), 'epic_kitchens', video_root=root)


ACTIVITYNET = {
  'version': 'VERSION 1.3',
  'database': {
    'aa': {
      'subset': 'training',
      'duration': 60.5,
      'annotations': [
        {'label': 'Long jump', 'segment': [1.5, 9]},
        {'label': 'Long jump', 'segment': [20, 30.25]},
        {'label': 'Long jump', 'segment': [1.5, 9]},
        {'label': 'Long jump', 'segment': [40]},
      ],
    },
    'bb': {
      'subset': 'validation',
      'annotations': [{'label': 'Archery', 'segment': ['0', '5']}],
    },
    'cc': {'subset': 'testing', 'annotations': []},
    'dd': {'subset': 'training', 'annotations': [{'label': 'Archery', 'segment': [5, 2]}]},
  },
}


def test_activitynet(tmp_path, root):
  make(root, 'v_aa.mp4', 'bb.mkv', 'v_cc.mp4', 'v_dd.webm')
  path = write(tmp_path, ACTIVITYNET)
  got = layouts.read(path, 'activitynet', video_root=root)
  assert rows(got) == [
    (1, 'v_aa.mp4', ('Long jump',), 1.5, 9.0, 'v_aa.mp4@1.5-9', 'train'),
    (1, 'v_aa.mp4', ('Long jump',), 20.0, 30.25, 'v_aa.mp4@20-30.25', 'train'),
    (2, 'bb.mkv', ('Archery',), 0.0, 5.0, 'bb.mkv@0-5', 'validation'),
  ]
  assert rejected(got) == [
    (1, 'v_aa.mp4', 'same path, start and end as row 1'),
    (1, 'aa', "expected a label and a segment [start, end], found {'label': 'Long jump', 'segment': [40]}"),
    (3, 'cc', 'no annotated segment (the labels of the test set are withheld)'),
    (4, 'v_dd.webm', 'end (2 s) is not after start (5 s)'),
  ]  # fmt: skip
  only = layouts.read(path, 'activitynet', video_root=root, split='val')
  assert [row.number for row in only.rows] == [2]
  assert only.rejected == ()
  with pytest.raises(DataError, match='withheld'):
    layouts.read(path, 'activitynet', video_root=root, split='test')


def test_hacs_clips_and_segments(tmp_path, root):
  make(root, 'Archery/v_aa.mp4', 'Long_jump/v_aa.mp4', 'bb.mp4')
  text = (
    'classname,youtube_id,subset,start,end,label\n'
    'Long jump,aa,training,15.5,17.5,1\n'
    'Archery,bb,training,77.5,79.5,-1\n'
    'Archery,bb,training,1.0,3.0,0\n'
    'Archery,bb,validation,1.0,3.0,1\n'
  )
  got = layouts.read(write(tmp_path, text), 'hacs', video_root=root)
  assert rows(got) == [
    (2, 'Long_jump/v_aa.mp4', ('Long jump',), 15.5, 17.5, 'Long_jump/v_aa.mp4@15.5-17.5', 'train'),
    (5, 'bb.mp4', ('Archery',), 1.0, 3.0, 'bb.mp4@1-3', 'validation'),
  ]
  assert rejected(got) == [(4, 'bb', "label is '0', expected 1 or -1")]
  segments = layouts.read(write(tmp_path, ACTIVITYNET), 'hacs', video_root=root, split='train')
  assert [(row.path, row.start) for row in segments.rows] == [
    ('Long_jump/v_aa.mp4', 1.5),
    ('Long_jump/v_aa.mp4', 20.0),
  ]


CHARADES = """id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length
46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking. ""Ha"".",food;stove,Cooks.,\
c092 11.90 21.20;c147 0.00 12.60;c092 25.0 30.0,30.46
N11GT,0KZ7,Kitchen,6,6,Yes,Still.,,,,21.00
AAAAA,0KZ7,Kitchen,6,6,Yes,Still.,,,c157 0.00 1.00,21.00
BBBBB,0KZ7,Kitchen,6,6,Yes,Still.,,,92 0.00 1.00,21.00
"""


def test_charades(tmp_path, root):
  make(root, '46GP8.mp4', 'N11GT.mp4')
  path = write(tmp_path, CHARADES)
  got = layouts.read(path, 'charades', video_root=root)
  assert rows(got) == [
    (2, '46GP8.mp4', ('c092', 'c147'), None, None, '46GP8.mp4', ''),
    (3, 'N11GT.mp4', (), None, None, 'N11GT.mp4', ''),
  ]
  assert got.groups['label'].multi_label
  assert len(got.groups['label'].classes) == 157
  assert [r.reason for r in got.rejected] == [
    "label class is '157', expected 0 to 156",
    "actions hold ['92'], expected c000 START END;...",
  ]
  lines = ''.join(f'c{i:03d} action {i}\n' for i in range(157))
  names = layouts.read_classes(write(tmp_path, lines, 'c.txt'), 'charades')
  named = layouts.read(path, 'charades', video_root=root, classes=names)
  assert named.rows[0].labels == {'label': ('action 92', 'action 147')}


SAMPLES = {
  'kinetics': KINETICS,
  'moments_in_time': 'run/a.mp4,run,4,0\n',
  'ssv2': [{'id': '1', 'template': 'Opening [something]'}],
  'epic_kitchens': EPIC,
  'activitynet': ACTIVITYNET,
  'hacs': 'classname,youtube_id,subset,start,end,label\nArchery,a,training,1,2,1\n',
  'charades': CHARADES,
}


@pytest.mark.parametrize(
  ('layout', 'sample'),
  [
    (layout, sample)
    for layout in layouts.LAYOUTS
    for sample in SAMPLES
    if layout != sample and (layout, sample) != ('hacs', 'activitynet')  # HACS Segments is alike.
  ],
)
def test_another_layout_is_one_error(tmp_path, root, layout, sample):
  make(root, 'a.mp4')
  path = write(tmp_path, SAMPLES[sample])
  with pytest.raises(
    DataError, match=f"{path}: not of layout '{layout}': found .*, wanted "
  ) as got:
    layouts.read(path, layout, video_root=root)
  csv = {'kinetics', 'epic_kitchens', 'hacs', 'charades'}
  if {layout, sample} <= csv:
    assert str(got.value).endswith(f' It looks like layout {sample!r}.')


def test_every_layout_has_a_sample_and_a_description():
  assert set(SAMPLES) == set(layouts.LAYOUTS)
  assert all(30 < len(layout.description) < 100 for layout in layouts.LAYOUTS.values())


def test_unknown_layout_and_empty_video_folder(tmp_path, root):
  path = write(tmp_path, KINETICS)
  with pytest.raises(DataError, match="layout 'ucf' is unknown; known: kinetics, moments_in_time"):
    layouts.read(path, 'ucf', video_root=root)
  with pytest.raises(DataError, match='no videos'):
    layouts.read(path, 'kinetics', video_root=root)


@pytest.mark.parametrize(
  ('layout', 'content', 'says'),
  [
    ('ssv2', '["a"]', 'not the class file'),
    ('ssv2', '{"a": "0", "b": "2"}', r'numbered 0 to 1, each once; found \[0, 2\]'),
    ('epic_kitchens', 'a\nb\n', 'not the class file'),
    ('charades', 'c000 a\nc000 b\n', 'numbered 0 to 1'),
    ('charades', 'c000\n', 'not the class file'),
    ('moments_in_time', 'run\n', 'not the class file'),
    ('moments_in_time', 'run,0\nrun,1\n', 'names repeat'),
    ('kinetics', 'a\na\n', 'names repeat'),
  ],
)
def test_class_files_of_another_kind(tmp_path, layout, content, says):
  with pytest.raises(DataError, match=says):
    layouts.read_classes(write(tmp_path, content), layout)


def test_rows_are_the_types_the_converter_takes(tmp_path, root):
  make(root, 'a_000007_000017.mp4')
  text = 'label,youtube_id,time_start,time_end,split\nrun,a,7,17,train\n'
  got = layouts.read(write(tmp_path, text), 'kinetics', video_root=root)
  assert got == annotations.Annotations(
    {'label': annotations.LabelGroup(('run',))},
    (
      annotations.Row(
        2, 'a_000007_000017.mp4', {'label': ('run',)}, 'a_000007_000017', split='train'
      ),
    ),
  )
