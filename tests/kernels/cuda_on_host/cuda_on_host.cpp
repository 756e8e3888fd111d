// What csrc/kernels/runtime.cu does on a GPU, and the imitation's one setting.
#include "cuda_on_host.h"

#include "kernels/cuda/runtime.h"

int icmh_cuda_ready() { return 0; }

const char* icmh_cuda_error_text(int) { return "an argument is invalid"; }

extern "C" void cuda_on_host_set_order(int order) { cuda_on_host::machine.order = order; }

extern "C" unsigned long cuda_on_host_barriers() { return cuda_on_host::machine.barriers; }
