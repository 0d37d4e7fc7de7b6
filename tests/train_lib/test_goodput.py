import time

import jax
import jax.numpy as jnp
import pytest

from train_lib.goodput import KINDS, Goodput


def test_compiling_is_taken_out_of_the_span_it_happens_in():
  with Goodput() as goodput:
    with goodput.spend('evaluating'):
      jax.jit(lambda x: jnp.tanh(x) @ x.T + 17)(jnp.ones((3, 3)))
    seconds = goodput.seconds
  assert seconds['compiling'] > 0
  assert seconds['evaluating'] >= 0
  assert set(seconds) == set(KINDS)


def test_compiling_after_the_end_is_nobodys():
  with Goodput() as goodput:
    pass
  jax.jit(lambda x: x * 19)(jnp.ones(2))
  with goodput.spend('steps'):
    pass
  assert goodput.seconds['compiling'] == 0


@pytest.mark.parametrize(('idle', 'kind'), [(True, 'data'), (False, 'steps')])
def test_waiting_counts_as_data_only_while_the_device_is_idle(idle, kind):
  def slow():
    time.sleep(0.01)
    yield 'batch'

  goodput = Goodput()
  assert goodput.wait_for_data(slow(), lambda: idle) == 'batch'
  assert {k for k, seconds in goodput.seconds.items() if seconds} == {kind}


def test_shares_are_of_the_time_since_the_last_call(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  goodput = Goodput()

  def spend(kind, seconds):
    with goodput.spend(kind):
      now[0] += seconds

  spend('steps', 3)
  spend('saving', 1)
  assert goodput.shares() == pytest.approx(
    {f'time/{k}': {'steps': 0.75, 'saving': 0.25}.get(k, 0) for k in KINDS}
  )
  spend('steps', 1)
  now[0] += 1  # In no span.
  assert goodput.shares()['time/steps'] == pytest.approx(0.5)
  assert goodput.shares()['time/saving'] == 0
  text = goodput.summary()
  assert text.startswith('6s: steps 66.7 %')
  assert text.endswith('other 16.7 %')
