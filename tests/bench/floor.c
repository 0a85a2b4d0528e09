/* The least that the kernel asks for a container: all namespaces by one clone3 and an exec, ids mapped, cgroups made and
 * joined, a veth pair born in its namespaces with an address and a default route, and a root file system of overlay,
 * tmpfs, proc and sysfs behind pivot_root. No images, no checks, no store, no supervision, no second language: what is
 * slower than this is the program's own doing.
 *
 *     floor start COUNT ROOTFS SCRATCH MARKS BRIDGE CGROUPS     starts COUNT containers of /bin/mark, one after the other;
 *                                                               says how many nanoseconds that took; on a line of
 *                                                               standard input ends them, and says how long that took
 *     floor exec PID PROGRAM                                    runs a program in a process's namespaces
 *
 * CGROUPS is a list of directories, with colons between; one is made in each for every container. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BASE 1000000000u

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(path);
    close(fd);
}

/* One netlink request being written. */
struct request {
    struct nlmsghdr header;
    char body[1024];
};

static void *append(struct request *request, const void *data, size_t length) {
    void *at = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len);
    if (length) memcpy(at, data, length);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + length;
    return at;
}

static struct rtattr *attribute(struct request *request, int type, const void *data, size_t length) {
    struct rtattr header = {.rta_type = type, .rta_len = RTA_LENGTH(length)};
    struct rtattr *at = append(request, &header, sizeof header);
    append(request, data, length);
    return at;
}

static void end(struct request *request, struct rtattr *nest) {
    nest->rta_len = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len) - (char *)nest;
}

static struct request begin(int type, int flags, const void *data, size_t length) {
    struct request request = {.header = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type}};
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    append(&request, data, length);
    return request;
}

static void ask(int socket, struct request *request, const char *what) {
    char answer[4096];
    if (send(socket, request, request->header.nlmsg_len, 0) < 0 || recv(socket, answer, sizeof answer, 0) < 0) fail(what);
    struct nlmsghdr *header = (void *)answer;
    struct nlmsgerr *error = NLMSG_DATA(header);
    if (header->nlmsg_type == NLMSG_ERROR && error->error) {
        errno = -error->error;
        fail(what);
    }
}

static int route_socket(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) fail("open a route socket");
    return fd;
}

/* A pair whose ends are born where they belong. */
static void add_link(int socket, const char *name, int bridge, pid_t child) {
    struct ifinfomsg here = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, there = {0};
    struct request request = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &here, sizeof here);
    attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
    attribute(&request, IFLA_MASTER, &bridge, sizeof bridge);
    struct rtattr *info = attribute(&request, IFLA_LINKINFO, NULL, 0);
    attribute(&request, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = attribute(&request, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = attribute(&request, VETH_INFO_PEER, &there, sizeof there);
    attribute(&request, IFLA_IFNAME, "eth0", 5);
    attribute(&request, IFLA_NET_NS_PID, &child, sizeof child);
    end(&request, peer);
    end(&request, data);
    end(&request, info);
    ask(socket, &request, "add a link");
}

static void set_up(int socket, int index) {
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct request request = begin(RTM_NEWLINK, 0, &link, sizeof link);
    ask(socket, &request, "set a link up");
}

static void add_address(int socket, int index, in_addr_t address) {
    struct ifaddrmsg message = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = index};
    struct request request = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof message);
    attribute(&request, IFA_LOCAL, &address, sizeof address);
    attribute(&request, IFA_ADDRESS, &address, sizeof address);
    ask(socket, &request, "add an address");
}

static void add_route(int socket, in_addr_t gateway) {
    struct rtmsg message = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC};
    message.rtm_type = RTN_UNICAST;
    struct request request = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof message);
    attribute(&request, RTA_GATEWAY, &gateway, sizeof gateway);
    ask(socket, &request, "add a route");
}

static void attach(const char *kind, const char *place, unsigned long flags, const char *options) {
    if (mount(kind, place, kind, flags, options)) fail(place);
}

/* The directory of version 2, to be born in, and the `tasks` files of version 1, to be joined: the ways that wait for
 * nobody, unlike writing to cgroup.procs. */
static int into = -1, tasks[16], joined;

/* The container's side, up to its program. */
static void child(int number, const char *rootfs, const char *scratch, const char *marks) {
    for (int i = 0; i < joined; i++) if (write(tasks[i], "0", 1) != 1) fail("join a cgroup");
    if (setgid(0) || setuid(0)) fail("become root");
    int socket = route_socket(), link = if_nametoindex("eth0");
    set_up(socket, 1);
    set_up(socket, link);
    add_address(socket, link, htonl(0x0a5b0000u + 2 + number));
    add_route(socket, htonl(0x0a5b0001u));
    close(socket);

    char options[1024], root[512], place[600];
    snprintf(root, sizeof root, "%s/%d/root", scratch, number);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/%d/upper,workdir=%s/%d/work,userxattr", rootfs, scratch,
             number, scratch, number);
    if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL)) fail("keep mounts here");
    attach("overlay", root, 0, options);
    snprintf(place, sizeof place, "%s/mark", root);
    if (mount(marks, place, NULL, MS_BIND, NULL)) fail("mount the marks");
    snprintf(place, sizeof place, "%s/dev", root);
    attach("tmpfs", place, MS_NOSUID, "mode=755");
    const char *devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    for (int i = 0; i < 6; i++) {
        char device[32];
        snprintf(device, sizeof device, "/dev/%s", devices[i]);
        snprintf(place, sizeof place, "%s%s", root, device);
        close(open(place, O_CREAT | O_CLOEXEC, 0666));
        if (mount(device, place, NULL, MS_BIND, NULL)) fail(device);
    }
    snprintf(place, sizeof place, "%s/proc", root);
    attach("proc", place, MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    snprintf(place, sizeof place, "%s/sys", root);
    attach("sysfs", place, MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
    if (chdir(root) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/")) fail("change the root");
    execl("/bin/mark", "mark", (char *)NULL);
    fail("execute /bin/mark");
}

/* Calls `each` with the path of a container's directory in every hierarchy. */
static void in_groups(const char *groups, int number, void (*each)(const char *path)) {
    char list[1024], path[512], *save;
    snprintf(list, sizeof list, "%s", groups);
    for (char *group = strtok_r(list, ":", &save); group; group = strtok_r(NULL, ":", &save)) {
        snprintf(path, sizeof path, "%s/%d", group, number);
        each(path);
    }
}

static void make(const char *path) {
    char file[600];
    if (mkdir(path, 0755)) fail(path);
    snprintf(file, sizeof file, "%s/tasks", path);
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && joined < 16) tasks[joined++] = fd;
    else if ((into = open(path, O_PATH | O_CLOEXEC)) < 0) fail(path);
}

static void leave(const char *path) {
    /* A process that has been waited for may still be leaving its groups. */
    for (int i = 0; rmdir(path) && i < 10000; i++) usleep(100);
}

static pid_t start(int number, char **arguments, int socket, int bridge) {
    const char *rootfs = arguments[0], *scratch = arguments[1], *marks = arguments[2];
    char path[512], text[64];
    const char *parts[] = {"", "/upper", "/work", "/root"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%d%s", scratch, number, parts[i]);
        if (mkdir(path, 0755) || chown(path, BASE, BASE)) fail(path);
    }
    int go[2], done[2];
    if (pipe2(go, O_CLOEXEC) || pipe2(done, O_CLOEXEC)) fail("make a pipe");
    joined = 0;
    in_groups(arguments[4], number, make);
    struct clone_args args = {.exit_signal = SIGCHLD, .cgroup = into};
    args.flags = CLONE_INTO_CGROUP | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP;
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) fail("clone3");
    char byte;
    if (pid == 0) {
        close(done[0]);
        if (read(go[0], &byte, 1) != 1) _exit(1);
        child(number, rootfs, scratch, marks);
    }
    close(done[1]);
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    snprintf(text, sizeof text, "0 %u 65536", BASE);
    put(path, text);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    put(path, text);
    snprintf(text, sizeof text, "fl%d", pid);
    add_link(socket, text, bridge, pid);
    if (write(go[1], "", 1) != 1) fail("let it go");
    /* Closed by the exec, as is everything else. */
    if (read(done[0], &byte, 1) != 0) fail("start");
    close(go[0]), close(go[1]), close(done[0]), close(into);
    for (int i = 0; i < joined; i++) close(tasks[i]);
    return pid;
}

static int enter(pid_t pid, const char *program) {
    int fd = syscall(SYS_pidfd_open, pid, 0);
    int all = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP;
    if (fd < 0 || setns(fd, all)) fail("enter");
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, (char *)NULL);
        fail(program);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int count, char **arguments) {
    if (count == 4 && !strcmp(arguments[1], "exec")) return enter(atoi(arguments[2]), arguments[3]);
    if (count != 8 || strcmp(arguments[1], "start")) return 2;
    int socket = route_socket(), bridge = if_nametoindex(arguments[6]), number = atoi(arguments[2]);
    pid_t *pids = calloc(number, sizeof *pids);
    long long before = now();
    for (int i = 0; i < number; i++) pids[i] = start(i, arguments + 3, socket, bridge);
    printf("%lld\n", now() - before);
    for (int i = 0; i < number; i++) printf("%d%c", pids[i], i + 1 < number ? ' ' : '\n');
    fflush(stdout);
    getchar();
    before = now();
    for (int i = 0; i < number; i++) kill(pids[i], SIGKILL);
    for (int i = 0; i < number; i++) waitpid(pids[i], NULL, 0);
    for (int i = 0; i < number; i++) in_groups(arguments[7], i, leave);
    printf("%lld\n", now() - before);
    return 0;
}
