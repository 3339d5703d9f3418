/* Simulate a host whose clock is wrong: cc -shared -fPIC -O2 -o wrong_clock.so wrong_clock.c -ldl
 *
 * Preloaded into a process, this library adds the number of seconds in the file $WRONG_CLOCK_FILE to the time of day
 * that the process reads. The file holds one 64-bit integer and is mapped, so the clock can be stepped while the
 * process runs. The monotonic clock stays right, as on a host whose clock is set.
 *
 * A wait until a time of day ends when the wrong clock reaches that time, as it does on such a host: it lasts an hour
 * longer if the clock is set back by an hour meanwhile. The clock is looked at again every fifth of a second; callers
 * are then woken for no reason, as POSIX allows.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define SLICE_NANOSECONDS 200000000L
#define NANOSECONDS 1000000000L
#define MONOTONIC_BEFORE 1000000000L /* A deadline below is of the monotonic clock, which starts with the machine. */

static int64_t right;
static volatile const int64_t *ahead = &right;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void set_up(void)
{
    const char *path = getenv("WRONG_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    real_clock_gettime = REAL(clock_gettime);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        ahead = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real_clock_gettime) /* called before this library is set up */
        real_clock_gettime = REAL(clock_gettime);
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return result;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec precise;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec precise;

    clock_gettime(CLOCK_REALTIME_COARSE, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}

int timespec_get(struct timespec *now, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

/* Set until to the right time at which the wrong clock reaches it, but to no more than a slice from now.
 * Returns whether that is the whole wait. */
static int shorten(struct timespec *until)
{
    struct timespec now, end;

    real_clock_gettime(CLOCK_REALTIME, &now);
    until->tv_sec -= *ahead;
    end.tv_sec = now.tv_sec + (now.tv_nsec + SLICE_NANOSECONDS) / NANOSECONDS;
    end.tv_nsec = (now.tv_nsec + SLICE_NANOSECONDS) % NANOSECONDS;
    if (until->tv_sec < end.tv_sec || (until->tv_sec == end.tv_sec && until->tv_nsec <= end.tv_nsec))
        return 1;
    *until = end;
    return 0;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    static __typeof__(&pthread_cond_timedwait) real;
    struct timespec slice = *until;
    int whole, result;

    if (!real) /* Without a version the linker may choose that of 2001, whose conditions are of another size. */
        real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real)
        real = REAL(pthread_cond_timedwait);
    if (until->tv_sec < MONOTONIC_BEFORE)
        return real(condition, mutex, until);
    whole = shorten(&slice);
    result = real(condition, mutex, &slice);
    return result == ETIMEDOUT && !whole ? 0 : result;
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    static __typeof__(&cnd_timedwait) real;
    struct timespec slice = *until;
    int whole = shorten(&slice), result;

    if (!real)
        real = REAL(cnd_timedwait);
    result = real(condition, mutex, &slice);
    return result == thrd_timedout && !whole ? thrd_success : result;
}
