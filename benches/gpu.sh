#!/usr/bin/env bash
# Everything to be run on a machine with an NVIDIA GPU, in 25 minutes on an H200. That machine needs a clone of this commit, and no network: only the driver,
# the libraries of CUDA 13 and cuDNN 9, which a PyTorch for CUDA 13 brings along, and that PyTorch for the comparison (with a C compiler, if
# torch.compile is to be compared, too). onnxruntime, which verifies exports, is packed. GPUs from Ampere on (compute capability 8.0).
#
#   benches/gpu.sh pack DIR                      on any machine: build the programs with --features cuda (some 25 minutes on 2 cores), and put them into
#                                                DIR, with the faces of $GANFORGE_DATA, if it is set; DIR/parts holds all of it in pieces of 60 MB
#   benches/gpu.sh join PIECES DIR               on the GPU's machine: put the pieces, copied to a folder there, together again
#   benches/gpu.sh run DIR [RESULTS [STEP…]]     there: the steps tests, captured, train, bench, profile, sample, faces, wgan, or those named
#   benches/gpu.sh plan DIR                      anywhere: what that would run, and for how long at most, in parts of 10 minutes
#
# RESULTS is $OUT by default, else DIR/results; everything said is in its gpu.log, to which a later run adds. A run that went well ends with "0 of the
# programs above failed". From the environment:
#
#   GANFORGE_PYTHON   the Python with PyTorch (python3)
#   ORT_CUDA_PATH     an onnxruntime with CUDA, …/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1 of onnxruntime-gpu, for the step sample; the
#                     Python must have that package, too
#   GANFORGE_LIMITS   a whole factor on all limits of time, for slower GPUs (1)
#   GANFORGE_BENCH    more flags for the comparison with PyTorch, e.g. '--any-precision'
#   GANFORGE_SHORT    if set, every training is a few steps long, to rehearse the script: with the sham GPU of `make check-cuda` in LD_PRELOAD it
#                     runs where there is no GPU
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${GANFORGE_PYTHON:-python3}
short=${GANFORGE_SHORT:-}
limits=${GANFORGE_LIMITS:-1}
[[ $limits =~ ^[1-9][0-9]{0,2}$ ]] || { echo "GANFORGE_LIMITS is '$limits': a whole number from 1 to 999 is expected" >&2; exit 2; }

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
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
    local dir=$1 exports library
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    cd "$root"
    .cargo/setup
    exports=$(.cargo/cuda-toolkit)
    eval "$exports"
    # The set-up fetches none where the system has one.
    library=$(compgen -G '.tools/python/onnxruntime/capi/libonnxruntime.so.1.*' || echo "${ORT_DYLIB_PATH:-}")
    [[ -n $library ]] || { echo 'no onnxruntime to pack: name the library in ORT_DYLIB_PATH' >&2; exit 1; }
    cp -L "$library" "$dir/libonnxruntime.so"
    strip -o "$dir/gan-train" "$(built gan-train build --release --bin)"
    strip -o "$dir/gan-infer" "$(built gan-infer build --release --bin)"
    strip -o "$dir/suite" "$(built suite test --release --no-run --test)"
    strip -o "$dir/train" "$(built train bench --no-run --bench)"
    if [[ -f ${GANFORGE_DATA:-}/anime-faces.zip ]]; then
        cp "$GANFORGE_DATA/anime-faces.zip" "$dir/faces.zip"
    fi
    rm -rf "$dir/parts"
    mkdir "$dir/parts"
    (cd "$dir" && tar -c --exclude=parts --exclude=results . | gzip | split -b 60000000 - parts/part-)
    ls -l "$dir" "$dir/parts"
}

join() {
    mkdir -p "$2"
    cat "$1"/part-* | tar -xz -C "$2"
}

failures=0
planned=
child="" work=""
# What runs is ended, and what is not a result removed.
leave() {
    [[ -z $child ]] || kill "$child" 2>/dev/null || true
    [[ -z $work ]] || rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command for `$1` seconds at most; or only says so.
step() {
    local start=$SECONDS status=0 limit=$(($1 * limits))
    shift
    echo "== $* (at most $limit s)"
    if [[ -n $planned ]]; then
        planned=$((planned + limit))
        return
    fi
    # In the background, for a shell that waits for a program hears no signal.
    timeout "$limit" "$@" &
    child=$!
    wait "$child" || status=$?
    child=
    echo "== $((SECONDS - start)) s, exit code $status"
    [[ $status == 0 ]] || failures=$((failures + 1))
}

# How long a training is: `$1`, or a few steps.
long() {
    if [[ -n $short ]]; then echo "--steps 6"; else echo "$1"; fi
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
    GANFORGE_NEEDS_GPU=1 step 120 "$dir/suite" cuda:: --test-threads=1 --nocapture
}

# 200 steps of each preset, captured and one by one, and one after the other with a resume between: the same bytes.
captured() {
    local preset said run=("$dir/gan-train" --data synthetic --device cuda --precision tf32 --set 'watch.stop=false' --set 'watch.judge_samples=0')
    said=$(mktemp)
    for preset in dcgan-64 wgan-gp-anime sngan-64 r3gan-28 r3gan-64-s digits; do
        local each=(--preset "$preset" --batch-size 16)
        # shellcheck disable=SC2046 # two words
        step 13 "${run[@]}" "${each[@]}" $(long '--steps 200') --out "$work/$preset-captured" >"$said" 2>&1
        cat "$said"
        if [[ -z $planned ]] && ! grep -q 'rounds\{0,1\} of steps as' "$said"; then
            echo "$preset: not captured"
            failures=$((failures + 1))
        fi
        # shellcheck disable=SC2046
        step 15 "${run[@]}" "${each[@]}" $(long '--steps 200') --quiet --set schedule.capture=false --out "$work/$preset-single"
        step 2 diff -r "$work/$preset-captured/checkpoints" "$work/$preset-single/checkpoints"
    done
    rm -f "$said"
    run=("$dir/gan-train" --device cuda --quiet)
    step 10 "${run[@]}" --preset digits --data synthetic --steps 40 --out "$work/whole"
    step 10 "${run[@]}" --preset digits --data synthetic --steps 20 --set schedule.capture=false --out "$work/halves"
    step 10 "${run[@]}" --resume "$work/halves" --steps 40 --set schedule.capture=true
    step 5 diff -r "$work/whole/checkpoints/00000040" "$work/halves/checkpoints/00000040"
}

# In every precision, to the export.
train() {
    local precision
    for precision in f32 tf32 bf16; do
        # shellcheck disable=SC2046
        step 15 "$dir/gan-train" --preset digits --data synthetic --device cuda --precision "$precision" $(long '--steps 500') \
            --out "$work/$precision" --quiet --json
    done
}

# Against PyTorch eager and with its whole step as one CUDA graph, and ours one launch after the other; where it is the first case, against
# its compiled variants, too, which take most of a minute each.
bench() {
    local case precision limit variants more
    read -ra more <<<"${GANFORGE_BENCH:-}"
    for case in dcgan-64:128,tf32 dcgan-64:512,tf32 r3gan-64-s:256,tf32 wgan-gp-anime,tf32 dcgan-64:128,bf16 dcgan-64:512,bf16 r3gan-64-s:256,bf16; do
        precision=${case#*,} case=${case%,*} limit=40 variants="eager+channels_last,captured+channels_last"
        if [[ $case,$precision == dcgan-64:128,tf32 ]]; then
            limit=170 variants+=",captured+compile+channels_last,graphs+channels_last"
        fi
        step "$limit" "$dir/train" --device cuda --precision "$precision" --presets "$case" --python "$(command -v "$python")" \
            --rounds 3 --seconds-per-measure 2 --ready-within 40 --variants "$variants" "${more[@]}"
        step 14 "$dir/train" --device cuda --precision "$precision" --presets "$case" --ours-alone --no-capture --rounds 1 --seconds-per-measure 2
    done
}

# Runs a program, and says in which share of the time the GPU was at work, by what nvidia-smi reports five times a second.
busy() {
    local seen status=0
    [[ $# -gt 0 ]] || usage
    work=$(mktemp -d)
    seen=$work/seen
    nvidia-smi --id=0 --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits --loop-ms=200 >"$seen" 2>&1 &
    child=$!
    "$@" || status=$?
    kill "$child" 2>/dev/null || true
    child=
    "$python" - "$seen" <<'END' || true
import statistics, sys
rows = [[int(part) if part.strip().isdigit() else None for part in line.split(",")] for line in open(sys.argv[1]) if line.count(",") == 1]
work = [at for at, (busy, _) in enumerate(rows) if busy]
# From the first work to the last, with what gaps there are.
readings = [busy for busy, _ in rows[work[0] : work[-1] + 1] if busy is not None] if work else []
if len(readings) < 4:
    print(f"GPU busy: not known, of nvidia-smi's readings {len(readings)} were during the work")
else:
    low, middle, high = statistics.quantiles(readings)
    memory = max((used for _, used in rows if used is not None), default="an unknown number of")
    print(f"GPU busy, % of the time, {len(readings)} readings: median {middle:.0f}, quartiles {low:.0f} and {high:.0f}, mean {statistics.mean(readings):.0f}; at most {memory} MiB in use")
END
    return "$status"
}

# How much of a step the GPU is at work, captured and one launch after the other; and kernel by kernel, where Nsight Systems is there.
profile() {
    local case train=("$dir/train" --device cuda --precision bf16 --ours-alone --rounds 1)
    for case in dcgan-64:128 r3gan-64-s:256; do
        step 14 "$root/benches/gpu.sh" busy "${train[@]}" --presets "$case" --seconds-per-measure 5
    done
    step 14 "$root/benches/gpu.sh" busy "${train[@]}" --presets dcgan-64:128 --no-capture --seconds-per-measure 5
    if command -v nsys >/dev/null; then
        step 60 nsys profile --trace=cuda --cuda-graph-trace=node --stats=true --output="$results/nsys" "${train[@]}" --presets r3gan-64-s:256 \
            --seconds-per-measure 1
    fi
}

# gan-infer against onnxruntime in Python, and stage by stage.
sample() {
    if [[ -z $planned && -z ${ORT_CUDA_PATH:-} ]]; then
        echo 'sample: skipped, ORT_CUDA_PATH names no onnxruntime with CUDA'
        return
    fi
    ORT_DYLIB_PATH=${ORT_CUDA_PATH:-} step 140 "$python" benches/peers/infer.py models/faces --out "$work/out" --provider cuda --n 600000 --files 20000 \
        --rounds 2 --seconds 0.6 --bin "$dir"
    ORT_DYLIB_PATH=${ORT_CUDA_PATH:-} step 30 "$dir/gan-infer" bench faces --provider cuda --batches 512 --threads 1,4 --seconds 0.5 --scratch "$work"
}

# The folder of a run in RESULTS: of another name where an earlier call has made one.
fresh() {
    if [[ -e $results/$1 ]]; then echo "$results/$1-$(date +%s)"; else echo "$results/$1"; fi
}

# The built-in faces' recipe with other seeds; what comes of them is for `gan-train eval`.
faces() {
    local seed out data=$dir/faces.zip
    if [[ -z $planned && ! -f $data ]]; then
        echo 'faces: skipped, the images were not packed'
        return
    fi
    for seed in 0 1; do
        out=$(fresh "faces-$seed")
        # shellcheck disable=SC2046
        step 100 "$dir/gan-train" --config models/faces/config.toml --data "$data" --device cuda --seed "$seed" --quiet --json $(long '') \
            --out "$out"
        # The weights of other steps stay there.
        [[ -n $planned ]] || find "$out/checkpoints" -name '*.safetensors' ! -name 'ema.safetensors' -delete || true
    done
}

# Whether the write-up's WGAN-GP with SGD collapses at full size: 100 epochs of it and of today's.
wgan() {
    local preset out data=$dir/faces.zip
    if [[ -z $planned && ! -f $data ]]; then
        echo 'wgan: skipped, the images were not packed'
        return
    fi
    for preset in wgan-gp-anime-sgd wgan-gp-anime; do
        out=$(fresh "$preset")
        # shellcheck disable=SC2046
        step 100 "$dir/gan-train" --preset "$preset" --data "$data" --device cuda --precision tf32 --quiet --json $(long '--epochs 100') \
            --set watch.stop=false --out "$out"
        [[ -n $planned ]] || rm -rf "$out/checkpoints"
    done
}

readonly ALL=(tests captured train bench profile sample faces wgan)

is_step() {
    local name
    for name in "${ALL[@]}"; do [[ $name != "$1" ]] || return 0; done
    return 1
}

# What each part of 10 minutes at most would run, with everything at hand.
plan() {
    local dir=$1 results=$1/results name part=1 used=0 all=0 names=
    [[ -x $dir/gan-train ]] || echo "nothing is packed in $dir yet; once it is:"
    for name in "${ALL[@]}"; do
        planned=0
        "$name" >"$part_file"
        if ((used + planned > 600 * limits)); then
            echo "-- part $part, run $dir RESULTS$names: $used s at most"
            part=$((part + 1)) used=0 names=
        fi
        used=$((used + planned)) all=$((all + planned)) names+=" $name"
        cat "$part_file"
    done
    echo "-- part $part, run $dir RESULTS$names: $used s at most; all parts $all s"
}

run() {
    local dir results found name
    for name in "${@:3}"; do
        is_step "$name" || { echo "there is no step '$name': ${ALL[*]}" >&2; exit 2; }
    done
    dir=$(cd "$1" && pwd)
    results=${2:-${OUT:-$dir/results}}
    mkdir -p "$results"
    results=$(cd "$results" && pwd)
    exec > >(tee -a "$results/gpu.log") 2>&1
    found=$(libraries)
    export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$dir/libonnxruntime.so}
    export LD_LIBRARY_PATH="${found:+$found:}${LD_LIBRARY_PATH:-}"
    cd "$root" # the comparison's other side is in benches/peers
    date -u
    nvidia-smi || true
    shift $(($# < 2 ? $# : 2))
    local steps=("$@")
    [[ ${#steps[@]} -gt 0 ]] || steps=("${ALL[@]}")
    work=$(mktemp -d)
    for name in "${steps[@]}"; do
        "$name"
    done
    echo "$failures of the programs above failed"
    [[ $failures == 0 ]]
}

case ${1:-} in
pack) [[ $# == 2 ]] || usage; pack "$2" ;;
join) [[ $# == 3 ]] || usage; join "$2" "$3" ;;
plan) [[ $# == 2 ]] || usage; work=$(mktemp -d); part_file=$work/part; plan "$2" ;;
busy) shift; busy "$@" ;;
run) [[ $# -ge 2 ]] || usage; shift; [[ -d $1 ]] || { echo "there is no folder $1: pack it first" >&2; exit 1; }; run "$@" ;;
*) usage ;;
esac
