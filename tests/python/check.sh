#!/usr/bin/env bash
# Installs the newest wheel of a folder into a fresh environment, as pip does it for a user, and runs the tests there.
#
# check.sh WHEELS GAN_INFER; GANFORGE_PYTHONS names the Pythons to try (python3).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wheels=$(cd "$1" && pwd) infer=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheel=$(ls -t "$wheels"/ganforge-*.whl | head -n 1)
for python in ${GANFORGE_PYTHONS:-python3}; do
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null || { echo "$python: skipped, it makes no environments (Debian: python3-venv)"; continue; }
    rm -rf "$work/env"
    "$python" -I -m venv "$work/env"
    "$work/env/bin/python" -I -m pip install --quiet "$wheel"
    cd "$work" # where no folder is called ganforge
    env -u ORT_DYLIB_PATH -u VIRTUAL_ENV GANFORGE_ROOT="$root" GAN_INFER="$infer" \
        "$work/env/bin/python" "$root/tests/python/test_ganforge.py"
done
