/* getnameinfo NAME: the name of each address that NAME has. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list, *one;
	char host[NI_MAXHOST];
	int error;

	if (argc != 2)
		return 2;
	if ((error = getaddrinfo(argv[1], NULL, &hints, &list)) != 0) {
		fprintf(stderr, "getaddrinfo: %s\n", gai_strerror(error));
		return 1;
	}
	for (one = list; one != NULL; one = one->ai_next) {
		error = getnameinfo(one->ai_addr, one->ai_addrlen, host, sizeof host, NULL, 0, NI_NAMEREQD);
		if (error != 0) {
			fprintf(stderr, "getnameinfo: %s\n", gai_strerror(error));
			return 1;
		}
		puts(host);
	}
	freeaddrinfo(list);
	return 0;
}
