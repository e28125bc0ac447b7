#!/bin/bash
# One worker a machine, on Slurm: sbatch --nodes 4 scripts/examples/slurm.sh --dataset MNIST ...
# Its options are those of launch.py. PROCESSES=8 sbatch ... starts so many on each machine, one a
# GPU; PORT is where rank 0's store listens. Have a network that only this job can reach: see
# docs/many_machines.md.

#SBATCH --job-name=compsgd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
# A minute before the time is up all processes write a checkpoint, from which a requeued job goes on.
#SBATCH --signal=TERM@60

set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Two jobs on one machine must not meet.
port=${PORT:-$((20000 + SLURM_JOB_ID % 10000))}

(("${SLURM_RESTART_COUNT:-0}" > 0)) && set -- "$@" --resume

# Slurm sets SLURM_NODEID in each task, so it is expanded there.
exec srun --kill-on-bad-exit=1 bash -c '
    exec torchrun --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \
        --nproc-per-node "$1" --master-addr "$2" --master-port "$3" \
        launch.py --exp_name "slurm_$SLURM_JOB_ID" "${@:4}"
' task "${PROCESSES:-1}" "$first" "$port" "$@"
