"""Bytes of main memory that a round of a loop moves: of a text, and of decode blocks for TPUs."""

import pytest

from pruner_jax.pod import accessed, hlo
from pruner_jax.run import traffic

TEXT = """HloModule jit_f, is_scheduled=true

%rows_of (table: bf16[1000,128], at: s32[16]) -> bf16[16,128] {
  %table = bf16[1000,128]{1,0:T(8,128)(2,1)} parameter(0)
  %at = s32[16]{0:T(128)S(1)} parameter(1)
  ROOT %taken = bf16[16,128]{1,0:T(8,128)(2,1)} gather(%table, %at), offset_dims={1}
}

%in_place (old: f32[64,128], new: f32[1,128], i: s32[]) -> f32[64,128] {
  %old = f32[64,128]{1,0:T(8,128)} parameter(0)
  %new = f32[1,128]{1,0:T(1,128)S(1)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  ROOT %put = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%old, %new, %i, %i)
}

%named (p: bf16[4,64]) -> bf16[4,64] {
  ROOT %p = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
}

%product (x: bf16[4,64], w: bf16[64,256]) -> f32[4,256] {
  %x = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %same = bf16[4,64]{1,0:T(8,128)(2,1)} fusion(%x), kind=kLoop, calls=%named
  ROOT %y = f32[4,256]{1,0:T(8,128)S(1)} convolution(%same, %w), dim_labels=bf_io->bf
}

%body (t: (bf16[1000,128], f32[64,128], bf16[4,64], bf16[64,256])) -> (bf16[1000,128]) {
  %t = (bf16[1000,128]{1,0:T(8,128)(2,1)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %table = bf16[1000,128]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=0
  %old = f32[64,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %x = bf16[4,64]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=2
  %w = bf16[64,256]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=3
  %at = s32[16]{0:T(128)S(1)} iota(), iota_dimension=0
  %fetch = (bf16[64,256]{1,0:T(8,128)S(1)}, bf16[64,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %near = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %taken = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} fusion(%table, %at), kind=kCustom, calls=%rows_of
  %new = f32[1,128]{1,0:T(1,128)S(1)} slice(%taken), slice={[0:1], [0:128]}
  %i = s32[]{:T(128)S(6)} constant(3)
  %put = f32[64,128]{1,0:T(8,128)} fusion(%old, %new, %i), kind=kLoop, calls=%in_place
  %y = f32[4,256]{1,0:T(8,128)S(1)} fusion(%x, %near), kind=kOutput, calls=%product
  %turned = bf16[4,64]{0,1:T(8,128)(2,1)} copy(%x)
  ROOT %all = (bf16[1000,128]{1,0:T(8,128)(2,1)}) tuple(%table)
}

%more (t: (bf16[1000,128])) -> pred[] {
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (t: (bf16[1000,128])) -> (bf16[1000,128]) {
  ROOT %loop = (bf16[1000,128]{1,0}) while(%t), condition=%more, body=%body
}
"""


def test_bytes_are_those_that_leave_or_enter_main_memory():
    moved = {one.name: n for one, n in accessed.heaviest_round(hlo.parse(TEXT)) if n}
    assert moved == {
        "fetch": 64 * 256 * 2,  # read; what it lands in lies on the chip
        "taken": 16 * 128 * 2,  # of the table only its rows
        "put": 2 * 8 * 128 * 4,  # the tile that the row lies in, read and written
        "y": 8 * 128 * 2,  # x, filled up to a tile
        "turned": 8 * 128 * 2 + 64 * 128 * 2,  # and so on both sides
    }


def test_a_loop_within_counts_as_often_as_it_goes_round_if_that_is_known():
    inner = "  %inner = (bf16[1000,128]{1,0}) while(%t), condition=%more, body=%small"
    small = "%small (t: f32[64,128]) -> f32[64,128] {\n  %a = f32[64,128]{1,0} parameter(0)\n"
    small += "  ROOT %b = f32[64,128]{1,0} negate(%a)\n}\n\n%body ("
    text = TEXT.replace("%body (", small, 1).replace("  ROOT %all", inner + "\n  ROOT %all")
    assert accessed.heaviest_round(hlo.parse(text)) is None
    known = text.replace("body=%small", 'body=%small, config={"known_trip_count":{"n":"5"}}')
    extra = sum(n for one, n in accessed.heaviest_round(hlo.parse(known)) if one.name == "b")
    assert extra == 5 * 2 * 64 * 128 * 4


def test_of_a_program_that_cannot_be_printed_nothing_is_known():
    found = traffic.of_decode(None, {}, [])
    assert found["step_bytes"] == found["step_bytes_ratio"] == "not available"
    assert "step bytes: not available" in traffic.said(found, 1e9)


@pytest.fixture(scope="module")
def script(benchmark):
    """benchmarks/decode_bytes.py."""
    return benchmark("decode_bytes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "slots", "cache"), [("v5e:2x2", 640, 4.4), ("v6e:2x2", 1280, 8.75)]
)
def test_a_decode_step_moves_little_more_than_it_must(script, topology, slots, cache):
    """Qwen2.5-1.5B, 256 rows on a chip."""
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu, which is not installed")
    whole = script.step(script.describe("qwen2.5_1.5b"), topology, 256, slots)
    assert whole.least == pytest.approx((2.88 + cache) * 2**30, rel=0.01)
    assert 1 < whole.moved / whole.least < 1.25
    assert whole.copies == whole.collectives == 0
