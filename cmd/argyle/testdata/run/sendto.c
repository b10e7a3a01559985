/* sendto ADDRESS PORT: datagrams by every call that sends one, each of which must come back from where it went. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in dest = {.sin_family = AF_INET};

static int back(int fd, const char *sent)
{
	struct sockaddr_in from = {0};
	socklen_t size = sizeof from;
	char text[64] = "";

	if (recvfrom(fd, text, sizeof text - 1, 0, (struct sockaddr *)&from, &size) < 0) {
		perror(sent);
		return 0;
	}
	if (strcmp(text, sent) != 0 || from.sin_addr.s_addr != dest.sin_addr.s_addr || from.sin_port != dest.sin_port) {
		fprintf(stderr, "%s: got %s from %s port %d\n", sent, text, inet_ntoa(from.sin_addr), ntohs(from.sin_port));
		return 0;
	}
	puts(sent);
	return 1;
}

int main(int argc, char **argv)
{
	struct timeval patience = {.tv_sec = 10};
	struct iovec part[2];
	struct mmsghdr messages[2];
	int fd, i;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &dest.sin_addr) != 1)
		return 2;
	dest.sin_port = htons(atoi(argv[2]));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);

	if (sendto(fd, "sendto", 6, 0, (struct sockaddr *)&dest, sizeof dest) != 6 || !back(fd, "sendto"))
		return 1;

	memset(messages, 0, sizeof messages);
	part[0] = (struct iovec){"sendmsg", 7};
	messages[0].msg_hdr = (struct msghdr){.msg_name = &dest, .msg_namelen = sizeof dest, .msg_iov = part, .msg_iovlen = 1};
	if (sendmsg(fd, &messages[0].msg_hdr, 0) != 7 || !back(fd, "sendmsg"))
		return 1;

	part[0] = (struct iovec){"sendmmsg", 8};
	part[1] = (struct iovec){"sendmmsg", 8};
	for (i = 0; i < 2; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_name = &dest, .msg_namelen = sizeof dest, .msg_iov = &part[i], .msg_iovlen = 1};
	if (sendmmsg(fd, messages, 2, 0) != 2 || !back(fd, "sendmmsg") || !back(fd, "sendmmsg"))
		return 1;

	if (connect(fd, (struct sockaddr *)&dest, sizeof dest) != 0 || send(fd, "send", 4, 0) != 4 || !back(fd, "send"))
		return 1;
	if (write(fd, "write", 5) != 5 || !back(fd, "write"))
		return 1;
	close(fd);
	return 0;
}
