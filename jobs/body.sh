module load @{modules}
@{setup}
export PATH=@{path}:"$PATH"
export OMP_NUM_THREADS=@{threads} OPENBLAS_NUM_THREADS=@{threads} NUMBA_NUM_THREADS=@{threads}

output=@{output}
more=(@{overwrite})
if [ -e "$output/checkpoint.h5" ] || [ -e "$output/unfinished/summary.json" ]; then
    more=(--resume) # what was ended on its way to its place is put there
elif restarted; then
    more=(--overwrite) # lost before its first checkpoint
fi
checkpoint_time() { stat -c %y "$output/checkpoint.h5" 2> /dev/null; }
before=$(checkpoint_time)

# The warning ahead of the time limit is SIGUSR1: the ranks finish the iteration, write a checkpoint and end. SIGTERM
# leaves less time: SIGUSR2 ends them at once. (mpirun kills its ranks on SIGTERM, the other two it passes on.)
signalled='' warned=''
pass_on() {
    signalled=yes
    kill -s "$1" "$run" 2> /dev/null
}
trap 'warned=yes; pass_on USR1' USR1
trap 'pass_on USR2' TERM

@{launch} @{command} reconstruct @{particles} -o "$output" --grace @{grace} @{options} "${more[@]}" &
run=$!
while
    signalled=''
    wait "$run"
    status=$?
    [ -n "$signalled" ] # a signal ends the wait, not the run
do :; done

# only after the warning: a job that its owner cancels must not come back
if [ "$status" -eq @{resume_code} ] && [ "$warned" ] && [ "$(checkpoint_time)" != "$before" ]; then
    echo "stopped after a checkpoint: the job goes back into the queue"
    requeue && exit 0
    echo "that failed; submit this script again to go on from the checkpoint" >&2
fi
exit "$status"
