# syntax=docker/dockerfile:1
# Both programs, with onnxruntime, for CPUs:
#   docker build --file .docker/cpu.Dockerfile --tag ganforge .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/out:/out" ganforge --n 1000 --out faces
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/out" --entrypoint gan-train ganforge --preset dcgan-64 --data faces.zip --out runs/faces

FROM rust:1.95-slim-bookworm AS build
# The versions are those of the system that the tag names.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ganforge
COPY . .
# `make setup` fetches onnxruntime with pip, by version and hash.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/ganforge/target \
    make build \
    && install -D --strip --target-directory=/image/usr/local/bin target/release/gan-infer target/release/gan-train \
    && install -D --mode=644 --target-directory=/image/usr/local/lib .tools/python/onnxruntime/capi/libonnxruntime.so.* \
    && install -D --mode=644 --target-directory=/image/usr/local/share/doc/ganforge LICENSE-APACHE LICENSE-MIT \
    && install -D --mode=644 --target-directory=/image/usr/local/share/doc/onnxruntime \
        .tools/python/onnxruntime/LICENSE .tools/python/onnxruntime/ThirdPartyNotices.txt

FROM debian:bookworm-slim
COPY --from=build /image /
RUN useradd --uid 10001 --user-group --create-home ganforge \
    && install --directory --owner=ganforge --group=ganforge /out
USER 10001:10001
VOLUME /out
WORKDIR /out
ENTRYPOINT ["gan-infer"]
CMD ["--help"]
