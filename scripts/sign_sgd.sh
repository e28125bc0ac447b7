#!/bin/sh
# signSGD with majority vote on MNIST: one bit an element.
set -eu
: "${NUM_WORKERS:=4}" "${DATASET:=MNIST}" "${DATASET_ROOT:=data}" "${MODEL:=vanilla_cnn}"
: "${EPOCHS:=3}" "${EVAL_EVERY:=100}"
: "${LR:=0.003 0.001 0.0005 0.0003 0.0001}"

cd "$(dirname "$0")/.."
# LR is a list: it is split into words on purpose.
exec torchrun --nproc_per_node "$NUM_WORKERS" launch.py \
    --optimizer sign_sgd \
    --momentum 0 --lr_schedule constant --warmup 0 --l2 0 \
    --dataset "$DATASET" --dataset_root "$DATASET_ROOT" --model "$MODEL" --epochs "$EPOCHS" \
    --lr $LR --batchwise_evaluation "$EVAL_EVERY" "$@"
