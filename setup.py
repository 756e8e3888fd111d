"""Builds the native module icmh_rt._C and, where nvcc is found, icmh_rt/_cuda_kernels.so.

Everything else is in pyproject.toml. ICMH_CMAKE_ARGS goes to CMake: -DICMH_CUDA=OFF leaves the CUDA
kernels out, ON insists on them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE_FOLDER = Path(__file__).resolve().parent
CUDA_KERNELS = "_cuda_kernels.so"


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
        (module_path.parent / CUDA_KERNELS).unlink(missing_ok=True)
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
        for extension in self.extensions:
            built = Path(self.build_lib, *extension.name.split(".")).parent / CUDA_KERNELS
            target = Path(self.get_ext_fullpath(extension.name)).resolve().parent / CUDA_KERNELS
            if built.exists():
                self.copy_file(str(built), str(target))
            else:
                target.unlink(missing_ok=True)


def _has(program: str) -> bool:
    from shutil import which

    return which(program) is not None


setup(ext_modules=[Extension("icmh_rt._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
