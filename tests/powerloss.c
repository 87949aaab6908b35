// Keeps beside a folder what of it would be there after a loss of power: only what was synced. Preloaded into a program (LD_PRELOAD);
// POWERLOSS_FROM is the folder, POWERLOSS_TO where what is on the disk for sure is copied to at each syncfs, fsync and fdatasync.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void run(const char *command) {
    // Inherited, this library would follow the copying program's own calls.
    setenv("POWERLOSS_OFF", "1", 1);
    if (system(command) != 0) {
        fprintf(stderr, "powerloss: failed: %s\n", command);
        abort();
    }
    unsetenv("POWERLOSS_OFF");
}

// Everything, and no names that are gone.
static void keep_all(const char *from, const char *to) {
    char command[4 * PATH_MAX];
    // Files come and go meanwhile, which makes cp complain: what was there before stays to be copied.
    snprintf(command, sizeof command, "rm -rf '%s.new'; cp -a '%s' '%s.new' 2>/dev/null; rm -rf '%s'; mv '%s.new' '%s'", to, from, to, to,
             to, to);
    run(command);
}

static void keep(int fd, int everything) {
    const char *from = getenv("POWERLOSS_FROM"), *to = getenv("POWERLOSS_TO");
    if (!from || !to || getenv("POWERLOSS_OFF")) return;
    char link[64], path[PATH_MAX], command[4 * PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    size_t prefix = strlen(from);
    if (strncmp(path, from, prefix) != 0 || (path[prefix] != '/' && path[prefix] != 0)) return;
    struct stat meta;
    if (everything || (fstat(fd, &meta) == 0 && S_ISDIR(meta.st_mode))) {
        keep_all(from, to);
    } else {
        snprintf(command, sizeof command, "mkdir -p '%s' && cp -a '%s' '%s%s'", to, path, to, path + prefix);
        run(command);
    }
}

int syncfs(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "syncfs");
    int result = real(fd);
    if (result == 0) keep(fd, 1);
    return result;
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (result == 0) keep(fd, 0);
    return result;
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    if (result == 0) keep(fd, 0);
    return result;
}
