// The sham GPU's matrix products and convolutions: plain loops, summed in double.

#include <cstdint>
#include <cstring>
#include <vector>

#include "sham.hpp"

namespace {

double value(Type type, const void *from, size_t at) {
    switch (type) {
    case Type::f32: return static_cast<const float *>(from)[at];
    case Type::f64: return static_cast<const double *>(from)[at];
    case Type::bf16: break;
    }
    const uint32_t bits = uint32_t(static_cast<const uint16_t *>(from)[at]) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

void put(Type type, void *to, size_t at, double value) {
    if (type == Type::f64) {
        static_cast<double *>(to)[at] = value;
        return;
    }
    const float narrow = float(value);
    if (type == Type::f32) {
        static_cast<float *>(to)[at] = narrow;
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &narrow, 4);
    static_cast<uint16_t *>(to)[at] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

} // namespace

void compute_product(const Product &of) {
    const Type factors = of.to == Type::f64 ? Type::f64 : Type::f32;
    const double alpha = value(factors, of.alpha, 0), beta = value(factors, of.beta, 0);
    for (int column = 0; column < of.n; column++)
        for (int row = 0; row < of.m; row++) {
            double sum = 0;
            for (int i = 0; i < of.k; i++) {
                const size_t a = of.transpose_a ? size_t(row) * of.a_step + i : size_t(i) * of.a_step + row;
                const size_t b = of.transpose_b ? size_t(i) * of.b_step + column : size_t(column) * of.b_step + i;
                sum += value(of.from, of.a, a) * value(of.from, of.b, b);
            }
            const size_t at = size_t(column) * of.c_step + row;
            put(of.to, of.c, at, alpha * sum + (beta != 0 ? beta * value(of.to, of.c, at) : 0));
        }
}

void compute_convolution(Wanted which, const Form &x, const Form &w, const Form &y, const Window &window, const void *x_at, const void *w_at,
                         const void *y_at, void *to) {
    const Form &result = which == Wanted::y ? y : which == Wanted::x ? x : w;
    std::vector<double> sums(result.len());
    const int of_group = w.sides[1], outs = w.sides[0] / window.groups;
    for (int n = 0; n < y.sides[0]; n++)
        for (int o = 0; o < y.sides[1]; o++)
            for (int oh = 0; oh < y.sides[2]; oh++)
                for (int ow = 0; ow < y.sides[3]; ow++)
                    for (int c = 0; c < of_group; c++)
                        for (int kh = 0; kh < w.sides[2]; kh++)
                            for (int kw = 0; kw < w.sides[3]; kw++) {
                                const int h = oh * window.stride + kh - window.padding, v = ow * window.stride + kw - window.padding;
                                if (h < 0 || v < 0 || h >= x.sides[2] || v >= x.sides[3]) continue;
                                const size_t xs = x.at(n, o / outs * of_group + c, h, v), ws = w.at(o, c, kh, kw), ys = y.at(n, o, oh, ow);
                                switch (which) {
                                case Wanted::y: sums[ys] += value(x.type, x_at, xs) * value(w.type, w_at, ws); break;
                                case Wanted::x: sums[xs] += value(y.type, y_at, ys) * value(w.type, w_at, ws); break;
                                case Wanted::w: sums[ws] += value(x.type, x_at, xs) * value(y.type, y_at, ys); break;
                                }
                            }
    for (size_t at = 0; at < sums.size(); at++) put(result.type, to, at, sums[at]);
}
