#!/bin/sh
# Uncompressed SGD on MNIST: the float32 baseline.
set -eu
: "${NUM_WORKERS:=4}" "${DATASET:=MNIST}" "${DATASET_ROOT:=data}" "${MODEL:=vanilla_cnn}"
: "${EPOCHS:=3}" "${EVAL_EVERY:=100}"
: "${LR:=0.8 0.5 0.3 0.1}"

cd "$(dirname "$0")/.."
# LR is a list: it is split into words on purpose.
exec torchrun --nproc_per_node "$NUM_WORKERS" launch.py \
    --optimizer sgd \
    --momentum 0 --lr_schedule constant --warmup 0 --l2 0 \
    --dataset "$DATASET" --dataset_root "$DATASET_ROOT" --model "$MODEL" --epochs "$EPOCHS" \
    --lr $LR --batchwise_evaluation "$EVAL_EVERY" "$@"
