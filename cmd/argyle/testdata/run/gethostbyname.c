/* gethostbyname NAME PORT: the old call, and its reentrant form in threads; then an echo. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 8

static const char *name;

static void *look_up(void *result)
{
	struct hostent entry, *found = NULL;
	char buffer[4096];
	int error;

	if (gethostbyname_r(name, &entry, buffer, sizeof buffer, &found, &error) == 0 && found != NULL)
		memcpy(result, found->h_addr_list[0], sizeof(struct in_addr));
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in dest = {.sin_family = AF_INET};
	struct in_addr found[THREADS] = {{0}};
	pthread_t threads[THREADS];
	struct hostent *entry;
	char text[64] = "";
	int fd, i;

	if (argc != 3)
		return 2;
	name = argv[1];
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, look_up, &found[i]) != 0)
			return 1;
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	if ((entry = gethostbyname(name)) == NULL) {
		herror("gethostbyname");
		return 1;
	}
	memcpy(&dest.sin_addr, entry->h_addr_list[0], sizeof dest.sin_addr);
	for (i = 0; i < THREADS; i++)
		if (found[i].s_addr != dest.sin_addr.s_addr) {
			fprintf(stderr, "thread %d found %s\n", i, inet_ntoa(found[i]));
			return 1;
		}
	dest.sin_port = htons(atoi(argv[2]));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&dest, sizeof dest) != 0) {
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
