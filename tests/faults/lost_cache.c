/* Simulate the loss of the page cache: cc -shared -fPIC -O2 -o lost_cache.so lost_cache.c -ldl
 *
 * Preloaded into a process, this library copies each file whose path starts with $LOST_CACHE_PREFIX to
 * PATH.durable at every fsync or fdatasync. What is written after that could be lost in a power failure; the
 * test then replaces the files with their copies. The copy is complete before the sync returns, so it has
 * every commit that the process can have acknowledged.
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
    abort(); /* an outdated copy would look like lost data */
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
    if (got < 0 || close(to) || rename(beside, durable)) /* replace atomically */
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
