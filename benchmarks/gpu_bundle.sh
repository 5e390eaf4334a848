#!/usr/bin/env bash
# Fill up a folder of unpacked dependencies and pack it for a GPU machine without network; gpu_check.sh uses it.
#
#   benchmarks/gpu_bundle.sh FOLDER [3.12]    adds what is listed here, then writes FOLDER.tgz
#
# FOLDER holds TorchRL, TensorDict, dm_control, MuJoCo, Hydra, OmegaConf and Gymnasium as their wheels unpack; torch,
# Lightning, NumPy and SciPy are there already. What those import, and what the tests need, comes from here.
set -eu
FOLDER=${1%/} VERSION=${2:-3.12} PYTHON=${PYTHON:-python3}
[ "$(basename "$FOLDER")" = .bundle ] || { echo "FOLDER is to be called .bundle, got $FOLDER" >&2; exit 2; }
PLATFORMS=$(printf -- '--platform manylinux_2_%s_x86_64 ' 28 27 24 17 12 5)
# shellcheck disable=SC2086 # several options
"$PYTHON" -m pip install --quiet --target "$FOLDER" --upgrade --no-deps --only-binary=:all: --python-version "$VERSION" \
    --implementation cp $PLATFORMS --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64 \
    absl-py attrs wrapt psutil filelock tqdm lazy-importer pytest iniconfig pluggy pygments
rm -rf "$FOLDER"/bin
tar czf "$FOLDER.tgz" -C "$(dirname "$FOLDER")" "$(basename "$FOLDER")"
du -h "$FOLDER.tgz"
