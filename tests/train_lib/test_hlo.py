"""Small HLO texts in the form that the TPU compiler gives them."""

import pytest

from train_lib import hlo
from train_lib.hlo import Traffic


def cycles(number: int) -> str:
  return f'backend_config={{"flag_configs":[],"estimated_cycles":"{number}"}}'


LOOP = f"""HloModule jit_step, is_scheduled=true

%fused_bound (param_0: s32[]) -> pred[] {{
  %constant.1 = s32[]{{:T(128)}} constant(12)
  %param_0 = s32[]{{:T(128)}} parameter(0)
  ROOT %lt.1 = pred[]{{:T(512)}} compare(%param_0, %constant.1), direction=LT
}}

%condition.1 (param: (s32[], f32[8])) -> pred[] {{
  %param = (s32[]{{:T(128)}}, f32[8]{{0:T(128)}}) parameter(0)
  %counter = s32[]{{:T(128)}} get-tuple-element(%param), index=0
  ROOT %fusion.9 = pred[]{{:T(512)}} fusion(%counter), kind=kLoop, calls=%fused_bound
}}

%inner_condition (param.1: (s32[], f32[8])) -> pred[] {{
  %constant.2 = s32[]{{:T(128)}} constant(3)
  ROOT %lt.2 = pred[]{{:T(512)}} compare(%counter.1, %constant.2), direction=LT
}}

%inner_body (param.2: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %all-reduce.1 = f32[8]{{0:T(128)S(1)}} all-reduce(%x), channel_id=7, to_apply=%add, {cycles(10)}
}}

%body.1 (param.3: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %copy.1 = f32[8]{{0:T(128)}} copy(%y), {cycles(100)}
  %while.2 = (s32[], f32[8]{{0}}) while(%tuple.2), condition=%inner_condition, body=%inner_body
}}

ENTRY %main.1 (param.4: f32[8]) -> f32[8] {{
  %copy.2 = f32[8]{{0:T(128)}} copy(%param.4), {cycles(1000)}
  %while.1 = (s32[], f32[8]{{0}}) while(%tuple.1), condition=%condition.1, body=%body.1, metadata={{op_name="a"}}
  ROOT %all-gather.1 = bf16[64,4]{{1,0:T(8,128)(2,1)}} all-gather(%z), channel_id=9, {cycles(5)}
}}
"""


def test_loops_are_multiplied_out():
  schedule = hlo.schedule(LOOP)
  assert schedule.cycles == 1000 + 5 + 12 * (100 + 3 * 10)
  assert schedule.loops == 2
  assert schedule.kernels == 0
  assert schedule.collectives == {
    'all-gather': Traffic(1, 64 * 4 * 2),
    'all-reduce': Traffic(36, 36 * 8 * 4),
  }


OVERLAPPED = """HloModule jit_step, is_scheduled=true

%fused_start (p: bf16[16,128]) -> (bf16[16,128], bf16[64,128]) {
  %all-gather.1 = bf16[64,128]{1,0} all-gather(%p), channel_id=36, dimensions={0}
  ROOT %custom-call.1 = (bf16[16,128]{1,0}, bf16[64,128]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%inner_step (p.1: bf16[16,128]) -> bf16[64,128] {
  %all-gather.2 = bf16[64,128]{1,0} all-gather(%p.1), channel_id=36, dimensions={0}
}

%async_collective_fusion.1 (p.2: bf16[16,128]) -> bf16[64,128] {
  %fusion.9 = bf16[64,128]{1,0} fusion(%p.2), kind=kLoop, calls=%inner_step
}

%all-reduce-scatter.1 (i: f32[64], j: bf16[8,2]) -> (f32[16], bf16[2,2]) {
  %all-reduce.1 = (f32[64]{0}, /*index=1*/bf16[8,2]{1,0}) all-reduce(%i, %j), channel_id=1, to_apply=%add
}

%all-reduce-scatter.2 (k: f32[64]) -> f32[16] {
  %all-reduce.2 = f32[64]{0} all-reduce(%k), channel_id=1, to_apply=%add
}

ENTRY %main.1 (param: bf16[16,128]) -> f32[] {
  %async-collective-start = (bf16[16,128]{1,0}) fusion(%param), kind=kLoop, calls=%fused_start
  %fusion.1 = bf16[64,128]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.1
  %fusion.2 = (f32[16]{0}, bf16[2,2]{1,0}) fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  %fusion.3 = f32[16]{0} fusion(%c), kind=kCustom, calls=%all-reduce-scatter.2
  %collective-permute-start.1 = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%d), channel_id=2
  %collective-permute-done.1 = f32[4]{0} collective-permute-done(%collective-permute-start.1)
  %all-reduce.3 = f32[] all-reduce(%e), channel_id=1, to_apply=%add
  ROOT %all-reduce.4 = f32[] all-reduce(%f), channel_id=1, to_apply=%add
}
"""


def test_an_overlapped_collective_counts_once_and_a_reduce_scatter_is_recognised():
  assert hlo.schedule(OVERLAPPED).collectives == {
    'all-gather': Traffic(1, 64 * 128 * 2),
    'all-reduce': Traffic(2, 8),
    'reduce-scatter': Traffic(2, 64 * 4 + 8 * 2 * 2 + 64 * 4),
    'collective-permute': Traffic(1, 16),
  }


KERNELS = """HloModule jit_step, is_scheduled=true

%branch_0 (p: f32[4]) -> f32[4] {
  %custom-call.1 = f32[4]{0} custom-call(%p), custom_call_target="tpu_custom_call", kernel_metadata={
"name": {
}}
  %copy.1 = f32[4]{0} copy(%q), backend_config={"estimated_cycles":"7"}
}

%branch_1 (p.1: f32[4]) -> f32[4] {
  ROOT %copy.2 = f32[4]{0} copy(%p.1), backend_config={"estimated_cycles":"20"}
}

ENTRY %main.1 (param: f32[4]) -> f32[4] {
  %custom-call.2 = f32[4]{0} custom-call(%param), custom_call_target="AllocateBuffer"
  %conditional.1 = f32[4]{0} conditional(%i, %a, %b), branch_computations={%branch_0, %branch_1}
  ROOT %call.1 = f32[4]{0} call(%conditional.1), to_apply=%branch_1
}
"""


def test_kernels_are_counted_and_every_branch_adds_up():
  schedule = hlo.schedule(KERNELS)
  assert schedule.kernels == 1
  assert schedule.cycles == 7 + 20 + 20
  assert schedule.loops == 0
  assert schedule.collectives == {}


def test_a_loop_whose_bound_is_computed_counts_once():
  text = LOOP.replace('constant(12)', 'parameter(1)')
  assert hlo.schedule(text).cycles == 1000 + 5 + 100 + 3 * 10


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ('f32[2,3]{1,0:T(8,128)}', 24),
    ('(f32[2,3]{1,0}, bf16[], pred[5]{0:S(2)})', 24 + 2 + 5),
    ('f8e4m3fn[4]{0}', 4),
    ('s4[3]{0}', 2),
    ('u32[]{:S(2)}', 4),
    ('()', 0),
  ],
)
def test_bytes_of_shapes(shape, size):
  assert hlo.array_bytes(shape) == size


def test_another_text_is_an_error():
  with pytest.raises(ValueError, match='no ENTRY computation'):
    hlo.schedule('module @jit_step {\n}\n')
