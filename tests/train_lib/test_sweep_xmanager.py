"""Sweeps as XManager experiments: built, and run by its local executor; `make test-xmanager`."""

import sys
from pathlib import Path

import pytest
from absl import flags

from train_lib import sweep, sweep_runs, sweep_xmanager

xm_local = pytest.importorskip('xmanager.xm_local')
xm = pytest.importorskip('xmanager.xm')

STUB = """
import sys, time
from pathlib import Path
workdir = Path(sys.argv[2].partition('=')[2])
with open(workdir.parents[1] / 'order', 'a') as file:
  file.write(workdir.parent.name + ' ')
sys.exit(3 if 'bad' in str(workdir) else 0)
"""


def planned(out):
  def rows(add):
    first = add({}, name='first')
    bad = add({'size': 1}, name='bad', after=[first])
    add({'size': 2}, name='after_bad', after=[bad])
    add({'size': 3}, name='there', init_from=first)

  def resolve(file, overrides):
    start = {'path': overrides.get('init_from.path', '')}
    return {'file': file, 'seed': 0, 'size': int(overrides.get('size', 0)), 'init_from': start}

  described = sweep.Description('a.py', rows, {}, (), None, out, None)
  return sweep_runs.plan(described, out, resolve, config='demo.py')


def test_a_run_is_a_job_of_this_python(tmp_path):
  run = planned(tmp_path)[3]
  executor = xm_local.Local()
  packageable = sweep_xmanager.specification(executor)
  assert isinstance(packageable, xm.Packageable)
  assert packageable.executable_spec == xm.Binary(path=sys.executable)
  job = sweep_xmanager.job(run, packageable, executor, 'main.py')
  assert isinstance(job, xm.Job)
  assert job.name == 'there-seed0'
  assert job.args.to_list(str) == [
    str(Path('main.py').absolute()),
    '--config=demo.py',
    f'--workdir={tmp_path}/there/seed0',
    '--config.size=3',
    f'--config.init_from.path={tmp_path}/first/seed0',
    '--config.seed=0',
  ]


def test_an_experiment_runs_in_order_and_names_what_failed(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  if not flags.FLAGS.is_parsed():  # As every command has them.
    flags.FLAGS.mark_as_parsed()
  stub = tmp_path / 'stub.py'
  stub.write_text(STUB)
  runs = planned(tmp_path)
  bad = sweep_xmanager.run_all(runs, (), tmp_path, 1, str(stub))
  assert (tmp_path / 'order').read_text().split() == ['first', 'bad', 'there']
  assert bad[runs[1].workdir][0] == 'failed'
  assert bad[runs[2].workdir] == ('skipped', f'{runs[1].workdir} failed')
  assert set(bad) == {runs[1].workdir, runs[2].workdir}
