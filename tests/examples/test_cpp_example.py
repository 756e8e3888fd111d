"""examples/cpp, the program that encodes without Python: compiled, and run over stand-ins for CUDA
and TensorRT (fake_include/), whose "plans" hold what onnxruntime computed. Where TensorRT's headers
are found (TENSORRT_ROOT, or where they are installed) it is compiled against them too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import icmh_rt
from icmh_rt import bundle as bundles
from icmh_rt import graphs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
FAKES = Path(__file__).resolve().parent / "fake_include"
COMPILER = os.environ.get("CXX") or shutil.which("c++")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-ffp-contract=off"]
QUALITY = 40
_PLACES = ("include", "include/x86_64-linux-gnu", "include/aarch64-linux-gnu")
_ROOTS = ("/usr", "/usr/local/tensorrt", "/usr/src/tensorrt")


@pytest.fixture(scope="session")
def encode(tmp_path_factory):
    """The program over the stand-ins."""
    folder = tmp_path_factory.mktemp("example")
    parts = (EXAMPLE, ROOT / "csrc" / "rans", ROOT / "csrc" / "common")
    sources = [path for part in parts for path in sorted(part.glob("*.cpp"))]
    includes = ["-I", ROOT / "csrc", "-isystem", FAKES]

    def compile_one(source):
        built = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([COMPILER, *FLAGS, *includes, "-c", source, "-o", built], check=True)
        return built

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "encode"
    subprocess.run([COMPILER, *objects, "-pthread", "-ldl", "-o", program], check=True)
    return program


@pytest.fixture(scope="session")
def picture():
    with Image.open(ROOT / "examples" / "kodim23.png") as image:
        return np.array(image.convert("RGB"))[100:165, 200:301]


def write_plan(path, tensors):
    with open(path, "wb") as file:
        file.write(b"fake plan\n")
        for name, array in tensors.items():
            sides = " ".join(map(str, (array.ndim, *array.shape)))
            file.write(f"{name} {array.nbytes} {sides}\n".encode() + array.tobytes())


def write_picture(path, picture):
    height, width = picture.shape[:2]
    path.write_bytes(f"P6\n{width} {height}\n255\n".encode() + picture.tobytes())


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_its_streams_are_those_of_the_encoder(encode, picture, width, tmp_path):
    bundle = bundles.load("default")
    model = graphs.build(bundle, "encoder", width)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = {"image": picture[None], "quality": np.array(QUALITY, np.int64)}
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    write_plan(tmp_path / "encoder.plan", {**inputs, **outputs})
    write_picture(tmp_path / "in.ppm", picture)
    folder = bundles.find("default")
    command = [encode, folder, "encoder.plan", width, QUALITY, "in.ppm", "out.icmh"]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    stream = (tmp_path / "out.icmh").read_bytes()
    assert done.stdout == f"out.icmh: {len(stream)} bytes\n"
    wanted = icmh_rt.Encoder(width, quality=QUALITY, backend="onnxruntime", device="cpu")
    found = icmh_rt.Decoder(backend="onnxruntime", device="cpu").latents(stream)
    np.testing.assert_array_equal(found.symbols_y, outputs["symbols_y"][0])
    np.testing.assert_array_equal(found.symbols_z, outputs["symbols_z"][0])
    # Byte for byte, where no symbol lay so near a border that a fused multiply-add moved it.
    own = wanted.encode_detailed(picture)
    if np.array_equal(own.latents.symbols_y, found.symbols_y):
        assert stream == own.data
    else:
        assert abs(len(stream) - len(own.data)) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "p.plan", "0.25", "40", "in.ppm", "o"], "none/bundle.json cannot be opened"),
        (["BUNDLE", "p.plan", "0.3", "40", "in.ppm", "o"], "there is no width.30.hyper_index"),
        (["BUNDLE", "p.plan", "0.25", "0", "in.ppm", "o"], "quality must be 1 to 100"),
        (["BUNDLE", "none.plan", "0.25", "40", "in.ppm", "o"], "could not read none.plan"),
        (["BUNDLE", "in.ppm", "0.25", "40", "in.ppm", "o"], "it is of another version or GPU"),
        (["BUNDLE", "p.plan", "0.25", "40", "p.plan", "o"], "p.plan is no binary PPM"),
        (["BUNDLE", "p.plan", "0.25", "40", "in.ppm", "o"], "take an image of that size"),
    ],
)
def test_what_goes_wrong_is_said(encode, tmp_path, arguments, message):
    image = np.zeros((1, 8, 8, 3), np.uint8)
    write_plan(tmp_path / "p.plan", {"image": image, "quality": np.array(40)})
    write_picture(tmp_path / "in.ppm", np.zeros((8, 9, 3), np.uint8))
    folder = str(bundles.find("default"))
    command = [str(encode), *(folder if a == "BUNDLE" else a for a in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_usage(encode):
    done = subprocess.run([encode], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: encode")


@pytest.mark.slow
def test_its_cmake_file_builds_it(tmp_path):
    """With the stand-ins for TensorRT's and CUDA's headers, and empty libraries."""
    for name in ("nvinfer", "cudart"):
        command = [COMPILER, "-shared", "-x", "c", "/dev/null", "-o", tmp_path / f"lib{name}.so"]
        subprocess.run(command, check=True)
    configure = [
        "cmake",
        "-S",
        EXAMPLE,
        "-B",
        tmp_path / "build",
        f"-DTENSORRT_INCLUDE={FAKES}",
        f"-DTENSORRT_LIBRARY={tmp_path / 'libnvinfer.so'}",
        f"-DCUDA_INCLUDE={FAKES}",
        f"-DCUDA_RUNTIME={tmp_path / 'libcudart.so'}",
        "-DICMH_SIMD=OFF",
    ]
    subprocess.run(configure, check=True)
    build = ["cmake", "--build", tmp_path / "build", "--target", "encode", "--parallel", "2"]
    subprocess.run(build, check=True)
    done = subprocess.run([tmp_path / "build" / "encode"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: encode")


@pytest.mark.parametrize("source", ["plan.cpp", "encode.cpp"])
def test_it_compiles_against_tensorrt_itself(source, tmp_path):
    roots = [root for root in (os.environ.get("TENSORRT_ROOT"), *_ROOTS) if root]
    found = [Path(r, p) for r in roots for p in _PLACES if Path(r, p, "NvInfer.h").exists()]
    if not found:
        pytest.skip("TensorRT's headers are not here: set TENSORRT_ROOT to where they are")
    cuda = Path("/usr/local/cuda/include")
    if not (cuda / "cuda_runtime_api.h").exists():
        pytest.skip("CUDA's headers are not here")
    includes = ["-I", ROOT / "csrc", "-isystem", found[0], "-isystem", cuda]
    command = [COMPILER, *FLAGS, *includes, "-c", EXAMPLE / source, "-o", tmp_path / "out.o"]
    subprocess.run(command, check=True)
