#!/bin/bash
#PBS -N @{name}
#PBS -l select=@{nodes}:ncpus=@{cores_per_node}:mpiprocs=@{ranks_per_node}:ompthreads=@{threads}:mem=@{memory_mb}mb@{gpu_chunk}
#PBS -l walltime=@{time}
#PBS -A @{account}
#PBS -q @{partition}
#PBS -M @{email} -m abe
#PBS -j oe
#PBS -r y
# @{made_by}

cd "$PBS_O_WORKDIR" || exit 1

# PBS does not let a job put itself back, so the script submits itself once more, to start when this job has ended.
restarted() { [ "${PBS_ENVIRONMENT:-}" = PBS_BATCH ]; } # it does not say; other jobs are interactive
requeue() { qsub -W depend=afterany:"$PBS_JOBID" "$0"; }

# PBS sends no signal ahead of the time limit: this clock does.
(sleep @{seconds_to_warning} && kill -s USR1 $$) > /dev/null 2>&1 &
clock=$!
trap 'kill "$clock" 2> /dev/null' EXIT

@{body}
