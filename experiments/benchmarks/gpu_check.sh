#!/usr/bin/env bash
# All GPU checks on a bare machine, in one call: bash experiments/benchmarks/gpu_check.sh OUT [SETUP]
# SETUP is a shell file that installs what the machine lacks; it is sourced, so it may set paths. Run this from the
# repository's root, with python3 (or PYTHON) of 3.11 or newer that has a CUDA build of PyTorch.
set -u
out=$(mkdir -p "${1:?the folder for results is missing}" && cd "$1" && pwd) || exit 1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
if [ $# -gt 1 ]; then
    source "$2" || exit 1
fi
export PYTHONPATH="$root:$root/platform${PYTHONPATH:+:$PYTHONPATH}"
# Some sandboxes show little memory at first; the plan would make fewer clip makers than there is room for.
export BSP_MEMORY_GB="${BSP_MEMORY_GB:-64}"
exec "${PYTHON:-python3}" experiments/benchmarks/gpu_check.py --out "$out" --work "${BSP_GPU_WORK:-/tmp/bsp_gpu_check}"
