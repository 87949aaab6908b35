# syntax=docker/dockerfile:1
# Both programs, with onnxruntime, for NVIDIA's GPUs (driver 580 or later, nvidia-container-toolkit):
#   docker build --file .docker/cuda.Dockerfile --tag ganforge:cuda .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD/out:/out" ganforge:cuda --n 1000 --out faces
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/out" --entrypoint gan-train ganforge:cuda \
#       --preset dcgan-64 --data faces.zip --out runs/faces --device cuda --precision tf32

FROM rust:1.95-slim-bookworm AS build
# The versions are those of the system that the tag names.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ganforge
COPY . .
# CUDA 13 and cuDNN 9, for the compiler and the linker only, with pip, by version and hash.
RUN make setup && .cargo/cuda-toolkit >exports
# gan-infer without the feature: it starts without a driver, too.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/ganforge/target \
    . ./exports \
    && cargo build --release --locked --features cuda --bin gan-train \
    && cargo build --release --locked --no-default-features --features jobs,cli,builtin --bin gan-infer \
    && install -D --strip --target-directory=/image/usr/local/bin target/release/gan-infer target/release/gan-train
# onnxruntime with its CUDA provider; of the libraries that it opens, the image below has its own.
RUN awk '/^onnxruntime-gpu==/ { on = 1 } on { print } !/\\$/ { on = 0 }' src/infer/onnxruntime-cuda.txt >pins \
    && python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --no-cache-dir --require-hashes --target /wheel --requirement pins \
    && python3 -I .cargo/pins.py verify /wheel \
    && install -D --mode=644 --target-directory=/image/usr/local/lib \
        /wheel/onnxruntime/capi/libonnxruntime.so.* /wheel/onnxruntime/capi/libonnxruntime_providers_shared.so \
        /wheel/onnxruntime/capi/libonnxruntime_providers_cuda.so \
    && install -D --mode=644 --target-directory=/image/usr/local/share/doc/ganforge LICENSE-APACHE LICENSE-MIT \
    && install -D --mode=644 --target-directory=/image/usr/local/share/doc/onnxruntime \
        /wheel/onnxruntime/LICENSE /wheel/onnxruntime/ThirdPartyNotices.txt

FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
COPY --from=build /image /
RUN useradd --uid 10001 --user-group --create-home ganforge \
    && install --directory --owner=ganforge --group=ganforge /out
USER 10001:10001
VOLUME /out
WORKDIR /out
ENTRYPOINT ["gan-infer"]
CMD ["--help"]
