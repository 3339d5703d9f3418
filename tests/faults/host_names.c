/* Resolve host names from a file: cc -shared -fPIC -O2 -o host_names.so host_names.c -ldl
 *
 * Preloaded into a process, this library looks a host name up in the file $HOST_NAMES_FILE before it asks the system.
 * Each line is NAME ADDRESS; the address "-" stands for a name that does not resolve. The file is read at each call,
 * so a name can change its address while the process runs. Replace the file by renaming another one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int find(const char *name, char *address)
{
    const char *path = getenv("HOST_NAMES_FILE");
    FILE *file = name && path ? fopen(path, "re") : NULL;
    char listed[256];
    int found = 0;

    while (file && !found && fscanf(file, "%255s %63s", listed, address) == 2)
        found = strcmp(listed, name) == 0;
    if (file)
        fclose(file);
    return found;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    static __typeof__(&getaddrinfo) real;
    char address[64];

    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "getaddrinfo");
    if (!find(node, address))
        return real(node, service, hints, result);
    return strcmp(address, "-") == 0 ? EAI_AGAIN : real(address, service, hints, result);
}
