// The parts of the sham GPU.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

// How long a kernel's arguments are; null where nobody has said what it does.
const std::vector<size_t> *argument_sizes(const std::string &name);

// Computes what it does.
void compute_kernel(const std::string &name, const unsigned grid[3], const unsigned block[3], void **arguments);

// The types of values that matrix products and convolutions take.
enum class Type { f32, f64, bf16 };

// A matrix product as cuBLAS has it: columns lie one behind the other. The factors are double for f64, else float.
struct Product {
    bool transpose_a, transpose_b;
    int m, n, k;
    const void *alpha, *a;
    int a_step;
    const void *b;
    int b_step;
    const void *beta;
    void *c;
    int c_step;
    Type from, to;
};
void compute_product(const Product &product);

// A map or a kernel: sides, and whether its channels come last.
struct Form {
    Type type;
    bool channels_last;
    int sides[4]; // n, c, h, w
    size_t at(int n, int c, int h, int w) const {
        return channels_last ? ((size_t(n) * sides[2] + h) * sides[3] + w) * sides[1] + c
                             : ((size_t(n) * sides[1] + c) * sides[2] + h) * sides[3] + w;
    }
    size_t len() const { return size_t(sides[0]) * sides[1] * sides[2] * sides[3]; }
};

struct Window {
    int padding, stride, groups;
};

// Convolutions of x with w into y, and their gradients; `which` names what is written.
enum class Wanted { y, x, w };
void compute_convolution(Wanted which, const Form &x, const Form &w, const Form &y, const Window &window, const void *x_at, const void *w_at,
                         const void *y_at, void *to);
