// Tries every way to a file that is set-user-id or set-group-id, or has capabilities. Each line: the way, and what the
// kernel said. `set_id who` says who it runs as.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void said(const char *way, long result) {
    const char *name = result >= 0 ? "done" : errno == EPERM ? "EPERM" : errno == ENOSYS ? "ENOSYS" : strerror(errno);
    printf("%s: %s\n", way, name);
    fflush(stdout);
}

static void with_bits(int bits, const char *suffix) {
    char way[64];
#define TRY(name, ...) (snprintf(way, sizeof way, "%s %s", name, suffix), said(way, syscall(__VA_ARGS__)))
    int fd = open("f", O_CREAT | O_RDWR, 0644);
    TRY("chmod", SYS_chmod, "f", bits | 0755);
    TRY("fchmod", SYS_fchmod, fd, bits | 0755);
    TRY("fchmodat", SYS_fchmodat, AT_FDCWD, "f", bits | 0755);
    TRY("fchmodat2", 452, AT_FDCWD, "f", bits | 0755, 0);
    TRY("mkdir", SYS_mkdir, "d1", bits | 0755);
    TRY("mkdirat", SYS_mkdirat, AT_FDCWD, "d2", bits | 0755);
    TRY("mknod", SYS_mknod, "n1", S_IFREG | bits | 0755, 0);
    TRY("mknodat", SYS_mknodat, AT_FDCWD, "n2", S_IFREG | bits | 0755, 0);
    TRY("creat", SYS_creat, "c1", bits | 0755);
    TRY("open", SYS_open, "o1", O_CREAT | O_RDWR, bits | 0755);
    TRY("openat", SYS_openat, AT_FDCWD, "o2", O_CREAT | O_RDWR, bits | 0755);
    TRY("open a temporary file", SYS_open, ".", O_TMPFILE | O_RDWR, bits | 0755);
    TRY("openat a temporary file", SYS_openat, AT_FDCWD, ".", O_TMPFILE | O_RDWR, bits | 0755);
    // The upper half of a register is not the kernel's to look at, nor the filter's.
    TRY("chmod with more bits", SYS_chmod, "f", 0x100000000L | bits | 0755);
    struct open_how how = {.flags = O_CREAT | O_RDWR, .mode = bits | 0755};
    TRY("openat2", SYS_openat2, AT_FDCWD, "o3", &how, sizeof how);
    TRY("chmod by x32", 0x40000000 | SYS_chmod, "f", bits | 0755);
    close(fd);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "who")) {
        printf("%d\n", geteuid());
        return 0;
    }
    if (argc > 1 && chdir(argv[1]) != 0) return 1;
    with_bits(S_ISUID, "u+s");
    with_bits(S_ISGID, "g+s");
    struct io_uring_params params = {0};
    said("io_uring", syscall(SYS_io_uring_setup, 1, &params));
    // VFS_CAP_REVISION_2, effective; every capability.
    unsigned int caps[5] = {0x02000001, 0xffffffff, 0, 0xffffffff, 0};
    said("capabilities", setxattr("f", "security.capability", caps, sizeof caps, 0));
    // Its own capabilities would be all of them there, and an overlay copies a file with its bits.
    said("a user namespace", syscall(SYS_unshare, 0x10000000));
    long made = syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0);
    if (made == 0) _exit(0);
    said("a process in one", made);
    pid_t child = fork();
    if (child == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(15), "b"("f"), "c"(04755) : "memory");
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("chmod by i386: %s\n", WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "went on");
    said("chmod 0755", chmod("f", 0755));
    said("chmod 1777", chmod("f", 01777));
    said("mkdir 0755", mkdir("d3", 0755));
    said("open without making", open("f", O_RDONLY, 04755));
    said("open and make", open("o4", O_CREAT | O_RDWR, 0755));
    return 0;
}
