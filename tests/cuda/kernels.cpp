// src/nn/cuda/kernels.cu against plain loops, on a machine without a GPU (block.hpp). Shows that the kernels compute what they should in the
// grids that cuda/ gives them; not that they run on a GPU, nor how fast. Built and run by `make check-cuda`.

#include <algorithm>
#include <random>
#include <type_traits>

#include "block.hpp"

// A kernel's entry point for the type T at hand.
#define ENTRY(name)                                                                                                           \
    [](auto... arguments) {                                                                                                    \
        if constexpr (std::is_same_v<T, float>)                                                                                \
            name##_f32(arguments...);                                                                                          \
        else                                                                                                                   \
            name##_f64(arguments...);                                                                                          \
    }

// ---- the grids of cuda.rs

static unsigned parts_of(unsigned len, unsigned part) { return (len + part - 1) / part; }
static Index each(unsigned len) { return {std::clamp(parts_of(len, 256), 1u, 3u)}; } // fewer blocks than there: each thread takes several
static Index partial(unsigned rows, unsigned c) { return {parts_of(rows, 128), parts_of(c, 32)}; }
static Index total_of(unsigned c) { return {parts_of(c, 32)}; }
static Index tiles(unsigned n, unsigned a, unsigned b) { return {parts_of(b, 32), parts_of(a, 32), std::min(n, 2u)}; }
static const Index THREADS{256}, FIRST{32, 8}, SECOND{32, 32};

// ---- what is compared

static std::mt19937 generator(7);
static int failures = 0;

template <typename T>
static std::vector<T> normal(size_t len, double mean = 0) {
    std::normal_distribution<double> law(mean, 1);
    std::vector<T> values(len);
    for (auto& value : values) value = law(generator);
    return values;
}

template <typename A, typename B>
static void compare(const char* what, const std::vector<A>& ours, const std::vector<B>& theirs, double tolerance) {
    double most = 1e-30;
    for (auto value : theirs) most = std::max(most, std::abs((double)value));
    for (size_t i = 0; i < theirs.size(); i++)
        if (!(std::abs((double)ours[i] - (double)theirs[i]) <= tolerance * most)) { // NaN counts
            std::printf("%s: value %zu is %.9g, should be %.9g\n", what, i, (double)ours[i], (double)theirs[i]);
            failures++;
            return;
        }
}

static double function(double x, int act, double slope) {
    switch (act) {
    case RECTIFIER: return x > 0 ? x : x * slope;
    case TANH: return std::tanh(x);
    case SIGMOID: return 1 / (1 + std::exp(-x));
    default: return x;
    }
}

static double derivative(double y, int act, double slope) {
    switch (act) {
    case RECTIFIER: return y > 0 ? 1 : slope;
    case TANH: return 1 - y * y;
    case SIGMOID: return y * (1 - y);
    default: return 1;
    }
}

template <typename T>
static void elementwise(unsigned rows, unsigned c, int act, double tolerance) {
    unsigned len = rows * c;
    double slope = 0.2;
    const auto x = normal<T>(len), y = normal<T>(len), bias = normal<T>(c);
    std::vector<double> expected(len);

    auto value = x;
    launch(each(len), THREADS, [&] { ENTRY(bias_activate)(value.data(), bias.data(), len, c, act, slope); });
    for (unsigned i = 0; i < len; i++) expected[i] = function(x[i] + bias[i % c], act, slope);
    compare("bias_activate", value, expected, tolerance);

    auto alone = x;
    launch(each(len), THREADS, [&] { ENTRY(bias_activate)(alone.data(), (const T*)nullptr, len, 0u, act, slope); });
    for (unsigned i = 0; i < len; i++) expected[i] = function(x[i], act, slope);
    compare("bias_activate without bias", alone, expected, tolerance);

    auto gradient = x;
    launch(each(len), THREADS, [&] { ENTRY(act_grad)(y.data(), gradient.data(), len, act, slope); });
    for (unsigned i = 0; i < len; i++) expected[i] = x[i] * derivative(y[i], act, slope);
    compare("act_grad", gradient, expected, tolerance);

    auto product = x;
    launch(each(len), THREADS, [&] { ENTRY(multiply)(product.data(), y.data(), len); });
    for (unsigned i = 0; i < len; i++) expected[i] = (double)x[i] * y[i];
    compare("multiply", product, expected, tolerance);

    unsigned n = 3;
    const auto stack = normal<T>(n * len);
    std::vector<T> swapped(n * len), back(n * len);
    launch(tiles(n, rows, c), FIRST, [&] { ENTRY(swap_axes)(stack.data(), swapped.data(), n, rows, c); });
    for (unsigned i = 0; i < n * len; i++) back[i / len * len + i % c * rows + i % len / c] = stack[i];
    compare("swap_axes", swapped, back, 0);
}

template <typename T>
static void sums_and_norms(unsigned rows, unsigned c, int act, double tolerance) {
    unsigned len = rows * c, parts = parts_of(rows, 128);
    double slope = 0.2, eps = 1e-5;
    const auto x = normal<T>(len, 10), weight = normal<T>(c, 1), bias = normal<T>(c), dy = normal<T>(len);
    std::vector<T> first(parts * c), second(parts * c);

    std::vector<T> sum(c);
    launch(partial(rows, c), FIRST, [&] { ENTRY(sums)(dy.data(), first.data(), rows, c); });
    launch(total_of(c), SECOND, [&] { ENTRY(sums_total)((const T*)first.data(), sum.data(), parts, c); });
    std::vector<double> expected(c);
    for (unsigned i = 0; i < len; i++) expected[i % c] += dy[i];
    compare("sums", sum, expected, tolerance);

    std::vector<T> mean(c), var(c), scale(c), y(len), running_mean(c, T(3)), running_var(c, T(2));
    launch(partial(rows, c), FIRST, [&] { ENTRY(moments)(x.data(), first.data(), second.data(), rows, c); });
    launch(total_of(c), SECOND, [&] {
        ENTRY(moments_total)
        ((const T*)first.data(), (const T*)second.data(), weight.data(), mean.data(), var.data(), scale.data(), running_mean.data(),
         running_var.data(), rows, c, eps, .75, .25, .5);
    });
    launch(each(len), THREADS, [&] {
        ENTRY(normalise)
        (x.data(), (const T*)mean.data(), (const T*)scale.data(), bias.data(), y.data(), len, c, act, slope);
    });
    std::vector<double> centre(c), spread(c), normalised(len), result(len);
    for (unsigned i = 0; i < len; i++) centre[i % c] += x[i] / (double)rows;
    for (unsigned i = 0; i < len; i++) spread[i % c] += std::pow(x[i] - centre[i % c], 2) / rows;
    std::vector<double> moved_mean(c), moved_var(c);
    for (unsigned i = 0; i < c; i++) moved_mean[i] = 3 * .75 + centre[i] * .25, moved_var[i] = 2 * .75 + spread[i] * .5;
    compare("running mean", running_mean, moved_mean, tolerance);
    compare("running variance", running_var, moved_var, 100 * tolerance);
    for (unsigned i = 0; i < len; i++) {
        normalised[i] = (x[i] - centre[i % c]) / std::sqrt(spread[i % c] + eps);
        result[i] = function(normalised[i] * weight[i % c] + bias[i % c], act, slope);
    }
    compare("mean", mean, centre, tolerance);
    compare("variance", var, spread, tolerance);
    compare("normalise", y, result, 10 * tolerance);

    std::vector<T> dw(c), db(c), constants(3 * c), dx = dy;
    launch(partial(rows, c), FIRST, [&] {
        ENTRY(norm_grad_sums)
        (x.data(), (const T*)y.data(), (const T*)dx.data(), (const T*)mean.data(), first.data(), second.data(), rows, c, act, slope);
    });
    launch(total_of(c), SECOND, [&] {
        ENTRY(norm_grad_total)
        ((const T*)first.data(), (const T*)second.data(), weight.data(), (const T*)var.data(), dw.data(), db.data(),
         constants.data(), rows, c, eps);
    });
    launch(each(len), THREADS, [&] {
        ENTRY(norm_grad)
        (x.data(), (const T*)y.data(), dx.data(), (const T*)mean.data(), (const T*)constants.data(), len, c, act, slope);
    });
    std::vector<double> to_weight(c), to_bias(c), to_x(len), dz(len);
    for (unsigned i = 0; i < len; i++) {
        dz[i] = dy[i] * derivative(y[i], act, slope);
        to_bias[i % c] += dz[i];
        to_weight[i % c] += dz[i] * normalised[i];
    }
    for (unsigned i = 0; i < len; i++) {
        unsigned column = i % c;
        double pulled = dz[i] - to_bias[column] / rows - normalised[i] * to_weight[column] / rows;
        to_x[i] = weight[column] / std::sqrt(spread[column] + eps) * pulled;
    }
    compare("gradient to the weight", dw, to_weight, 100 * tolerance);
    compare("gradient to the bias", db, to_bias, 10 * tolerance);
    compare("gradient to x", dx, to_x, 100 * tolerance);
}

// Maps of n images, of which each and each channel has numbers of its own, some of them in common.
template <typename T>
static void by_image(unsigned n, unsigned positions, unsigned c, double tolerance) {
    unsigned rows = n * positions, len = rows * c, image_len = positions * c, parts = parts_of(rows, 128);
    const auto x = normal<T>(len, 10), g = normal<T>(len), h = normal<T>(len), shares = normal<T>(n), by_both = normal<T>(n * c), by_channel = normal<T>(c);
    const Each<T> all{by_both.data(), c, 1}, of_channels{by_channel.data(), 0, 1}, of_images{shares.data(), 1, 0};
    const auto image = [&](unsigned i) { return i / image_len; };

    std::vector<T> made(len);
    std::vector<double> expected(len);
    launch(each(len), THREADS, [&] { ENTRY(plus_shares)(g.data(), x.data(), shares.data(), made.data(), len, image_len); });
    for (unsigned i = 0; i < len; i++) expected[i] = g[i] + (double)shares[image(i)] * x[i];
    compare("plus_shares", made, expected, tolerance);

    for (unsigned terms = 0; terms <= TERMS; terms++) {
        Combination<T> of{x.data(), of_images, all, of_channels, {g.data(), h.data(), x.data()}, {of_channels, all, of_images}, terms};
        launch(each(len), THREADS, [&] { ENTRY(combine)(of, made.data(), len, image_len, c, (int)RECTIFIER, .2); });
        for (unsigned i = 0; i < len; i++) {
            double both = by_both[image(i) * c + i % c], channel = by_channel[i % c], own = shares[image(i)], sum = (x[i] - own) * both + channel;
            if (terms > 0) sum += g[i] * channel;
            if (terms > 1) sum += h[i] * both;
            if (terms > 2) sum += x[i] * own;
            expected[i] = function(sum, RECTIFIER, .2);
        }
        compare("combine", made, expected, 10 * tolerance);
    }

    std::vector<T> first(parts * c), sum(c);
    launch(partial(rows, c), FIRST, [&] { ENTRY(sums_of_shares)(g.data(), shares.data(), first.data(), rows, c, positions); });
    launch(total_of(c), SECOND, [&] { ENTRY(sums_total)((const T*)first.data(), sum.data(), parts, c); });
    std::vector<double> of_shares(c), of_g(n * c), of_gx(n * c), means(n), inverses(n);
    for (unsigned i = 0; i < len; i++) {
        unsigned place = image(i) * c + i % c;
        of_shares[i % c] += (double)g[i] * shares[image(i)];
        of_g[place] += g[i];
        of_gx[place] += (double)g[i] * (x[i] - by_both[place]);
        means[image(i)] += x[i] / (double)image_len;
    }
    compare("sums_of_shares", sum, of_shares, 10 * tolerance);

    std::vector<T> sums_g(n * c), sums_gx(n * c), mean(n), inverse(n);
    launch({std::min(n, 2u), parts_of(c, 32)}, FIRST, [&] { ENTRY(image_sums)(g.data(), x.data(), all, sums_g.data(), sums_gx.data(), n, positions, c); });
    compare("image_sums", sums_g, of_g, 10 * tolerance);
    compare("image_sums with x", sums_gx, of_gx, 10 * tolerance);

    for (unsigned i = 0; i < len; i++) inverses[image(i)] += std::pow(x[i] - means[image(i)], 2) / image_len;
    for (auto& value : inverses) value = 1 / std::sqrt(value + 1e-5);
    launch({std::min(n, 2u)}, {1024}, [&] { ENTRY(image_moments)(x.data(), mean.data(), inverse.data(), n, image_len, 1e-5); });
    compare("means of images", mean, means, tolerance);
    if (image_len > 1) compare("deviations of images", inverse, inverses, 100 * tolerance);
}

template <typename T>
static void updates(double tolerance) {
    const std::vector<unsigned> lengths{5, 4096, 0, 4097, 9000, 1};
    const double constants[6][7] = {{.5, .5, .999, .001, .01, 3, 1e-8}, {.01, .9, .1, 1e-3, 1e-4}, {.1, .9}, {.1}, {.7}, {.9, .1}};
    for (int rule = ADAM; rule <= LERP; rule++) {
        Table table{};
        Constants k{};
        std::copy(constants[rule], constants[rule] + 7, k.v);
        std::vector<std::vector<T>> tensors[4];
        unsigned blocks = 0;
        for (unsigned len : lengths) {
            for (auto& kind : tensors) kind.push_back(normal<T>(len));
            for (auto& value : tensors[2].back()) value = rule == RMSPROP ? std::abs(value) : value;
            for (auto& value : tensors[3].back()) value = std::abs(value);
            table.len[table.count] = len;
            table.first[table.count++] = blocks;
            blocks += parts_of(len, 4096);
        }
        for (unsigned i = 0; i < table.count; i++)
            for (int kind = 0; kind < 4; kind++) table.at[i][kind] = tensors[kind][i].data();
        const std::vector<std::vector<T>> before[4] = {tensors[0], tensors[1], tensors[2], tensors[3]};
        // By value, or from the device.
        const Constants other{{1, 2, 3, 4, 5, 6, 7}};
        const bool on_device = rule % 2;
        launch({blocks}, THREADS, [&] { ENTRY(update)(table, rule, on_device ? other : k, on_device ? k.v : (const double*)nullptr); });
        for (unsigned i = 0; i < table.count; i++) {
            std::vector<double> ws, ms, vs;
            for (unsigned j = 0; j < lengths[i]; j++) {
                double w = before[0][i][j], g = before[1][i][j], m = before[2][i][j], v = before[3][i][j];
                const double* k = constants[rule];
                switch (rule) {
                case ADAM:
                    m = m * k[0] + g * k[1], v = v * k[2] + g * g * k[3], w -= k[4] * m / (std::sqrt(v) * k[5] + k[6]);
                    break;
                case RMSPROP: m = m * k[1] + g * g * k[2], w -= k[0] * g / (std::sqrt(m + k[3]) + k[4]); break;
                case MOMENTUM: m = m * k[1] + g, w -= k[0] * m; break;
                case SGD: w -= k[0] * g; break;
                case CLAMP: w = std::clamp(w, -k[0], k[0]); break;
                case LERP: w = w * k[0] + g * k[1]; break;
                }
                ws.push_back(w), ms.push_back(m), vs.push_back(v);
            }
            compare("update", tensors[0][i], ws, tolerance);
            compare("update, first slot", tensors[2][i], ms, tolerance);
            compare("update, second slot", tensors[3][i], vs, tolerance);
        }
    }
}

static void gathering() {
    using T = float;
    const unsigned n = 5, images = 9, c = 3, side = 7, area = side * side, mirrored = 1u << 31;
    std::vector<unsigned char> pixels(images * c * area);
    for (auto& pixel : pixels) pixel = generator();
    const std::vector<unsigned> numbers{8, 0, 3, 3 | mirrored, mirrored};
    const auto values = normal<T>(256);
    std::vector<T> batch(n * c * area), expected(batch.size());
    launch(each(batch.size()), THREADS, [&] { ENTRY(gather)(pixels.data(), numbers.data(), values.data(), batch.data(), n, c, side); });
    for (unsigned i = 0; i < n; i++)
        for (unsigned at = 0; at < area; at++)
            for (unsigned channel = 0; channel < c; channel++)
                expected[(i * area + at) * c + channel] =
                    values[pixels[((numbers[i] & ~mirrored) * c + channel) * area + (numbers[i] & mirrored ? at / side * side + side - 1 - at % side : at)]];
    compare("gather", batch, expected, 0);
}

static void rounding() {
    const unsigned a = 60, b = 50, len = a * b;
    auto values = normal<float>(len);
    // Halves go to even, a step of bf16 being 2⁻⁷ here; infinity stays.
    const float from[] = {1.00390625f, 1.01171875f, -1.00390625f, 1.004f, INFINITY}, to[] = {1, 1.015625f, -1, 1.0078125f, INFINITY};
    std::copy(std::begin(from), std::end(from), values.begin());
    std::vector<bf16> narrow(len), swapped(len);
    std::vector<float> wide(len), back(len);
    launch(each(len), THREADS, [&] { convert_narrow(values.data(), narrow.data(), len); });
    launch(each(len), THREADS, [&] { convert_widen(narrow.data(), wide.data(), len); });
    for (int i = 0; i < 5; i++)
        if (wide[i] != to[i]) std::printf("bf16: %.9g became %.9g, not %.9g\n", from[i], wide[i], to[i]), failures++;
    for (unsigned i = 5; i < len; i++)
        if (std::abs(wide[i] - values[i]) > std::abs(values[i]) / 256) std::printf("bf16: %.9g\n", wide[i]), failures++;
    launch(tiles(1, a, b), FIRST, [&] { swap_axes_narrow(values.data(), swapped.data(), 1, a, b); });
    launch(tiles(1, b, a), FIRST, [&] { swap_axes_widen(swapped.data(), back.data(), 1, b, a); });
    wide[4] = back[4] = 0;
    compare("swap_axes to bf16 and back", back, wide, 0);
    values[0] = NAN;
    launch(each(len), THREADS, [&] { convert_narrow(values.data(), narrow.data(), len); });
    if (!std::isnan(widen(narrow[0]))) std::puts("bf16: NaN became a number"), failures++;
}

int main() {
    const unsigned shapes[][2] = {{1, 1}, {7, 3}, {129, 33}, {700, 65}};
    for (auto [rows, c] : shapes)
        for (int act = NONE; act <= SIGMOID; act++) {
            elementwise<float>(rows, c, act, 1e-6);
            elementwise<double>(rows, c, act, 1e-14);
            if (rows == 1) continue; // variance 0
            sums_and_norms<float>(rows, c, act, 2e-6);
            sums_and_norms<double>(rows, c, act, 1e-13);
        }
    for (auto [positions, c] : shapes) {
        by_image<float>(3, positions, c, 2e-6);
        by_image<double>(3, positions, c, 1e-13);
    }
    updates<float>(1e-6);
    updates<double>(1e-14);
    gathering();
    rounding();
    std::puts(failures ? "kernels.cu: FAILED" : "kernels.cu: these kernels agree with plain loops");
    return failures != 0;
}
