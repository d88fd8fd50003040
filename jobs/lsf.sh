#!/bin/bash
#BSUB -J @{name}
#BSUB -n @{ranks}
#BSUB -R "span[ptile=@{ranks_per_node}] affinity[core(@{threads})] rusage[mem=@{memory_mb}MB]"
#BSUB -gpu "num=@{gpus_per_node}:mode=shared"
#BSUB -W @{time_hm}
#BSUB -P @{account}
#BSUB -q @{partition}
#BSUB -u @{email} -B -N
#BSUB -o @{name}-%J.log
#BSUB -wa USR1 -wt @{warning_minutes}
#BSUB -r
#BSUB -Q "@{resume_code}"
# @{made_by}

# LSF puts a job back that ends with the code after -Q, and one whose node was lost.
restarted() { [ "${LSB_RESTART:-}" = Y ]; }
requeue() { exit @{resume_code}; }

@{body}
