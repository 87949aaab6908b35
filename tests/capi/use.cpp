// Uses ganforge from C++: a model in memory, latents of its own, images between two of a seed.
//
// use MODEL.onnx: the images of the latents of a seed are those of the seed, and the ends of an interpolation are its ends.
#include <ganforge.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void done(ganforge_status status) {
    if (status != GANFORGE_OK) throw std::runtime_error(ganforge_last_error());
}

void check(bool is, const char *what) {
    if (!is) throw std::runtime_error(what);
}

struct Free {
    void operator()(ganforge_generator *generator) const { ganforge_free(generator); }
};

std::unique_ptr<ganforge_generator, Free> open(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    ganforge_generator *generator = nullptr;
    done(ganforge_open_bytes("in memory", reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size(), nullptr, &generator));
    return std::unique_ptr<ganforge_generator, Free>(generator);
}

void run(const std::string &path) {
    const auto generator = open(path);
    ganforge_shape shape{};
    done(ganforge_shape_of(generator.get(), &shape));
    const size_t image = shape.height * shape.width * shape.channels, n = 2 * shape.batch;

    std::vector<float> latents(n * shape.latent);
    std::vector<uint8_t> sampled(n * image), generated(n * image);
    done(ganforge_latents(generator.get(), 1, 0, latents.data(), latents.size()));
    done(ganforge_sample(generator.get(), nullptr, 1, 0, sampled.data(), sampled.size()));
    done(ganforge_generate(generator.get(), nullptr, latents.data(), latents.size(), generated.data(), generated.size()));
    check(sampled == generated, "the images of a seed's latents are not the seed's");

    const float *a = latents.data(), *b = a + shape.latent;
    std::vector<float> between(shape.latent);
    done(ganforge_interpolate(generator.get(), a, b, 1.0F, between.data(), between.size()));
    for (size_t i = 0; i < between.size(); i++) check(std::abs(between[i] - b[i]) < 1e-5F, "the end of the way is not its end");
    done(ganforge_interpolate(generator.get(), a, b, 0.5F, between.data(), between.size()));
    std::vector<uint8_t> one(image);
    done(ganforge_generate(generator.get(), nullptr, between.data(), between.size(), one.data(), one.size()));
    check(std::vector<uint8_t>(sampled.begin(), sampled.begin() + static_cast<long>(image)) != one, "half the way is no way");
}

}  // namespace

int main(int argc, char **argv) {
    try {
        check(argc == 2, "expected a model");
        run(argv[1]);
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
