#!/bin/bash
#$ -S /bin/bash
#$ -N @{name}
#$ -pe @{parallel_environment} @{slots}
#$ -l h_rt=@{seconds}
#$ -l s_rt=@{seconds_to_warning}
#$ -l mem_free=@{memory_per_slot_mb}M
#$ -l gpu=@{gpus_per_node}
#$ -P @{account}
#$ -q @{partition}
#$ -M @{email} -m bea
#$ -cwd
#$ -j y
#$ -r y
# @{made_by}

# Grid Engine puts a job back that ends with code 99, and one whose node was lost.
restarted() { [ "${RESTARTED:-0}" = 1 ]; }
requeue() { exit 99; }

@{body}
