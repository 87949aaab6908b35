// A sham of the CUDA driver, nvrtc, cuBLAS, cuDNN and cuRAND for machines without a GPU. Loaded before all others (LD_PRELOAD) into a
// program built with the feature cuda, it makes a device 0 of the host's memory. What the host does for a step (launches, allocations,
// copies, waits) is as on a GPU: at the program's end it is in the file that SHAM_COUNTS names, a line `NAME COUNT` for each kind of
// call. With SHAM_COMPUTES=1 it computes, too, at once and slowly (device.cpp, sums.cpp), in other orders of sums than a GPU, and with
// f32 where that has TF32; new memory is full of NaN then, and what is written behind its end is noticed when it is given back. What is
// captured (CUDA graphs) is done only when it is launched, each time, and what a capture forbids fails: uploads, reading, waiting, giving back
// memory of others, keeping its own. A stream's work is done only when somebody waits for it, or a thousand pieces wait, so that what the host
// changes too early is seen. Of races between threads, of real libraries and of time it says nothing. Built and used by `make check-cuda`.

#include <cublas_v2.h>
#include <cuda.h>
#include <cudnn.h>
#include <curand.h>
#include <nvrtc.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "sham.hpp"

namespace {

const bool computes = std::getenv("SHAM_COMPUTES") && *std::getenv("SHAM_COMPUTES") == '1';

// What lies before an allocation: its length; and behind it.
constexpr size_t HEAD = 64, GUARD = 64;
constexpr int FILL = 0xff; // NaN in every floating type

std::mutex lock;
std::map<std::string, unsigned long> &counts() {
    static auto *all = new std::map<std::string, unsigned long>; // never destroyed: calls come until the very end
    return *all;
}

// What was captured, in order, with the memory that it takes and gives back on the way.
struct Graph {
    std::vector<std::function<void()>> work;
    std::vector<void *> memory;
    std::set<CUdeviceptr> taken;
    bool invalid = false;
    ~Graph() {
        for (void *memory : memory) std::free(memory);
    }
};
// Those that are being captured, by their streams.
std::map<CUstream, Graph *> &captures() {
    static auto *all = new std::map<CUstream, Graph *>;
    return *all;
}

Graph *capture_on(CUstream stream) {
    std::lock_guard<std::mutex> guard(lock);
    const auto found = captures().find(stream);
    return found == captures().end() ? nullptr : found->second;
}

// A handle of a library: what is behind it is the stream that it was set to.
template <typename Handle> CUstream &stream_of(Handle handle) { return *reinterpret_cast<CUstream *>(handle); }

void count(const std::string &name, CUstream stream = nullptr) {
    const bool captured = stream && capture_on(stream);
    std::lock_guard<std::mutex> guard(lock);
    ++counts()[captured ? "captured " + name : name];
}

// What the streams are still to do.
std::map<CUstream, std::deque<std::function<void()>>> &waiting() {
    static auto *all = new std::map<CUstream, std::deque<std::function<void()>>>;
    return *all;
}
std::mutex working;

// Does what a stream is still to do.
void drain(CUstream stream) {
    std::lock_guard<std::mutex> guard(working);
    for (;;) {
        std::function<void()> work;
        {
            std::lock_guard<std::mutex> guard(lock);
            auto &queue = waiting()[stream];
            if (queue.empty()) return;
            work = std::move(queue.front());
            queue.pop_front();
        }
        work();
    }
}

void drain_all() {
    std::vector<CUstream> streams;
    {
        std::lock_guard<std::mutex> guard(lock);
        for (const auto &[stream, queue] : waiting()) streams.push_back(stream);
    }
    for (CUstream stream : streams) drain(stream);
}

// Does it when somebody waits for it, or whenever the graph is launched that is being captured.
void perform(CUstream stream, std::function<void()> work) {
    if (Graph *capturing = capture_on(stream)) return capturing->work.push_back(std::move(work));
    if (!computes) return work();
    size_t many;
    {
        std::lock_guard<std::mutex> guard(lock);
        auto &queue = waiting()[stream];
        queue.push_back(std::move(work));
        many = queue.size();
    }
    if (many > 1000) drain(stream);
}

// Page-locked memory of the host, and how long it is: copies from it read it when they are done.
std::map<const char *, size_t> &pinned() {
    static auto *all = new std::map<const char *, size_t>;
    return *all;
}

bool is_pinned(const void *memory) {
    const auto *at = static_cast<const char *>(memory);
    std::lock_guard<std::mutex> guard(lock);
    const auto behind = pinned().upper_bound(at);
    return behind != pinned().begin() && at < std::prev(behind)->first + std::prev(behind)->second;
}

// Of what no capture allows: whether one is under way, which is then lost.
bool forbidden(CUstream stream, const char *what) {
    Graph *capturing = capture_on(stream);
    if (!capturing) return false;
    std::fprintf(stderr, "the sham GPU: a capture forbids %s\n", what);
    return capturing->invalid = true;
}

struct Report {
    ~Report() {
        const char *path = std::getenv("SHAM_COUNTS");
        FILE *file = path ? std::fopen(path, "w") : nullptr;
        if (!file) return;
        std::lock_guard<std::mutex> guard(lock);
        for (const auto &[name, times] : counts()) std::fprintf(file, "%s %lu\n", name.c_str(), times);
        std::fclose(file);
    }
} report;

// Anything but null: what is behind it nobody asks.
template <typename T> T handle() { return reinterpret_cast<T>(std::calloc(1, 64)); }


// The device has one stream, and computes one thing after another.
std::mutex device;

[[noreturn]] void unknown(const std::string &what) {
    std::fprintf(stderr, "the sham GPU does not know how to compute %s: say so in tests/cuda\n", what.c_str());
    std::abort();
}

Type type_of(cudaDataType type) {
    switch (type) {
    case CUDA_R_32F: return Type::f32;
    case CUDA_R_64F: return Type::f64;
    case CUDA_R_16BF: return Type::bf16;
    default: unknown("a product of this type");
    }
}

// What the handles of a convolution stand for.
template <typename Handle> Form &form(Handle handle) { return *reinterpret_cast<Form *>(handle); }
// Bytes that a convolution works in: more for larger batches.
size_t room_for(const Form &x) { return 1024 * size_t(x.sides[0]); }
Window &window(cudnnConvolutionDescriptor_t handle) { return *reinterpret_cast<Window *>(handle); }

cudnnStatus_t describe(Form &form, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
    const Type known = type == CUDNN_DATA_DOUBLE ? Type::f64 : type == CUDNN_DATA_BFLOAT16 ? Type::bf16 : Type::f32;
    form = {known, format == CUDNN_TENSOR_NHWC, {n, c, h, w}};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t convolve(cudnnHandle_t handle, const char *name, Wanted which, const Form &x, const Form &w, const Form &y, cudnnConvolutionDescriptor_t by,
                       void *room, size_t bytes, const void *x_at, const void *w_at, const void *y_at, void *to) {
    count(name, stream_of(handle));
    if (computes)
        perform(stream_of(handle), [=, window = window(by)] {
            std::lock_guard<std::mutex> guard(device);
            std::memset(room, FILL, bytes); // it works in what it was given for that
            compute_convolution(which, x, w, y, window, x_at, w_at, y_at, to);
        });
    return CUDNN_STATUS_SUCCESS;
}

// `many` products, each so many values behind the one before.
cublasStatus_t multiply(cublasHandle_t handle, const char *name, const Product &product, size_t a = 0, size_t b = 0, size_t c = 0, int many = 1) {
    count(name, stream_of(handle));
    if (!computes) return CUBLAS_STATUS_SUCCESS;
    const size_t from = product.from == Type::f64 ? 8 : product.from == Type::f32 ? 4 : 2, to = product.to == Type::f64 ? 8 : 4;
    // The factors lie on the host, and may be gone when a graph is launched.
    std::array<double, 2> factors;
    std::memcpy(&factors[0], product.alpha, to), std::memcpy(&factors[1], product.beta, to);
    perform(stream_of(handle), [=] {
        std::lock_guard<std::mutex> guard(device);
        Product each = product;
        each.alpha = &factors[0], each.beta = &factors[1];
        for (int i = 0; i < many; i++) {
            compute_product(each);
            each.a = static_cast<const char *>(each.a) + a * from;
            each.b = static_cast<const char *>(each.b) + b * from;
            each.c = static_cast<char *>(each.c) + c * to;
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}

curandStatus_t random_numbers() {
    count("launch: curand");
    if (computes) unknown("random numbers");
    return CURAND_STATUS_SUCCESS;
}

// New memory, or memory that nobody may read any more.
void fill(unsigned char *memory, size_t bytes) {
    // Where nothing is computed, zeros that nobody touches cost no time.
    if (computes) std::memset(memory + HEAD, FILL, bytes);
    std::memset(memory + HEAD + bytes, FILL, GUARD);
}

CUresult allocate(CUdeviceptr *to, size_t bytes, const char *name, CUstream stream = nullptr) {
    count(name, stream);
    auto memory = static_cast<unsigned char *>(std::calloc(1, HEAD + bytes + GUARD));
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memcpy(memory, &bytes, sizeof bytes);
    *to = reinterpret_cast<CUdeviceptr>(memory + HEAD);
    if (Graph *capturing = capture_on(stream)) {
        capturing->memory.push_back(memory);
        capturing->taken.insert(*to);
    }
    fill(memory, bytes);
    if (capture_on(stream)) perform(stream, [=] { fill(memory, bytes); });
    return CUDA_SUCCESS;
}

void check_and_fill(unsigned char *memory) {
    size_t bytes;
    std::memcpy(&bytes, memory, sizeof bytes);
    for (size_t i = 0; i < GUARD; i++)
        if (memory[HEAD + bytes + i] != FILL) {
            std::fprintf(stderr, "the sham GPU: something wrote behind the end of %zu bytes\n", bytes);
            std::abort();
        }
    fill(memory, bytes);
}

CUresult give_back(CUdeviceptr at, const char *name, CUstream stream = nullptr) {
    count(name, stream);
    if (!at) return CUDA_SUCCESS;
    auto memory = reinterpret_cast<unsigned char *>(at) - HEAD;
    if (Graph *capturing = capture_on(stream)) {
        if (capturing->taken.erase(at) == 0 && forbidden(stream, "giving back memory that it did not take")) return CUDA_ERROR_INVALID_VALUE;
        capturing->work.push_back([=] { check_and_fill(memory); });
        return CUDA_SUCCESS;
    }
    perform(stream, [=] {
        check_and_fill(memory);
        std::free(memory);
    });
    return CUDA_SUCCESS;
}

CUresult copy(CUdeviceptr to, CUdeviceptr from, size_t bytes, const char *name, CUstream stream) {
    count(name, stream);
    perform(stream, [=] { std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes); });
    return CUDA_SUCCESS;
}

template <typename Performance, typename Algorithm> cudnnStatus_t one(Performance *found, int *many, Algorithm algorithm) {
    *many = 1;
    *found = {};
    found->algo = algorithm;
    found->status = CUDNN_STATUS_SUCCESS;
    found->determinism = CUDNN_DETERMINISTIC;
    found->mathType = CUDNN_DEFAULT_MATH;
    return CUDNN_STATUS_SUCCESS;
}

} // namespace

extern "C" {

// ---- the driver

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, const char **text) { return *text = "the sham driver refused", CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult, const char **text) { return *text = "SHAM", CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int number) { return *device = number, number == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetCount(int *many) { return *many = 1, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int room, CUdevice) { return std::snprintf(name, room, "sham"), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 108; break;
    default: *value = 1;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) { return *context = handle<CUcontext>(), CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) { return *pool = handle<CUmemoryPool>(), CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void *) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute, void *value) {
    return *static_cast<cuuint64_t *>(value) = 0, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) { return *context = nullptr, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return count("cuCtxSetCurrent"), CUDA_SUCCESS; }
CUresult cuCtxDestroy(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return count("wait: cuCtxSynchronize"), drain_all(), CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *stream, unsigned) { return *stream = handle<CUstream>(), CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream stream) {
    count("wait: cuStreamSynchronize");
    if (forbidden(stream, "waiting")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return drain(stream), CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream, CUevent event, unsigned) {
    count("cuStreamWaitEvent");
    if (stream_of(event)) drain(stream_of(event));
    return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    const Graph *capturing = capture_on(stream);
    *status = !capturing            ? CU_STREAM_CAPTURE_STATUS_NONE
              : capturing->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                    : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
    if (capture_on(stream)) return CUDA_ERROR_ILLEGAL_STATE;
    std::lock_guard<std::mutex> guard(lock);
    return captures()[stream] = new Graph, CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *to) {
    Graph *graph = capture_on(stream);
    *to = nullptr;
    if (!graph) return CUDA_ERROR_ILLEGAL_STATE;
    std::lock_guard<std::mutex> guard(lock);
    captures().erase(stream);
    if (!graph->taken.empty()) std::fprintf(stderr, "the sham GPU: a graph keeps %zu pieces of memory\n", graph->taken.size());
    if (graph->invalid || !graph->taken.empty()) return delete graph, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    return *to = reinterpret_cast<CUgraph>(graph), CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *to, CUgraph graph, unsigned long long) {
    return *to = reinterpret_cast<CUgraphExec>(graph), CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    count("launch: graph");
    if (forbidden(stream, "launching another graph")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    perform(stream, [=] {
        for (const auto &work : reinterpret_cast<Graph *>(graph)->work) work();
    });
    return CUDA_SUCCESS;
}
CUresult cuDeviceGraphMemTrim(CUdevice) { return CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec) { return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph graph) { return drain_all(), delete reinterpret_cast<Graph *>(graph), CUDA_SUCCESS; }
CUresult cuDeviceGetGraphMemAttribute(CUdevice, CUgraphMem_attribute, void *value) {
    return *static_cast<cuuint64_t *>(value) = 0, CUDA_SUCCESS;
}
CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
// One that was never recorded is not waited for.
CUresult cuEventSynchronize(CUevent event) {
    if (stream_of(event)) drain(stream_of(event));
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **to, size_t bytes, unsigned) {
    count("allocation: cuMemHostAlloc");
    *to = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    std::lock_guard<std::mutex> guard(lock);
    pinned()[static_cast<const char *>(*to)] = bytes;
    return *to ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFreeHost(void *memory) {
    std::lock_guard<std::mutex> guard(lock);
    const auto found = pinned().find(static_cast<const char *>(memory));
    if (found == pinned().end()) return CUDA_ERROR_INVALID_VALUE;
    std::memset(memory, FILL, found->second);
    pinned().erase(found);
    return std::free(memory), CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned) { return count("cuEventCreate"), *event = handle<CUevent>(), CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent event) { return std::free(event), CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) { return count("cuEventRecord"), stream_of(event) = stream, CUDA_SUCCESS; }

CUresult cuMemGetInfo(size_t *free, size_t *all) { return *free = *all = size_t(8) << 30, CUDA_SUCCESS; }
CUresult cuMemAlloc(CUdeviceptr *to, size_t bytes) { return allocate(to, bytes, "allocation: cuMemAlloc"); }
CUresult cuMemAllocAsync(CUdeviceptr *to, size_t bytes, CUstream stream) { return allocate(to, bytes, "allocation: cuMemAllocAsync", stream); }
CUresult cuMemFree(CUdeviceptr memory) { return drain_all(), give_back(memory, "free: cuMemFree"); }
CUresult cuMemFreeAsync(CUdeviceptr memory, CUstream stream) { return give_back(memory, "free: cuMemFreeAsync", stream); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    if (forbidden(stream, "uploads: what lay there would be read again at each launch")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (is_pinned(from)) return copy(to, reinterpret_cast<CUdeviceptr>(from), bytes, "copy: cuMemcpyHtoDAsync", stream);
    // Other memory has been read when this returns.
    count("copy: cuMemcpyHtoDAsync");
    const auto *first = static_cast<const char *>(from);
    perform(stream, [to, values = std::vector<char>(first, first + bytes)] {
        std::memcpy(reinterpret_cast<void *>(to), values.data(), values.size());
    });
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (forbidden(stream, "reading")) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    count("copy: cuMemcpyDtoHAsync");
    drain(stream);
    std::memcpy(to, reinterpret_cast<const void *>(from), bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy(to, from, bytes, "launch: cuMemcpyDtoDAsync", stream);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return copy(to, from, bytes, "copy: cuMemcpyPeerAsync", stream);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    count("launch: cuMemsetD8Async", stream);
    perform(stream, [=] { std::memset(reinterpret_cast<void *>(to), value, bytes); });
    return CUDA_SUCCESS;
}

CUresult cuModuleLoad(CUmodule *module, const char *) { return *module = handle<CUmodule>(), CUDA_SUCCESS; }
CUresult cuModuleLoadData(CUmodule *module, const void *) { return *module = handle<CUmodule>(), CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
    *function = reinterpret_cast<CUfunction>(new std::string(name));
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned columns, unsigned rows, unsigned layers, unsigned,
                        CUstream stream, void **arguments, void **) {
    const auto &name = *reinterpret_cast<const std::string *>(function);
    count("launch: " + name, stream);
    if (!computes) return CUDA_SUCCESS;
    const auto *sizes = argument_sizes(name);
    if (!sizes) unknown("the kernel " + name);
    // The arguments as they are now, each at a place that suits any type.
    size_t words = 0;
    for (size_t size : *sizes) words += (size + 15) / 16;
    std::vector<std::array<char, 16>> values(words);
    size_t at = 0;
    for (size_t i = 0; i < sizes->size(); at += ((*sizes)[i++] + 15) / 16) std::memcpy(&values[at], arguments[i], (*sizes)[i]);
    perform(stream, [=, values = std::move(values)]() mutable {
        std::vector<void *> places;
        size_t at = 0;
        for (size_t size : *sizes) places.push_back(&values[at]), at += (size + 15) / 16;
        const unsigned grid[] = {x, y, z}, block[] = {columns, rows, layers};
        std::lock_guard<std::mutex> guard(device);
        compute_kernel(name, grid, block, places.data());
    });
    return CUDA_SUCCESS;
}

// ---- nvrtc, which looks for what only a driver has; `make check-cuda` compiles the kernels by nvcc

nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *, const char *, int, const char *const *, const char *const *) {
    return *program = handle<nvrtcProgram>(), NVRTC_SUCCESS;
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram *) { return NVRTC_SUCCESS; }
nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char *const *) { return NVRTC_SUCCESS; }
nvrtcResult nvrtcGetPTXSize(nvrtcProgram, size_t *bytes) { return *bytes = 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetPTX(nvrtcProgram, char *to) { return *to = 0, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t *bytes) { return *bytes = 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char *to) { return *to = 0, NVRTC_SUCCESS; }

// ---- cuBLAS

cublasStatus_t cublasCreate(cublasHandle_t *to) { return *to = handle<cublasHandle_t>(), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream(cublasHandle_t of, cudaStream_t stream) { return stream_of(of) = stream, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGemmEx(cublasHandle_t by, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType from, int a_step, const void *b, cudaDataType, int b_step, const void *beta, void *c, cudaDataType to,
                            int c_step, cublasComputeType_t, cublasGemmAlgo_t) {
    return multiply(by, "launch: cublasGemmEx", {op_a != CUBLAS_OP_N, op_b != CUBLAS_OP_N, m, n, k, alpha, a, a_step, b, b_step, beta, c, c_step,
                                             type_of(from), type_of(to)});
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t by, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,
                                          const void *a, cudaDataType from, int a_step, long long a_next, const void *b, cudaDataType, int b_step,
                                          long long b_next, const void *beta, void *c, cudaDataType to, int c_step, long long c_next, int many,
                                          cublasComputeType_t, cublasGemmAlgo_t) {
    return multiply(by, "launch: cublasGemmStridedBatchedEx",
                        {op_a != CUBLAS_OP_N, op_b != CUBLAS_OP_N, m, n, k, alpha, a, a_step, b, b_step, beta, c, c_step, type_of(from),
                         type_of(to)},
                        a_next, b_next, c_next, many);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t by, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const double *alpha,
                                         const double *a, int a_step, long long a_next, const double *b, int b_step, long long b_next,
                                         const double *beta, double *c, int c_step, long long c_next, int many) {
    return multiply(by, "launch: cublasDgemmStridedBatched",
                        {op_a != CUBLAS_OP_N, op_b != CUBLAS_OP_N, m, n, k, alpha, a, a_step, b, b_step, beta, c, c_step, Type::f64, Type::f64},
                        a_next, b_next, c_next, many);
}

// ---- cuDNN

cudnnStatus_t cudnnCreate(cudnnHandle_t *to) { return *to = handle<cudnnHandle_t>(), CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t of, cudaStream_t stream) { return stream_of(of) = stream, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *to) { return *to = handle<cudnnTensorDescriptor_t>(), CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t of, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
    return describe(form(of), format, type, n, c, h, w);
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *to) { return *to = handle<cudnnFilterDescriptor_t>(), CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t of, cudnnDataType_t type, cudnnTensorFormat_t format, int n, int c, int h, int w) {
    return describe(form(of), format, type, n, c, h, w);
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *to) {
    return *to = handle<cudnnConvolutionDescriptor_t>(), CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t of, int padding, int, int stride, int, int, int, cudnnConvolutionMode_t,
                                              cudnnDataType_t) {
    return window(of) = {padding, stride, 1}, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t of, int groups) {
    return window(of).groups = groups, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t, cudnnMathType_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnFilterDescriptor_t,
                                                     const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, const int, int *many,
                                                     cudnnConvolutionFwdAlgoPerf_t *found) {
    return one(found, many, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
                                                          const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, const int, int *many,
                                                          cudnnConvolutionBwdDataAlgoPerf_t *found) {
    return one(found, many, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t,
                                                            const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t, const int, int *many,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t *found) {
    return one(found, many, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t,
                                                      const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t,
                                                      size_t *bytes) {
    return *bytes = room_for(form(x)), CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t, const cudnnTensorDescriptor_t,
                                                           const cudnnConvolutionDescriptor_t, const cudnnTensorDescriptor_t x,
                                                           cudnnConvolutionBwdDataAlgo_t, size_t *bytes) {
    return *bytes = room_for(form(x)), CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t,
                                                             const cudnnConvolutionDescriptor_t, const cudnnFilterDescriptor_t,
                                                             cudnnConvolutionBwdFilterAlgo_t, size_t *bytes) {
    return *bytes = room_for(form(x)), CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t on, const void *, const cudnnTensorDescriptor_t x, const void *x_at, const cudnnFilterDescriptor_t w,
                                      const void *w_at, const cudnnConvolutionDescriptor_t by, cudnnConvolutionFwdAlgo_t, void *room, size_t bytes, const void *,
                                      const cudnnTensorDescriptor_t y, void *to) {
    return convolve(on, "launch: cudnnConvolutionForward", Wanted::y, form(x), form(w), form(y), by, room, bytes, x_at, w_at, nullptr, to);
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t on, const void *, const cudnnFilterDescriptor_t w, const void *w_at, const cudnnTensorDescriptor_t y,
                                           const void *y_at, const cudnnConvolutionDescriptor_t by, cudnnConvolutionBwdDataAlgo_t, void *room, size_t bytes,
                                           const void *, const cudnnTensorDescriptor_t x, void *to) {
    return convolve(on, "launch: cudnnConvolutionBackwardData", Wanted::x, form(x), form(w), form(y), by, room, bytes, nullptr, w_at, y_at, to);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t on, const void *, const cudnnTensorDescriptor_t x, const void *x_at,
                                             const cudnnTensorDescriptor_t y, const void *y_at, const cudnnConvolutionDescriptor_t by,
                                             cudnnConvolutionBwdFilterAlgo_t, void *room, size_t bytes, const void *, const cudnnFilterDescriptor_t w, void *to) {
    return convolve(on, "launch: cudnnConvolutionBackwardFilter", Wanted::w, form(x), form(w), form(y), by, room, bytes, x_at, nullptr, y_at, to);
}

// ---- cuRAND

curandStatus_t curandCreateGenerator(curandGenerator_t *to, curandRngType_t) { return *to = handle<curandGenerator_t>(), CURAND_STATUS_SUCCESS; }
curandStatus_t curandDestroyGenerator(curandGenerator_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t, unsigned long long) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }
curandStatus_t curandGenerateNormal(curandGenerator_t, float *, size_t, float, float) { return random_numbers(); }
curandStatus_t curandGenerateNormalDouble(curandGenerator_t, double *, size_t, double, double) { return random_numbers(); }
curandStatus_t curandGenerateUniform(curandGenerator_t, float *, size_t) { return random_numbers(); }
curandStatus_t curandGenerateUniformDouble(curandGenerator_t, double *, size_t) { return random_numbers(); }

} // extern "C"
