/* Its first thread ends at once; the second writes to a page for each line that it reads. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void *work(void *argument)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *memory = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int n;
	(void)argument;
	printf("%lu\n", (unsigned long)memory);
	fflush(stdout);
	while (scanf("%d", &n) == 1) {
		memory[n * page] = 1;
		puts("done");
		fflush(stdout);
	}
	exit(0);
}

int main(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, work, NULL);
	pthread_exit(NULL);
}
