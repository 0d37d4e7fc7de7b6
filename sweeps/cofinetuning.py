"""Tables 1 to 4 of Beyond Transfer Learning in small: `make ablations-cofinetuning`.

*actors* is the detection dataset, in AVA's place; *actions*, *stars* and *comets* are clips of one actor each, in the
place of Kinetics, Moments in Time and Something-Something. They have motions in common under other names
and looks, see `datasets/demo_actors.py` and `demo_relations.py`. Rows train as many epochs in every stage, of what that
stage trains on, so that `a -> b` takes as many steps as `a + b`.
"""

from configs.cofinetune import demo
from datasets import demo_actors, demo_relations

DATA = 'data/ablations_cofinetuning'
METRICS = {
  'mAP': 'mAP/actors',
  'head': 'mAP_head/actors',
  'mid': 'mAP_mid/actors',
  'tail': 'mAP_tail/actors',
  'top-1 of actions': 'top1/actions',
  'top-1 of stars': 'top1/stars',
}

ONE, TWO = 'Table 1: one upstream dataset', 'Table 2: two upstream datasets'
MORE, SAMPLING = 'Table 3: more datasets', 'Table 4: how minibatches are drawn'

CLAIMS = [
  ('actions + actors', 'actions -> actors', 'mAP', ONE),
  ('actions + actors', 'actions', 'top-1 of actions', ONE),
  ('actions + stars + actors', 'actions -> stars -> actors', 'mAP', TWO),
  ('actions + stars + actors', 'stars -> actions -> actors', 'mAP', TWO),
  ('actions + stars + actors', 'stars -> actions', 'top-1 of actions', TWO),
  ('actions + stars + actors', 'actions -> stars', 'top-1 of stars', TWO),
  ('actions + stars + actors', 'actions + actors', 'mAP', MORE),
  ('actions + stars + comets + actors', 'actions + stars + actors', 'mAP', MORE),
  ('actions + stars + comets + actors', 'actions -> actors', 'mAP', MORE),
  ('actions + stars + comets + actors', 'actions -> actors', 'tail', MORE),
  ('actions + stars + actors', 'alternating', 'mAP', SAMPLING),
  ('actions + stars + actors', 'alternating', 'top-1 of actions', SAMPLING),
  ('actions + stars + actors', 'alternating', 'top-1 of stars', SAMPLING),
]

SEEDS, EPOCHS = (1, 2, 3), 20  # Seed 0 is for choosing sizes and epochs.


def prepare(folder):
  """Writes the four datasets."""
  demo_actors.write_actions(folder / 'actions', train=480, test=160)
  demo_actors.write_actors(folder / 'actors', train=160, test=240)
  for name in ('stars', 'comets'):
    demo_relations.write(folder / name, name, train=160, test=160)


def sweep(add):
  """The rows of the four tables."""

  def row(datasets, group, start=None, sampling='weighted', name=''):
    changes = {f'datasets.{each}.dir': str(add.data / each) for each in datasets}
    if 'actors' in datasets:
      groups = add.data / 'actors' / demo_actors.GROUPS_FILE
      changes['tasks.actors.protocol.class_groups'] = str(groups)
    stage = '+'.join(datasets)
    return add(
      changes,
      name=name or ' + '.join(datasets),
      group=group,
      config=f'configs/cofinetune/demo.py:stage={stage},sampling={sampling},epochs={EPOCHS}',
      seeds=SEEDS,
      init_from=start,
    )

  actions = row(['actions'], ONE)
  row(['actors'], (ONE, MORE), actions, name='actions -> actors')
  row(['actions', 'actors'], (ONE, MORE))
  actions_stars = row(['stars'], TWO, actions, name='actions -> stars')
  stars = row(['stars'], TWO)
  stars_actions = row(['actions'], TWO, stars, name='stars -> actions')
  row(['actors'], TWO, actions_stars, name='actions -> stars -> actors')
  row(['actors'], TWO, stars_actions, name='stars -> actions -> actors')
  three = ['actions', 'stars', 'actors']
  row(three, (TWO, MORE, SAMPLING))
  row([*demo.CLIPS, 'actors'], MORE)
  row(three, SAMPLING, sampling='alternating', name='alternating')
