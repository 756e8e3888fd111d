"""Builds the native module icmh_rt._C with CMake; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE_FOLDER = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Runs CMake for the one extension and puts the module where setuptools expects it."""

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
        # A cache made with another build environment holds paths that are gone by now.
        (build_folder / "CMakeCache.txt").unlink(missing_ok=True)
        if "CMAKE_GENERATOR" not in os.environ and _has("ninja"):
            configure += ["-G", "Ninja"]
        build = ["cmake", "--build", str(build_folder), "--target", "_C"]
        if self.parallel:
            build += ["--parallel", str(self.parallel)]
        for command in (configure, build):
            subprocess.run(command, check=True)


def _has(program: str) -> bool:
    from shutil import which

    return which(program) is not None


setup(ext_modules=[Extension("icmh_rt._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
