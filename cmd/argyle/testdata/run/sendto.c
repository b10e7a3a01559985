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

/* the same by recvmsg and recvmmsg, into two pieces each */
static int backs(int fd, const char *sent, int n)
{
	struct sockaddr_in from[2] = {0};
	char head[2][3], tail[2][64];
	struct iovec parts[2][2];
	struct mmsghdr m[2];
	int i, got;

	memset(m, 0, sizeof m);
	memset(tail, 0, sizeof tail);
	for (i = 0; i < 2; i++) {
		parts[i][0] = (struct iovec){head[i], sizeof head[i]};
		parts[i][1] = (struct iovec){tail[i], sizeof tail[i] - 1};
		m[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = parts[i], .msg_iovlen = 2};
	}
	if (n == 1) {
		m[0].msg_len = recvmsg(fd, &m[0].msg_hdr, 0);
		got = 1;
	} else {
		got = recvmmsg(fd, m, n, 0, NULL);
	}
	for (i = 0; i < n; i++) {
		if (i >= got || m[i].msg_len != strlen(sent) || memcmp(head[i], sent, 3) != 0 || strcmp(tail[i], sent + 3) != 0 ||
		    m[i].msg_hdr.msg_namelen != sizeof from[i] || from[i].sin_addr.s_addr != dest.sin_addr.s_addr || from[i].sin_port != dest.sin_port) {
			fprintf(stderr, "%s: %d of %d, the last of %d bytes from %s\n", sent, got, n, m[i].msg_len, inet_ntoa(from[i].sin_addr));
			return 0;
		}
		puts(sent);
	}
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
	if (sendmsg(fd, &messages[0].msg_hdr, 0) != 7 || !backs(fd, "sendmsg", 1))
		return 1;

	part[0] = (struct iovec){"sendmmsg", 8};
	part[1] = (struct iovec){"sendmmsg", 8};
	for (i = 0; i < 2; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_name = &dest, .msg_namelen = sizeof dest, .msg_iov = &part[i], .msg_iovlen = 1};
	if (sendmmsg(fd, messages, 2, 0) != 2 || !backs(fd, "sendmmsg", 2))
		return 1;

	if (connect(fd, (struct sockaddr *)&dest, sizeof dest) != 0 || send(fd, "send", 4, 0) != 4 || !back(fd, "send"))
		return 1;
	if (write(fd, "write", 5) != 5 || !back(fd, "write"))
		return 1;
	close(fd);
	return 0;
}
