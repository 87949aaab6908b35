/* ganforge: images from GAN generators (ONNX), with onnxruntime, which is loaded at run time.
 *
 * Every function that can fail answers with a ganforge_status; ganforge_last_error() says what was wrong and how to mend it. Texts
 * are UTF-8. A generator may be used by any number of threads at once.
 *
 * Written by cbindgen; not to be changed by hand. */

#ifndef GANFORGE_H
#define GANFORGE_H

#include <stddef.h>
#include <stdint.h>

/*
 The version of this interface: its first number changes when a program has to be compiled again or changed, its second when something
 is added. It is `major * 1000 + minor`.
 */
#define GANFORGE_ABI_VERSION 1000

/*
 What became of a call.
 */
typedef enum ganforge_status {
  /*
   Done.
   */
  GANFORGE_OK = 0,
  /*
   The call is wrong: a null pointer, a buffer of another size, a name or a value that does not exist.
   */
  GANFORGE_USAGE = 1,
  /*
   The operating system refused a file operation.
   */
  GANFORGE_IO = 2,
  /*
   A model is damaged, no generator, or gives something that is no image.
   */
  GANFORGE_INVALID = 3,
  /*
   There is no usable onnxruntime, or no provider of the kind asked for.
   */
  GANFORGE_RUNTIME = 4,
  /*
   A defect of this library: please report it.
   */
  GANFORGE_DEFECT = 5,
} ganforge_status;

/*
 An open generator. Any number of threads may use it at once; one, after all others are done with it, frees it.
 */
typedef struct ganforge_generator ganforge_generator;

/*
 How to open a generator. Set `size` to `sizeof(ganforge_options)` and all that is not wanted to zero:
 `ganforge_options options = {.size = sizeof options};`.
 */
typedef struct ganforge_options {
  /*
   Bytes of this struct, as the program knows it.
   */
  size_t size;
  /*
   Where to run: "auto", "cpu", "cuda", "cuda:1", "tensorrt", "openvino", "coreml"; null for "auto".
   */
  const char *provider;
  /*
   What to compute with: "auto", "f32", "f16", "int8"; null for "auto".
   */
  const char *precision;
  /*
   The value range of a float output, for models that do not say it: "tanh", "sigmoid", "byte"; null for what the file says.
   */
  const char *range;
  /*
   Images a run, 1 to 4096; 0 for what serves best.
   */
  size_t batch;
  /*
   Threads that one call may work on, up to 1024; 0 for what serves best. A call for no more than a batch stays on the caller's.
   */
  size_t threads;
  /*
   Seconds that a model may take to load and to run once; 0 for 120, with TensorRT 900.
   */
  double load_timeout;
  /*
   Bytes that the latents of a batch may take, and its images; 0 for 4 GiB.
   */
  uint64_t batch_memory;
} ganforge_options;

/*
 The shape of what a generator takes and makes.
 */
typedef struct ganforge_shape {
  /*
   Values of a latent.
   */
  size_t latent;
  /*
   0: a latent's values are normal, N(0, 1); 1: uniform in [-1, 1].
   */
  int32_t latent_law;
  /*
   Classes that the generator was told; 0: none.
   */
  size_t classes;
  /*
   Pixels from top to bottom.
   */
  size_t height;
  /*
   Pixels from left to right.
   */
  size_t width;
  /*
   1 (grey) or 3 (RGB). An image takes height * width * channels bytes, row by row, the channels of a pixel together.
   */
  size_t channels;
  /*
   Images a run; calls for multiples of it are the fastest.
   */
  size_t batch;
} ganforge_shape;

/*
 What is done to latents before the network sees them. Set `size` to `sizeof(ganforge_conditioning)` and all that is not wanted to zero.
 */
typedef struct ganforge_conditioning {
  /*
   Bytes of this struct, as the program knows it.
   */
  size_t size;
  /*
   Latents are drawn from the part of their distribution within ± this: fewer odd images, less variety; 0 for all of it.
   */
  double truncation;
  /*
   Images of this class only, by its name or else its number from 0; null for all.
   */
  const char *class_name;
} ganforge_conditioning;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of this interface that the library has: `GANFORGE_ABI_VERSION` of its header. Its thousands must be those of the header
 that a program was compiled with.
 */
uint32_t ganforge_abi_version(void);

/*
 The version of the library, "0.1.0".
 */
const char *ganforge_version(void);

/*
 What was wrong with the last call of this thread that failed, and how to mend it; "" where none has. It is valid until the next call
 of this thread.
 */
const char *ganforge_last_error(void);

/*
 Loads onnxruntime: the library at `path`, or in a folder of that name; null looks for it as `gan-infer` does. The first load decides
 for the whole process; `ganforge_open` does it where nobody has. Call it before other threads run: it sets
 ORT_DISABLE_TELEMETRY in the environment unless that is set.

 # Safety
 `path` is null or a text.
 */
enum ganforge_status ganforge_runtime_load(const char *path);

/*
 Opens a generator: a built-in one by its name ("faces", "digits", "fashion"; null for the first), an ONNX file by its path, or a training run's
 folder. `options` may be null. The generator goes to `*out`, which is null where there is none.

 # Safety
 `model` is null or a text, `options` null or an object of at least its `size` bytes with texts in it, `out` null or a place
 for a pointer.
 */
enum ganforge_status ganforge_open(const char *model,
                                   const struct ganforge_options *options,
                                   struct ganforge_generator **out);

/*
 Opens a generator of the `len` bytes of an ONNX file in memory, which are copied; `name` stands for it in messages.

 # Safety
 As `ganforge_open`; `bytes` is null or has `len` bytes.
 */
enum ganforge_status ganforge_open_bytes(const char *name,
                                         const uint8_t *bytes,
                                         size_t len,
                                         const struct ganforge_options *options,
                                         struct ganforge_generator **out);

/*
 Frees a generator; null is nothing.

 # Safety
 `generator` is null, or was opened here, is not freed yet, and no thread uses it any more.
 */
void ganforge_free(struct ganforge_generator *generator);

/*
 Tells the sizes of latents and images.

 # Safety
 `generator` is null or open, `out` null or a place for a `ganforge_shape`.
 */
enum ganforge_status ganforge_shape_of(const struct ganforge_generator *generator,
                                       struct ganforge_shape *out);

/*
 Writes the name of a class into `out`, with its zero byte; "" where nobody has given it one.

 # Safety
 `generator` is null or open, `out` null or a place for `len` bytes.
 */
enum ganforge_status ganforge_class_name(const struct ganforge_generator *generator,
                                         size_t class_number,
                                         char *out,
                                         size_t len);

/*
 Makes images `start`, `start + 1`, … of a seed, as many as `out` has room for: [n, height, width, channels], the bytes that `gan-infer`
 makes. `conditioning` may be null.

 # Safety
 `generator` is null or open, `conditioning` null or an object of at least its `size` bytes, `out` null or a place for `len` bytes.
 */
enum ganforge_status ganforge_sample(const struct ganforge_generator *generator,
                                     const struct ganforge_conditioning *conditioning,
                                     uint64_t seed,
                                     uint64_t start,
                                     uint8_t *out,
                                     size_t len);

/*
 Makes an image of each latent of the caller's, in their order: `values` is a multiple of the latent's size, and `len` that of an image's
 bytes, for as many. `conditioning` may be null.

 # Safety
 As `ganforge_sample`; `latents` is null or has `values` floats, which are not those of `out`.
 */
enum ganforge_status ganforge_generate(const struct ganforge_generator *generator,
                                       const struct ganforge_conditioning *conditioning,
                                       const float *latents,
                                       size_t values,
                                       uint8_t *out,
                                       size_t len);

/*
 Writes the latents of images `start`, `start + 1`, … of a seed, as many as `out` has room for: what `ganforge_sample` makes these of.

 # Safety
 `generator` is null or open, `out` null or a place for `values` floats.
 */
enum ganforge_status ganforge_latents(const struct ganforge_generator *generator,
                                      uint64_t seed,
                                      uint64_t start,
                                      float *out,
                                      size_t values);

/*
 Writes the latent `t` of the way from `a` (0) to `b` (1): along the great circle for normal latents, straight for uniform ones. All three
 have `values` floats, the size of a latent.

 # Safety
 `generator` is null or open; `a`, `b` and `out` are null or have `values` floats, those of `out` its own.
 */
enum ganforge_status ganforge_interpolate(const struct ganforge_generator *generator,
                                          const float *a,
                                          const float *b,
                                          float t,
                                          float *out,
                                          size_t values);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GANFORGE_H */
