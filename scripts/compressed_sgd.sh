#!/bin/sh
# Votes of 3 bits on MNIST: the sweep of learning rates and range decays.
set -eu
: "${NUM_WORKERS:=4}" "${DATASET:=MNIST}" "${DATASET_ROOT:=data}" "${MODEL:=vanilla_cnn}"
: "${EPOCHS:=5}" "${EVAL_EVERY:=100}"
: "${LR:=0.003 0.001 0.0005 0.0001}" "${DECAY:=1.0 0.9 0.7 0.5 0.3}"

cd "$(dirname "$0")/.."
# LR and DECAY are lists: they are split into words on purpose.
exec torchrun --nproc_per_node "$NUM_WORKERS" launch.py \
    --optimizer compressed_sgd_vote --num_bits 3 --binning lin \
    --momentum 0 --lr_schedule constant --warmup 0 --l2 0 \
    --dataset "$DATASET" --dataset_root "$DATASET_ROOT" --model "$MODEL" --epochs "$EPOCHS" \
    --lr $LR --range_decay $DECAY --batchwise_evaluation "$EVAL_EVERY" "$@"
