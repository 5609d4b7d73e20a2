/* What one processor can do at most: multiply-adds per second, and bytes read per second from
   working sets of growing size.

   probe THREADS SMALLEST LARGEST

   prints one JSON object: float32 and int8 (multiply-adds per second of all threads together, int8
   null where the processor has no kernel below), int8_kernel (which, or why none), busy, and read, a
   list of [bytes of the working set, bytes per second of all threads together, busy]. Busy is the
   share of the time that the threads had processors to run on, in the round that counts.

   Every thread repeats the same short piece of work at the same time as the others. The rate of a
   round is all work over the time from the first start to the last end, and the best round counts:
   whatever else runs on the machine can only slow a round down. Working sets are divided among the
   threads, each of which reads its own share again and again. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16 /* SSE, NEON */
#endif

/* Enough independent sums to hide the latency of a multiply-add (4 cycles times 2 units, on large
   Arm cores times 4), and few enough to stay in registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define SUMS 24
#else
#define SUMS 12
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define REGISTER "x"
#else
#define REGISTER "w"
#endif

/* The compiler must not know a value, or it would compute it once instead of every time. */
#define UNKNOWN(value) __asm__ volatile("" : "+" REGISTER(value))

/* Every job has its turn in several passes: what disturbs one is gone in another, and the system
   has moved threads that began on one core. */
#define PASSES 4
#define BUDGET_SECONDS 1.5 /* after which no further pass begins */
#define ROUNDS 8 /* of a job in a pass */
#define ROUND_SECONDS 0.001
#define JOB_SECONDS 0.02 /* after which a pass goes on to the next job */
#define MOST_JOBS 64
#define MOST_THREADS 1024
#define HUGE_PAGE ((size_t)2 << 20)

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES)));

/* 8-bit products: `ADD_PRODUCTS(sum, a, b)` adds PRODUCTS of them to 32-bit sums. AMX and SME
   multiply whole tiles and would be faster than any of these; nothing is claimed there. */
#if defined(__AMX_INT8__) || defined(__ARM_FEATURE_SME)
#define INT8_KERNEL "not timed: this processor multiplies whole tiles"
#elif defined(__AVX512VNNI__)
#define INT8_KERNEL "AVX-512 VNNI"
#define PRODUCTS 64
typedef __m512i bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#elif defined(__AVX512BW__)
#define INT8_KERNEL "AVX-512, without dot products: three instructions"
#define PRODUCTS 64
typedef __m512i bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b)                                                                    \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)))
#elif defined(__AVXVNNI__)
#define INT8_KERNEL "AVX VNNI"
#define PRODUCTS 32
typedef __m256i bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#elif defined(__AVX2__)
#define INT8_KERNEL "AVX2, without dot products: three instructions"
#define PRODUCTS 32
typedef __m256i bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b)                                                                    \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>
#define INT8_KERNEL "NEON matrix products"
#define PRODUCTS 32
typedef int8x16_t bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b) (bytes_of_int8) vmmlaq_s32((int32x4_t)(sum), a, b)
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define INT8_KERNEL "NEON dot products"
#define PRODUCTS 16
typedef int8x16_t bytes_of_int8;
#define ADD_PRODUCTS(sum, a, b) (bytes_of_int8) vdotq_s32((int32x4_t)(sum), a, b)
#else
#define INT8_KERNEL "not timed: this processor has no dot products of 8 bits"
#endif

typedef enum { FLOAT32, INT8, READ } kind;
typedef struct {
    kind kind;
    size_t bytes; /* of the working set, of all threads */
    double best;  /* work per second */
    double busy;  /* share of the time that the threads ran, in that round */
} job;
typedef struct {
    int index;
    char *buffer;
    double begin, end;
    double cpu; /* seconds that the thread ran */
} worker;

static int threads;
static size_t largest;
static job jobs[MOST_JOBS];
static int job_count;
static worker workers[MOST_THREADS];
static long repeats; /* of the job in hand, per thread */
static int go_on, enough;
static atomic_int waiting, turn;
static volatile float sink;

static double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double now(void) { return seconds_of(CLOCK_MONOTONIC); }

/* Returns when all threads have come here; spinning, since a sleeping thread starts late. */
static void meet(void) {
    int mine = atomic_load(&turn);
    if (atomic_fetch_add(&waiting, 1) == threads - 1) {
        atomic_store(&waiting, 0);
        atomic_fetch_add(&turn, 1);
        return;
    }
    for (long spins = 1; atomic_load(&turn) == mine; spins++)
        if (spins % 10000 == 0) sched_yield();
}

__attribute__((noinline)) static void multiply_floats(long count) {
    floats sums[SUMS], factor = {0}, addend;
    addend = factor + 0.5f; /* every sum tends to 1: no overflow, no denormal numbers */
    factor = factor + 0.5f;
    for (int k = 0; k < SUMS; k++) sums[k] = factor;
    UNKNOWN(factor);
    UNKNOWN(addend);
    for (long i = 0; i < count; i++) {
#pragma GCC unroll 32
        for (int k = 0; k < SUMS; k++) sums[k] = sums[k] * factor + addend;
    }
    for (int k = 1; k < SUMS; k++) sums[0] += sums[k];
    sink = sums[0][0];
}

#ifdef PRODUCTS
__attribute__((noinline)) static void multiply_int8(long count) {
    bytes_of_int8 sums[SUMS], a = {0}, b = {0};
    for (int k = 0; k < SUMS; k++) sums[k] = a;
    UNKNOWN(b);
    for (long i = 0; i < count; i++) {
#pragma GCC unroll 32
        for (int k = 0; k < SUMS; k++) {
            UNKNOWN(a);
            sums[k] = ADD_PRODUCTS(sums[k], a, b);
        }
    }
    for (int k = 1; k < SUMS; k++) sums[0] ^= sums[k];
    sink = (float)sums[0][0];
}
#endif

__attribute__((noinline)) static void read_words(const char *buffer, size_t bytes, long count) {
    enum { AT_ONCE = 8 };
    words sums[AT_ONCE] = {{0}};
    for (long i = 0; i < count; i++) {
        const words *from = (const words *)buffer, *end = (const words *)(buffer + bytes);
        for (; from < end; from += AT_ONCE) {
#pragma GCC unroll 8
            for (int k = 0; k < AT_ONCE; k++) sums[k] += from[k];
        }
        __asm__ volatile("" ::: "memory"); /* the next sweep reads again */
    }
    for (int k = 1; k < AT_ONCE; k++) sums[0] += sums[k];
    sink = (float)sums[0][0];
}

static void perform(const job *job, const worker *self, long count) {
    if (job->kind == FLOAT32) multiply_floats(count);
#ifdef PRODUCTS
    else if (job->kind == INT8) multiply_int8(count);
#endif
    else if (job->kind == READ) read_words(self->buffer, job->bytes / threads, count);
}

/* Multiply-adds, or bytes read, of one repeat of one thread. */
static double work_of(const job *job) {
    if (job->kind == FLOAT32) return SUMS * (VECTOR_BYTES / sizeof(float));
#ifdef PRODUCTS
    if (job->kind == INT8) return SUMS * PRODUCTS;
#endif
    return job->bytes / threads;
}

/* Repeats that take about ROUND_SECONDS, at least one. */
static long repeats_for(const job *job, const worker *self) {
    for (long count = 1;; count *= 2) {
        double begin = now();
        perform(job, self, count);
        double seconds = now() - begin;
        if (seconds > ROUND_SECONDS / 4) {
            long wanted = (long)(count * ROUND_SECONDS / seconds);
            return wanted > 1 ? wanted : 1;
        }
    }
}

/* Keeps the best rate of the round that all threads have just done. */
static void judge(job *job) {
    double begin = workers[0].begin, end = workers[0].end, cpu = 0;
    for (int k = 0; k < threads; k++) {
        if (workers[k].begin < begin) begin = workers[k].begin;
        if (workers[k].end > end) end = workers[k].end;
        cpu += workers[k].cpu;
    }
    double rate = threads * repeats * work_of(job) / (end - begin);
    if (rate <= job->best) return;
    job->best = rate;
    job->busy = cpu / (threads * (end - begin));
}

static void *work(void *argument) {
    worker *self = argument;
    size_t bytes = largest / threads + HUGE_PAGE;
    if (posix_memalign((void **)&self->buffer, HUGE_PAGE, bytes)) {
        fputs("not enough memory\n", stderr);
        exit(1);
    }
#ifdef MADV_HUGEPAGE
    madvise(self->buffer, bytes, MADV_HUGEPAGE);
#endif
    memset(self->buffer, 1, bytes); /* by the thread that reads it, so that it lies close */
    double began = now();
    for (int k = 0; k < PASSES * job_count; k++) {
        job *job = &jobs[k % job_count];
        if (self->index == 0 && k && k % job_count == 0) enough = now() - began > BUDGET_SECONDS;
        meet();
        if (enough) break;
        if (self->index == 0) repeats = repeats_for(job, self);
        double started = now();
        for (int round = 0;; round++) {
            if (self->index == 0)
                go_on = round == 0 || (round < ROUNDS && now() - started < JOB_SECONDS);
            meet();
            if (!go_on) break;
            self->begin = now();
            double cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
            perform(job, self, repeats);
            self->cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
            self->end = now();
            meet();
            if (self->index == 0) judge(job);
        }
    }
    free(self->buffer);
    return NULL;
}

static void add_job(kind kind, size_t bytes) {
    if (job_count < MOST_JOBS) jobs[job_count++] = (job){kind, bytes, 0.0, 0.0};
}

int main(int count, char **words_given) {
    if (count != 4) {
        fputs("usage: probe THREADS SMALLEST LARGEST (bytes)\n", stderr);
        return 2;
    }
    threads = atoi(words_given[1]);
    size_t smallest = strtoull(words_given[2], NULL, 10);
    largest = strtoull(words_given[3], NULL, 10);
    size_t grain = (size_t)threads * 1024; /* every share holds whole groups of vectors */
    if (threads < 1 || threads > MOST_THREADS || smallest < grain || largest < smallest) {
        fputs("probe: expected threads >= 1 and 1 KiB per thread <= SMALLEST <= LARGEST\n", stderr);
        return 2;
    }
    add_job(FLOAT32, 0);
#ifdef PRODUCTS
    add_job(INT8, 0);
#endif
    int reads = job_count;
    for (size_t bytes = smallest; bytes <= largest; bytes *= 2) {
        add_job(READ, bytes / grain * grain);
        if (bytes / 2 * 3 <= largest) add_job(READ, bytes / 2 * 3 / grain * grain);
    }
    pthread_t handles[MOST_THREADS];
    for (int k = 0; k < threads; k++) {
        workers[k].index = k;
        if (pthread_create(&handles[k], NULL, work, &workers[k])) {
            fputs("cannot start a thread\n", stderr);
            return 1;
        }
    }
    for (int k = 0; k < threads; k++) pthread_join(handles[k], NULL);
    double busy = jobs[0].busy;
    for (int k = 1; k < reads; k++)
        if (jobs[k].busy < busy) busy = jobs[k].busy;
    printf("{\"float32\": %.6e, \"int8\": ", jobs[0].best);
#ifdef PRODUCTS
    printf("%.6e", jobs[1].best);
#else
    printf("null");
#endif
    printf(", \"int8_kernel\": \"%s\", \"busy\": %.4f, \"read\": [", INT8_KERNEL, busy);
    for (int k = reads; k < job_count; k++)
        printf("%s{\"size\": %zu, \"rate\": %.6e, \"busy\": %.4f}", k > reads ? ", " : "", jobs[k].bytes, jobs[k].best,
               jobs[k].busy);
    printf("]}\n");
    return 0;
}
