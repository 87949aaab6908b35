#!/usr/bin/env bash
# Everything to be run on a machine with an NVIDIA GPU. That machine needs no network: only the driver, the libraries of CUDA 13
# and cuDNN 9, which a PyTorch for CUDA 13 brings along, and that PyTorch for the comparison (with a C compiler, if
# torch.compile is to be compared, too). onnxruntime, which verifies exports, is packed.
#
#   benches/gpu.sh pack DIR                      on any machine: build the programs with --features cuda, and put them into DIR
#   benches/gpu.sh run DIR [RESULTS [STEP…]]     on the GPU's: the steps tests, train, bench, sample, or those named
#
# RESULTS is $OUT by default, else DIR/results; everything said is in its gpu.log. GANFORGE_PYTHON names the Python with
# PyTorch (python3 by default), GANFORGE_BENCH more flags for the comparison, e.g. '--rounds 3'. The step sample needs that Python to have an
# onnxruntime with CUDA, and its library in ORT_CUDA_PATH.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${GANFORGE_PYTHON:-python3}

usage() {
    sed -n '6,7s/^# *//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# Builds the target `$1` with the cargo command behind it, and prints where the program is.
built() {
    local name=$1
    shift
    cargo "$@" "$name" --locked --features cuda --message-format=json-render-diagnostics |
        "$python" -c 'import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message["target"]["name"] == sys.argv[1]:
        print(message["executable"])' "$name"
}

pack() {
    local dir=$1 exports
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    cd "$root"
    .cargo/setup
    exports=$(.cargo/cuda-toolkit)
    eval "$exports"
    cp -L .tools/python/onnxruntime/capi/libonnxruntime.so.1.* "$dir/libonnxruntime.so"
    strip -o "$dir/gan-train" "$(built gan-train build --release --bin)"
    strip -o "$dir/gan-infer" "$(built gan-infer build --release --bin)"
    strip -o "$dir/suite" "$(built suite test --release --no-run --test)"
    strip -o "$dir/train" "$(built train bench --no-run --bench)"
    ls -l "$dir"
}

failures=0
step() {
    local start=$SECONDS status=0
    echo "== $*"
    "$@" || status=$?
    echo "== $((SECONDS - start)) s, exit code $status"
    [[ $status == 0 ]] || failures=$((failures + 1))
}

# Every library folder of the nvidia packages in Python's site-packages.
libraries() {
    "$python" - <<'END' 2>/dev/null || true
import glob, site, sysconfig
places = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
print(":".join(sorted(lib for place in places for lib in glob.glob(place + "/nvidia/*/lib"))))
END
}

tests() {
    GANFORGE_NEEDS_GPU=1 step "$dir/suite" cuda:: --test-threads=1 --nocapture
}

# In every precision; and a resumed run must end in the same bytes.
train() {
    local work precision
    work=$(mktemp -d)
    for precision in f32 tf32 bf16; do
        step "$dir/gan-train" --preset digits --data synthetic --device cuda --precision "$precision" --steps 500 \
            --out "$work/$precision" --quiet --json
    done
    for precision in tf32 bf16; do
        step "$dir/gan-train" --preset dcgan-64 --data synthetic --device cuda --precision "$precision" --steps 20 \
            --out "$work/dcgan-$precision" --quiet --json
    done
    local run=("$dir/gan-train" --device cuda --quiet)
    step "${run[@]}" --preset digits --data synthetic --steps 40 --out "$work/whole"
    step "${run[@]}" --preset digits --data synthetic --steps 20 --out "$work/halves"
    step "${run[@]}" --resume "$work/halves" --steps 40
    step diff -r "$work/whole/checkpoints/00000040" "$work/halves/checkpoints/00000040"
    rm -rf "$work"
}

bench() {
    local precision batch more
    read -ra more <<<"${GANFORGE_BENCH:-}"
    for precision in tf32 bf16; do
        for batch in 128 512; do
            step "$dir/train" --device cuda --precision "$precision" --presets dcgan-64 --batch-size "$batch" \
                --python "$(command -v "$python")" "${more[@]}"
        done
        step "$dir/train" --device cuda --precision "$precision" --presets wgan-anime,dcgan-fashion,gan-fashion-mlp \
            --python "$(command -v "$python")" "${more[@]}"
    done
}

# gan-infer against onnxruntime in Python.
sample() {
    local work
    if [[ -z ${ORT_CUDA_PATH:-} ]]; then
        echo 'sample: skipped, ORT_CUDA_PATH names no onnxruntime with CUDA'
        return
    fi
    work=$(mktemp -d)
    ORT_DYLIB_PATH=$ORT_CUDA_PATH step "$python" benches/peers/infer.py models/faces --out "$work/out" --provider cuda --n 600000 --files 20000 \
        --few 500 --bin "$dir"
    rm -rf "$work"
}

run() {
    local dir results found
    dir=$(cd "$1" && pwd)
    results=${2:-${OUT:-$dir/results}}
    mkdir -p "$results"
    results=$(cd "$results" && pwd)
    exec > >(tee "$results/gpu.log") 2>&1
    found=$(libraries)
    export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$dir/libonnxruntime.so}
    export LD_LIBRARY_PATH="${found:+$found:}${LD_LIBRARY_PATH:-}"
    cd "$root" # the comparison's other side is in benches/peers
    date -u
    nvidia-smi || true
    shift $(($# < 2 ? $# : 2))
    local steps=("$@")
    [[ ${#steps[@]} -gt 0 ]] || steps=(tests train bench sample)
    for name in "${steps[@]}"; do
        case $name in
        tests | train | bench | sample) "$name" ;;
        *) usage ;;
        esac
    done
    echo "$failures of the programs above failed"
    [[ $failures == 0 ]]
}

case ${1:-} in
pack) [[ $# == 2 ]] || usage; pack "$2" ;;
run) [[ $# -ge 2 ]] || usage; shift; run "$@" ;;
*) usage ;;
esac
