from types import SimpleNamespace

import jax
import pytest

from errors import DoesNotFitError
from train_lib import aot
from train_lib.aot import Estimate, Memory, Report
from train_lib.hlo import Schedule, Traffic
from train_lib.tables import report_table
from train_lib.topologies import Chip, topology

CHIP = Chip(hbm=1000.0, flops=100.0, hbm_bandwidth=50.0, link_bandwidth=5.0, clock=10.0)
COLLECTIVES = {'all-reduce': Traffic(3, 20), 'all-gather': Traffic(1, 40)}


def test_the_roofline():
  estimate = aot.estimate(CHIP, 300.0, 100.0, Schedule(60, COLLECTIVES, 0, 0))
  # An all-reduce moves its bytes twice: (2 * 20 + 40) over both links.
  assert estimate == Estimate(
    3.0, hbm=2.0, interconnect=8.0, schedule=6.0, step=8.0, utilisation=0.375
  )


def test_a_step_is_never_faster_than_the_peak():
  estimate = aot.estimate(CHIP, 300.0, 1e9, Schedule(1, {}, kernels=5, loops=0))
  assert (estimate.step, estimate.utilisation) == (3.0, 1.0)


def compile_failing(message):
  def compile_():
    raise jax.errors.JaxRuntimeError(message)

  program = SimpleNamespace(
    train_step=SimpleNamespace(lower=lambda *_: SimpleNamespace(compile=compile_)),
    abstract_state=None,
    abstract_batch=lambda dataset: {},
  )
  return aot.compile_step(program, topology('v5e:16x16'), 'demo')


def test_what_the_compiler_says_of_memory_becomes_advice():
  message = (
    'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
    'required for HLO temporaries (16.90G) exceeds available HBM (15.75G).'
  )
  with pytest.raises(DoesNotFitError) as error:
    compile_failing(message)
  assert 'does not fit on a chip of v5e:16x16: it needs 16.90G of the 15.75G there are' in str(
    error.value
  )
  for remedy in ('fused attention', 'trunk.remat', 'mesh.fsdp', 'grad_accumulation', 'batch_size'):
    assert remedy in str(error.value)


def test_other_failures_of_the_compiler_stay_as_they_are():
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL: a bug'):
    compile_failing('INTERNAL: a bug')


def report(**changes):
  gib = 2**30
  values = {
    'topology': 'v5e:16x16',
    'chips': 256,
    'mesh': {'data': 16, 'fsdp': 16, 'tensor': 1},
    'batch_size': 512,
    'compile_seconds': 61.4,
    'memory': Memory(2 * gib, 4 * gib, 2 * gib, gib, 7 * gib, 14 * gib),
    'model_flops': 3.4e12,
    'xla_flops': 3.5e12,
    'bytes_accessed': 25 * gib,
    'collectives': {'all-gather': Traffic(28, 456_000_000)},
    'kernels': 0,
    'loops': 0,
    'estimate': Estimate(0.0171, 0.05, 0.004, 0.05, 0.05, 0.342),
  }
  return Report(**{**values, **changes})


def test_the_table():
  lines = report_table(report()).splitlines()
  assert lines[0] == 'v5e:16x16, 256 chips, data 16 x fsdp 16 x tensor 1, batch 512'
  assert lines[7] == '  peak               7.000 GiB of 14.000 GiB: fits, 50% free'
  assert '  model              3.400 TFLOP, used for utilisation' in lines
  assert '  XLA counts         3.500 TFLOP' in lines
  assert '  all-gather            28 x, 456.0 MB' in lines
  assert 'ESTIMATE, never checked on hardware' in lines
  assert lines[-1] == '  utilisation          34% of the peak'


def test_the_table_says_what_the_counts_leave_out():
  lines = report_table(report(kernels=24, loops=1)).splitlines()
  assert '  XLA counts         3.500 TFLOP (loop bodies once, kernels in part)' in lines
  assert lines[-1] == '  utilisation          34% of the peak, at most'


def test_json_has_the_free_share():
  values = report().to_json()
  assert values['fits'] is True
  assert values['memory']['free'] == 0.5
  assert values['collectives'] == {'all-gather': {'count': 28, 'bytes': 456_000_000}}
  assert values['estimate']['utilisation'] == 0.342
