// What is neither a convolution nor a matrix product, fused; compiled when a device is first used (nvrtc), so without headers.
//
// A map is [rows, c] with c running fastest. Sums have a fixed order, without atomics: the same numbers every time. Constants
// come as double and are rounded to the type of the values, as on the CPU. Indices have 32 bits: the host refuses more values.

typedef unsigned int uint;

// ---- types

struct bf16 {
    unsigned short bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float((uint)x.bits << 16); }

__device__ inline void put(float& to, float x) { to = x; }
__device__ inline void put(double& to, double x) { to = x; }

// Rounds to the nearest, halves to even.
__device__ inline void put(bf16& to, float x) {
    uint bits = __float_as_uint(x);
    to.bits = x != x ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

__device__ inline float root(float x) { return sqrtf(x); }
__device__ inline double root(double x) { return sqrt(x); }
__device__ inline float hyperbolic(float x) { return tanhf(x); }
__device__ inline double hyperbolic(double x) { return tanh(x); }
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }

// ---- activations, numbered as in types.rs

enum { NONE, RECTIFIER, TANH, SIGMOID };

template <typename T>
__device__ inline T activate(T x, int act, T slope) {
    switch (act) {
    case RECTIFIER: return x > 0 ? x : x * slope;
    case TANH: return hyperbolic(x);
    case SIGMOID: return 1 / (1 + exponential(-x));
    default: return x;
    }
}

// The derivative follows from the result y.
template <typename T>
__device__ inline T activate_grad(T y, T dy, int act, T slope) {
    switch (act) {
    case RECTIFIER: return y > 0 ? dy : dy * slope;
    case TANH: return dy * (1 - y * y);
    case SIGMOID: return dy * (y * (1 - y));
    default: return dy;
    }
}

// ---- value by value

#define FOR_EACH(i, len) for (uint i = blockIdx.x * blockDim.x + threadIdx.x; i < len; i += gridDim.x * blockDim.x)

// x ← act(x + bias); without a bias c is 0.
template <typename T>
__device__ void bias_activate(T* x, const T* bias, uint len, uint c, int act, double slope) {
    FOR_EACH(i, len) {
        T value = x[i];
        if (c) value += bias[i % c];
        x[i] = activate(value, act, (T)slope);
    }
}

// dy ← dy · act'
template <typename T>
__device__ void act_grad(const T* y, T* dy, uint len, int act, double slope) {
    FOR_EACH(i, len) dy[i] = activate_grad(y[i], dy[i], act, (T)slope);
}

template <typename T>
__device__ void multiply(T* x, const T* factor, uint len) {
    FOR_EACH(i, len) x[i] *= factor[i];
}

template <typename From, typename To>
__device__ void convert(const From* from, To* to, uint len) {
    FOR_EACH(i, len) put(to[i], widen(from[i]));
}

// Images by number, from bytes [images, c, side, side] to values [n, side, side, c]; mirrored where the number's highest bit is set.
template <typename T>
__device__ void gather(const unsigned char* pixels, const uint* numbers, const T* values, T* to, uint n, uint c, uint side) {
    uint size = c * side * side;
    FOR_EACH(i, n * size) {
        uint number = numbers[i / size], pixel = i % size / c, column = pixel % side;
        if (number >> 31) pixel += side - 1 - 2 * column;
        to[i] = values[pixels[(size_t)(number & 0x7fffffff) * size + i % c * side * side + pixel]];
    }
}

// ---- [n, a, b] → [n, b, a], in tiles of 32 × 32 by 32 × 8 threads; grid (tiles of b, tiles of a, n)

template <typename From, typename To>
__device__ void swap_axes(const From* from, To* to, uint n, uint a, uint b) {
    __shared__ To tile[32][33];
    for (uint image = blockIdx.z; image < n; image += gridDim.z) {
        size_t start = (size_t)image * a * b;
        uint column = blockIdx.x * 32 + threadIdx.x;
        for (uint k = threadIdx.y; k < 32; k += 8) {
            uint row = blockIdx.y * 32 + k;
            if (row < a && column < b) put(tile[k][threadIdx.x], widen(from[start + (size_t)row * b + column]));
        }
        __syncthreads();
        uint row = blockIdx.y * 32 + threadIdx.x;
        for (uint k = threadIdx.y; k < 32; k += 8) {
            uint column = blockIdx.x * 32 + k;
            if (row < a && column < b) to[start + (size_t)column * a + row] = tile[threadIdx.x][k];
        }
        __syncthreads();
    }
}

// ---- sums over rows, in two stages: partial sums over ROWS rows, then their total in double
// first stage: 32 columns × LANES threads, grid (blocks of rows, tiles of columns); second stage: 32 × 32, grid (tiles of columns)

#define LANES 8u
#define DEPTH 16u
#define ROWS (LANES * DEPTH)

// The sum over a column's threads, for all of them.
template <int N, typename T>
__device__ T across(T value) {
    __shared__ T shared[N][32];
    __syncthreads();
    shared[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    T sum = 0;
    for (int lane = 0; lane < N; lane++) sum += shared[lane][threadIdx.x];
    return sum;
}

// The total of a column's partial sums, for all of its threads.
template <typename T>
__device__ double total(const T* parts, uint count, uint c, uint column) {
    double sum = 0;
    for (uint k = threadIdx.y; k < count; k += 32) sum += parts[(size_t)k * c + column];
    return across<32>(sum);
}

template <typename T>
__device__ void sums(const T* x, T* parts, uint rows, uint c) {
    uint column = blockIdx.y * 32 + threadIdx.x, first = blockIdx.x * ROWS + threadIdx.y;
    T sum = 0;
    for (uint row = first; row < min(rows, (blockIdx.x + 1) * ROWS); row += LANES)
        if (column < c) sum += x[(size_t)row * c + column];
    sum = across<LANES>(sum);
    if (threadIdx.y == 0 && column < c) parts[(size_t)blockIdx.x * c + column] = sum;
}

template <typename T>
__device__ void sums_total(const T* parts, T* to, uint count, uint c) {
    uint column = blockIdx.x * 32 + threadIdx.x;
    double sum = total(parts, column < c ? count : 0, c, column);
    if (threadIdx.y == 0 && column < c) to[column] = sum;
}

// ---- batch normalisation

// The mean of each block of rows, and the sum of squared distances from it: no cancellation, and one pass over memory.
template <typename T>
__device__ void moments(const T* x, T* means, T* squares, uint rows, uint c) {
    uint column = blockIdx.y * 32 + threadIdx.x, first = blockIdx.x * ROWS;
    uint end = min(rows, first + ROWS);
    T values[DEPTH], sum = 0, square = 0;
#pragma unroll
    for (uint d = 0; d < DEPTH; d++) {
        uint row = first + d * LANES + threadIdx.y;
        values[d] = row < end && column < c ? x[(size_t)row * c + column] : 0;
        sum += values[d];
    }
    T mean = across<LANES>(sum) / (T)(end - first);
#pragma unroll
    for (uint d = 0; d < DEPTH; d++) {
        T distance = first + d * LANES + threadIdx.y < end ? values[d] - mean : 0;
        square += distance * distance;
    }
    square = across<LANES>(square);
    if (threadIdx.y == 0 && column < c) {
        means[(size_t)blockIdx.x * c + column] = mean;
        squares[(size_t)blockIdx.x * c + column] = square;
    }
}

// Joins the blocks' moments (Chan et al. 1979); scale is weight / √(var + eps). Running statistics, if there are any, are moved on.
template <typename T>
__device__ void moments_total(const T* means, const T* squares, const T* weight, T* mean, T* var, T* scale, T* running_mean, T* running_var,
                              uint rows, uint c, double eps, double keep, double of_mean, double of_var) {
    uint column = blockIdx.x * 32 + threadIdx.x, count = column < c ? (rows + ROWS - 1) / ROWS : 0;
    double sum = 0, square = 0;
    for (uint k = threadIdx.y; k < count; k += 32) sum += (double)min(ROWS, rows - k * ROWS) * means[(size_t)k * c + column];
    double centre = across<32>(sum) / rows;
    for (uint k = threadIdx.y; k < count; k += 32) {
        double distance = means[(size_t)k * c + column] - centre;
        square += squares[(size_t)k * c + column] + min(ROWS, rows - k * ROWS) * distance * distance;
    }
    double spread = across<32>(square) / rows;
    if (threadIdx.y == 0 && column < c) {
        mean[column] = centre;
        var[column] = spread;
        scale[column] = weight[column] / sqrt(spread + eps);
        if (running_mean) {
            running_mean[column] = running_mean[column] * (T)keep + mean[column] * (T)of_mean;
            running_var[column] = running_var[column] * (T)keep + var[column] * (T)of_var;
        }
    }
}

template <typename T>
__device__ void normalise(const T* x, const T* mean, const T* scale, const T* bias, T* y, uint len, uint c, int act,
                          double slope) {
    FOR_EACH(i, len) {
        uint column = i % c;
        y[i] = activate((x[i] - mean[column]) * scale[column] + bias[column], act, (T)slope);
    }
}

// By block of rows: the sums of dz = act'(y) · dy, and of dz · (x − mean).
template <typename T>
__device__ void norm_grad_sums(const T* x, const T* y, const T* dy, const T* mean, T* of_dz, T* of_dz_x, uint rows, uint c,
                               int act, double slope) {
    uint column = blockIdx.y * 32 + threadIdx.x, end = min(rows, (blockIdx.x + 1) * ROWS);
    T centre = column < c ? mean[column] : 0, sum = 0, sum_x = 0;
    for (uint row = blockIdx.x * ROWS + threadIdx.y; row < end && column < c; row += LANES) {
        size_t i = (size_t)row * c + column;
        T dz = activate_grad(y[i], dy[i], act, (T)slope);
        sum += dz;
        sum_x += dz * (x[i] - centre);
    }
    sum = across<LANES>(sum);
    sum_x = across<LANES>(sum_x);
    if (threadIdx.y == 0 && column < c) {
        of_dz[(size_t)blockIdx.x * c + column] = sum;
        of_dz_x[(size_t)blockIdx.x * c + column] = sum_x;
    }
}

// The gradients to weight and bias, and the constants of norm_grad: scale, mean of dz, what (x − mean) is multiplied by.
template <typename T>
__device__ void norm_grad_total(const T* of_dz, const T* of_dz_x, const T* weight, const T* var, T* dw, T* db, T* constants,
                                uint rows, uint c, double eps) {
    uint column = blockIdx.x * 32 + threadIdx.x, count = column < c ? (rows + ROWS - 1) / ROWS : 0;
    double to_bias = total(of_dz, count, c, column);
    double to_weight = total(of_dz_x, count, c, column);
    if (threadIdx.y == 0 && column < c) {
        double inverse = 1 / sqrt(var[column] + eps);
        to_weight *= inverse;
        dw[column] = to_weight;
        db[column] = to_bias;
        constants[column] = weight[column] * inverse;
        constants[c + column] = to_bias / rows;
        constants[2 * c + column] = to_weight / rows * inverse;
    }
}

// dy ← dx
template <typename T>
__device__ void norm_grad(const T* x, const T* y, T* dy, const T* mean, const T* constants, uint len, uint c, int act,
                          double slope) {
    FOR_EACH(i, len) {
        uint column = i % c;
        T dz = activate_grad(y[i], dy[i], act, (T)slope);
        dy[i] = constants[column] * (dz - constants[c + column] - (x[i] - mean[column]) * constants[2 * c + column]);
    }
}

// ---- maps [n, positions, c] with numbers of each image's and channel's own

// Numbers [n, c], or fewer that stand for several: by how much images and channels lie apart.
template <typename T>
struct Each {
    const T* at;
    uint by_image, by_channel;
    __device__ T of(uint image, uint channel) const { return at[(size_t)image * by_image + (size_t)channel * by_channel]; }
};

#define TERMS 3

// scale · (x − centre) + shift + Σ factor · g
template <typename T>
struct Combination {
    const T* x;
    Each<T> centre, scale, shift;
    const T* g[TERMS];
    Each<T> factor[TERMS];
    uint terms;
};

template <typename T>
__device__ void combine(const Combination<T>& of, T* to, uint len, uint image_len, uint c, int act, double slope) {
    FOR_EACH(i, len) {
        uint image = i / image_len, channel = i % c;
        T sum = (of.x[i] - of.centre.of(image, channel)) * of.scale.of(image, channel) + of.shift.of(image, channel);
#pragma unroll
        for (uint k = 0; k < TERMS; k++)
            if (k < of.terms) sum += of.g[k][i] * of.factor[k].of(image, channel);
        to[i] = activate(sum, act, (T)slope);
    }
}

// g + share of the image · x
template <typename T>
__device__ void plus_shares(const T* g, const T* x, const T* shares, T* to, uint len, uint image_len) {
    FOR_EACH(i, len) to[i] = g[i] + shares[i / image_len] * x[i];
}

// As `sums`, of each row by the share of its image.
template <typename T>
__device__ void sums_of_shares(const T* x, const T* shares, T* parts, uint rows, uint c, uint positions) {
    uint column = blockIdx.y * 32 + threadIdx.x, first = blockIdx.x * ROWS + threadIdx.y;
    T sum = 0;
    for (uint row = first; row < min(rows, (blockIdx.x + 1) * ROWS); row += LANES)
        if (column < c) sum += x[(size_t)row * c + column] * shares[row / positions];
    sum = across<LANES>(sum);
    if (threadIdx.y == 0 && column < c) parts[(size_t)blockIdx.x * c + column] = sum;
}

// Σ g and Σ g · (x − centre) over the positions of each image; 32 columns × LANES threads, grid (images, tiles of columns).
template <typename T>
__device__ void image_sums(const T* g, const T* x, Each<T> centre, T* of_g, T* of_gx, uint n, uint positions, uint c) {
    uint column = blockIdx.y * 32 + threadIdx.x, inside = column < c ? positions : 0;
    for (uint image = blockIdx.x; image < n; image += gridDim.x) {
        size_t start = (size_t)image * positions * c + column;
        T middle = column < c ? centre.of(image, column) : 0;
        double sum = 0, sum_x = 0;
        for (uint first = threadIdx.y; first < inside; first += ROWS) {
            T part = 0, part_x = 0;
            for (uint position = first; position < min(inside, first + ROWS); position += LANES) {
                size_t i = start + (size_t)position * c;
                part += g[i];
                part_x += g[i] * (x[i] - middle);
            }
            sum += part;
            sum_x += part_x;
        }
        sum = across<LANES>(sum);
        sum_x = across<LANES>(sum_x);
        if (threadIdx.y == 0 && column < c) {
            of_g[(size_t)image * c + column] = sum;
            of_gx[(size_t)image * c + column] = sum_x;
        }
    }
}

// ---- updates of many tensors in one launch

#define TENSORS 48
#define SHARE 4096u

// Tensors as long as `len` each, cut into shares of SHARE values; `first` is a tensor's first share.
struct Table {
    void* at[TENSORS][4];
    uint len[TENSORS];
    uint first[TENSORS];
    uint count;
};

struct Constants {
    double v[7];
};

enum { ADAM, RMSPROP, MOMENTUM, SGD, CLAMP, LERP };

// at[0] is what is updated, at[1] what it is updated from, at[2] and at[3] the optimiser's slots. One block a share. The constants are
// those on the device, if there are any.
template <typename T>
__device__ void update(const Table& table, int rule, const Constants& constants, const double* on_device) {
    uint tensor = 0;
    while (tensor + 1 < table.count && table.first[tensor + 1] <= blockIdx.x) tensor++;
    T* w = (T*)table.at[tensor][0];
    const T* from = (const T*)table.at[tensor][1];
    T* slot = (T*)table.at[tensor][2];
    T* second = (T*)table.at[tensor][3];
    T k[7];
    for (int i = 0; i < 7; i++) k[i] = on_device ? on_device[i] : constants.v[i];
    uint start = (blockIdx.x - table.first[tensor]) * SHARE, end = min(start + SHARE, table.len[tensor]);
    for (uint i = start + threadIdx.x; i < end; i += blockDim.x) {
        switch (rule) {
        case ADAM: { // β₁, 1 − β₁, β₂, 1 − β₂, rate, correction, eps
            T g = from[i], m = slot[i] * k[0] + g * k[1], v = second[i] * k[2] + g * g * k[3];
            slot[i] = m;
            second[i] = v;
            w[i] -= k[4] * m / (root(v) * k[5] + k[6]);
            break;
        }
        case RMSPROP: { // lr, decay, 1 − decay, inside, beside
            T g = from[i], v = slot[i] * k[1] + g * g * k[2];
            slot[i] = v;
            w[i] -= k[0] * g / (root(v + k[3]) + k[4]);
            break;
        }
        case MOMENTUM: { // lr, momentum
            T m = slot[i] * k[1] + from[i];
            slot[i] = m;
            w[i] -= k[0] * m;
            break;
        }
        case SGD: // lr
            w[i] -= k[0] * from[i];
            break;
        case CLAMP: { // limit; NaN stays, for the loop to notice
            T value = w[i];
            w[i] = value < -k[0] ? -k[0] : value > k[0] ? k[0] : value;
            break;
        }
        case LERP: // keep, take
            w[i] = w[i] * k[0] + from[i] * k[1];
            break;
        }
    }
}

// ---- losses of scores with their gradients, numbered as in scores.rs; one block

enum { BCE, SQUARES, DIFFERENCE, HINGE, RELATIVISTIC };
enum { CRITIC, GENERATOR };

__device__ inline double rectified(double x) { return x <= 0 ? 0 : x; } // NaN stays
__device__ inline double softplus(double x) { return rectified(x) + log1p(exp(-fabs(x))); }
__device__ inline double logistic(double x) {
    double small = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + small) : small / (1 + small);
}

struct Graded {
    double value, by_real, by_fake;
};

__device__ inline Graded graded(int term, int player, double r, double f) {
    if (player == GENERATOR) switch (term) {
        case BCE: return {softplus(-f), 0, -logistic(-f)};
        case SQUARES: return {0.5 * (f - 1) * (f - 1), 0, f - 1};
        case RELATIVISTIC: return {softplus(r - f), logistic(r - f), -logistic(r - f)};
        default: return {-f, 0, -1};
        }
    switch (term) {
    case BCE: return {softplus(-r) + softplus(f), -logistic(-r), logistic(f)};
    case SQUARES: return {0.5 * ((r - 1) * (r - 1) + f * f), r - 1, f};
    case HINGE: return {rectified(1 - r) + rectified(1 + f), 1 - r > 0 ? -1. : 0., 1 + f > 0 ? 1. : 0.};
    case RELATIVISTIC: return {softplus(f - r), -logistic(f - r), logistic(f - r)};
    default: return {f - r, -1, 1};
    }
}

// The gradients, and in `told` the loss and the means of the scores. Without real scores `real` and `by_real` are null.
template <typename T>
__device__ void grade(const T* real, const T* fake, T* by_real, T* by_fake, double* told, uint n, int term, int player, double factor) {
    __shared__ double sums[3][256];
    double loss = 0, of_real = 0, of_fake = 0;
    for (uint i = threadIdx.x; i < n; i += blockDim.x) {
        double r = real ? (double)real[i] : 0, f = fake[i];
        Graded at = graded(term, player, r, f);
        if (by_real) by_real[i] = (T)(factor * at.by_real);
        by_fake[i] = (T)(factor * at.by_fake);
        loss += at.value, of_real += r, of_fake += f;
    }
    sums[0][threadIdx.x] = loss, sums[1][threadIdx.x] = of_real, sums[2][threadIdx.x] = of_fake;
    for (uint half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int k = 0; k < 3; k++) sums[k][threadIdx.x] += sums[k][threadIdx.x + half];
    }
    if (threadIdx.x == 0) told[0] = factor * sums[0][0], told[1] = sums[1][0] / n, told[2] = sums[2][0] / n;
}

// ---- sums of what the threads of a block have, for all of them, who must all take part; 1024 threads at most

template <typename T>
__device__ T sum_of_block(T value) {
    __shared__ T sums[1024];
    __syncthreads(); // someone may still read the last sum
    sums[threadIdx.x] = value;
    for (uint half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    return sums[0];
}

// The mean of each image's values, and 1 / √(variance + eps); a block of 1024 threads an image.
template <typename T>
__device__ void image_moments(const T* x, T* means, T* inverses, uint n, uint len, double eps) {
    for (uint image = blockIdx.x; image < n; image += gridDim.x) {
        const T* values = x + (size_t)image * len;
        double sum = 0, square = 0;
        for (uint i = threadIdx.x; i < len; i += blockDim.x) sum += values[i];
        T mean = (T)(sum_of_block(sum) / len);
        for (uint i = threadIdx.x; i < len; i += blockDim.x) {
            T distance = values[i] - mean;
            square += distance * distance;
        }
        square = sum_of_block(square);
        if (threadIdx.x == 0) {
            means[image] = mean;
            inverses[image] = (T)(1 / sqrt(square / len + eps));
        }
    }
}

// ---- weights [out, rest] that are divided by their spectral norm; blocks of 256 threads

template <typename T>
__device__ inline T inverse_norm(T square) {
    T norm = root(square), least = (T)1e-12; // as in spectral.rs
    return 1 / (norm > least ? norm : least);
}

// Wᵀu, in blocks of 32 columns × 8 threads.
template <typename T>
__device__ void spectral_columns(const T* w, const T* u, T* to, uint out, uint rest) {
    __shared__ T sums[8][32];
    uint column = blockIdx.x * 32 + threadIdx.x;
    T sum = 0;
    if (column < rest)
        for (uint row = threadIdx.y; row < out; row += 8) sum += w[(size_t)row * rest + column] * u[row];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= rest) return;
    for (uint lane = 1; lane < 8; lane++) sum += sums[lane][threadIdx.x];
    to[column] = sum;
}

// Wv, a block a row, with v brought to length 1 if `unit`; then v is written to two places.
template <typename T>
__device__ void spectral_rows(const T* w, const T* v, T* kept, T* copy, T* along, uint out, uint rest, int unit) {
    for (uint row = blockIdx.x; row < out; row += gridDim.x) {
        T product = 0, square = 0;
        for (uint i = threadIdx.x; i < rest; i += blockDim.x) product += w[(size_t)row * rest + i] * v[i], square += v[i] * v[i];
        product = sum_of_block(product);
        T scale = unit ? inverse_norm(sum_of_block(square)) : 1;
        if (threadIdx.x == 0) along[row] = product * scale;
        if (row == 0)
            for (uint i = threadIdx.x; i < rest; i += blockDim.x) {
                copy[i] = v[i] * scale;
                if (unit) kept[i] = copy[i];
            }
    }
}

// σ = uᵀWv, one block, with u ← Wv / ‖Wv‖ if `unit`.
template <typename T>
__device__ void spectral_sigma(const T* along, T* u, T* copy, T* sigma, uint out, int unit) {
    T square = 0, product = 0;
    for (uint i = threadIdx.x; i < out; i += blockDim.x) square += along[i] * along[i];
    T scale = inverse_norm(sum_of_block(square));
    for (uint i = threadIdx.x; i < out; i += blockDim.x) {
        if (unit) u[i] = along[i] * scale;
        copy[i] = u[i];
        product += u[i] * along[i];
    }
    product = sum_of_block(product);
    if (threadIdx.x == 0) sigma[0] = product;
}

template <typename T>
__device__ void divide(const T* x, const T* by, T* to, uint len) {
    FOR_EACH(i, len) to[i] = x[i] / by[0];
}

// The sums of the rows of two matrices' products, value by value.
template <typename T>
__device__ void row_products(const T* a, const T* b, T* to, uint out, uint rest) {
    for (uint row = blockIdx.x; row < out; row += gridDim.x) {
        T product = 0;
        for (uint i = threadIdx.x; i < rest; i += blockDim.x) product += a[(size_t)row * rest + i] * b[(size_t)row * rest + i];
        product = sum_of_block(product);
        if (threadIdx.x == 0) to[row] = product;
    }
}

// (G − ⟨G, W/σ⟩ u vᵀ) / σ; the product is the sum of `products`, one a row.
template <typename T>
__device__ void spectral_grad(const T* g, const T* products, const T* u, const T* v, const T* sigma, T* to, uint out, uint rest) {
    T product = 0;
    for (uint i = threadIdx.x; i < out; i += blockDim.x) product += products[i];
    product = sum_of_block(product);
    FOR_EACH(i, out * rest) to[i] = (g[i] - product * u[i / rest] * v[i % rest]) / sigma[0];
}

// ---- penalties on gradients, of their rows' sums of squares, numbered as in slopes.rs; one block

enum { DISTANCE_FROM_ONE, SQUARE };

// The factor that makes of each row its part of the penalty's gradient; and told: the penalty, and the mean norm.
template <typename T>
__device__ void penalise(const T* squares, T* factors, double* told, uint n, int kind, double by_value, const double* on_device, double eps) {
    double weight = on_device ? on_device[0] : by_value, value = 0, norms = 0;
    for (uint i = threadIdx.x; i < n; i += blockDim.x) {
        double square = squares[i], norm = sqrt(square + eps), beyond = norm - 1;
        norms += norm;
        value += kind == SQUARE ? square / 2 : beyond * beyond;
        factors[i] = (T)((kind == SQUARE ? 1 : 2 * beyond / norm) * weight / n);
    }
    value = sum_of_block(value);
    norms = sum_of_block(norms);
    if (threadIdx.x == 0) {
        told[0] = value * weight / n;
        told[1] = norms / n;
    }
}

template <typename T>
__device__ void scale_rows(const T* x, const T* factors, T* to, uint rows, uint c) {
    FOR_EACH(i, rows * c) to[i] = x[i] * factors[i / c];
}

// ---- a step of an augmentation, numbered as in cuda/augment.rs; a block an image [h, w, c], whose four draws lie together

enum { COLOUR, SHIFT, CUT };
enum { WHOLE, LINEAR, ADJOINT }; // with what is added, without, or the way back of that

template <typename T>
__device__ void colour(const T* from, T* to, const double* draws, uint area, uint c, int form) {
    T brightness = form == WHOLE ? (T)draws[0] : 0, saturation = (T)draws[1], contrast = (T)draws[2];
    if (brightness == 0 && saturation == 1 && contrast == 1) { // to the bit, which (x − mean) + mean is not
        for (uint i = threadIdx.x; i < area * c; i += blockDim.x) to[i] = from[i];
        return;
    }
    double all = 0;
    for (uint pixel = threadIdx.x; pixel < area; pixel += blockDim.x) {
        double sum = 0;
        for (uint i = pixel * c; i < pixel * c + c; i++) sum += to[i] = from[i] + brightness;
        T mean = (T)(sum / c);
        for (uint i = pixel * c; i < pixel * c + c; i++) all += to[i] = (to[i] - mean) * saturation + mean;
    }
    T mean = (T)(sum_of_block(all) / (area * c));
    for (uint pixel = threadIdx.x; pixel < area; pixel += blockDim.x)
        for (uint i = pixel * c; i < pixel * c + c; i++) to[i] = (to[i] - mean) * contrast + mean;
}

template <typename T>
__device__ void augment(const T* from, T* to, const double* draws, uint n, uint h, uint w, uint c, int kind, int form, double fill) {
    double sign = form == ADJOINT ? -1 : 1;
    for (uint image = blockIdx.x; image < n; image += gridDim.x) {
        size_t start = (size_t)image * h * w * c;
        const double* drawn = draws + 4 * image;
        if (kind == COLOUR) {
            colour(from + start, to + start, drawn, h * w, c, form);
            continue;
        }
        for (uint i = threadIdx.x; i < h * w * c; i += blockDim.x) {
            double row = i / c / w, column = i / c % w;
            if (kind == SHIFT) {
                double source = row + sign * drawn[0], beside = column + sign * drawn[1];
                bool inside = source >= 0 && source < h && beside >= 0 && beside < w;
                to[start + i] = inside ? from[start + ((size_t)source * w + (size_t)beside) * c + i % c] : (T)fill;
            } else {
                bool inside = row >= drawn[0] && row < drawn[1] && column >= drawn[2] && column < drawn[3];
                to[start + i] = inside ? (T)fill : from[start + i];
            }
        }
    }
}

// ---- entry points, one for each type of the values

#define KERNEL(name) extern "C" __global__ void name
// Of 1024 threads: the compiler must leave registers for all of them.
#define WIDE_KERNEL(name) extern "C" __global__ void __launch_bounds__(1024) name
#define ENTRIES(T, s)                                                                                                          \
    KERNEL(bias_activate_##s)(T* x, const T* bias, uint len, uint c, int act, double slope) {                                  \
        bias_activate(x, bias, len, c, act, slope);                                                                            \
    }                                                                                                                          \
    KERNEL(act_grad_##s)(const T* y, T* dy, uint len, int act, double slope) { act_grad(y, dy, len, act, slope); }             \
    KERNEL(multiply_##s)(T* x, const T* factor, uint len) { multiply(x, factor, len); }                                        \
    KERNEL(augment_##s)(const T* from, T* to, const double* draws, uint n, uint h, uint w, uint c, int kind, int form, double fill) {\
        augment(from, to, draws, n, h, w, c, kind, form, fill);                                                                \
    }                                                                                                                          \
    KERNEL(spectral_columns_##s)(const T* w, const T* u, T* to, uint out, uint rest) { spectral_columns(w, u, to, out, rest); }\
    KERNEL(spectral_rows_##s)(const T* w, const T* v, T* kept, T* copy, T* along, uint out, uint rest, int unit) {             \
        spectral_rows(w, v, kept, copy, along, out, rest, unit);                                                               \
    }                                                                                                                          \
    KERNEL(spectral_sigma_##s)(const T* along, T* u, T* copy, T* sigma, uint out, int unit) {                                  \
        spectral_sigma(along, u, copy, sigma, out, unit);                                                                      \
    }                                                                                                                          \
    KERNEL(divide_##s)(const T* x, const T* by, T* to, uint len) { divide(x, by, to, len); }                                   \
    KERNEL(row_products_##s)(const T* a, const T* b, T* to, uint out, uint rest) { row_products(a, b, to, out, rest); }        \
    KERNEL(spectral_grad_##s)(const T* g, const T* products, const T* u, const T* v, const T* sigma, T* to, uint out, uint rest) {\
        spectral_grad(g, products, u, v, sigma, to, out, rest);                                                                \
    }                                                                                                                          \
    KERNEL(grade_##s)(const T* real, const T* fake, T* by_real, T* by_fake, double* told, uint n, int term, int player,       \
                      double factor) {                                                                                        \
        grade(real, fake, by_real, by_fake, told, n, term, player, factor);                                                   \
    }                                                                                                                          \
    KERNEL(penalise_##s)(const T* squares, T* factors, double* told, uint n, int kind, double by_value, const double* on_device, \
                         double eps) {                                                                                         \
        penalise(squares, factors, told, n, kind, by_value, on_device, eps);                                                   \
    }                                                                                                                          \
    KERNEL(scale_rows_##s)(const T* x, const T* factors, T* to, uint rows, uint c) { scale_rows(x, factors, to, rows, c); }    \
    KERNEL(gather_##s)(const unsigned char* pixels, const uint* numbers, const T* values, T* to, uint n, uint c, uint side) {  \
        gather(pixels, numbers, values, to, n, c, side);                                                                       \
    }                                                                                                                          \
    KERNEL(swap_axes_##s)(const T* from, T* to, uint n, uint a, uint b) { swap_axes(from, to, n, a, b); }                      \
    KERNEL(sums_##s)(const T* x, T* parts, uint rows, uint c) { sums(x, parts, rows, c); }                                     \
    WIDE_KERNEL(sums_total_##s)(const T* parts, T* to, uint count, uint c) { sums_total(parts, to, count, c); }                     \
    KERNEL(moments_##s)(const T* x, T* means, T* squares, uint rows, uint c) { moments(x, means, squares, rows, c); }          \
    WIDE_KERNEL(moments_total_##s)(const T* means, const T* squares, const T* weight, T* mean, T* var, T* scale, T* running_mean, \
                                   T* running_var, uint rows, uint c, double eps, double keep, double of_mean, double of_var) { \
        moments_total(means, squares, weight, mean, var, scale, running_mean, running_var, rows, c, eps, keep, of_mean, of_var); \
    }                                                                                                                          \
    KERNEL(normalise_##s)(const T* x, const T* mean, const T* scale, const T* bias, T* y, uint len, uint c, int act,           \
                          double slope) {                                                                                      \
        normalise(x, mean, scale, bias, y, len, c, act, slope);                                                                \
    }                                                                                                                          \
    KERNEL(norm_grad_sums_##s)(const T* x, const T* y, const T* dy, const T* mean, T* of_dz, T* of_dz_x, uint rows, uint c,    \
                               int act, double slope) {                                                                        \
        norm_grad_sums(x, y, dy, mean, of_dz, of_dz_x, rows, c, act, slope);                                                   \
    }                                                                                                                          \
    WIDE_KERNEL(norm_grad_total_##s)(const T* of_dz, const T* of_dz_x, const T* weight, const T* var, T* dw, T* db, T* constants,   \
                                uint rows, uint c, double eps) {                                                               \
        norm_grad_total(of_dz, of_dz_x, weight, var, dw, db, constants, rows, c, eps);                                         \
    }                                                                                                                          \
    KERNEL(norm_grad_##s)(const T* x, const T* y, T* dy, const T* mean, const T* constants, uint len, uint c, int act,         \
                          double slope) {                                                                                      \
        norm_grad(x, y, dy, mean, constants, len, c, act, slope);                                                              \
    }                                                                                                                          \
    KERNEL(combine_##s)(const __grid_constant__ Combination<T> of, T* to, uint len, uint image_len, uint c, int act, double slope) {\
        combine(of, to, len, image_len, c, act, slope);                                                                        \
    }                                                                                                                          \
    KERNEL(plus_shares_##s)(const T* g, const T* x, const T* shares, T* to, uint len, uint image_len) {                        \
        plus_shares(g, x, shares, to, len, image_len);                                                                         \
    }                                                                                                                          \
    KERNEL(sums_of_shares_##s)(const T* x, const T* shares, T* parts, uint rows, uint c, uint positions) {                     \
        sums_of_shares(x, shares, parts, rows, c, positions);                                                                  \
    }                                                                                                                          \
    KERNEL(image_sums_##s)(const T* g, const T* x, Each<T> centre, T* of_g, T* of_gx, uint n, uint positions, uint c) {        \
        image_sums(g, x, centre, of_g, of_gx, n, positions, c);                                                                \
    }                                                                                                                          \
    WIDE_KERNEL(image_moments_##s)(const T* x, T* means, T* inverses, uint n, uint len, double eps) {                          \
        image_moments(x, means, inverses, n, len, eps);                                                                        \
    }                                                                                                                          \
    KERNEL(update_##s)(const __grid_constant__ Table table, int rule, Constants constants, const double* on_device) {          \
        update<T>(table, rule, constants, on_device);                                                                          \
    }

ENTRIES(float, f32)
ENTRIES(double, f64)

KERNEL(convert_narrow)(const float* from, bf16* to, uint len) { convert(from, to, len); }
KERNEL(convert_widen)(const bf16* from, float* to, uint len) { convert(from, to, len); }
KERNEL(swap_axes_narrow)(const float* from, bf16* to, uint n, uint a, uint b) { swap_axes(from, to, n, a, b); }
KERNEL(swap_axes_widen)(const bf16* from, float* to, uint n, uint a, uint b) { swap_axes(from, to, n, a, b); }
