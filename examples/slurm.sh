#!/bin/bash
# Any ssmtl command that takes --out and --resume, for longer than one job may last:
#
#   sbatch examples/slurm.sh run --data scans/ --task slice_siam --out runs/first
#   sbatch examples/slurm.sh finetune --from runs/first --data labelled/ --out runs/tuned
#
# A minute before the time limit SLURM sends SIGUSR1. The command saves and exits with 138, and the job is queued again;
# it continues then, for --resume auto resumes the run in --out if there is one. A preempted job gets SIGTERM, saves,
# and is queued again by SLURM itself (--requeue). For several GPUs: --ntasks-per-node and --devices of the same number.
#SBATCH --job-name=ssmtl
#SBATCH --time=24:00:00
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --signal=USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append

srun ssmtl "$@" --resume auto
code=$?
if [ "$code" -eq 138 ]; then # 128 + SIGUSR1
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
