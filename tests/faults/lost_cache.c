/* A disk whose page cache can be lost: cc -shared -fPIC -O2 -o lost_cache.so lost_cache.c -ldl
 *
 * Preloaded into a process, it keeps beside each file whose path begins with $LOST_CACHE_PREFIX a copy
 * named PATH.durable: the file as it was at its last fsync or fdatasync. Whatever was written after that
 * would be gone, or partly gone, if the power failed; the test puts the copies in the files' places.
 * A copy is in place before the sync returns, so nobody can be told of a commit that it lacks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    abort(); /* a copy that lags behind would show a loss that never was */
}

static void copy(int from, const char *path)
{
    char beside[PATH_MAX], durable[PATH_MAX], block[65536];
    off_t at = 0;
    ssize_t got;
    int to;

    snprintf(beside, sizeof beside, "%s.durable.%d", path, (int)gettid());
    snprintf(durable, sizeof durable, "%s.durable", path);
    to = open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (to < 0)
        fail(beside);
    while ((got = pread(from, block, sizeof block, at)) > 0) {
        if (write(to, block, (size_t)got) != got)
            fail(beside);
        at += got;
    }
    if (got < 0 || close(to) || rename(beside, durable)) /* whole, or not at all */
        fail(durable);
}

static int synced(int fd, const char *name)
{
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *prefix = getenv("LOST_CACHE_PREFIX");
    char link[64], path[PATH_MAX];
    struct stat status;
    ssize_t length;
    int result = sync(fd);

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (result || !prefix || length <= 0)
        return result;
    path[length] = '\0';
    if (!strncmp(path, prefix, strlen(prefix)) && !fstat(fd, &status) && S_ISREG(status.st_mode))
        copy(fd, path);
    return 0;
}

int fsync(int fd) { return synced(fd, "fsync"); }

int fdatasync(int fd) { return synced(fd, "fdatasync"); }
