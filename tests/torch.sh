#!/bin/sh
# What cnn_save wrote loads in PyTorch, strictly, and gives the same logits: tests/torch/check_saved.py. Run from the
# top of the repository, after build/test_torch. Without PyTorch it is skipped, and says so; PYTHON and BUILD may be set.
PYTHON=${PYTHON:-python3} BUILD=${BUILD:-build}
if ! "$PYTHON" -c 'import numpy, torch, safetensors.torch' >/dev/null 2>&1; then
    echo "    skipped: tests/torch/check_saved.py: $PYTHON has no torch, safetensors and numpy"
    echo '0 passed, 0 failed'
    exit 0
fi
mkdir -p "$BUILD/torch" && rm -f "$BUILD"/torch/*
if "$BUILD/test_torch" --save "$BUILD/torch"; then PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/torch/check_saved.py "$BUILD/torch"
else echo '    FAILED: the nets could not be saved'; echo '0 passed, 1 failed'; exit 1; fi
