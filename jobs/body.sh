module load @{modules}
@{setup}
export PATH=@{path}:"$PATH"
export OMP_NUM_THREADS=@{threads} OPENBLAS_NUM_THREADS=@{threads} NUMBA_NUM_THREADS=@{threads}
# what mpirun of Open MPI would not hand to ranks on other hosts, and when it takes one of these for lost: in 40 to 55 s
export OMPI_MCA_mca_base_env_list="@{carried}"
for mpi in OMPI PRTE; do
    export "${mpi}_MCA_oob_tcp_keepalive_time=15" "${mpi}_MCA_oob_tcp_keepalive_intvl=10"
    export "${mpi}_MCA_oob_tcp_keepalive_probes=4"
done

output=@{output}
# the run keeps it in its summary.json, by which a job knows a run as its own
export MPIRECON_JOB="${SLURM_JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-${JOB_ID:-}}}}"
more=(@{overwrite})
if [ -e "$output/checkpoint.h5" ] || [ -e "$output/unfinished/summary.json" ]; then
    more=(--resume) # what was ended on its way to its place is put there
elif restarted && [ "$MPIRECON_JOB" ] && grep -qsF "\"MPIRECON_JOB\": \"$MPIRECON_JOB\"" "$output/summary.json"; then
    echo "this job was started again, and has finished its run in $output before"
    exit 0
fi # a run that was lost before its first checkpoint begins again by itself; one that another job finished stays
written() {
    ls "$output" > /dev/null 2>&1 # for caches of network file systems
    stat -c %y "$output/$1" 2> /dev/null
}
saved=$(written checkpoint.h5) finished=$(written summary.json)
rm -f "$output"/{,unfinished/}logs/.pulse/ended-*

# The warning ahead of the time limit is SIGUSR1: the ranks finish the iteration, write a checkpoint and end. SIGTERM
# leaves less time: SIGUSR2 ends them at once. (mpirun kills its ranks on SIGTERM, the other two it passes on.)
signalled='' warned='' cancelled=''
pass_on() {
    signalled=yes
    kill -s "$1" "$run" 2> /dev/null
}
trap 'warned=yes; pass_on USR1' USR1
trap 'cancelled=yes; pass_on USR2' TERM

@{launch} @{command} reconstruct @{particles} -o "$output" --grace @{grace} @{options} "${more[@]}" &
run=$!
# ranks that lost another, or stalled, say so in a file: mpirun would wait a quarter of an hour for an unreachable host
while sleep 5 && kill -0 "$run"; do
    [ "$(ls "$output"/{,unfinished/}logs/.pulse/ended-*)" ] && sleep 10 && kill -KILL "$run"
done > /dev/null 2>&1 &
while
    signalled=''
    wait "$run"
    status=$?
    [ -n "$signalled" ] # a signal ends the wait, not the run
do :; done

back_into_the_queue() {
    [ "$(written checkpoint.h5)" != "$saved" ] || return 1 # what gets no further must not come back forever
    echo "$1: the job goes back into the queue"
    requeue && exit 0
    echo "that failed; submit this script again to go on from the checkpoint" >&2
}
case $status in
    0) [ "$(written summary.json)" = "$finished" ] || exit 0 ;;  # mpirun may end with 0 after it has lost a host
    1 | 2) exit "$status" ;;
    @{resume_code}) # without the warning its owner cancelled it: it must not come back
        [ "$warned" ] && back_into_the_queue "stopped after a checkpoint"
        exit "$status" ;;
esac
echo "ranks or hosts were lost (code $status, no result of this run)" >&2
sleep 5 & wait $! # a job that is cancelled may lose its ranks before this script is told
[ "$cancelled" ] || back_into_the_queue "lost after a checkpoint"
exit $((status > 0 ? status : 1))
