"""Types of the compiled module, written by scripts/write_native_stub.py. Import it through
icmh_rt._native only.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import numpy.typing
from typing_extensions import Buffer

class CompatDecoder:
    def __init__(self, data: Buffer) -> None: ...
    @property
    def at_end(self) -> bool: ...
    def decode(
        self, indexes: object, tables: CompatTables
    ) -> numpy.typing.NDArray[numpy.int32]: ...

class CompatEncoder:
    def __init__(self) -> None: ...
    def append(self, symbols: object, indexes: object, tables: CompatTables) -> None: ...
    def flush(self) -> bytes: ...

class CompatTables:
    def __init__(
        self,
        cdfs: object,
        starts: object,
        lengths: object,
        offsets: object,
        expected_symbols: int = -1,
    ) -> None: ...

class CorruptStream(ValueError): ...

class IntegerNetwork:
    def __init__(
        self,
        *,
        trunk: list[Any],
        mean_head: tuple[Any, ...],
        scale_head: tuple[Any, ...],
        z_multiplier: object,
        z_limit: object,
        z_shift: int,
        input_limit: int,
        mean_multiplier: object,
        mean_shift: object,
        mean_limit: int,
        index_offset: object,
        index_bits: int,
        scales: int,
    ) -> None: ...
    def run(
        self, z: object, quality_row: int, level: str = "auto", threads: int = 1
    ) -> tuple[Any, ...]: ...

class LayerChain:
    def __init__(self, arg0: str, arg1: bool, /) -> None: ...
    def add_convolution(
        self, arg0: Sequence[int], arg1: bool, arg2: int, arg3: float, /
    ) -> None: ...
    def add_depth_conv(self, arg0: int, arg1: int, arg2: float, /) -> None: ...
    def add_extension(self, arg0: int, arg1: int, /) -> None: ...
    def add_patches(self, arg0: int, arg1: int, arg2: int, /) -> None: ...
    def add_pixels(self, arg0: int, arg1: float, /) -> None: ...
    def add_shuffle(self, arg0: int, /) -> None: ...
    def memory(self, arg0: Sequence[tuple[int, int, int, int, int, int]], /) -> int: ...
    def result(self, arg0: int, arg1: int, /) -> tuple[int, int, int]: ...
    def run(
        self, arg0: Sequence[tuple[int, int, int, int, int, int]], arg1: int, arg2: int, /
    ) -> None: ...

MAX_THREADS: int

class RansTables:
    def __init__(self, cdfs: object, lengths: object, offsets: object, precision: int) -> None: ...

def advise_huge_pages(address: int, size: int) -> None: ...
def compat_encode(symbols: object, indexes: object, tables: CompatTables) -> bytes: ...
def convolution(
    arg0: Sequence[int],
    arg1: int,
    arg2: int,
    arg3: int,
    arg4: int,
    arg5: int,
    arg6: int,
    arg7: int,
    arg8: str,
    arg9: bool,
    /,
) -> None: ...
def convolution_pack(
    arg0: Sequence[int], arg1: int, arg2: int, arg3: int, arg4: str, arg5: bool, /
) -> None: ...
def convolution_packed_size(arg0: Sequence[int], arg1: str, arg2: bool, /) -> int: ...
def crc32c(buffer: Buffer, initial: int = 0) -> int: ...
def crc32c_portable(buffer: Buffer, initial: int = 0) -> int: ...
def depth_conv_block(
    arg0: int,
    arg1: int,
    arg2: int,
    arg3: int,
    arg4: Sequence[int],
    arg5: int,
    arg6: Sequence[int],
    arg7: int,
    arg8: int,
    arg9: int,
    arg10: str,
    arg11: bool,
    /,
) -> None: ...
def depth_conv_pack(
    arg0: int,
    arg1: Sequence[int],
    arg2: Sequence[int],
    arg3: int,
    arg4: int,
    arg5: int,
    arg6: str,
    arg7: bool,
    /,
) -> None: ...
def depth_conv_packed_size(arg0: int, arg1: str, arg2: bool, /) -> int: ...
def frequency_gate(
    arg0: int,
    arg1: Sequence[int],
    arg2: Sequence[int],
    arg3: int,
    arg4: Sequence[Sequence[int]],
    arg5: int,
    arg6: str,
    /,
) -> None: ...
def gdn(
    arg0: int,
    arg1: int,
    arg2: int,
    arg3: Sequence[int],
    arg4: int,
    arg5: Sequence[int],
    arg6: bool,
    arg7: int,
    arg8: Sequence[Sequence[int]],
    arg9: int,
    arg10: str,
    /,
) -> None: ...
def gdn_pack(arg0: int, arg1: int, arg2: int, arg3: int, arg4: int, arg5: str, /) -> None: ...
def gdn_packed_size(arg0: int, arg1: str, /) -> int: ...
def image_in(
    arg0: int,
    arg1: int,
    arg2: int,
    arg3: int,
    arg4: int,
    arg5: int,
    arg6: int,
    arg7: bool,
    arg8: int,
    arg9: int,
    arg10: int,
    arg11: int,
    arg12: bool,
    arg13: Sequence[Sequence[int]],
    arg14: int,
    /,
) -> None: ...
def image_out(
    arg0: int,
    arg1: bool,
    arg2: int,
    arg3: int,
    arg4: int,
    arg5: int,
    arg6: int,
    arg7: int,
    arg8: int,
    arg9: float,
    arg10: int,
    arg11: Sequence[Sequence[int]],
    arg12: int,
    arg13: str,
    /,
) -> None: ...
def integer_network_level() -> str: ...
def integer_network_levels() -> list[str]: ...
def kernel_level() -> str: ...
def kernel_levels() -> list[str]: ...
def modulate(
    arg0: Sequence[int],
    arg1: Sequence[int],
    arg2: Sequence[int],
    arg3: int,
    arg4: int,
    arg5: Sequence[int],
    arg6: Sequence[Sequence[int]],
    arg7: int,
    arg8: str,
    /,
) -> None: ...
def num_threads() -> int: ...
def openmp_in_use() -> bool: ...
def project(
    arg0: Sequence[int],
    arg1: int,
    arg2: Sequence[int],
    arg3: int,
    arg4: Sequence[int],
    arg5: int,
    arg6: int,
    arg7: Sequence[int],
    arg8: Sequence[Sequence[int]],
    arg9: int,
    arg10: str,
    /,
) -> None: ...
def project_pack(
    arg0: int, arg1: int, arg2: int, arg3: int, arg4: int, arg5: float, arg6: int, arg7: str, /
) -> int: ...
def quantize(values: object, gain: object = None, mean: object = None) -> tuple[Any, ...]: ...
def quantize_index(
    arg0: int,
    arg1: int,
    arg2: int,
    arg3: int,
    arg4: int,
    arg5: int,
    arg6: int,
    arg7: int,
    arg8: int,
    arg9: int,
    arg10: int,
    arg11: Sequence[Sequence[int]],
    arg12: int,
    arg13: str,
    /,
) -> int: ...
def rans_decode(
    data: Buffer,
    indexes: object,
    tables: RansTables,
    symbols: object,
    *,
    threads: int = 0,
    level: str = "",
) -> int: ...
def rans_decode_beginning(
    data: Buffer,
    indexes: object,
    tables: RansTables,
    symbols: object,
    known: object,
    *,
    level: str = "",
) -> None: ...
def rans_encode(
    symbols: object,
    indexes: object,
    tables: RansTables,
    *,
    lanes: int = 0,
    chunks: int = 0,
    seal: int = 0,
    threads: int = 0,
    level: str = "",
) -> bytes: ...
def set_num_threads(threads: int) -> None: ...
def sfma_analyse(
    arg0: tuple[Any, ...],
    arg1: int,
    arg2: Sequence[Sequence[int]],
    arg3: int,
    arg4: int,
    arg5: str,
    /,
) -> None: ...
def sfma_down(
    arg0: tuple[Any, ...],
    arg1: int,
    arg2: int,
    arg3: Sequence[int],
    arg4: Sequence[Sequence[int]],
    arg5: int,
    arg6: int,
    arg7: str,
    /,
) -> None: ...
def sfma_gate(
    arg0: tuple[Any, ...],
    arg1: int,
    arg2: int,
    arg3: Sequence[Sequence[int]],
    arg4: int,
    arg5: int,
    arg6: str,
    /,
) -> None: ...
def sfma_has_fft(arg0: tuple[Any, ...], /) -> bool: ...
def sfma_pack(arg0: tuple[Any, ...], arg1: Sequence[int], arg2: int, arg3: str, /) -> None: ...
def sfma_packed_size(arg0: tuple[Any, ...], arg1: str, /) -> int: ...
def sfma_spectrum_size(arg0: tuple[Any, ...], arg1: str, /) -> int: ...
def sfma_synthesise(
    arg0: tuple[Any, ...],
    arg1: int,
    arg2: Sequence[Sequence[int]],
    arg3: int,
    arg4: int,
    arg5: str,
    /,
) -> None: ...
def sfma_up(
    arg0: tuple[Any, ...],
    arg1: int,
    arg2: int,
    arg3: Sequence[int],
    arg4: int,
    arg5: Sequence[Sequence[int]],
    arg6: int,
    arg7: int,
    arg8: Sequence[int],
    arg9: str,
    /,
) -> None: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def use_openmp(library: str) -> bool: ...
