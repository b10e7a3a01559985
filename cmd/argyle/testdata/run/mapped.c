/* mapped ADDRESS PORT [udp]: an IPv4 address by an IPv6 socket, over TCP and UDP. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int echo(int type, struct sockaddr_in6 *dest)
{
	struct timeval patience = {.tv_sec = 10};
	struct sockaddr_in6 from = {0};
	socklen_t size = sizeof from;
	char text[64] = "", name[INET6_ADDRSTRLEN];
	int fd = socket(AF_INET6, type, 0), off = 0;

	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (type == SOCK_STREAM && connect(fd, (struct sockaddr *)dest, sizeof *dest) != 0) {
		perror("connect");
		return 0;
	}
	if (sendto(fd, "mapped", 6, 0, type == SOCK_STREAM ? NULL : (struct sockaddr *)dest,
		   type == SOCK_STREAM ? 0 : sizeof *dest) != 6) {
		perror("send");
		return 0;
	}
	if (recvfrom(fd, text, 6, MSG_WAITALL, (struct sockaddr *)&from, &size) != 6 || strcmp(text, "mapped") != 0) {
		perror("receive");
		return 0;
	}
	if (type == SOCK_DGRAM)
		puts(inet_ntop(AF_INET6, &from.sin6_addr, name, sizeof name));
	else
		puts(text);
	close(fd);
	return 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 dest = {.sin6_family = AF_INET6};
	char text[INET6_ADDRSTRLEN + 8];

	if (argc < 3)
		return 2;
	snprintf(text, sizeof text, "::ffff:%s", argv[1]);
	if (inet_pton(AF_INET6, text, &dest.sin6_addr) != 1)
		return 2;
	dest.sin6_port = htons(atoi(argv[2]));
	if (!echo(SOCK_STREAM, &dest))
		return 1;
	return argc < 4 || echo(SOCK_DGRAM, &dest) ? 0 : 1;
}
