/* A CUDA runtime for tests: its device memory is memory, its kernels are functions of the host, and
   its graphs are lists of what was recorded. It knows which addresses it has given out and refuses
   every copy that leaves them or goes the wrong way, and it counts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { kInvalid = 1, kOutOfMemory = 2, kNoDevice = 100, kInvalidHandle = 400, kCaptureBroken = 901 };
enum { kToDevice = 1, kToHost = 2 };

typedef void (*Kernel)(uint64_t token);

typedef struct Step {
  int kind; /* 0: kernel; else of a copy */
  void* target;
  const void* source;
  size_t size;
  Kernel kernel;
  uint64_t token;
  struct Step* next;
} Step;

typedef struct Graph {
  Step* first;
  Step** last;
} Graph;

typedef struct Stream {
  Graph* recording;
  int broken;
} Stream;

typedef struct Block {
  char* start;
  size_t size;
  int pinned;
  struct Block* next;
} Block;

static Block* blocks;
static int last_error;
static int64_t counters[8];
enum { kLive, kAllocated, kLaunches, kCopies, kGraphLaunches, kLiveGraphs, kLiveStreams, kKernels };
static int devices = 1, fail_captures;
static size_t memory_limit = SIZE_MAX, in_use;

int64_t fake_counter(int which) { return counters[which]; }
void fake_set_devices(int count) { devices = count; }
void fake_set_fail_captures(int fail) { fail_captures = fail; }
void fake_set_memory_limit(size_t bytes) { memory_limit = bytes; }

static int result(int code) {
  if (code) last_error = code;
  return code;
}

static Block* block_of(const void* address, size_t size, int pinned) {
  for (Block* b = blocks; b; b = b->next) {
    const char* start = address;
    if (b->pinned == pinned && start >= b->start && start + size <= b->start + b->size) return b;
  }
  return NULL;
}

static int allocate(void** out, size_t size, int pinned) {
  if (!out || !size) return result(kInvalid);
  if (!pinned && size > memory_limit - (in_use < memory_limit ? in_use : memory_limit)) {
    return result(kOutOfMemory);
  }
  Block* b = malloc(sizeof *b);
  b->start = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(b->start, 0xA5, size); /* nobody may count on zeros */
  b->size = size;
  b->pinned = pinned;
  b->next = blocks;
  blocks = b;
  if (!pinned) in_use += size;
  ++counters[kLive];
  ++counters[kAllocated];
  *out = b->start;
  return 0;
}

static int release(void* address, int pinned) {
  for (Block** place = &blocks; *place; place = &(*place)->next) {
    Block* b = *place;
    if (b->start == (char*)address && b->pinned == pinned) {
      *place = b->next;
      if (!pinned) in_use -= b->size;
      free(b->start);
      free(b);
      --counters[kLive];
      return 0;
    }
  }
  return result(kInvalid);
}

const char* cudaGetErrorString(int code) {
  switch (code) {
    case kInvalid: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case kNoDevice: return "no CUDA-capable device is detected";
    case kInvalidHandle: return "invalid resource handle";
    case kCaptureBroken: return "operation failed due to a previous error during capture";
    default: return "unknown error";
  }
}
int cudaGetLastError(void) {
  const int code = last_error;
  last_error = 0;
  return code;
}
int cudaGetDeviceCount(int* count) {
  *count = devices;
  return devices ? 0 : result(kNoDevice);
}
int cudaSetDevice(int device) { return result(device < 0 || device >= devices ? 101 : 0); }
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
  if (device < 0 || device >= devices || (attribute != 75 && attribute != 76)) return result(kInvalid);
  *value = attribute == 75 ? 8 : 6;
  return 0;
}
int cudaDriverGetVersion(int* version) {
  *version = 12080;
  return 0;
}
int cudaMalloc(void** out, size_t size) { return allocate(out, size, 0); }
int cudaFree(void* address) { return address ? release(address, 0) : 0; }
int cudaHostAlloc(void** out, size_t size, unsigned flags) {
  return flags ? result(kInvalid) : allocate(out, size, 1);
}
int cudaFreeHost(void* address) { return release(address, 1); }

static void run(const Step* step) {
  if (step->kind) {
    ++counters[kCopies];
    memcpy(step->target, step->source, step->size);
  } else {
    ++counters[kKernels];
    step->kernel(step->token);
  }
}

static int queue(Stream* stream, Step step) {
  if (!stream) return result(kInvalidHandle);
  if (!stream->recording) {
    ++counters[kLaunches];
    run(&step);
    return 0;
  }
  if (fail_captures) {
    stream->broken = 1;
    return result(kCaptureBroken);
  }
  Step* kept = malloc(sizeof *kept);
  *kept = step;
  kept->next = NULL;
  *stream->recording->last = kept;
  stream->recording->last = &kept->next;
  return 0;
}

int cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream) {
  if (kind != kToDevice && kind != kToHost) return result(kInvalid);
  const int to_host = kind == kToHost;
  if (!block_of(target, size, to_host) || !block_of(source, size, !to_host)) return result(kInvalid);
  return queue(stream, (Step){kind, target, source, size, NULL, 0, NULL});
}
/* What an engine calls to run something on a stream. */
int fake_launch(Kernel kernel, uint64_t token, void* stream) {
  return queue(stream, (Step){0, NULL, NULL, 0, kernel, token, NULL});
}

int cudaStreamCreateWithFlags(void** out, unsigned flags) {
  if (flags != 1) return result(kInvalid);
  *out = calloc(1, sizeof(Stream));
  ++counters[kLiveStreams];
  return 0;
}
int cudaStreamSynchronize(void* stream) {
  return !stream || ((Stream*)stream)->recording ? result(kInvalidHandle) : 0;
}
int cudaStreamDestroy(void* stream) {
  free(stream);
  --counters[kLiveStreams];
  return 0;
}

static void destroy(Graph* graph) {
  for (Step* step = graph->first; step;) {
    Step* next = step->next;
    free(step);
    step = next;
  }
  free(graph);
  --counters[kLiveGraphs];
}

int cudaStreamBeginCapture(void* handle, int mode) {
  Stream* stream = handle;
  if (!stream || stream->recording || mode != 1) return result(kInvalid);
  Graph* graph = calloc(1, sizeof *graph);
  graph->last = &graph->first;
  stream->recording = graph;
  stream->broken = 0;
  ++counters[kLiveGraphs];
  return 0;
}
int cudaStreamEndCapture(void* handle, void** out) {
  Stream* stream = handle;
  *out = NULL;
  if (!stream || !stream->recording) return result(kInvalid);
  Graph* graph = stream->recording;
  stream->recording = NULL;
  if (stream->broken) {
    destroy(graph);
    return result(kCaptureBroken);
  }
  *out = graph;
  return 0;
}
int cudaGraphInstantiateWithFlags(void** out, void* graph, unsigned long long flags) {
  if (!graph || flags) return result(kInvalid);
  Graph* copy = calloc(1, sizeof *copy);
  copy->last = &copy->first;
  for (const Step* step = ((Graph*)graph)->first; step; step = step->next) {
    Step* kept = malloc(sizeof *kept);
    *kept = *step;
    kept->next = NULL;
    *copy->last = kept;
    copy->last = &kept->next;
  }
  ++counters[kLiveGraphs];
  *out = copy;
  return 0;
}
int cudaGraphLaunch(void* graph, void* stream) {
  if (!graph || !stream) return result(kInvalidHandle);
  ++counters[kLaunches];
  ++counters[kGraphLaunches];
  for (const Step* step = ((Graph*)graph)->first; step; step = step->next) run(step);
  return 0;
}
int cudaGraphDestroy(void* graph) {
  destroy(graph);
  return 0;
}
int cudaGraphExecDestroy(void* graph) {
  destroy(graph);
  return 0;
}
