// Enough of CUDA for g++ to compile kernels/*.cu and run them: for tests only, one block at a time on one core.
//
// Every thread of a block is a fiber. A fiber runs until it meets a barrier or a shuffle, then the next one runs; so
// shared memory, __syncthreads and warp shuffles mean what they mean on a GPU, and a barrier that only some threads
// reach, or a shuffle that only some lanes reach, is an error instead of luck. REVERSED runs the threads of a block, and
// the blocks, in the opposite order: a result that depends on it is a race.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __constant__ static
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __align__(n) alignas(n)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float __fmul_rn(float a, float b) { return a * b; }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T atomicAdd(T* at, T value) { const T before = *at; *at += value; return before; }
using std::max;
using std::min;

namespace host {

constexpr size_t STACK = 64 * 1024;
enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };

struct Fiber {
    jmp_buf resume;
    std::vector<char> stack;
    bool started = false;
    State state = DONE;
    unsigned shuffles = 0;  // of the block at hand
};

inline std::vector<Fiber>& fibers() { static std::vector<Fiber> all; return all; }
inline int& current() { static int i; return i; }
inline int& threads() { static int n; return n; }
inline bool& reversed() { static bool r; return r; }
inline bool& used_shared_memory() { static bool u; return u; }
inline jmp_buf& scheduler() { static jmp_buf b; return b; }
inline void (*&body())() { static void (*f)(); return f; }
inline std::vector<double>& exchanged() { static std::vector<double> v; return v; }

// on to the next thread that can go on, through the scheduler where it has not begun yet or none is left
void give_way(State state)
{
    Fiber& me = fibers()[current()];
    me.state = state;
    if (_setjmp(me.resume)) return;
    const int step = reversed() ? -1 : 1;
    for (int i = current() + step; i >= 0 && i < threads(); i += step) {
        Fiber& next = fibers()[i];
        if (next.state != READY) continue;
        if (!next.started) break;
        current() = i;
        _longjmp(next.resume, 1);
    }
    _longjmp(scheduler(), 1);
}

void fiber_main()
{
    for (;;) {
        body()();
        give_way(DONE);
    }
}

inline void resume(int i)
{
    current() = i;
    Fiber& fiber = fibers()[i];
    if (_setjmp(scheduler())) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    static ucontext_t context;
    getcontext(&context);
    fiber.stack.resize(STACK);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    setcontext(&context);
}

[[noreturn]] inline void fail(const char* what)
{
    std::fprintf(stderr, "host_cuda: %s\n", what);
    std::abort();
}

// lets those go on whose companions have all come; false when nothing moved
inline bool release()
{
    const int n = threads();
    auto all = [&](int from, int to, State state) {
        bool any = false;
        for (int i = from; i < to; ++i) {
            if (fibers()[i].state == state) any = true;
            else if (fibers()[i].state != DONE) return false;
        }
        return any;
    };
    if (all(0, n, AT_BARRIER)) {
        for (int i = 0; i < n; ++i) if (fibers()[i].state == AT_BARRIER) fibers()[i].state = READY;
        return true;
    }
    bool moved = false;
    for (int warp = 0; warp < n; warp += 32) {
        const int end = std::min(warp + 32, n);
        bool complete = true;
        for (int i = warp; i < end; ++i) complete = complete && fibers()[i].state == AT_SHUFFLE;
        if (!complete) continue;
        for (int i = warp; i < end; ++i) fibers()[i].state = READY;
        moved = true;
    }
    return moved;
}

inline void run_block(void (*function)(), int n)
{
    if ((int)fibers().size() < n) fibers().resize(n);
    body() = function;
    threads() = n;
    exchanged().assign(2 * n, 0.0);
    for (int i = 0; i < n; ++i) fibers()[i].state = READY, fibers()[i].shuffles = 0;
    for (;;) {
        for (int j = 0; j < n; ++j) {
            const int i = reversed() ? n - 1 - j : j;
            if (fibers()[i].state == READY) resume(i);
        }
        bool done = true;
        for (int i = 0; i < n; ++i) done = done && fibers()[i].state == DONE;
        if (done) return;
        if (!release()) fail("a barrier or shuffle that not all threads reach");
    }
}

}  // namespace host

struct ThreadIndex {
    struct Axis { operator unsigned() const { return host::current(); } };
    Axis x;
};
static ThreadIndex threadIdx;
static dim3 blockIdx, blockDim, gridDim;

inline void __syncthreads() { host::give_way(host::AT_BARRIER); }

template <class T> inline T __shfl_xor_sync(unsigned, T value, int mask)
{
    const int me = host::current();
    // in turn two places: who comes to the next shuffle writes where nobody reads any more
    double* slots = host::exchanged().data() + (host::fibers()[me].shuffles++ % 2) * host::threads();
    std::memcpy(&slots[me], &value, sizeof(T));
    host::give_way(host::AT_SHUFFLE);
    T other;
    std::memcpy(&other, &slots[me ^ mask], sizeof(T));
    return other;
}

// ---------------------------------------------------------------- launching, and what arguments a kernel takes

namespace host {

// what a block finds in shared memory is anything but zero
inline char* shared_memory()
{
    alignas(16) static char memory[256 * 1024];
    if (!used_shared_memory()) std::memset(memory, 0x7f, sizeof memory);
    used_shared_memory() = true;
    return memory;
}

template <class T> constexpr char code()
{
    using V = std::remove_cv_t<std::remove_pointer_t<T>>;
    const char c = std::is_same_v<V, float> ? 'f' : std::is_same_v<V, double> ? 'd' : std::is_same_v<V, int> ? 'i'
        : std::is_same_v<V, long long> ? 'q' : std::is_same_v<V, float2> ? 'c' : std::is_same_v<V, float4> ? 'v' : 'x';
    return std::is_pointer_v<T> ? c - 'a' + 'A' : c;
}

template <class... A> struct Kernel {
    static inline void (*function)(A...);
    static inline void** arguments;

    template <size_t... I> static void call(std::index_sequence<I...>)
    {
        function(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
    }
    static void body() { call(std::index_sequence_for<A...>()); }
    static const char* signature() { static const char s[] = {code<A>()..., 0}; return s; }
};

template <class... A> void launch(void (*function)(A...), unsigned grid, unsigned block, void** arguments, bool backwards)
{
    Kernel<A...>::function = function;
    Kernel<A...>::arguments = arguments;
    gridDim.x = grid;
    blockDim.x = block;
    reversed() = backwards;
    for (unsigned b = 0; b < grid; ++b) {
        blockIdx.x = backwards ? grid - 1 - b : b;
        used_shared_memory() = false;
        run_block(&Kernel<A...>::body, (int)block);
    }
}

template <class... A> const char* signature(void (*)(A...)) { return Kernel<A...>::signature(); }

}  // namespace host

#define HOST_KERNEL(name)                                                                                                  \
    extern "C" void launch_##name(unsigned grid, unsigned block, void** arguments, int backwards)                         \
    {                                                                                                                      \
        host::launch(name, grid, block, arguments, backwards);                                                             \
    }                                                                                                                      \
    extern "C" const char* signature_##name() { return host::signature(name); }
