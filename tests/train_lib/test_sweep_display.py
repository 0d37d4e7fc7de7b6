"""What a person sees of a sweep."""

import io
from pathlib import Path

from rich.console import Console

from train_lib.sweep_display import Display
from train_lib.sweep_local import Job
from train_lib.sweep_runs import Run
from train_lib.sweep_states import Found


def jobs():
  runs = [
    Run(
      name, ('Table 1',), seed, True, {}, 'demo.py', {}, {}, Path('out') / name / f'seed{seed}', ()
    )
    for name in ('wide', 'narrow')
    for seed in (0, 1)
  ]
  made = [Job(run, Found(finished=i == 0, step=40 * (i == 0))) for i, run in enumerate(runs)]
  made[1].state, made[1].why = 'failed', 'DataError: no such clip'
  made[2].state = 'running'
  made[2].seen.read(['step 1,200/1,600 | loss 0.5 | top1/motion 0.75 | lr 0.1 | ETA 4s'])
  return made


def test_changes_are_lines_where_nobody_watches(capsys):
  with Display(Console(file=io.StringIO())) as display:
    made = jobs()
    display.show(made)
    display.show(made)
    made[2].state = 'finished'
    display.show(made)
  assert capsys.readouterr().out.splitlines() == [
    '[1/4] wide, seed 0 finished before',
    '[2/4] wide, seed 1 failed: DataError: no such clip',
    '[3/4] narrow, seed 0 running',
    '[3/4] narrow, seed 0 finished in 0s | loss 0.5 | top1/motion 0.75',
  ]


def test_a_terminal_gets_a_table():
  console = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)
  with Display(console) as display:
    display.show(jobs())
  words = [line.split() for line in console.file.getvalue().splitlines()]
  assert ['Table', '1/wide', '0', 'finished', '40/40'] in words
  assert ['Table', '1/wide', '1', 'failed', 'DataError:', 'no', 'such', 'clip'] in words
  assert ['Table', '1/narrow', '1', 'queued'] in words
  running = next(line for line in words if 'running' in line)
  assert running[2:5] == ['0', 'running', '1,200/1,600']
  assert running[-1] == '4s'
