// What the sham GPU computes with: our kernels by block.hpp, candle's by loops after what its sources say they do.

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>

#include "block.hpp"
#include "sham.hpp"

namespace {

// ---- kernels of any signature, from the addresses of their arguments

template <typename... A, size_t... I> void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...);
}

struct Launch {
    unsigned grid[3], block[3];
    void **arguments;
};

// What it does, and how long its arguments are.
struct Kernel {
    std::function<void(const Launch &)> run;
    std::vector<size_t> sizes;
};

template <typename... A> std::vector<size_t> sizes_of() { return {sizeof(std::remove_reference_t<A>)...}; }

// One of ours, in a grid of blocks.
template <typename... A> Kernel ours(void (*kernel)(A...)) {
    return {[kernel](const Launch &by) {
        launch({by.grid[0], by.grid[1], by.grid[2]}, {by.block[0], by.block[1], by.block[2]},
               [&] { call(kernel, by.arguments, std::index_sequence_for<A...>()); });
    }, sizes_of<A...>()};
}

// One of ours whose threads never wait for each other: without a stack for each.
template <typename... A> Kernel alone(void (*kernel)(A...)) {
    return {[kernel](const Launch &by) {
        gridDim = {by.grid[0], by.grid[1], by.grid[2]};
        blockDim = {by.block[0], by.block[1], by.block[2]};
        for (unsigned at = 0; at < gridDim.x * gridDim.y * gridDim.z; at++) {
            blockIdx = {at % gridDim.x, at / gridDim.x % gridDim.y, at / (gridDim.x * gridDim.y)};
            for (unsigned thread = 0; thread < blockDim.x * blockDim.y; thread++) {
                threadIdx = {thread % blockDim.x, thread / blockDim.x, 0};
                call(kernel, by.arguments, std::index_sequence_for<A...>());
            }
        }
    }, sizes_of<A...>()};
}

// One of candle's, which says by its arguments over what it goes.
template <typename... A> Kernel loop(void (*kernel)(A...)) {
    return {[kernel](const Launch &by) { call(kernel, by.arguments, std::index_sequence_for<A...>()); }, sizes_of<A...>()};
}

// ---- candle's: `dims` are the sides and behind them the strides of each operand; null where all is contiguous

size_t strided(size_t at, size_t rank, const size_t *dims, const size_t *strides) {
    if (!dims) return at;
    size_t place = 0;
    for (size_t axis = rank; axis-- > 0; at /= dims[axis]) place += at % dims[axis] * strides[axis];
    return place;
}

#define UNARY(name, expression)                                                                                                            \
    template <typename T> void name(size_t len, size_t rank, const size_t *dims, const T *from, T *to) {                                 \
        for (size_t i = 0; i < len; i++) {                                                                                                 \
            const T x = from ? from[strided(i, rank, dims, dims + rank)] : to[i];                                                          \
            to[i] = expression;                                                                                                            \
        }                                                                                                                                  \
    }
UNARY(copied, x)
UNARY(negative, -x)
UNARY(absolute, std::abs(x))
UNARY(exponential_of, std::exp(x))
UNARY(logarithm, std::log(x))
UNARY(rectified, x > 0 ? x : T(0))
UNARY(squared, x *x)
UNARY(square_root, std::sqrt(x))
UNARY(reciprocal, 1 / x)
UNARY(hyperbolic_of, std::tanh(x))

#define BINARY(name, Result, expression)                                                                                                   \
    template <typename T> void name(size_t len, size_t rank, const size_t *dims, const T *left, const T *right, Result *to) {             \
        for (size_t i = 0; i < len; i++) {                                                                                                 \
            const T a = left[strided(i, rank, dims, dims + rank)], b = right[strided(i, rank, dims, dims + 2 * rank)];                    \
            to[i] = expression;                                                                                                            \
        }                                                                                                                                  \
    }
BINARY(sum, T, a + b)
BINARY(difference, T, a - b)
BINARY(product, T, a *b)
BINARY(quotient, T, a / b)
BINARY(larger, T, std::max(a, b))
BINARY(smaller, T, std::min(a, b))
BINARY(equal, uint8_t, a == b)
BINARY(unequal, uint8_t, a != b)
BINARY(above, uint8_t, a > b)
BINARY(at_least, uint8_t, a >= b)
BINARY(below, uint8_t, a < b)
BINARY(at_most, uint8_t, a <= b)

template <typename T> void affine(size_t len, size_t rank, const size_t *dims, const T *from, T *to, T factor, T term) {
    for (size_t i = 0; i < len; i++) to[i] = (from ? from[strided(i, rank, dims, dims + rank)] : to[i]) * factor + term;
}

template <typename S, typename T> void cast(size_t len, size_t rank, const size_t *dims, const S *from, T *to) {
    for (size_t i = 0; i < len; i++) to[i] = T(from[strided(i, rank, dims, dims + rank)]);
}

// A kernel with a block for each value of the result, which it makes of `each` values.
template <typename T> struct Blocks {
    size_t len, each, rank;
    const size_t *dims;
    const T *from;
    T *to;
    explicit Blocks(const Launch &by)
        : len(at<size_t>(by, 0)), each(at<size_t>(by, 1)), rank(at<size_t>(by, 2)), dims(at<const size_t *>(by, 3)), from(at<const T *>(by, 4)),
          to(at<T *>(by, 5)) {}
    template <typename A> static A at(const Launch &by, int argument) { return *static_cast<A *>(by.arguments[argument]); }
    // The values of a block, with their numbers in it.
    template <typename F> void each_of(size_t block, F use) const {
        for (size_t i = 0; i < each && block * each + i < len; i++) use(i, from[strided(block * each + i, rank, dims, dims + rank)]);
    }
};

// As on the device: the threads' sums of every so manieth value, then halves onto halves.
template <typename T> void fast_sum(const Launch &by) {
    const Blocks<T> blocks(by);
    std::vector<T> sums(by.block[0]);
    for (size_t block = 0; block < by.grid[0]; block++) {
        std::fill(sums.begin(), sums.end(), T(0));
        blocks.each_of(block, [&](size_t i, T value) { sums[i % sums.size()] += value; });
        for (size_t half = sums.size() / 2; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++) sums[i] += sums[i + half];
        blocks.to[block] = sums[0];
    }
}

template <typename T> void fast_max(const Launch &by) {
    const Blocks<T> blocks(by);
    for (size_t block = 0; block < by.grid[0]; block++)
        blocks.each_of(block, [&](size_t i, T value) { blocks.to[block] = i == 0 ? value : std::max(blocks.to[block], value); });
}

template <typename T> void small_sum(size_t len, size_t each, size_t rank, const size_t *dims, const T *from, T *to) {
    for (size_t i = 0; i < len; i++) {
        T sum = 0;
        for (size_t k = 0; k < each; k++) sum += from[strided(i * each + k, rank, dims, dims + rank)];
        to[i] = sum;
    }
}

template <typename T> void set(size_t len, size_t rank, const size_t *dims, T value, T *to) {
    for (size_t i = 0; i < len; i++) to[strided(i, rank, dims, dims + rank)] = value;
}

template <typename T> void copy2d(const T *from, T *to, uint32_t rows, uint32_t columns, uint32_t from_step, uint32_t to_step) {
    for (size_t row = 0; row < rows; row++) std::copy_n(from + row * from_step, columns, to + row * to_step);
}

template <typename I, typename T>
void where(size_t len, size_t rank, const size_t *dims, const I *which, const T *yes, const T *no, T *to) {
    for (size_t i = 0; i < len; i++) {
        auto place = [&](int operand) { return strided(i, rank, dims, dims + operand * rank); };
        to[i] = which[place(1)] ? yes[place(2)] : no[place(3)];
    }
}

// (`dims` are the ids', which are contiguous; so must be what they choose from.)
template <typename I, typename T>
void index_select(size_t len, size_t, const size_t *, const I *ids, const T *from, T *to, size_t, size_t side, size_t many, size_t right) {
    for (size_t i = 0; i < len; i++) {
        const size_t at = i / (many * right) * side * right + ids[i / right % many] * right + i % right;
        to[i] = ids[i / right % many] == I(-1) ? T(0) : from[at];
    }
}

template <typename I, typename T>
void index_add(const I *ids, size_t many, const T *from, T *to, size_t left, size_t side, size_t to_side, size_t right) {
    for (size_t row = 0; row < left; row++)
        for (size_t i = 0; i < many; i++)
            for (size_t k = 0; k < right; k++) to[(row * to_side + ids[i]) * right + k] += from[(row * side + i) * right + k];
}

std::map<std::string, Kernel> all() {
    std::map<std::string, Kernel> kernels;
    const auto floats = [&]<typename T>(T, const std::string &type) {
        kernels["uneg_" + type] = loop(negative<T>);
        kernels["uabs_" + type] = loop(absolute<T>);
        kernels["uexp_" + type] = loop(exponential_of<T>);
        kernels["ulog_" + type] = loop(logarithm<T>);
        kernels["urelu_" + type] = loop(rectified<T>);
        kernels["usqr_" + type] = loop(squared<T>);
        kernels["usqrt_" + type] = loop(square_root<T>);
        kernels["urecip_" + type] = loop(reciprocal<T>);
        kernels["utanh_" + type] = loop(hyperbolic_of<T>);
    };
    const auto of_blocks = sizes_of<size_t, size_t, size_t, const size_t *, const void *, void *>();
    const auto numbers = [&]<typename T>(T, const std::string &type) {
        kernels["ucopy_" + type] = loop(copied<T>);
        kernels["badd_" + type] = loop(sum<T>);
        kernels["bsub_" + type] = loop(difference<T>);
        kernels["bmul_" + type] = loop(product<T>);
        kernels["bdiv_" + type] = loop(quotient<T>);
        kernels["bmaximum_" + type] = loop(larger<T>);
        kernels["bminimum_" + type] = loop(smaller<T>);
        kernels["eq_" + type] = loop(equal<T>);
        kernels["ne_" + type] = loop(unequal<T>);
        kernels["gt_" + type] = loop(above<T>);
        kernels["ge_" + type] = loop(at_least<T>);
        kernels["lt_" + type] = loop(below<T>);
        kernels["le_" + type] = loop(at_most<T>);
        kernels["affine_" + type] = loop(affine<T>);
        kernels["fast_sum_" + type] = {fast_sum<T>, of_blocks};
        kernels["fast_max_" + type] = {fast_max<T>, of_blocks};
        kernels["fast_sum_small_" + type] = loop(small_sum<T>);
        kernels["const_set_" + type] = loop(set<T>);
        kernels["copy2d_" + type] = loop(copy2d<T>);
        kernels["where_u8_" + type] = loop(where<uint8_t, T>);
        kernels["where_u32_" + type] = loop(where<uint32_t, T>);
        kernels["is_u32_" + type] = loop(index_select<uint32_t, T>);
        kernels["ia_u32_" + type] = loop(index_add<uint32_t, T>);
        kernels["cast_" + type + "_f32"] = loop(cast<T, float>);
        kernels["cast_" + type + "_f64"] = loop(cast<T, double>);
        kernels["cast_" + type + "_u32"] = loop(cast<T, uint32_t>);
        kernels["cast_" + type + "_u8"] = loop(cast<T, uint8_t>);
    };
    floats(float(), "f32"), floats(double(), "f64");
    numbers(float(), "f32"), numbers(double(), "f64"), numbers(uint32_t(), "u32"), numbers(uint8_t(), "u8");

#define BOTH(how, name) kernels[#name "_f32"] = how(name##_f32), kernels[#name "_f64"] = how(name##_f64)
    BOTH(alone, bias_activate);
    BOTH(alone, act_grad);
    BOTH(alone, multiply);
    BOTH(alone, gather);
    BOTH(alone, normalise);
    BOTH(alone, norm_grad);
    BOTH(alone, update);
    BOTH(alone, divide);
    BOTH(alone, scale_rows);
    BOTH(alone, combine);
    BOTH(alone, plus_shares);
    BOTH(ours, sums_of_shares);
    BOTH(ours, image_sums);
    BOTH(ours, image_moments);
    BOTH(ours, penalise);
    BOTH(ours, swap_axes);
    BOTH(ours, grade);
    BOTH(ours, augment);
    BOTH(ours, spectral_columns);
    BOTH(ours, spectral_rows);
    BOTH(ours, spectral_sigma);
    BOTH(ours, row_products);
    BOTH(ours, spectral_grad);
    BOTH(ours, sums);
    BOTH(ours, sums_total);
    BOTH(ours, moments);
    BOTH(ours, moments_total);
    BOTH(ours, norm_grad_sums);
    BOTH(ours, norm_grad_total);
    kernels["convert_narrow"] = alone(convert_narrow);
    kernels["convert_widen"] = alone(convert_widen);
    kernels["swap_axes_narrow"] = ours(swap_axes_narrow);
    kernels["swap_axes_widen"] = ours(swap_axes_widen);
    return kernels;
}

} // namespace

static const std::map<std::string, Kernel> &known() {
    static const auto kernels = all();
    return kernels;
}

const std::vector<size_t> *argument_sizes(const std::string &name) {
    const auto found = known().find(name);
    return found == known().end() ? nullptr : &found->second.sizes;
}

void compute_kernel(const std::string &name, const unsigned grid[3], const unsigned block[3], void **arguments) {
    known().at(name).run({{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, arguments});
}
