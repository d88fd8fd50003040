module load @{modules}
@{setup}
export PATH=@{path}:"$PATH"
export OMP_NUM_THREADS=@{threads} OPENBLAS_NUM_THREADS=@{threads} NUMBA_NUM_THREADS=@{threads}

output=@{output}
more=(@{overwrite})
if [ -e "$output/checkpoint.h5" ]; then
    more=(--resume)
elif restarted; then
    more=(--overwrite) # lost before its first checkpoint
fi
checkpoint_time() { stat -c %y "$output/checkpoint.h5" 2> /dev/null; }
before=$(checkpoint_time)

# The warning ahead of the time limit is SIGUSR1; the launcher passes it on to the ranks, which write a checkpoint.
signalled=
pass_on() {
    signalled=yes
    kill -s "$1" "$run" 2> /dev/null
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM

@{launch} @{command} reconstruct @{particles} -o "$output" @{options} "${more[@]}" &
run=$!
while
    signalled=
    wait "$run"
    status=$?
    [ -n "$signalled" ] # a signal ends the wait, not the run
do :; done

if [ "$status" -eq @{resume_code} ] && [ "$(checkpoint_time)" != "$before" ]; then
    echo "stopped after a checkpoint: the job goes back into the queue"
    requeue && exit 0
    echo "that failed; submit this script again to go on from the checkpoint" >&2
fi
exit "$status"
