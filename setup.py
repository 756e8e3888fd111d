"""Builds the native module icmh_rt._C and, where nvcc is found, icmh_rt/_cuda_kernels.so; where
TensorRT's headers are found too, icmh_rt/_tensorrt_plugins.so.

Everything else is in pyproject.toml. ICMH_CMAKE_ARGS goes to CMake: -DICMH_CUDA=OFF leaves the CUDA
kernels out, ON insists on them.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

SOURCE_FOLDER = Path(__file__).resolve().parent
CUDA_LIBRARIES = ("_cuda_kernels.so", "_tensorrt_plugins.so")


class CMakeBuild(build_ext):
    """Runs CMake for the one extension and puts all it builds where setuptools expects that."""

    def build_extension(self, extension: Extension) -> None:
        import pybind11

        module_path = Path(self.get_ext_fullpath(extension.name)).resolve()
        # One build folder per interpreter: several Pythons can share a checkout.
        build_folder = Path(self.build_temp).resolve() / sys.implementation.cache_tag
        build_folder.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(SOURCE_FOLDER),
            "-B",
            str(build_folder),
            f"-DCMAKE_BUILD_TYPE={os.environ.get('ICMH_BUILD_TYPE', 'Release')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={module_path.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *os.environ.get("ICMH_CMAKE_ARGS", "").split(),
        ]
        # What an earlier build with other options left must not pass for a part of this one.
        for name in CUDA_LIBRARIES:
            (module_path.parent / name).unlink(missing_ok=True)
        # A cache made with another build environment holds paths that are gone by now.
        (build_folder / "CMakeCache.txt").unlink(missing_ok=True)
        if "CMAKE_GENERATOR" not in os.environ and _has("ninja"):
            configure += ["-G", "Ninja"]
        build = ["cmake", "--build", str(build_folder)]
        if self.parallel:
            build += ["--parallel", str(self.parallel)]
        for command in (configure, build):
            subprocess.run(command, check=True)

    def copy_extensions_to_source(self) -> None:
        """For builds in place and editable installs; setuptools knows the extension only."""
        super().copy_extensions_to_source()
        for extension, name in itertools.product(self.extensions, CUDA_LIBRARIES):
            built = Path(self.build_lib, *extension.name.split(".")).parent / name
            target = Path(self.get_ext_fullpath(extension.name)).resolve().parent / name
            if built.exists():
                self.copy_file(str(built), str(target))
            else:
                target.unlink(missing_ok=True)


def _has(program: str) -> bool:
    from shutil import which

    return which(program) is not None


setup(
    # The scripts in export/ are a part of the package too.
    packages=[*find_namespace_packages(include=["icmh_rt", "icmh_rt.*"]), "icmh_rt.export"],
    package_dir={"icmh_rt.export": "export"},
    ext_modules=[Extension("icmh_rt._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
