#!/usr/bin/env bash
# Compiles a C and a C++ program against the library that `make capi` made, by its pkg-config file, and runs them: their pixels
# are gan-infer's; under valgrind, where there is one, without a finding.
#
# check.sh PREFIX GAN_INFER [RUNTIME]
set -euo pipefail
prefix=$(cd "$1" && pwd) infer=$2
runtime=${3:-$("$infer" runtime --json | sed 's/.*"onnxruntime.path":"\([^"]*\)".*/\1/')}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
models=$here/../../onnx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if command -v pkg-config >/dev/null; then
    flags() { PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs ganforge; }
else
    echo 'pkg-config: skipped, it is not on PATH'
    flags() { echo "-I$prefix/include -L$prefix/lib -lganforge"; }
fi
strict=(-O1 -g -Wall -Wextra -Werror -pedantic)
cc -std=c11 "${strict[@]}" "$here/use.c" -o "$work/use-c" $(flags) -lpthread
c++ -std=c++17 "${strict[@]}" "$here/use.cpp" -o "$work/use-cpp" $(flags)
# The static library alone.
cc -std=c11 "${strict[@]}" "$here/use.c" -o "$work/use-static" "-I$prefix/include" "$prefix/lib/libganforge.a" $(sed -n 's/^Libs.private: //p' "$prefix/lib/pkgconfig/ganforge.pc")

export LD_LIBRARY_PATH=$prefix/lib ORT_DISABLE_TELEMETRY=1
for model in faces digits "$models/digits.onnx"; do
    ORT_DYLIB_PATH=$runtime "$infer" --model "$model" --provider cpu --seed 5 --start 3 --n 100 --out "$work/gan-infer.npy" --force --quiet
    for program in use-c use-static; do
        "$work/$program" "$model" "$runtime" "$work/pixels"
        size=$(stat -c %s "$work/pixels" 2>/dev/null || stat -f %z "$work/pixels")
        tail -c "$size" "$work/gan-infer.npy" | cmp - "$work/pixels"
        echo "$program, $model: 100 images by four threads are those of gan-infer, byte for byte"
    done
done
ORT_DYLIB_PATH=$runtime "$work/use-cpp" "$models/digits.int8.onnx"
echo 'use-cpp: latents, interpolation and a model in memory as promised'
if command -v valgrind >/dev/null; then
    # onnxruntime keeps some memory until the process ends, which is no finding of ours.
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --suppressions="$here/valgrind.supp" \
        "$work/use-c" digits "$runtime" "$work/pixels"
    echo 'use-c: valgrind finds nothing'
else
    echo 'valgrind: skipped, it is not on PATH'
fi
