from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyMpirecon(PythonPackage):
    """Robust cryo-EM 3-D reconstruction on MPI and GPUs."""

    # until a release is published: spack mirror of the source distribution, or spack develop in a checkout
    pypi = "mpirecon/mpirecon-0.1.0.tar.gz"

    license("BSD-3-Clause")

    version("0.1.0")

    variant("mpi", default=True, description="Many ranks, by mpi4py")
    variant("cuda", default=False, description="NVIDIA GPUs, by CuPy")

    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-setuptools@64:", type="build")
    depends_on("py-wheel", type="build")

    with default_args(type=("build", "run")):
        depends_on("py-click@8.1:")
        depends_on("py-gemmi@0.6:")
        depends_on("py-h5py@3.8:")
        depends_on("py-matplotlib@3.6:")
        depends_on("py-mrcfile@1.4:")
        depends_on("py-numba@0.59:")
        depends_on("py-numpy@1.24:")
        depends_on("py-pandas@2.0:")
        depends_on("py-scipy@1.10:")
        depends_on("py-tomli@2.0:", when="^python@:3.10")
        depends_on("py-tqdm@4.60:")
        depends_on("py-mpi4py@4.0:", when="+mpi")
        depends_on("py-cupy@14:", when="+cuda")
