/* Writes to pages that a seed decides, with several threads; commands come on standard input, one a line:
 *
 *   epoch N K   every thread writes to K pages of every region, chosen by (N, thread, region, i); answered when done
 *   run         the threads write, ever on, until
 *   stop        answered when they are quiet
 *
 * Regions: anonymous memory, anonymous memory with huge pages, shared memory of a memfd. Each is touched first.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS = 4, REGIONS = 3 };

static size_t n_pages, page;
static unsigned char *regions[REGIONS];
static pthread_barrier_t begin, end;
static volatile uint64_t epoch, writes;
static volatile int running;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t chosen(uint64_t n, uint64_t thread, uint64_t region, uint64_t i)
{
	return mix(n << 32 ^ thread << 28 ^ region << 24 ^ i) % n_pages;
}

static void store(uint64_t n, uint64_t thread, uint64_t region, uint64_t i)
{
	volatile uint64_t *at = (uint64_t *)(regions[region] + chosen(n, thread, region, i) * page);
	at[thread] = n << 16 | i;
}

static void *work(void *argument)
{
	uint64_t thread = (uint64_t)argument;
	for (;;) {
		pthread_barrier_wait(&begin);
		uint64_t n = epoch;
		do {
			for (uint64_t region = 0; region < REGIONS; region++)
				for (uint64_t i = 0; i < writes; i++)
					store(n, thread, region, i);
			n += running;
		} while (running);
		pthread_barrier_wait(&end);
	}
	return NULL;
}

static unsigned char *region(int fd, size_t size)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	unsigned char *at = mmap(NULL, size + (2 << 20), PROT_READ | PROT_WRITE, flags, fd, 0);
	if (at == MAP_FAILED)
		exit(1);
	return (unsigned char *)(((uintptr_t)at + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	char line[64];
	int fd = memfd_create("truth", 0);
	if (argc < 2)
		return 2;
	n_pages = strtoull(argv[1], NULL, 10);
	page = sysconf(_SC_PAGESIZE);
	if (ftruncate(fd, n_pages * page + (4 << 20)))
		return 1;
	for (int i = 0; i < REGIONS; i++) {
		regions[i] = region(i == 2 ? fd : -1, n_pages * page);
		madvise(regions[i], n_pages * page, i == 1 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		memset(regions[i], 1, n_pages * page);
	}
	pthread_barrier_init(&begin, NULL, THREADS + 1);
	pthread_barrier_init(&end, NULL, THREADS + 1);
	for (uint64_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	printf("%lu %lu %lu\n", (uintptr_t)regions[0], (uintptr_t)regions[1], (uintptr_t)regions[2]);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		unsigned long n, k;
		if (sscanf(line, "epoch %lu %lu", &n, &k) == 2) {
			epoch = n;
			writes = k;
			pthread_barrier_wait(&begin);
			pthread_barrier_wait(&end);
		} else if (!strncmp(line, "run", 3)) {
			writes = 16;
			running = 1;
			pthread_barrier_wait(&begin);
		} else if (!strncmp(line, "stop", 4)) {
			running = 0;
			pthread_barrier_wait(&end);
		}
		puts("done");
		fflush(stdout);
	}
	return 0;
}
