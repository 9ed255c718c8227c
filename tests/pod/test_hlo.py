"""HLO text: loops, collectives in them, copies in them."""

from pruner_jax.pod import hlo

TEXT = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%gather_fusion (p: bf16[8,64]) -> bf16[8,256] {
  ROOT %all-gather.1 = bf16[8,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=3, dimensions={1}
}

%gather_again (p: bf16[8,64]) -> bf16[8,256] {
  ROOT %all-gather.2 = bf16[8,256]{1,0:T(8,128)S(1)} all-gather(%p), channel_id=3, dimensions={1}
}

%inner (t: (s32[], bf16[8,256])) -> (s32[], bf16[8,256]) {
  %x = bf16[8,256]{1,0} get-tuple-element(%t), index=1
  %f = bf16[8,256]{1,0} fusion(%x), calls=%gather_fusion, metadata={op_name="jit(f)/attention/mul"}
  %g = bf16[8,256]{1,0} fusion(%x), kind=kCustom, calls=%gather_again
  %moved = bf16[8,256]{0,1:T(8,128)(2,1)} copy(%f)
  %near = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} copy(%moved)
  ROOT %back = bf16[8,256]{1,0:T(8,128)(2,1)} copy(%near)
}

%outer (t: (s32[], bf16[8,256])) -> (s32[], bf16[8,256]) {
  %w = (s32[], bf16[8,256]{1,0}) while(%t), condition=%more, body=%inner
  %start = (f32[4]{0}, f32[4]{0}, u32[]) all-reduce-start(%y), channel_id=4, to_apply=%add
  ROOT %done = f32[4]{0} all-reduce-done(%start)
}

%more (t: (s32[], bf16[8,256])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[8,256]) -> bf16[8,256] {
  %copied = bf16[8,256]{0,1} copy(%x)
  %both = (f32[2,3]{1,0}, pred[5]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  ROOT %loop = (s32[], bf16[8,256]{1,0}) while(%t), condition=%more, body=%outer
}
"""


def test_collectives_are_counted_by_channel_where_they_stand():
    found = {(one.kind, one.loops): one for one in hlo.collectives(hlo.parse(TEXT))}
    assert {key: (one.count, one.bytes) for key, one in found.items()} == {
        ("all-reduce", ()): (1, 2 * 3 * 4 + 5),
        ("all-reduce", ("outer",)): (1, 16),
        ("all-gather", ("outer", "inner")): (1, 8 * 256 * 2),
    }


def test_a_copy_counts_in_a_loop_and_from_main_memory_to_main_memory():
    module = hlo.parse(TEXT)
    assert [one.name for one in hlo.copies(module, [(8, 256)], "bf16")] == ["moved"]
    assert hlo.copies(module, [(8, 256)], "f32") == hlo.copies(module, [(256, 8)], "bf16") == []


def test_a_loop_is_known_by_the_scope_most_of_it_comes_from():
    module = hlo.parse(TEXT)
    assert hlo.usual_scope(module, "inner", ("logprob", "/attention")) == "/attention"
    assert hlo.usual_scope(module, "outer", ("logprob", "/attention")) is None
