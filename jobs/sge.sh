#!/bin/bash
#$ -S /bin/bash
#$ -N @{name}
#$ -pe @{parallel_environment} @{slots}
#$ -l h_rt=@{seconds}
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

# Grid Engine's own warning, s_rt, comes once in a job's life: where that was put back, it is killed instead.
(sleep @{seconds_to_warning} && kill -s USR1 $$) > /dev/null 2>&1 &
clock=$!
trap 'kill "$clock" 2> /dev/null' EXIT

# An mpirun that was built for Grid Engine knows this by itself, that of PyPI does not.
if [ -r "${PE_HOSTFILE:-}" ]; then
    export PRTE_MCA_prte_default_hostfile="$TMPDIR/hosts" PRTE_MCA_plm_ssh_agent="qrsh -inherit -nostdin -V"
    awk '{ print $1, "slots=" int($2 / @{threads}) }' "$PE_HOSTFILE" > "$TMPDIR/hosts"
fi

@{body}
