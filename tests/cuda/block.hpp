// src/nn/cuda/kernels.cu on a machine without a GPU: a block's threads take turns from barrier to barrier, and blocks run one after another.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

// ---- the language of kernels.cu

struct Index {
    unsigned x = 1, y = 1, z = 1;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static

static void __syncthreads();
static float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
static unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
static unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

#include "../../src/nn/cuda/kernels.cu"

// A thread of a block: it runs until it meets a barrier or its end.
struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool done = false;
};
static std::vector<Fibre> fibres(1024);
static ucontext_t scheduler;
static unsigned running;
static const std::function<void()>* running_kernel;

static void __syncthreads() { swapcontext(&fibres[running].context, &scheduler); }

static void run_thread() {
    (*running_kernel)();
    fibres[running].done = true;
}

static void run_block(unsigned threads) {
    for (unsigned number = 0; number < threads; number++) {
        Fibre& fibre = fibres[number];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        fibre.done = false;
        makecontext(&fibre.context, run_thread, 0);
    }
    for (unsigned finished = 0; finished == 0;) {
        for (running = 0; running < threads; running++) {
            threadIdx = {running % blockDim.x, running / blockDim.x, 0};
            swapcontext(&scheduler, &fibres[running].context);
            finished += fibres[running].done;
        }
        if (finished != 0 && finished != threads) {
            std::puts("some threads of a block wait at a barrier that others never meet");
            std::exit(1);
        }
    }
}

static void launch(Index grid, Index block, const std::function<void()>& kernel) {
    gridDim = grid;
    blockDim = block;
    running_kernel = &kernel;
    for (unsigned at = 0; at < grid.x * grid.y * grid.z; at++) {
        blockIdx = {at % grid.x, at / grid.x % grid.y, at / (grid.x * grid.y)};
        run_block(block.x * block.y);
    }
}

