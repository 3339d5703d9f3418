/* Simulate a host whose clock is wrong: cc -shared -fPIC -O2 -o wrong_clock.so wrong_clock.c -ldl
 *
 * Preloaded into a process, this library adds the number of seconds in the file $WRONG_CLOCK_FILE to the time of
 * day that Python (clock_gettime) and Kafka's client (gettimeofday) read. The file is read at each call, so the clock can be corrected while the process
 * runs. Deadlines that the client computes from the shifted time are shifted back before it waits for them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

static long ahead(void)
{
    const char *path = getenv("WRONG_CLOCK_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;

    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1)
            seconds = 0;
        fclose(file);
    }
    return seconds;
}

int gettimeofday(struct timeval *now, void *zone)
{
    static int (*real)(struct timeval *, void *);
    int result;

    if (!real)
        real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    result = real(now, zone);
    now->tv_sec += ahead();
    return result;
}

static int real_clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);

    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = real_clock_gettime(clock, now);

    if (clock == CLOCK_REALTIME)
        now->tv_sec += ahead();
    return result;
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    struct timespec now, right = *until;
    long shift = ahead();

    if (!real)
        real = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    real_clock_gettime(CLOCK_REALTIME, &now);
    /* Nearer to the shifted time than to the real one: it was computed from the shifted time. */
    if (shift > 0 ? right.tv_sec >= now.tv_sec + shift / 2 : right.tv_sec <= now.tv_sec + shift / 2)
        right.tv_sec -= shift;
    return real(condition, mutex, &right);
}
