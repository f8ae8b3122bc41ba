"""Every instruction that acts on lanes by themselves, against numpy, on hand-written PTX."""

from __future__ import annotations

import numpy as np
import pytest

import ptx

LANES = 64
NUMPY = {
    "u8": np.uint8,
    "s8": np.int8,
    "u16": np.uint16,
    "s16": np.int16,
    "u32": np.uint32,
    "s32": np.int32,
    "u64": np.uint64,
    "s64": np.int64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
}
REGISTER = {"u8": "b16", "s8": "b16", "f16": "b16"}
MEMORY = {"f16": "b16"}


def elementwise(code: str, inputs: str, output: str) -> str:
    """A kernel of one instruction (or a few): %a, %b, %c are read from arrays, %d is written to one."""
    kinds = [*inputs.split(), output]
    names = [*"abc"[: len(kinds) - 1], "d"]
    parameters = ", ".join(f".param .u64 p_{name}" for name in names)
    text = f".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({parameters}) {{\n"
    text += ".reg .pred %p, %q; .reg .b32 %t, %i<4>; .reg .b16 %h<4>; .reg .b64 %l<4>; mov.u32 %t, %tid.x;\n"
    for name, kind in zip(names, kinds, strict=True):
        text += f".reg .{REGISTER.get(kind, kind)} %{name}; .reg .b64 %at_{name};\n"
        text += f"ld.param.u64 %at_{name}, [p_{name}];\n"
        text += f"mad.wide.u32 %at_{name}, %t, {np.dtype(NUMPY[kind]).itemsize}, %at_{name};\n"
        if name != "d":
            text += f"ld.global.{MEMORY.get(kind, kind)} %{name}, [%at_{name}];\n"
    return text + f"{code}\nst.global.{MEMORY.get(output, output)} [%at_d], %d;\nret;\n}}\n"


def values(kind: str, seed: int) -> np.ndarray:
    """Random values of all sizes, and the edges."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(NUMPY[kind])
    if dtype.kind == "f":
        x = (rng.normal(size=LANES) * 4.0 ** rng.integers(-4, 5, LANES)).astype(dtype)
        x[:6] = np.roll([0, -0.0, 1, np.inf, np.nan, -1.5], seed)
        return x
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, LANES, dtype=dtype, endpoint=True) >> rng.integers(
        0, 8 * dtype.itemsize, LANES
    ).astype(dtype)
    x[:6] = np.roll(np.array([0, 1, info.max, info.min, 2, 7], dtype), seed)
    return x


def shifted(x: np.ndarray, n: np.ndarray, left: bool) -> np.ndarray:
    bits = 8 * x.dtype.itemsize
    wide = [int(v) << min(int(k), bits) if left else int(v) >> min(int(k), bits) for v, k in zip(x, n, strict=True)]
    return np.array([w & (2**bits - 1) for w in wide], f"u{bits // 8}").view(x.dtype)


def field(x: np.ndarray, start: int, length: int) -> np.ndarray:
    bits = 8 * x.dtype.itemsize
    out = []
    for value in x:
        padded = int(value) if x.dtype.kind == "i" else int(value) & (2**bits - 1)
        cut = padded >> start & (2**length - 1)
        out.append(cut - 2**length if x.dtype.kind == "i" and cut >> (length - 1) else cut)
    return np.array(out, x.dtype)


def truncated_division(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    quotient = [0 if y == 0 else abs(x) // abs(y) * (-1 if (x < 0) != (y < 0) else 1) for x, y in pairs]
    remainder = [x - q * y for (x, y), q in zip(pairs, quotient, strict=True)]
    return np.array([q & (2**32 - 1) for q in quotient], np.uint32), np.array(remainder, np.int64)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype("i8" if x.dtype.kind == "i" else "u8")


def rounded_bf16(x: np.ndarray) -> np.ndarray:
    u = x.view(np.uint32).astype(np.uint64)
    out = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), out)


def rounded(exact: np.ndarray, towards: int) -> np.ndarray:
    """To single precision, down (-1), up (1) or towards zero (0)."""
    near = exact.astype(np.float32)
    below, above = (np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf))
    down, up = np.where(near > exact, below, near), np.where(near < exact, above, near)
    return {-1: down, 1: up, 0: np.where(exact < 0, up, down)}[towards]


def from_bf16(h: np.ndarray) -> np.ndarray:
    return (h.astype(np.uint32) << 16).view(np.float32)


def saturated(x: np.ndarray, kind: str, rounding=np.trunc) -> np.ndarray:
    info = np.iinfo(NUMPY[kind])
    clipped = np.clip(
        rounding(np.nan_to_num(x.astype(np.float64), posinf=2.0**70, neginf=-(2.0**70))), info.min, info.max
    )
    return np.array([min(max(int(v), info.min), info.max) for v in clipped], NUMPY[kind])


def permuted(a: np.ndarray, b: np.ndarray, selector: int) -> np.ndarray:
    both = np.concatenate([a.view(np.uint8).reshape(-1, 4), b.view(np.uint8).reshape(-1, 4)], 1)
    out = np.zeros((len(a), 4), np.uint8)
    for i in range(4):
        pick = selector >> (4 * i) & 15
        byte = both[:, pick & 7]
        out[:, i] = np.where(byte & 0x80, 255, 0) if pick & 8 else byte
    return out.view(np.uint32).ravel()


def majority(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a & b) | (a & c) | (b & c)


PREDICATE = "selp.u32 %d, 1, 0, %p;"
NAN = np.isnan
EXACT = [
    ("add.s32 %d, %a, %b;", "s32 s32", "s32", np.add),
    ("sub.u16 %d, %a, %b;", "u16 u16", "u16", np.subtract),
    ("add.s64 %d, %a, %b;", "s64 s64", "s64", np.add),
    ("add.f32 %d, %a, %b;", "f32 f32", "f32", np.add),
    ("sub.rn.f64 %d, %a, %b;", "f64 f64", "f64", np.subtract),
    ("add.sat.f32 %d, %a, %b;", "f32 f32", "f32", lambda a, b: np.where(NAN(a + b), 0, np.clip(a + b, 0, 1))),
    ("mul.f16 %d, %a, %b;", "f16 f16", "f16", np.multiply),
    ("mul.lo.s32 %d, %a, %b;", "s32 s32", "s32", np.multiply),
    ("mul.hi.u32 %d, %a, %b;", "u32 u32", "u32", lambda a, b: ((wide(a) * wide(b)) >> 32).astype(np.uint32)),
    ("mul.wide.s32 %d, %a, %b;", "s32 s32", "s64", lambda a, b: wide(a) * wide(b)),
    ("mul.hi.s64 %d, %a, %b;", "s64 s64", "s64",
     lambda a, b: np.array([(int(x) * int(y)) >> 64 for x, y in zip(a, b, strict=True)], np.int64)),
    ("mad.lo.u32 %d, %a, %b, %c;", "u32 u32 u32", "u32", lambda a, b, c: a * b + c),
    ("mad.wide.u16 %d, %a, %b, %c;", "u16 u16 u32", "u32", lambda a, b, c: a.astype(np.uint32) * b + c),
    ("mad.wide.s32 %d, %a, %b, %c;", "s32 s32 s64", "s64", lambda a, b, c: wide(a) * wide(b) + c),
    ("fma.rn.f32 %d, %a, %b, %c;", "f32 f32 f32", "f32",
     lambda a, b, c: (a.astype(np.longdouble) * b + c).astype(np.float32)),
    ("fma.rm.f32 %d, %a, %b, %c;", "f32 f32 f32", "f32", lambda a, b, c: rounded(a.astype(np.longdouble) * b + c, -1)),
    ("add.rz.f32 %d, %a, %b;", "f32 f32", "f32", lambda a, b: rounded(a.astype(np.longdouble) + b, 0)),
    ("mul.rp.f32 %d, %a, %b;", "f32 f32", "f32", lambda a, b: rounded(a.astype(np.longdouble) * b, 1)),
    ("div.rn.f32 %d, %a, %b;", "f32 f32", "f32", np.divide),
    ("div.s32 %d, %a, %b;", "s32 s32", "s32", lambda a, b: truncated_division(a, b)[0].view(np.int32)),
    ("rem.s32 %d, %a, %b;", "s32 s32", "s32", lambda a, b: truncated_division(a, b)[1].astype(np.int32)),
    ("max.f32 %d, %a, %b;", "f32 f32", "f32", np.fmax),
    ("min.NaN.f32 %d, %a, %b;", "f32 f32", "f32", np.minimum),
    ("max.s32 %d, %a, %b;", "s32 s32", "s32", np.maximum),
    ("min.u64 %d, %a, %b;", "u64 u64", "u64", np.minimum),
    ("abs.s32 %d, %a;", "s32", "s32", np.abs),
    ("neg.f32 %d, %a;", "f32", "f32", np.negative),
    ("abs.f64 %d, %a;", "f64", "f64", np.abs),
    ("and.b32 %d, %a, %b;", "u32 u32", "u32", np.bitwise_and),
    ("or.b64 %d, %a, %b;", "u64 u64", "u64", np.bitwise_or),
    ("xor.b16 %d, %a, %b;", "u16 u16", "u16", np.bitwise_xor),
    ("not.b32 %d, %a;", "u32", "u32", np.invert),
    ("shl.b32 %d, %a, %b;", "u32 u32", "u32", lambda a, b: shifted(a, b, True)),
    ("shr.s32 %d, %a, %b;", "s32 u32", "s32", lambda a, b: shifted(a, b, False)),
    ("shr.u64 %d, %a, %b;", "u64 u32", "u64", lambda a, b: shifted(a, b, False)),
    ("shf.l.wrap.b32 %d, %a, %b, 9;", "u32 u32", "u32", lambda a, b: (b << 9) | (a >> 23)),
    ("shf.r.clamp.b32 %d, %a, %b, 40;", "u32 u32", "u32", lambda a, b: b),
    ("lop3.b32 %d, %a, %b, %c, 0xE8;", "u32 u32 u32", "u32", majority),
    ("prmt.b32 %d, %a, %b, 0x5F10;", "u32 u32", "u32", lambda a, b: permuted(a, b, 0x5F10)),
    ("bfe.u32 %d, %a, 5, 9;", "u32", "u32", lambda a: field(a, 5, 9)),
    ("bfe.s32 %d, %a, 3, 4;", "s32", "s32", lambda a: field(a, 3, 4)),
    ("bfi.b32 %d, %a, %b, 8, 12;", "u32 u32", "u32", lambda a, b: (b & ~np.uint32(0xFFF00)) | ((a << 8) & 0xFFF00)),
    ("popc.b32 %d, %a;", "u32", "u32", lambda a: np.array([int(x).bit_count() for x in a], np.uint32)),
    ("clz.b64 %d, %a;", "u64", "u32", lambda a: np.array([64 - int(x).bit_length() for x in a], np.uint32)),
    ("brev.b32 %d, %a;", "u32", "u32", lambda a: np.array([int(f"{x:032b}"[::-1], 2) for x in a], np.uint32)),
    ("bfind.u32 %d, %a;", "u32", "u32",
     lambda a: np.array([int(x).bit_length() - 1 & 0xFFFFFFFF for x in a], np.uint32)),
    ("mov.b64 {%i0, %i1}, %a; mov.b64 %d, {%i1, %i0};", "u64", "u64", lambda a: (a << 32) | (a >> 32)),
    ("mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", "u32", "u32", lambda a: (a << 16) | (a >> 16)),
    (f"setp.lt.s32 %p, %a, %b; {PREDICATE}", "s32 s32", "u32", lambda a, b: a < b),
    (f"setp.hs.u32 %p, %a, %b; {PREDICATE}", "u32 u32", "u32", lambda a, b: a >= b),
    (f"setp.neu.f32 %p, %a, %b; {PREDICATE}", "f32 f32", "u32", lambda a, b: ~(a == b)),
    (f"setp.ne.f32 %p, %a, %b; {PREDICATE}", "f32 f32", "u32", lambda a, b: (a != b) & ~NAN(a) & ~NAN(b)),
    (f"setp.gtu.f64 %p, %a, %b; {PREDICATE}", "f64 f64", "u32", lambda a, b: ~(a <= b)),
    (f"setp.nan.f32 %p, %a, %b; {PREDICATE}", "f32 f32", "u32", lambda a, b: NAN(a) | NAN(b)),
    (f"setp.lt.s32 %q, %a, 0; setp.eq.or.s32 %p|%q, %a, %b, %q; xor.pred %p, %p, %q; {PREDICATE}",
     "s32 s32", "u32", lambda a, b: ((a == b) | (a < 0)) ^ ((a != b) | (a < 0))),
    (f"setp.gt.s32 %q, %a, %b; and.pred %p, %q, !%q; not.pred %p, %p; {PREDICATE}", "s32 s32", "u32",
     lambda a, b: np.ones(LANES, bool)),
    ("set.lt.u32.f32 %d, %a, %b;", "f32 f32", "u32", lambda a, b: np.where(a < b, 0xFFFFFFFF, 0)),
    ("setp.lt.f32 %p, %a, %b; selp.f32 %d, %a, %b, %p;", "f32 f32", "f32", lambda a, b: np.where(a < b, a, b)),
    ("slct.f32.s32 %d, %a, %b, %c;", "f32 f32 s32", "f32", lambda a, b, c: np.where(c >= 0, a, b)),
    ("copysign.f32 %d, %a, %b;", "f32 f32", "f32", lambda a, b: np.copysign(b, a)),
    (f"testp.finite.f32 %p, %a; {PREDICATE}", "f32", "u32", np.isfinite),
    ("cvt.rn.f32.s64 %d, %a;", "s64", "f32", lambda a: a.astype(np.float32)),
    ("cvt.rn.f32.u64 %d, %a;", "u64", "f32", lambda a: a.astype(np.float32)),
    ("cvt.rzi.s32.f32 %d, %a;", "f32", "s32", lambda a: saturated(a, "s32")),
    ("cvt.rni.u32.f32 %d, %a;", "f32", "u32", lambda a: saturated(a, "u32", np.rint)),
    ("cvt.rmi.s64.f64 %d, %a;", "f64", "s64", lambda a: saturated(a, "s64", np.floor)),
    ("cvt.rpi.f32.f32 %d, %a;", "f32", "f32", np.ceil),
    ("cvt.rn.f16.f32 %d, %a;", "f32", "f16", lambda a: a.astype(np.float16)),
    ("cvt.f64.f16 %d, %a;", "f16", "f64", lambda a: a.astype(np.float64)),
    ("cvt.rn.f32.f64 %d, %a;", "f64", "f32", lambda a: a.astype(np.float32)),
    ("cvt.rn.bf16.f32 %d, %a;", "f32", "u16", rounded_bf16),
    ("cvt.f32.bf16 %d, %a;", "u16", "f32", from_bf16),
    ("cvt.rn.bf16x2.f32 %d, %a, %b;", "f32 f32", "u32",
     lambda a, b: (rounded_bf16(a).astype(np.uint32) << 16) | rounded_bf16(b)),
    ("cvt.rna.tf32.f32 %d, %a;", "f32", "u32",
     lambda a: np.where(NAN(a), 0x7FFFE000, (a.view(np.uint32) + 0x1000) & 0xFFFFE000)),
    ("cvt.s64.s8 %d, %a;", "s8", "s64", lambda a: a.astype(np.int64)),
    ("cvt.u32.u8 %d, %a;", "u8", "u32", lambda a: a.astype(np.uint32)),
    ("cvt.sat.u8.s32 %d, %a;", "s32", "u8", lambda a: np.clip(a, 0, 255).astype(np.uint8)),
    ("cvt.u16.u64 %d, %a;", "u64", "u16", lambda a: a.astype(np.uint16)),
    ("fma.rn.bf16 %d, %a, %b, %c;", "u16 u16 u16", "u16",
     lambda a, b, c: rounded_bf16((from_bf16(a).astype(float) * from_bf16(b) + from_bf16(c)).astype(np.float32))),
    ("add.cc.u32 %i0, %a, %b; addc.u32 %d, 0, 0;", "u32 u32", "u32", lambda a, b: (wide(a) + wide(b)) >> 32),
    ("sub.cc.u32 %i0, %a, %b; subc.u32 %d, 0, 0;", "u32 u32", "u32", lambda a, b: np.where(a < b, 0xFFFFFFFF, 0)),
    ("mad.lo.cc.u32 %i0, %a, %b, %c; madc.hi.u32 %d, %a, %b, 0;", "u32 u32 u32", "u32",
     lambda a, b, c: (wide(a) * wide(b) + c) >> 32),
    ("{ .reg .u32 %t; mov.u32 %t, 5; add.u32 %d, %a, %t; }", "u32", "u32", lambda a: a + 5),
    ("mov.u32 %d, %a; setp.lt.u32 %p, %t, 40; @%p add.u32 %d, %d, 1; @!%p bra OUT; add.u32 %d, %d, 2; OUT:",
     "u32", "u32",
     lambda a: a + np.where(np.arange(LANES) < 40, 3, 0)),
]  # fmt: skip

# The reference does not say which zero.
UNSIGNED_ZERO = ("max", "min", "add.sat", "fma.rm")


@pytest.mark.parametrize(
    ("code", "inputs", "output", "reference"),
    EXACT,
    ids=[case[0].split(" ")[0] + f"-{i}" for i, case in enumerate(EXACT)],
)
def test_exact(code, inputs, output, reference):
    arrays = [values(kind, seed) for seed, kind in enumerate(inputs.split())]
    with np.errstate(all="ignore"):
        expected = np.asarray(reference(*arrays)).astype(NUMPY[output])
    if code.startswith(("div.s32", "rem.s32")):
        arrays[1][arrays[1] == 0] = 3
        expected = reference(*arrays)
    out = np.full(LANES, 0xFF, np.uint8).repeat(expected.itemsize).view(expected.dtype)
    ptx.Module(elementwise(code, inputs, output)).launch("k", (1,), (LANES,), [*arrays, out]).require_no_races()
    if expected.dtype.kind == "f":
        assert np.array_equal(out, expected, equal_nan=True), (out, expected)
        number = ~np.isnan(expected)
        assert (np.signbit(out) == np.signbit(expected))[number].all() or code.startswith(UNSIGNED_ZERO)
    elif code.startswith(("cvt.rn.bf16", "fma.rn.bf16")):
        assert ((out == expected) | ((expected & 0x7FFF) > 0x7F80)).all(), (out, expected)
    else:
        assert np.array_equal(out, expected), (out, expected)


FUNCTIONS = {
    "ex2.approx.ftz.f32": np.exp2,
    "lg2.approx.f32": np.log2,
    "rcp.rn.f32": lambda x: 1 / x,
    "sqrt.rn.f32": np.sqrt,
    "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x),
    "sin.approx.f32": np.sin,
    "cos.approx.f32": np.cos,
    "tanh.approx.f32": np.tanh,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_to_the_last_place(name):
    x = values("f32", 0)
    out = np.full(LANES, np.nan, np.float32)
    ptx.Module(elementwise(f"{name} %d, %a;", "f32", "f32")).launch("k", (1,), (LANES,), [x, out])
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](x.astype(np.float64)).astype(np.float32)
    if ".ftz" in name:
        expected[np.abs(expected) < np.finfo(np.float32).tiny] = 0
    np.testing.assert_allclose(out, expected, rtol=np.finfo(np.float32).eps, equal_nan=True)


@pytest.mark.parametrize(
    "code",
    [
        "frobnicate.f32 %d, %a, %b;",
        "add.rq.f32 %d, %a, %b;",
        "max.xorsign.abs.f32 %d, %a, %b;",
        "mul.frob.lo.s32 %d, %a, %b;",
        "add.f32 %d, %a, %zz;",
        "shfl.up.b32 %d, %a, %b, 0;",
        "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%d, %a}, {%a}, {%b}, {%a, %b};",
    ],
)
def test_what_is_not_known_is_named_when_it_is_reached(code):
    arrays = [values("f32", 0), values("f32", 1), np.zeros(LANES, np.float32)]
    module = ptx.Module(elementwise(code, "f32 f32", "f32"))
    assert len(module.refusals("k")) == 1
    with pytest.raises(ptx.Fault, match=code.split(" ")[0].replace(".", r"\.")):
        module.launch("k", (1,), (LANES,), arrays)
    ptx.Module(elementwise(f"bra PAST; {code} PAST:", "f32 f32", "f32")).launch("k", (1,), (LANES,), arrays)


def test_text_that_is_no_ptx():
    with pytest.raises(ptx.Fault, match=r"\.entry"):
        ptx.Module(".version 8.0\n.target sm_80\n.address_size 64\n")
    with pytest.raises(ptx.Fault, match="never closed"):
        ptx.Module(".entry k() { ret;")


def test_indexed_branches_go_each_lane_its_way() -> None:
    text = """
    .version 8.0
    .target sm_80
    .address_size 64
    .visible .entry pick(.param .u64 out) {
        .reg .b32 %r<4>; .reg .b64 %rd<4>;
        mov.u32 %r0, %tid.x;
        rem.u32 %r1, %r0, 3;
    $L_list: .branchtargets $L_a, $L_b, $L_c;
        brx.idx %r1, $L_list;
    $L_a: mov.u32 %r2, 10; bra $L_end;
    $L_b: mov.u32 %r2, 20; bra $L_end;
    $L_c: mov.u32 %r2, 30;
    $L_end:
        ld.param.u64 %rd0, [out];
        mul.wide.u32 %rd1, %r0, 4;
        add.s64 %rd2, %rd0, %rd1;
        st.global.u32 [%rd2], %r2;
        ret;
    }"""
    out = np.zeros(32, np.uint32)
    ptx.Module(text).launch("pick", (1,), (32,), (out,))
    assert (out == 10 * (np.arange(32) % 3 + 1)).all()
    beyond = text.replace("rem.u32 %r1, %r0, 3", "rem.u32 %r1, %r0, 4")
    with pytest.raises(ptx.Fault, match="an index beyond the list of branch targets"):
        ptx.Module(beyond).launch("pick", (1,), (32,), (out,))
