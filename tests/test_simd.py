"""ICMH_SIMD: every level that it names gives the same results, and other values are refused."""

from __future__ import annotations

import pytest
from native_cases import network_digest, run_python, stream_digest, succeeds

from icmh_rt import _native
from icmh_rt.models.integer_network import levels as network_levels

NETWORK_LEVELS = {
    "scalar": {"portable"},
    "neon": {"portable"},
    "avx2": {"avx2"},
    "avx512": {"avx512", "avx512vnni"},
}
"""What the integer network may use at each level."""


def simd_levels() -> list[str]:
    return _native.module().simd_levels()


def test_the_levels_are_known_and_begin_with_the_definition():
    names = simd_levels()
    assert names[0] == "scalar"
    assert names == [name for name in NETWORK_LEVELS if name in names]
    assert _native.module().simd_level() in names


@pytest.mark.parametrize("given", [None, "", "auto"])
def test_the_best_level_is_the_default(given):
    succeeds(
        f"""
        from icmh_rt import _native
        native = _native.module()
        assert native.simd_levels() == {simd_levels()}
        assert native.simd_level() == {simd_levels()[-1]!r}
        assert native.integer_network_level() == {network_levels()[-1]!r}
        """,
        ICMH_SIMD=given,
    )


@pytest.mark.parametrize("level", simd_levels())
def test_every_level_gives_the_same_results(level):
    succeeds(
        f"""
        from icmh_rt import _native
        native = _native.module()
        assert native.simd_level() == {level!r}
        assert native.integer_network_level() in {NETWORK_LEVELS[level]}
        os.environ["ICMH_SIMD"] = "scalar"  # too late: it was read
        assert native.simd_level() == {level!r}
        assert network_digest() == {network_digest(level="scalar")!r}
        assert stream_digest() == {stream_digest()!r}
        """,
        ICMH_SIMD=level,
    )


@pytest.mark.parametrize("given", ["avx9", "AVX2", "scalar ", "avx2,avx512", "\n", "ä", "x" * 500])
def test_a_bad_value_is_one_line(given):
    code = """
        from icmh_rt import _native, BackendUnavailableError
        for _ in range(2):
            try:
                network_digest()
            except BackendUnavailableError as error:
                print(error)
        try:
            import icmh_rt._C
        except ImportError as error:
            print(error)
    """
    result = run_python(code, ICMH_SIMD=given)
    assert result.returncode == 0, result.stderr
    line, again, raw = result.stdout.splitlines()
    assert line == again == raw
    assert line.startswith("the environment variable ICMH_SIMD: there is no instruction set ")
    assert line.endswith("here; choose one of " + ", ".join(["auto", *simd_levels()]))
    assert given.isprintable() is False or given[:20].replace("ä", "??") in line
    assert len(line) < 250


def test_a_level_of_another_architecture_is_refused():
    other = next(name for name in ("neon", "avx2") if name not in simd_levels())
    result = run_python("network_digest()", ICMH_SIMD=other)
    assert result.returncode == 1
    line = result.stderr.rstrip().splitlines()[-1]
    assert line.startswith("icmh_rt.errors.BackendUnavailableError: the environment variable ICMH")
    assert f"there is no instruction set level '{other}' here" in line
