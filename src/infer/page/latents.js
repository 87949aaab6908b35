// Latents as gan-infer makes them: (seed, number) → z, of which image `number` of the seed is made.
//
// The same arithmetic as src/random.rs and src/latent.rs, step by step in the same precision, so that an image here is gan-infer's.
// Seeds and numbers are BigInt: they go up to 2^64 - 1 and 2^63 - 1, where other numbers have gaps.

const f32 = Math.fround;

/// The largest seed.
export const MAX_SEED = (1n << 64n) - 1n;
/// The largest number of an image.
export const MAX_NUMBER = (1n << 63n) - 1n;

const WORDS = 16;
const ROUNDS = 8;
// "expand 32-byte k", and "latent": the purpose of these draws.
const CHACHA = [0x61707865, 0x3320646e, 0x79622d32, 0x6b206574];
const PURPOSE = [0x6574616c, 0x0000746e];

const low = (number) => Number(number & 0xffffffffn);
const high = (number) => Number(number >> 32n);

/// The words of the ChaCha8 stream whose key is the seed and the purpose, and whose stream number is that of the image.
function words(seed, number, count) {
  const state = new Uint32Array(WORDS);
  state.set(CHACHA);
  state.set([low(seed), high(seed), ...PURPOSE], 4);
  state.set([low(number), high(number)], 14);
  const out = new Uint32Array(Math.ceil(count / WORDS) * WORDS);
  for (let block = 0; block < out.length; block += WORDS) {
    state[12] = block / WORDS;
    out.set(mixed(state), block);
  }
  return out;
}

function mixed(state) {
  const x = state.slice();
  const turned = (word, bits) => (word << bits) | (word >>> (32 - bits));
  const quarter = (a, b, c, d) => {
    x[a] += x[b];
    x[d] = turned(x[d] ^ x[a], 16);
    x[c] += x[d];
    x[b] = turned(x[b] ^ x[c], 12);
    x[a] += x[b];
    x[d] = turned(x[d] ^ x[a], 8);
    x[c] += x[d];
    x[b] = turned(x[b] ^ x[c], 7);
  };
  for (let round = 0; round < ROUNDS; round += 2) {
    for (let i = 0; i < 4; i++) quarter(i, 4 + i, 8 + i, 12 + i);
    for (let i = 0; i < 4; i++) quarter(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4));
  }
  for (let i = 0; i < WORDS; i++) x[i] += state[i];
  return x;
}

/// Uniform in [0, 1), on a grid of 2^-24.
const unit = (word) => (word >>> 8) / 16777216;

const bits = new DataView(new ArrayBuffer(4));

/// The natural logarithm of x in (0, 1] in single precision: FreeBSD's e_logf.c.
function log(x) {
  bits.setFloat32(0, x);
  const shifted = (bits.getUint32(0) + (0x3f800000 - 0x3f3504f3)) >>> 0;
  const exponent = (shifted >>> 23) - 0x7f;
  bits.setUint32(0, (shifted & 0x007fffff) + 0x3f3504f3);
  const f = f32(bits.getFloat32(0) - 1);
  const s = f32(f / f32(2 + f));
  const z = f32(s * s);
  const w = f32(z * z);
  const odd = f32(z * f32(f32(0.6666666) + f32(w * f32(0.28498787))));
  const even = f32(w * f32(f32(0.40000972) + f32(w * f32(0.24279079))));
  const halfSquare = f32(f32(0.5 * f) * f);
  let sum = f32(s * f32(halfSquare + f32(odd + even)));
  sum = f32(sum + f32(exponent * f32(9.058001e-6)));
  sum = f32(sum - halfSquare);
  sum = f32(sum + f);
  return f32(sum + f32(exponent * f32(6.931381e-1)));
}

/// √(−2 ln u) for u in (0, 1].
function radius(word) {
  const u = f32((word + 1) / 4294967296);
  return f32(Math.sqrt(f32(-2 * log(u))));
}

const TURN = f32(2 * Math.PI);
// Odd multiples of π/4 in single precision: 1, 3, 5, 7.
const QUARTERS = [0x3f490fda, 0x4016cbe3, 0x407b53d1, 0x40afeddf].map((word) => {
  bits.setUint32(0, word);
  return bits.getFloat32(0);
});

/// Cosine and sine of 0 ≤ x < 2π in single precision: FreeBSD's k_cosf.c and k_sinf.c.
function cosSin(x) {
  const quarters = QUARTERS.filter((bound) => x > bound).length;
  const y = x - quarters * (Math.PI / 2);
  const z = y * y;
  const w = z * z;
  const c = 1 + z * -0.499999997251031 + w * 0.04166662332373906;
  const cos = f32(c + w * z * (-0.001388676377460993 + z * 0.00002439044879627741));
  const s = z * y;
  const half = y + s * (-0.16666666641626524 + z * 0.008333329385889463);
  const sin = f32(half + s * w * (-0.00019839334836096632 + z * 0.000002718311493989822));
  // A quarter turn takes (cos, sin) to (−sin, cos).
  return [[cos, sin], [-sin, cos], [-cos, -sin], [sin, -cos]][quarters % 4];
}

/// The latent of an image: `size` values of a `normal` or a `uniform` (in [−1, 1]) distribution.
export function latent({ size, distribution }, seed, number) {
  const out = new Float32Array(size);
  if (distribution === 'uniform') {
    const drawn = words(seed, number, size);
    return out.map((_, at) => -1 + 2 * unit(drawn[at]));
  }
  const drawn = words(seed, number, size + 1);
  for (let at = 0; at < size; at += 2) {
    const length = radius(drawn[at]);
    const [cos, sin] = cosSin(f32(unit(drawn[at + 1]) * TURN));
    out[at] = length * cos;
    if (at + 1 < size) out[at + 1] = length * sin;
  }
  return out;
}

/// The latent `t` of the way from `a` (0) to `b` (1): along the great circle between normal ones, on the line between uniform ones.
export function interpolate({ distribution }, a, b, t) {
  const [from, to] = distribution === 'uniform' ? [1 - t, t] : greatCircle(a, b, t);
  return a.map((value, at) => from * value + to * b[at]);
}

function greatCircle(a, b, t) {
  const dot = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  // No great circle is the one between latents of one direction, or of opposite ones; NaN, of a latent that is 0, is not above it.
  return sine > 1e-6 ? [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine] : [1 - t, t];
}

/// Restricts a latent to [−x, x], each value at the quantile that it is at: the truncation trick of `gan-infer --truncation`.
export function truncate({ distribution }, z, x) {
  if (distribution === 'uniform') return z.map((value) => value * x);
  const inside = erf(x / Math.SQRT2);
  const outside = erfc(x / Math.SQRT2);
  return z.map((value) => {
    const rank = Math.abs(value) / Math.SQRT2;
    const middle = erf(rank) * inside;
    // Near the middle and far out each has a form that keeps its digits.
    const size = middle < 0.5 ? erfInverse(middle) : erfcInverse(outside + erfc(rank) * inside);
    return Math.SQRT2 * size * (value < 0 ? -1 : 1);
  });
}

/// The class of a latent, of so many: the number of the largest of the values that choose it.
export function classOf(z, classes) {
  let largest = 0;
  for (let at = 1; at < classes; at++) if (z[at] >= z[largest]) largest = at;
  return largest;
}

/// The latent with its class exchanged for another.
export function withClass(z, number, classes) {
  const out = z.slice();
  const largest = classOf(z, classes);
  [out[largest], out[number]] = [out[number], out[largest]];
  return out;
}

const SLOPE = 2 / Math.sqrt(Math.PI);

/// The error function for x ≥ 0, by a series without cancellation.
function erf(x) {
  if (x > 3) return 1 - erfc(x);
  let [term, sum] = [x, 0];
  for (let n = 1; sum + term !== sum; n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 1);
  }
  return SLOPE * Math.exp(-x * x) * sum;
}

/// 1 − erf(x) for x ≥ 0 with all of its digits: far out by its continued fraction.
function erfc(x) {
  if (x < 2) return 1 - erf(x);
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

/// The x ≥ 0 with erf(x) = y, for y up to a half.
function erfInverse(y) {
  let x = y / SLOPE;
  for (let step = 0; step < 5; step++) x = better(x, erf(x) - y);
  return x;
}

/// The x ≥ 0 with erfc(x) = y, for y in (0, 1].
function erfcInverse(y) {
  if (y > 0.5) return erfInverse(1 - y);
  // Not far above it, from where the steps go down to it.
  let x = Math.sqrt(-Math.log(y));
  for (let step = 0; step < 8; step++) x = better(x, y - erfc(x));
  return x;
}

/// Halley's step from x, where erf is too large by `error`.
function better(x, error) {
  const newton = error / (SLOPE * Math.exp(-x * x));
  return x - newton / (1 + x * newton);
}
