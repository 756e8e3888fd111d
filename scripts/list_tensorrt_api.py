"""Write down which names and parameters a version of TensorRT's Python bindings has.

    pip download --no-deps -d wheels tensorrt_cu12_bindings==10.3.0
    python scripts/list_tensorrt_api.py wheels/tensorrt_cu12_bindings-10.3.0-*.whl \
        tests/tensorrt_api/10.3.json

The bindings come from the registry, their libraries do not: nine empty functions, compiled with cc
and loaded in their place, are enough to import the module and look at it. With ``--import NAME``
in place of a wheel, an installed module (tensorrt_rtx_bindings) is looked at as it is.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder EngineInspector IBuilderConfig ICudaEngine IExecutionContext IHostMemory ILayer "
    "ILogger INetworkDefinition IOptimizationProfile IPluginRegistry IRuntimeCache IRuntimeConfig "
    "ITensor ITimingCache OnnxParser ParserError Runtime"
).split()
ENUMS = (
    "BuilderFlag ComputeCapability CudaGraphStrategy DataType ExecutionContextAllocationStrategy "
    "HardwareCompatibilityLevel LayerInformationFormat MemoryPoolType "
    "NetworkDefinitionCreationFlag ProfilingVerbosity TensorIOMode TensorLocation"
).split()

_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
_STUBS = """
void* createInferBuilder_INTERNAL(void) { return 0; }
void* createInferRefitter_INTERNAL(void) { return 0; }
void* createInferRuntime_INTERNAL(void) { return 0; }
void* createNvOnnxParserRefitter_INTERNAL(void) { return 0; }
void* createNvOnnxParser_INTERNAL(void) { return 0; }
void* getBuilderPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void* getPluginRegistry(void) { return 0; }
int initLibNvInferPlugins(void) { return 1; }
"""


def import_wheel(wheel: Path, folder: Path) -> Any:
    """The bindings of ``wheel``, over empty libraries."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    module = next(folder.glob("tensorrt_bindings/tensorrt*.so"))
    needed = subprocess.run(
        ["readelf", "-d", module], check=True, capture_output=True, text=True
    ).stdout
    source = folder / "stubs.c"
    source.write_text(_STUBS)
    for library in _LIBRARIES:
        name = re.search(rf"\[(lib{library}\.so[.\d]*)\]", needed)
        if name is None:
            raise SystemExit(f"{module} does not need lib{library}: this is another kind of wheel")
        built = folder / name.group(1)
        command = ["cc", "-shared", "-fPIC", "-o", built, source, f"-Wl,-soname,{name.group(1)}"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(built), ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    return importlib.import_module("tensorrt_bindings")


def listing(api: Any) -> dict[str, Any]:
    """Everything that is looked at, in order."""
    return {
        "version": api.__version__,
        "classes": {name: _members(getattr(api, name)) for name in CLASSES if hasattr(api, name)},
        "enums": {
            name: {key: int(value) for key, value in sorted(members.items())}
            for name in ENUMS
            if (members := getattr(getattr(api, name, None), "__members__", None))
        },
    }


def _members(cls: Any) -> dict[str, Any]:
    """Of each name: "read" or "write" for a property, else the parameters of its overloads."""
    found: dict[str, Any] = {}
    for name in sorted(dir(cls)):
        if name.startswith("_") and name != "__init__":
            continue
        member = getattr(cls, name)
        if isinstance(member, property):
            found[name] = "write" if member.fset else "read"
        elif callable(member) and not isinstance(member, type):
            found[name] = _overloads(name, member.__doc__ or "")
    return found


def _overloads(name: str, text: str) -> list[list[str]]:
    """Names of the parameters without self, those that may be left out with a "?"."""
    found = []
    for match in re.finditer(rf"^(?:\d+\. )?{name}\(", text, re.MULTILINE):
        depth, start, parts = 1, match.end(), []
        position = start
        while depth:
            letter = text[position]
            depth += (letter in "([{") - (letter in ")]}")
            if (letter == "," and depth == 1) or not depth:
                parts.append(text[start:position].strip())
                start = position + 1
            position += 1
        names = [re.split(r"[:=]", part)[0].strip() + "?" * ("=" in part) for part in parts if part]
        if names != ["*args", "**kwargs"]:
            found.append([n for n in names if n != "self"])
    return found


def _lines(document: dict[str, Any]) -> str:
    """JSON with a line for each class and enumeration."""
    parts = [f'"version": {json.dumps(document["version"])}']
    for kind in ("classes", "enums"):
        rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in document[kind].items())
        parts.append(f'"{kind}": {{\n' + ",\n".join(rows) + "\n}")
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, nargs="?")
    parser.add_argument("output", type=Path)
    parser.add_argument("--import", dest="module", help="an installed module instead of a wheel")
    options = parser.parse_args()
    if options.module:
        from icmh_rt.backends import _tensorrt_library

        api = _tensorrt_library.load(options.module.removesuffix("_bindings")).api
    else:
        # The libraries stay mapped when their folder goes.
        with tempfile.TemporaryDirectory() as folder:
            api = import_wheel(options.wheel, Path(folder))
    options.output.write_text(_lines(listing(api)))
    print(f"{options.output}: {api.__version__}")


if __name__ == "__main__":
    main()
