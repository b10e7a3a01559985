/* getaddrinfo NAME PORT: connects to the first address of NAME that takes it, and wants an echo. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list, *one;
	char text[64] = "";
	int fd = -1, error;

	if (argc != 3)
		return 2;
	if ((error = getaddrinfo(argv[1], argv[2], &hints, &list)) != 0) {
		fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
		return 1;
	}
	for (one = list; one != NULL; one = one->ai_next) {
		fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
		if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0)
			break;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0) {
		perror("connect");
		return 1;
	}
	if (send(fd, "an echo", 7, 0) != 7 || recv(fd, text, 7, MSG_WAITALL) != 7) {
		perror("echo");
		return 1;
	}
	puts(text);
	close(fd);
	return 0;
}
