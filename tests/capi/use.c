/* Uses ganforge from C: what a program would do, then every misuse that can be noticed.
 *
 * use MODEL RUNTIME OUT: writes the pixels of images 3 to 102 of seed 5 to OUT, made by four threads at once. */
#include <ganforge.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(int line, const char *what) {
    fprintf(stderr, "line %d: %s: %s\n", line, what, ganforge_last_error());
    exit(1);
}

#define CHECK(is) do { if (!(is)) fail(__LINE__, #is); } while (0)
#define REFUSED(call, says) do { CHECK((call) == GANFORGE_USAGE); CHECK(strstr(ganforge_last_error(), says)); } while (0)

enum { FIRST = 3, IMAGES = 100, THREADS = 4 };

typedef struct { const ganforge_generator *generator; uint8_t *out; size_t image; size_t begin, end; } part;

static void *make(void *argument) {
    const part *p = argument;
    CHECK(ganforge_sample(p->generator, NULL, 5, FIRST + p->begin, p->out + p->begin * p->image, (p->end - p->begin) * p->image) == GANFORGE_OK);
    /* A message is its thread's own. */
    CHECK(ganforge_sample(NULL, NULL, 5, 0, p->out, 1) == GANFORGE_USAGE);
    CHECK(strstr(ganforge_last_error(), "`generator` is null"));
    return NULL;
}

static void misuse(const ganforge_generator *generator, const char *model, uint8_t *out, size_t image) {
    ganforge_generator *none = (ganforge_generator *)out;
    ganforge_shape shape;
    char name[8];
    float *latent = malloc(200 * sizeof *latent);
    CHECK(latent && ganforge_shape_of(generator, &shape) == GANFORGE_OK && shape.latent <= 200);

    REFUSED(ganforge_open(model, NULL, NULL), "`out` is null");
    CHECK(ganforge_open("nowhere.onnx", NULL, &none) == GANFORGE_IO && none == NULL);
    REFUSED(ganforge_open("\xff\xfe", NULL, &none), "UTF-8");
    REFUSED(ganforge_open("facez", NULL, &none), "Did you mean 'faces'?");
    ganforge_options options = {0};
    REFUSED(ganforge_open(model, &options, &none), "`options->size` is 0");
    options.size = sizeof options;
    options.provider = "gpu";
    REFUSED(ganforge_open(model, &options, &none), "`options.provider` \"gpu\"");
    options.provider = NULL;
    options.precision = "f8";
    REFUSED(ganforge_open(model, &options, &none), "`options.precision` \"f8\"");
    options.precision = NULL;
    options.range = "?";
    REFUSED(ganforge_open(model, &options, &none), "tanh, sigmoid or byte");
    options.range = NULL;
    options.batch = 5000;
    REFUSED(ganforge_open(model, &options, &none), "batch size is out of range");
    CHECK(none == NULL);
    REFUSED(ganforge_open_bytes("mine", NULL, 5, NULL, &none), "`bytes` is null");
    CHECK(ganforge_open_bytes("mine", (const uint8_t *)"not a model", 11, NULL, &none) == GANFORGE_INVALID && none == NULL);
    CHECK(strstr(ganforge_last_error(), "mine"));

    REFUSED(ganforge_shape_of(NULL, &shape), "`generator` is null");
    REFUSED(ganforge_shape_of(generator, NULL), "`out` is null");
    REFUSED(ganforge_shape_of(generator, (ganforge_shape *)(out + 1)), "Align it");
    REFUSED(ganforge_class_name(generator, 10000, name, sizeof name), "class");

    REFUSED(ganforge_sample(generator, NULL, 0, 0, NULL, image), "`out` is null");
    REFUSED(ganforge_sample(generator, NULL, 0, 0, out, image - 1), "whole number of images");
    REFUSED(ganforge_sample(generator, NULL, 0, 0, out, 0), "whole number of images");
    REFUSED(ganforge_sample(generator, NULL, 0, 0, out, SIZE_MAX), "cannot have");
    REFUSED(ganforge_sample(generator, NULL, 0, UINT64_MAX, out, image), "2^63");
    ganforge_conditioning conditioning = {.size = sizeof conditioning, .truncation = -1};
    REFUSED(ganforge_sample(generator, &conditioning, 0, 0, out, image), "`ganforge_conditioning.truncation` -1");
    conditioning.truncation = 0;
    conditioning.class_name = "no such class";
    REFUSED(ganforge_sample(generator, &conditioning, 0, 0, out, image), "class");
    conditioning.size = 3;
    REFUSED(ganforge_sample(generator, &conditioning, 0, 0, out, image), "`conditioning->size` is 3");

    CHECK(ganforge_latents(generator, 0, 0, latent, shape.latent) == GANFORGE_OK);
    REFUSED(ganforge_latents(generator, 0, 0, latent, shape.latent - 1), "whole number of latents");
    REFUSED(ganforge_latents(generator, 0, 0, (float *)((char *)latent + 1), shape.latent), "Align it to 4 bytes");
    REFUSED(ganforge_generate(generator, NULL, latent, shape.latent, out, image + 1), "1 images");
    REFUSED(ganforge_generate(generator, NULL, latent, shape.latent - 1, out, image), "whole number of latents");
    REFUSED(ganforge_generate(generator, NULL, NULL, shape.latent, out, image), "`latents` is null");
    REFUSED(ganforge_interpolate(generator, latent, latent, 0.5f, latent, shape.latent - 1), "is no latent");
    latent[1] = latent[0] / 0.0f * 0.0f;
    REFUSED(ganforge_generate(generator, NULL, latent, shape.latent, out, image), "value 1 of latent 0");
    ganforge_free(NULL);
    free(latent);
}

int main(int argc, char **argv) {
    ganforge_generator *generator;
    ganforge_shape shape;
    pthread_t threads[THREADS];
    part parts[THREADS];

    CHECK(argc == 4);
    CHECK(ganforge_abi_version() / 1000 == GANFORGE_ABI_VERSION / 1000);
    CHECK(strlen(ganforge_version()) >= 5 && strcmp(ganforge_last_error(), "") == 0);
    CHECK(ganforge_runtime_load("/nowhere/libonnxruntime.so") == GANFORGE_RUNTIME);
    CHECK(ganforge_runtime_load(argv[2]) == GANFORGE_OK);
    ganforge_options options = {.size = sizeof options, .provider = "cpu", .threads = 2};
    CHECK(ganforge_open(argv[1], &options, &generator) == GANFORGE_OK);
    CHECK(ganforge_shape_of(generator, &shape) == GANFORGE_OK);

    size_t image = shape.height * shape.width * shape.channels;
    uint8_t *out = malloc(IMAGES * image);
    CHECK(out);
    for (size_t i = 0; i < THREADS; i++) {
        parts[i] = (part){generator, out, image, IMAGES * i / THREADS, IMAGES * (i + 1) / THREADS};
        CHECK(pthread_create(&threads[i], NULL, make, &parts[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    FILE *file = fopen(argv[3], "wb");
    CHECK(file && fwrite(out, image, IMAGES, file) == IMAGES && fclose(file) == 0);

    if (shape.classes > 0) {
        char name[64];
        CHECK(ganforge_class_name(generator, shape.classes - 1, name, sizeof name) == GANFORGE_OK);
        ganforge_conditioning seven = {.size = sizeof seven, .truncation = 2, .class_name = "7"};
        CHECK(ganforge_sample(generator, &seven, 0, 0, out, 5 * image) == GANFORGE_OK);
    }
    misuse(generator, argv[1], out, image);
    free(out);
    ganforge_free(generator);
    return 0;
}
