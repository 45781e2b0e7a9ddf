// Stands between a program and its C library: while the directory that WOVE_HANG
// names holds a file `disk`, nothing gets to disk, and while it holds `kernel`, the
// kernel takes no orders about devices, addresses and routes. So it is with a disk
// that is overloaded, and where another program has the kernel's lock on all that.

#define _GNU_SOURCE
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_while(const char *what)
{
	char path[4096];
	const char *directory = getenv("WOVE_HANG");

	if (!directory)
		return;
	snprintf(path, sizeof(path), "%s/%s", directory, what);
	while (access(path, F_OK) == 0)
		usleep(10000);
}

static void wait_if_routing(int socket)
{
	int domain = 0, protocol = 0;
	socklen_t length = sizeof(int);

	getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length);
	getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &length);
	if (domain == AF_NETLINK && protocol == NETLINK_ROUTE)
		wait_while("kernel");
}

int fsync(int file)
{
	wait_while("disk");
	return syscall(SYS_fsync, file);
}

ssize_t sendto(int socket, const void *bytes, size_t length, int flags,
	       const struct sockaddr *to, socklen_t to_length)
{
	wait_if_routing(socket);
	return syscall(SYS_sendto, socket, bytes, length, flags, to, to_length);
}

ssize_t send(int socket, const void *bytes, size_t length, int flags)
{
	return sendto(socket, bytes, length, flags, NULL, 0);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
	wait_if_routing(socket);
	return syscall(SYS_sendmsg, socket, message, flags);
}
