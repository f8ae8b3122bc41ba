"""Planted faults: each is reported, with its instruction, and what is right is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ptx

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
SEEDS = range(5)


def kernel(body: str, shared: int = 512, parameters: int = 2) -> ptx.Module:
    """A kernel k(x, y, …) with %x, %y in registers, its thread in %t, 4·thread in %o, ``slot`` in shared memory."""
    names = ", ".join(f".param .u64 p{i}" for i in range(parameters))
    text = f"{HEAD}.visible .entry k({names}) {{\n.shared .align 16 .b8 slot[{shared}];\n"
    text += (
        ".reg .pred %p<4>; .reg .b32 %t, %o, %s, %r<8>; .reg .b64 %x, %y, %l<8>; .reg .f32 %f<8>; .reg .b16 %h<4>;\n"
    )
    text += "mov.u32 %t, %tid.x; shl.b32 %o, %t, 2; mov.u32 %s, slot; add.u32 %s, %s, %o; cvt.u64.u32 %l7, %o;\n"
    text += "ld.param.u64 %x, [p0]; ld.param.u64 %y, [p1]; add.s64 %x, %x, %l7; add.s64 %y, %y, %l7;\n"
    return ptx.Module(text + body + "\nret;\n}\n")


def arrays(threads: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(threads, dtype=torch.float32), ptx.fresh(threads)


def kinds(launch: ptx.Launch) -> set[str]:
    return {race.kind for race in launch.races}


REVERSED = """ld.global.f32 %f0, [%x]; st.shared.f32 [%s], %f0; {barrier}
sub.u32 %r0, 252, %o; mov.u32 %r1, slot; add.u32 %r0, %r0, %r1; ld.shared.f32 %f1, [%r0]; st.global.f32 [%y], %f1;"""


# Whichever warp runs first, one of the two finds what the other has done.
UNORDERED = {"read without a barrier after the write", "write without a barrier after the read"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_barrier_is_a_race_in_every_order(seed):
    x, y = arrays()
    kernel(REVERSED.format(barrier="bar.sync 0;")).launch("k", (1,), (64,), (x, y), seed=seed).require_no_races()
    assert torch.equal(y, x.flip(0))
    launch = kernel(REVERSED.format(barrier="")).launch("k", (1,), (64,), (x, y), seed=seed)
    assert launch.races and kinds(launch) <= UNORDERED and "shared" in launch.races[0].instruction
    with pytest.raises(AssertionError, match="without a barrier"):
        launch.require_no_races()


def test_the_next_round_must_wait_for_the_readers():
    body = REVERSED.format(barrier="bar.sync 0;") + "{barrier} st.shared.f32 [%s], 0f00000000;"
    x, y = arrays()
    kernel(body.replace("{barrier}", "bar.sync 0;")).launch("k", (1,), (64,), (x, y)).require_no_races()
    launch = kernel(body.replace("{barrier}", "")).launch("k", (1,), (64,), (x, y))
    assert launch.races and kinds(launch) <= UNORDERED


def test_the_same_value_written_twice_is_no_race():
    body = "mov.f32 %f0, 0f3F800000; {convert} st.shared.f32 [slot], %f0;"
    kernel(body.format(convert="")).launch("k", (1,), (64,), arrays()).require_no_races()
    launch = kernel(body.format(convert="cvt.rn.f32.u32 %f0, %t;")).launch("k", (1,), (64,), arrays())
    assert kinds(launch) == {"write without a barrier after another write"}


def test_atomic_operations_are_no_race_but_with_plain_ones():
    x, y = arrays()
    zero = "setp.eq.u32 %p0, %t, 0; @%p0 st.shared.u32 [slot], 0; {barrier} red.shared.add.u32 [slot], 1; bar.sync 0;"
    body = zero + "ld.shared.u32 %r0, [slot]; cvt.rn.f32.u32 %f0, %r0; st.global.f32 [%y], %f0;"
    kernel(body.format(barrier="bar.sync 0;")).launch("k", (1,), (64,), (x, y)).require_no_races()
    assert (y == 64).all()
    assert kernel(body.format(barrier="")).launch("k", (1,), (64,), (x, y)).races


def test_threads_of_a_block_race_in_global_memory():
    body = "ld.global.f32 %f0, [%x]; st.global.f32 [%y], %f0; {barrier}"
    body += "sub.s64 %l0, %y, %l7; ld.global.f32 %f1, [%l0+128];"
    kernel(body.format(barrier="bar.sync 0;")).launch("k", (1,), (64,), arrays()).require_no_races()
    assert kernel(body.format(barrier="")).launch("k", (1,), (64,), arrays()).races


def test_blocks_race_in_global_memory():
    own = "mov.u32 %r0, %ctaid.x; mul.wide.u32 %l0, %r0, {stride}; add.s64 %l1, %y, %l0; cvt.rn.f32.u32 %f0, %r0;"
    written = own + "st.global.f32 [%l1], %f0;"
    kernel(written.format(stride=256)).launch("k", (2,), (64,), arrays(128)).require_no_races()
    launch = kernel(written.format(stride=128)).launch("k", (2,), (64,), arrays(128))
    assert kinds(launch) == {"write to what another block wrote in buffer 1"}

    other = written.format(stride=256) + "xor.b64 %l0, %l0, 256; add.s64 %l1, %y, %l0; ld.global.f32 %f1, [%l1];"
    for seed in SEEDS:
        launch = kernel(other).launch("k", (2,), (64,), arrays(128), seed=seed)
        assert launch.races and "another block" in launch.races[0].kind
    added = own.format(stride=0) + "red.global.add.f32 [%l1], %f0;"
    kernel(added).launch("k", (2,), (64,), arrays(128)).require_no_races()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ld.global.f32 %f0, [%x+4];", "out of bounds: 4 bytes at offset 256 of buffer 0, which has 256"),
        ("ld.global.f32 %f0, [%x+-4];", "out of bounds: 4 bytes at offset -4 of buffer 0"),
        ("st.global.f32 [%y+100000], %f0;", "out of bounds: .* of buffer 1"),
        ("mov.u64 %l0, 64; st.global.f32 [%l0], %f0;", "lies in no buffer"),
        ("ld.global.v2.f32 {%f0, %f1}, [%x];", "misaligned: 8 bytes"),
        ("ld.shared.f32 %f0, [%s+512];", r"out of bounds: 4 bytes at \d+ of shared memory, which has 512"),
        ("ld.shared.b64 %l0, [%s];", "misaligned: 8 bytes"),
        ("cp.async.ca.shared.global [%s], [%x], 16;", "misaligned"),
        ("cp.async.ca.shared.global [slot+8], [%x+2], 4;", "misaligned: the source of a cp.async"),
        ("cp.async.cg.shared.global [slot], [p0], 16;", "lies in no buffer"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%s];", "misaligned: 16 bytes"),
        ("ld.local.u32 %r0, [%o];", "of local memory, which has 0"),
        ("setp.gt.u32 %p0, %t, 5; @%p0 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [slot];", "divergent"),
        ("setp.gt.u32 %p0, %t, 5; @%p0 bra A; shfl.sync.idx.b32 %r0, %r1, 9, 31, 63; A:", "reads lane 9|deadlock"),
        ("shfl.sync.idx.b32 %r0, %r1, 9, 31, 255;", "not in the member mask"),
        ("A: bra A;", "within the limit"),
        ("setp.lt.u32 %p0, %t, 32; @%p0 bar.sync 1, 64; @!%p0 bar.sync 2, 64;", "deadlock.*bar.sync 1.*bar.sync 2"),
        ("trap;", "trap"),
    ],
)
def test_what_ends_a_launch(code, message):
    x, y = arrays()
    with pytest.raises(ptx.Fault, match=message) as caught:
        kernel(code).launch("k", (1,), (64,), (x, y), limit=100_000)
    last = [part for part in code.split(";") if part.strip()][-1].split(":")[-1].strip()
    assert not last or last.split(" ")[-1] in str(caught.value) or "deadlock" in message


def test_a_divergent_barrier_is_reported():
    body = "setp.lt.u32 %p0, %t, 7; @%p0 bra A; bar.sync 0; bra B; A: bar.sync 0; B:"
    launch = kernel(body).launch("k", (1,), (64,), arrays())
    assert "divergent barrier" in kinds(launch)


def test_lanes_wait_for_those_that_a_collective_names():
    body = """setp.lt.u32 %p0, %t, 7; mov.u32 %r0, 1; @%p0 bra A; mov.u32 %r0, 2; mov.u32 %r0, 3;
    A: shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1; cvt.rn.f32.u32 %f0, %r1; st.global.f32 [%y], %f0;"""
    x, y = arrays(32)
    kernel(body).launch("k", (1,), (32,), (x, y))
    assert y.tolist() == [3.0] * 16 + [1.0] * 7 + [3.0] * 9


def test_shared_memory_and_outputs_start_as_poison():
    x, y = arrays()
    kernel("ld.shared.f32 %f0, [%s]; add.f32 %f0, %f0, %f0; st.global.f32 [%y], %f0;").launch("k", (1,), (64,), (x, y))
    assert y.isnan().all()
    kernel("setp.lt.u32 %p0, %t, 9; @%p0 st.global.f32 [%y], 0f3F800000;").launch(
        "k", (1,), (64,), (x, z := ptx.fresh(64))
    )
    assert (z[:9] == 1).all() and z[9:].isnan().all()
    assert (ptx.fresh(3, dtype=torch.int16) == -1).all() and ptx.fresh(2, dtype=torch.bfloat16).isnan().all()


COPY = "cp.async.ca.shared.global [%s], [%x], 4; cp.async.commit_group; {wait} {barrier} {read}"
OWN = "ld.shared.f32 %f0, [%s]; st.global.f32 [%y], %f0;"
OTHER = (
    "mov.u32 %r1, slot; xor.b32 %r0, %o, 128; add.u32 %r0, %r0, %r1; ld.shared.f32 %f0, [%r0]; st.global.f32 [%y], %f0;"
)


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_need_their_wait_and_others_also_a_barrier(seed):
    x, y = arrays()

    def launch(**parts: str) -> ptx.Launch:
        return kernel(COPY.format(**parts)).launch("k", (1,), (64,), (x, y), seed=seed)

    wait, barrier = "cp.async.wait_group 0;", "bar.sync 0;"
    launch(wait=wait, barrier="", read=OWN).require_no_races()
    assert torch.equal(y, x)
    launch(wait="cp.async.wait_all;", barrier=barrier, read=OTHER).require_no_races()
    assert torch.equal(y, x.roll(32))
    for missing in (
        launch(wait="", barrier=barrier, read=OWN),
        launch(wait="cp.async.wait_group 1;", barrier="", read=OWN),
    ):
        assert kinds(missing) == {"read of what cp.async has not delivered"}
        assert y.isnan().all()
    assert launch(wait=wait, barrier="", read=OTHER).races
    assert launch(wait="", barrier=barrier, read=OTHER + wait).races


def test_copies_of_fewer_bytes_fill_with_zeros():
    body = "mov.u32 %r0, 8; setp.eq.u32 %p0, %t, 0; @%p0 cp.async.cg.shared.global [slot], [%x], 16, %r0;"
    body += "cp.async.wait_all; bar.sync 0; setp.lt.u32 %p1, %t, 4;"
    body += "@%p1 ld.shared.f32 %f0, [%s]; @%p1 st.global.f32 [%y], %f0;"
    x, y = torch.tensor([5.0, 6.0]), ptx.fresh(4)
    kernel(body).launch("k", (1,), (32,), (x, y)).require_no_races()
    assert y.tolist() == [5, 6, 0, 0]


def test_traffic_counts_bytes_and_distinct_bytes():
    body = "sub.s64 %l0, %x, %l7; ld.global.f32 %f0, [%l0]; ld.global.f32 %f1, [%x];"
    body += "st.global.f32 [%y], %f1; st.global.f32 [%y], %f1;"
    launch = kernel(body).launch("k", (3,), (32,), arrays(32))
    assert launch.traffic[0] == ptx.Traffic(3 * 32 * 8, 0, 32 * 4, 0, 32 * 4, 0)
    assert launch.traffic[1] == ptx.Traffic(0, 3 * 32 * 8, 0, 32 * 4, 0, 32 * 4)
    assert launch.executed["ld.global.f32"] == launch.count("st.global") == 3 * 2 and launch.count("st") == 6
    assert launch.instructions == launch.classes.total()


def test_arguments():
    text = (
        HEAD
        + """.visible .entry first(.param .align 8 .b8 s[16], .param .f32 f, .param .u8 b, .param .u64 .ptr.align 1 p) {
    .reg .b64 %l<2>; .reg .b32 %r; .reg .f32 %f; .reg .b16 %h;
    ld.param.u64 %l0, [p]; ld.param.u32 %r, [s+12]; st.global.u32 [%l0], %r;
    ld.param.f32 %f, [f]; st.global.f32 [%l0+4], %f;
    ld.param.u8 %h, [b]; st.global.u16 [%l0+8], %h; ret; }
    .visible .entry second() { ret; }"""
    )
    module, out = ptx.Module(text), np.full(3, 0xFFFFFFFF, np.uint32)
    module.launch("fir", (1,), (1,), (bytes(12) + (77).to_bytes(4, "little"), 1.5, 200, out))
    assert out.tolist() == [77, 0x3FC00000, 0xFFFF00C8] and module.entries == ("first", "second")
    with pytest.raises(ValueError, match="expected 4 for first, found 1"):
        module.launch("first", (1,), (1,), (1,))
    with pytest.raises(ValueError, match="a part of one of"):
        module.launch("third", (1,), (1,), ())
    with pytest.raises(ValueError, match="contiguous"):
        module.launch("first", (1,), (1,), (bytes(16), 0, 0, np.zeros((4, 4))[:, 0]))
    with pytest.raises(ptx.Fault, match="2048 threads"):
        module.launch("second", (1,), (2048,), ())


def test_one_array_given_twice_is_one_buffer():
    x = torch.arange(64, dtype=torch.float32)
    kernel("ld.global.f32 %f0, [%x]; add.f32 %f0, %f0, %f0; st.global.f32 [%y], %f0;").launch("k", (1,), (64,), (x, x))
    assert torch.equal(x, 2 * torch.arange(64))
