/* threads.c - a small pool under TVM's parallel launch, and the workspace of its kernels.
 *
 * A launch is a round. Every thread has its share of the tasks, one behind the other, so that in one kernel after the
 * other it works on the same part of the image, which its core's cache holds; then it helps the others. Workers spin some
 * microseconds after a round, since the next one mostly follows at once, and then sleep. Workers keep off the core
 * that the caller runs on: schedulers wake a thread beside the one that wakes it, and may leave it there for long. */
#define _GNU_SOURCE
#include "inside.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    void *sync;
    int32_t num_task;
} parallel_env;
typedef int (*parallel_task)(int task_id, parallel_env *env, void *closure);

/* The workspace is pages; a kernel in one thread may free before or after one in another, so they are not a stack. */
enum { PAGE = 4096, PAGES = PERSE_WORKSPACE / PAGE, MIDDLE = UINT16_MAX };

struct perse_pool {
    int threads, started, spin;
    pthread_t *worker; /* [threads - 1] */
    atomic_int *tid; /* [threads - 1]; 0 until the worker runs */
    cpu_set_t cores; /* that the process may use */
    atomic_int caller_core; /* which the workers keep off */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    parallel_task task; /* of this round, with the next; they do not change while any of its tasks is unfinished */
    void *closure;
    int tasks;
    _Atomic uint64_t *share; /* [threads] round << 32 | end << 16 | the next task: one word, so no claim mixes two rounds */
    atomic_int finished, sleeping, failed, begun;
    atomic_bool stop;
    pthread_mutex_t workspace_lock;
    uint8_t *workspace; /* [PERSE_WORKSPACE] */
    uint16_t taken[PAGES]; /* 0 = free; pages of the piece that begins here; or MIDDLE */
};

static _Thread_local perse_pool *current; /* whose kernels this thread runs */
static _Thread_local bool inside_task;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("pause");
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

int perse_cores(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > PERSE_MAX_THREADS ? PERSE_MAX_THREADS : (int)cores;
}

static bool all_claimed(uint64_t share) { return (share & 0xffff) >= (share >> 16 & 0xffff); }

static void claim_share(perse_pool *pool, _Atomic uint64_t *of) {
    for (uint64_t share = atomic_load(of); !all_claimed(share);) {
        if (!atomic_compare_exchange_weak(of, &share, share + 1)) continue;
        int tasks = pool->tasks;
        parallel_env env = {NULL, tasks};
        if (pool->task((int)(share & 0xffff), &env, pool->closure) != 0) atomic_store(&pool->failed, 1);
        if (atomic_fetch_add(&pool->finished, 1) == tasks - 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
        share = atomic_load(of);
    }
}

/* A thread's own share, then what is left of the others': nobody waits for a thread that has not begun. */
static void claim_tasks(perse_pool *pool, int thread) {
    for (int i = 0; i < pool->threads; i++) claim_share(pool, &pool->share[(thread + i) % pool->threads]);
}

static bool idle(perse_pool *pool) {
    for (int i = 0; i < pool->threads; i++)
        if (!all_claimed(atomic_load(&pool->share[i]))) return false;
    return !atomic_load(&pool->stop);
}

/* The core is not the workers' as long as the caller has it; without others nothing changes. */
static void keep_off(perse_pool *pool, int tid, int core) {
    cpu_set_t others = pool->cores;
    CPU_CLR((size_t)core, &others);
    if (tid != 0 && CPU_COUNT(&others) > 0) (void)sched_setaffinity(tid, sizeof others, &others);
}

/* Once per inference: a system call for each worker, and only if the caller has moved. */
static void note_caller(perse_pool *pool) {
    int core = sched_getcpu();
    if (pool->started == 0 || core < 0 || core == atomic_load(&pool->caller_core)) return;
    atomic_store(&pool->caller_core, core);
    for (int i = 0; i < pool->started; i++) keep_off(pool, atomic_load(&pool->tid[i]), core);
}

static void *work(void *argument) {
    perse_pool *pool = argument;
    current = pool;
    inside_task = true;
    int number = atomic_fetch_add(&pool->begun, 1);
    atomic_store(&pool->tid[number], (int)syscall(SYS_gettid));
    keep_off(pool, atomic_load(&pool->tid[number]), atomic_load(&pool->caller_core));
    while (!atomic_load(&pool->stop)) {
        for (int i = 0; i < pool->spin && idle(pool); i++) relax();
        if (idle(pool)) {
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleeping, 1);
            if (idle(pool)) pthread_cond_wait(&pool->wake, &pool->lock); /* too late for this round? spin for the next */
            atomic_fetch_sub(&pool->sleeping, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        claim_tasks(pool, number + 1);
    }
    return NULL;
}

static void wake_sleepers(perse_pool *pool) {
    if (atomic_load(&pool->sleeping) == 0) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

/* num_task 0: as many as there are threads. A launch inside a task runs in that task's thread. */
static int launch(parallel_task task, void *closure, int num_task) {
    perse_pool *pool = current;
    if (pool == NULL || inside_task || pool->threads == 1 || num_task > UINT16_MAX) {
        parallel_env env = {NULL, num_task == 0 ? 1 : num_task};
        for (int i = 0; i < env.num_task; i++)
            if (task(i, &env, closure) != 0) return -1;
        return 0;
    }
    int tasks = num_task == 0 ? pool->threads : num_task;
    pool->task = task;
    pool->closure = closure;
    pool->tasks = tasks;
    atomic_store(&pool->finished, 0);
    atomic_store(&pool->failed, 0);
    for (int i = 0; i < pool->threads; i++) {
        uint64_t first = (uint64_t)(tasks * i / pool->threads), end = (uint64_t)(tasks * (i + 1) / pool->threads);
        uint64_t round = (atomic_load(&pool->share[i]) >> 32) + 1;
        atomic_store(&pool->share[i], round << 32 | end << 16 | first);
    }
    wake_sleepers(pool);
    inside_task = true;
    claim_tasks(pool, 0);
    inside_task = false;
    for (int i = 0; i < pool->spin && atomic_load(&pool->finished) < tasks; i++) relax();
    if (atomic_load(&pool->finished) < tasks) {
        pthread_mutex_lock(&pool->lock);
        while (atomic_load(&pool->finished) < tasks) pthread_cond_wait(&pool->done, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
    return atomic_load(&pool->failed) ? -1 : 0;
}

/* First fit. */
static void *workspace_alloc(int device_type, int device_id, uint64_t size, int code, int bits) {
    (void)device_type, (void)device_id, (void)code, (void)bits;
    perse_pool *pool = current;
    uint8_t *piece = NULL;
    if (pool == NULL) return NULL;
    uint64_t pages = size == 0 ? 1 : size / PAGE + (size % PAGE != 0);
    pthread_mutex_lock(&pool->workspace_lock);
    for (unsigned first = 0, free_pages = 0, i = 0; piece == NULL && i < PAGES; i++) {
        free_pages = pool->taken[i] == 0 ? free_pages + 1 : 0;
        if (free_pages == 1) first = i;
        if (free_pages < pages) continue;
        for (unsigned k = first; k <= i; k++) pool->taken[k] = MIDDLE;
        pool->taken[first] = (uint16_t)pages;
        piece = pool->workspace + (size_t)first * PAGE;
    }
    pthread_mutex_unlock(&pool->workspace_lock);
    if (piece == NULL) perse_fail(PERSE_KERNEL_FAILED, "kernel workspace exhausted");
    return piece;
}

static int workspace_free(int device_type, int device_id, void *piece) {
    (void)device_type, (void)device_id;
    perse_pool *pool = current;
    if (pool == NULL || piece == NULL) return -1;
    pthread_mutex_lock(&pool->workspace_lock);
    size_t first = (size_t)((uint8_t *)piece - pool->workspace) / PAGE;
    size_t pages = pool->taken[first];
    memset(pool->taken + first, 0, pages * sizeof *pool->taken);
    pthread_mutex_unlock(&pool->workspace_lock);
    return 0;
}

void *__TVMBackendParallelLaunch, *__TVMBackendAllocWorkspace, *__TVMBackendFreeWorkspace;

/* ISO C has no conversion from a function's pointer to void *; POSIX promises that their bytes are alike. */
static void set_pointers(void) {
    int (*launcher)(parallel_task, void *, int) = launch;
    void *(*allocator)(int, int, uint64_t, int, int) = workspace_alloc;
    int (*freer)(int, int, void *) = workspace_free;
    memcpy(&__TVMBackendParallelLaunch, &launcher, sizeof launcher);
    memcpy(&__TVMBackendAllocWorkspace, &allocator, sizeof allocator);
    memcpy(&__TVMBackendFreeWorkspace, &freer, sizeof freer);
}

perse_pool *perse_pool_carve(perse_carver *c, int threads) {
    perse_pool *pool = perse_carve(c, 1, sizeof *pool);
    pthread_t *worker = perse_carve(c, (uint64_t)threads, sizeof *worker);
    _Atomic uint64_t *share = perse_carve(c, (uint64_t)threads, sizeof *share);
    atomic_int *tid = perse_carve(c, (uint64_t)threads, sizeof *tid);
    uint8_t *workspace = perse_carve(c, PERSE_WORKSPACE, 1);
    if (workspace == NULL) return NULL;
    *pool = (perse_pool){.threads = threads, .worker = worker, .share = share, .tid = tid, .workspace = workspace};
    pool->spin = threads <= perse_cores() ? 4000 : 0;
    return pool;
}

perse_status perse_pool_start(perse_pool *pool) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_pointers);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->workspace_lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    for (int i = 0; i < pool->threads; i++) {
        atomic_init(&pool->tid[i], 0);
        atomic_init(&pool->share[i], 0);
    }
    if (sched_getaffinity(0, sizeof pool->cores, &pool->cores) != 0) CPU_ZERO(&pool->cores);
    atomic_store(&pool->caller_core, sched_getcpu());
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1u << 20);
    int error = 0;
    for (; error == 0 && pool->started < pool->threads - 1; pool->started += error == 0)
        error = pthread_create(&pool->worker[pool->started], &attributes, work, pool);
    pthread_attr_destroy(&attributes);
    if (error == 0) return PERSE_OK;
    perse_pool_stop(pool);
    return perse_fail(PERSE_THREAD_FAILED, "");
}

void perse_pool_stop(perse_pool *pool) {
    atomic_store(&pool->stop, true);
    wake_sleepers(pool);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->worker[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->workspace_lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
}

void perse_pool_enter(perse_pool *pool) {
    current = pool;
    note_caller(pool);
    memset(pool->taken, 0, sizeof pool->taken); /* what a failed kernel left behind */
    perse_fail(PERSE_OK, "");
}

void perse_pool_leave(void) { current = NULL; }
