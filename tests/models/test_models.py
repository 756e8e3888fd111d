"""The face of icmh_rt.models: names that load when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from icmh_rt import models


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_imports_no_torch():
    assert run("import sys, icmh_rt.models; print('torch' in sys.modules)").strip() == "False"


def test_every_name_is_there():
    for name in models.__all__:
        assert getattr(models, name).__name__ == name
        assert name in dir(models)
    with pytest.raises(AttributeError, match="nothing"):
        _ = models.nothing


def test_without_torch_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from icmh_rt.errors import BackendUnavailableError\n"
        "try:\n    from icmh_rt.models import TIC\n"
        "except BackendUnavailableError as error:\n    print(error)"
    )
    assert "TIC needs torch: pip install" in run(code)


def test_six_adapters_of_the_published_size():
    codec = models.TIC(N=128, M=192, adapters=True)
    count = sum(p.numel() for name, p in codec.named_parameters() if "sfmas" in name)
    assert count == 287_232
