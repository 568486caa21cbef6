"""Loading, storing and rounding of tiles, and where the rows of a time step lie."""

import triton
import triton.language as tl

# The interpreter knows bfloat16 only as 16 bits: it truncates where it should round, and multiplies
# the bits in a product. What is done about it here vanishes when compiled.
INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """``x`` rounded to nearest, ties to even."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = tl.where(x == x, rounded, 0x7FC0)
        x = rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        x = x.to(DTYPE)
    return x


@triton.jit
def _large(x):
    """The nearest of TF32's numbers, of two the larger, as `cvt.rna.tf32.f32` has it."""
    bits = (x.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit
def _dot_of_parts(a, b):
    """What Triton makes of "tf32x3", for the interpreter, which would take float32's product.

    The sum of the small terms is NaN where an operand is infinite; there it counts as nothing.
    """
    a_large, b_large = _large(a), _large(b)
    small = tl.dot(_large(a - a_large), b_large) + tl.dot(a_large, _large(b - b_large))
    return tl.dot(a_large, b_large) + tl.where(small == small, small, 0.0)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """The product of two tiles or of two stacks of tiles, summed in float32."""
    if INTERPRETED and PRECISION == "tf32x3" and a.dtype == tl.float32:
        product = _dot_of_parts(a, b)
    elif INTERPRETED:
        product = tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        product = tl.dot(a, b, input_precision=PRECISION)
    return product


@triton.jit
def load(ptr, offs, mask, DTYPE: tl.constexpr):
    return tl.load(ptr + offs, mask=mask, other=0.0).to(DTYPE)


@triton.jit
def store(ptr, offs, mask, x):
    tl.store(ptr + offs, narrow(x, ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_each(ptr, offs, mask, step, COUNT: tl.constexpr, DTYPE: tl.constexpr):
    """COUNT tiles, each ``step`` elements after the one before."""
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (load(ptr, offs + i * step, mask, DTYPE),)
    return tiles


@triton.jit
def store_each(ptr, offs, mask, step, tiles):
    for i in tl.static_range(len(tiles)):
        store(ptr, offs + i * step, mask, tiles[i])


@triton.jit
def accumulate_each(ptr, offs, mask, step, tiles):
    """Adds to what lies there, which is this program's alone."""
    for i in tl.static_range(len(tiles)):
        there = load(ptr, offs + i * step, mask, tiles[i].dtype)
        store(ptr, offs + i * step, mask, there + tiles[i])


@triton.jit
def each_where(condition, chosen, others):
    tiles = ()
    for i in tl.static_range(len(chosen)):
        tiles = tiles + (tl.where(condition, chosen[i], others[i]),)
    return tiles


@triton.jit
def split_gates(a, G: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_B: tl.constexpr):
    """Rows unit by unit, each with its gates, as a tile for each gate."""
    if G == 1:
        gates = (a,)
    elif G == 2:
        gates = tl.split(tl.permute(tl.reshape(a, [BLOCK_H, 2, BLOCK_B]), (0, 2, 1)))
    else:
        a = tl.permute(tl.reshape(a, [BLOCK_H, 2, 2, BLOCK_B]), (0, 3, 1, 2))
        even, odd = tl.split(a)
        g_0, g_2 = tl.split(even)
        g_1, g_3 = tl.split(odd)
        gates = (g_0, g_1, g_2, g_3)
    return gates


@triton.jit
def program_anew():
    """This program's number, as if unknown: what is worked out from it after a loop is no number
    that was known before, which the assembler would park in memory meanwhile."""
    if INTERPRETED:
        pid = tl.program_id(0)
    else:
        pid = tl.inline_asm_elementwise(
            "mov.u32 $0, %ctaid.x;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
    return pid


@triton.jit
def spread(x):
    """``x``, laid out among the threads as what is loaded and stored.

    Left to itself Triton carries the layout of a product on: all that is loaded or stored changes
    its layout one by one, and where warps share a sum, each does all that follows. Past a gather
    it carries none.
    """
    same = tl.arange(0, x.shape[0])[:, None] + tl.zeros([1, x.shape[1]], tl.int32)
    return tl.gather(x, same, 0)


@triton.jit
def rows_of_step(starts_ptr, p, T, B, reverse, PACKED: tl.constexpr):
    """First row of the p-th step that a recurrence meets, and how many sequences reach it.

    Before the first step and after the last there are none.
    """
    t = tl.where(reverse, T - 1 - p, p).to(tl.int64)
    inside = (p >= 0) & (p < T)
    if PACKED:
        start = tl.load(starts_ptr + t, mask=inside, other=0)
        active = tl.load(starts_ptr + t + 1, mask=inside, other=0) - start
    else:
        start = t * B
        active = tl.where(inside, B, 0).to(tl.int64)
    return start, active
