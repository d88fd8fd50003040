#!/bin/bash
#SBATCH --job-name=@{name}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks=@{ranks}
#SBATCH --ntasks-per-node=@{ranks_per_node}
#SBATCH --cpus-per-task=@{threads}
#SBATCH --mem=@{memory_mb}M
#SBATCH --gpus-per-node=@{gpus_per_node}
#SBATCH --time=@{time}
#SBATCH --account=@{account}
#SBATCH --partition=@{partition}
#SBATCH --mail-user=@{email} --mail-type=END,FAIL,REQUEUE
#SBATCH --output=@{name}-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@@{warning_seconds}
#SBATCH --requeue
# @{made_by}

# Slurm runs this script anew when a node was lost, and when it asks for that itself.
restarted() { [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; }
requeue() { scontrol requeue "$SLURM_JOB_ID"; }

@{body}
