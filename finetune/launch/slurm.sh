#!/usr/bin/env bash
# sbatch finetune/launch/slurm.sh --config paper --dataset_name DATASET --output_dir runs/k400
# Before the time is up Slurm sends SIGTERM: the run saves and ends, Slurm queues the job again, and the same command goes on.
#SBATCH --job-name=timesformer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-8}

# Expanded on each node: SLURM_NODEID differs there.
srun bash -c 'exec accelerate launch --config_file finetune/launch/multi_node.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * '"$gpus"'))" --machine_rank "$SLURM_NODEID" \
    --main_process_ip '"$first"' --main_process_port 29500 finetune/run.py "$@"' bash "$@"
code=$?
output_dir=$(printf '%s\n' "$@" | grep -A1 -x -- --output_dir | tail -n 1)
if grep -qs '"stopped": true' "$output_dir/unfinished.json"; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
