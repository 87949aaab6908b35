"""The addressed random streams of src/random.rs, bit for bit, in numpy: what the Rust side draws, Python draws.

A stream is ChaCha8 with the key seed ‖ purpose ‖ 0 and the stream number index. Functions draw from many streams at once:
`indices` gives the streams, and each row of the result holds the first `count` draws of one.
"""

import numpy as np

CONSTANTS = np.frombuffer(b"expand 32-byte k", dtype="<u4")
BLOCK = 16
TAU = np.float32(2 * np.pi)


def bits(seed, purpose, indices, count):
    """uint32 [len(indices), count]; `purpose` is the tag of src/random.rs without its padding."""
    key = np.frombuffer(seed.to_bytes(8, "little") + purpose.ljust(8, b"\0") + bytes(16), dtype="<u4")
    indices = np.asarray(indices, dtype=np.uint64)
    blocks = -(-count // BLOCK)
    state = np.zeros((BLOCK, len(indices), blocks), dtype=np.uint32)
    state[:4] = CONSTANTS[:, None, None]
    state[4:12] = key[:, None, None]
    state[12] = np.arange(blocks, dtype=np.uint32)  # the upper half stays 0: no stream here is that long
    state[14] = (indices & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    state[15] = (indices >> np.uint64(32)).astype(np.uint32)[:, None]
    words = state.copy()
    for _ in range(4):
        for column in range(4):
            quarter_round(words, column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter_round(words, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    words += state
    return words.transpose(1, 2, 0).reshape(len(indices), blocks * BLOCK)[:, :count]


def quarter_round(words, a, b, c, d):
    for source, target, turned, shift in ((b, a, d, 16), (d, c, b, 12), (b, a, d, 8), (d, c, b, 7)):
        words[target] += words[source]
        mixed = words[turned] ^ words[target]
        words[turned] = (mixed << np.uint32(shift)) | (mixed >> np.uint32(32 - shift))


def unit(words):
    """[0, 1) on a grid of 2⁻²⁴, float32."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def uniform(seed, purpose, indices, count, low=0.0, high=1.0):
    low, high = np.float32(low), np.float32(high)
    return low + (high - low) * unit(bits(seed, purpose, indices, count))


def normal(seed, purpose, indices, count, mean=0.0, std=1.0):
    """Box and Muller: two words make two values."""
    words = bits(seed, purpose, indices, count + count % 2)
    u = ((words[:, 0::2].astype(np.float64) + 1.0) * 2.0**-32).astype(np.float32)
    cos, sin = cos_sin(unit(words[:, 1::2]) * TAU)
    radius = np.sqrt(np.float32(-2.0) * log(u))
    pairs = np.stack([radius * cos, radius * sin], axis=-1).reshape(len(words), -1)[:, :count]
    return np.float32(mean) + np.float32(std) * pairs


def next_below(words, bound):
    """The next of 0..bound, without bias (Lemire)."""
    while True:
        product = next(words) * bound
        if product % 2**32 >= 2**32 % bound:
            return product >> 32


def below(seed, purpose, index, bound, count):
    """`count` numbers of 0..bound, each drawn from all."""
    words = iter(bits(seed, purpose, [index], 4 * count + BLOCK)[0].tolist())
    return [next_below(words, bound) for _ in range(count)]


def permutation(seed, purpose, index, n):
    """Fisher and Yates."""
    words = iter(bits(seed, purpose, [index], 4 * n + BLOCK)[0].tolist())
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = next_below(words, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


# --- libm's functions: numpy's differ from them in the last bit


def log(x):
    """logf for 0 < x <= 1, after FreeBSD's e_logf.c."""
    f32 = np.float32
    lg1, lg2, lg3, lg4 = f32(0.66666662693), f32(0.40000972152), f32(0.28498786688), f32(0.24279078841)
    ln2_hi, ln2_lo = f32(6.9313812256e-01), f32(9.0580006145e-06)
    ix = x.view(np.uint32) + np.uint32(0x3F800000 - 0x3F3504F3)
    dk = ((ix >> np.uint32(23)).astype(np.int32) - 0x7F).astype(f32)
    f = ((ix & np.uint32(0x007FFFFF)) + np.uint32(0x3F3504F3)).view(f32) - f32(1)
    s = f / (f32(2) + f)
    z = s * s
    w = z * z
    r = z * (lg1 + w * lg3) + w * (lg2 + w * lg4)
    hfsq = f32(0.5) * f * f
    return s * (hfsq + r) + dk * ln2_lo - hfsq + f + dk * ln2_hi


def cos_sin(x):
    """cosf and sinf for 0 <= x < 2π, after FreeBSD's s_cosf.c and s_sinf.c."""
    # The odd multiples of π/4, as float32.
    bounds = np.array([0x3F490FDA, 0x4016CBE3, 0x407B53D1, 0x40AFEDDF], dtype=np.uint32).view(np.float32)
    quarters = np.searchsorted(bounds, x, side="left")
    y = x.astype(np.float64) - quarters * (np.pi / 2)
    z = y * y
    w = z * z
    cos = 1.0 + z * -0.499999997251031003120 + w * 0.0416666233237390631894
    cos = (cos + (w * z) * (-0.00138867637746099294692 + z * 0.0000243904487962774090654)).astype(np.float32)
    s = z * y
    sin = y + s * (-0.166666666416265235595 + z * 0.0083333293858894631756)
    sin = (sin + s * w * (-0.000198393348360966317347 + z * 0.0000027183114939898219064)).astype(np.float32)
    turned = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos), (cos, sin)]
    return (np.choose(quarters, [pair[part] for pair in turned]) for part in (0, 1))
