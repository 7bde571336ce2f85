/*
 * What the same work costs without Python, and what other ways to notice a write cost.
 *
 * Compiled on the spot as a shared library and called on memory that Python mapped, so that both
 * sides of a ratio see the same physical pages and page tables. Every function that measures times
 * itself and returns nanoseconds, or a negative errno; none of them keeps anything between calls
 * except what watch_begin() opened and watch_end() closes.
 *
 * Installed kernel headers may be older than the running kernel, so the few numbers that 6.1
 * headers lack are spelled out here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_ASYNC (1 << 15) /* UFFD_FEATURE_WP_ASYNC, since v6.7 */

/* struct pm_scan_arg and struct page_region of linux/fs.h, since v6.7. */
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct region {
	uint64_t start, end, categories;
};
#define SCAN_REQUEST _IOWR('f', 16, struct scan)
#define SCAN_WP_MATCHING 1
#define SCAN_CHECK_WPASYNC 2
#define CATEGORY_WRITTEN 2
#define REGIONS_PER_CALL 512 /* a longer vec makes the kernel restart its walk every 512 regions */

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- stores ------------------------------------------------------------------------------------ */

/* Change the first byte of each listed page, in the order listed. */
int64_t touch(char *base, const int64_t *pages, int64_t n, int64_t page_size)
{
	int64_t began = now();
	for (int64_t i = 0; i < n; i++)
		++*(volatile char *)(base + pages[i] * page_size);
	return now() - began;
}

/* ---- what a C program does in place of collect() and is_clean() ------------------------------- */

/*
 * Report the written pages of [start, end) and protect them again. Regions go to out, at most
 * capacity of them; their number is stored in *found.
 */
int64_t scan_and_protect(int pagemap, uint64_t start, uint64_t end, struct region *out,
			 uint64_t capacity, uint64_t *found)
{
	struct scan s = {
		.size = sizeof s,
		.flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
		.start = start,
		.end = end,
		.category_mask = CATEGORY_WRITTEN,
		.return_mask = CATEGORY_WRITTEN,
	};
	int64_t began = now();
	*found = 0;
	do {
		uint64_t room = capacity - *found;
		s.vec = (uintptr_t)(out + *found);
		s.vec_len = room < REGIONS_PER_CALL ? room : REGIONS_PER_CALL;
		if (!s.vec_len)
			return -ENOSPC;
		int n = ioctl(pagemap, SCAN_REQUEST, &s);
		if (n < 0)
			return -errno;
		*found += n;
		s.start = s.walk_end;
	} while (s.start < end);
	return now() - began;
}

/* Ask whether anything in [start, end) was written; the walk stops at the first written page. */
int64_t scan_is_clean(int pagemap, uint64_t start, uint64_t end, uint64_t *found)
{
	struct region first;
	struct scan s = {
		.size = sizeof s,
		.flags = SCAN_CHECK_WPASYNC,
		.start = start,
		.end = end,
		.vec = (uintptr_t)&first,
		.vec_len = 1,
		.max_pages = 1,
		.category_mask = CATEGORY_WRITTEN,
		.return_mask = CATEGORY_WRITTEN,
	};
	int64_t began = now();
	int n = ioctl(pagemap, SCAN_REQUEST, &s);
	int64_t took = now() - began;
	if (n < 0)
		return -errno;
	*found = n;
	return took;
}

/* ---- brute force ------------------------------------------------------------------------------- */

/* Compare page by page with a copy; the number of pages that differ is stored in *found. */
int64_t compare_pages(const char *memory, const char *copy, int64_t length, int64_t page_size,
		      uint64_t *found)
{
	int64_t began = now();
	uint64_t differ = 0;
	for (int64_t at = 0; at < length; at += page_size)
		differ += memcmp(memory + at, copy + at, page_size) != 0;
	*found = differ;
	return now() - began;
}

int64_t copy_all(char *copy, const char *memory, int64_t length)
{
	int64_t began = now();
	memcpy(copy, memory, length);
	return now() - began;
}

/* ---- ways to notice the first write to a page --------------------------------------------------- */

enum mechanism { MPROTECT, UFFD_SYNC, UFFD_ASYNC, FORK };

static struct {
	char *base;
	int64_t length, page_size;
	struct sigaction before; /* MPROTECT */
	int uffd, stop[2];	 /* UFFD_SYNC, UFFD_ASYNC */
	pthread_t handler;	 /* UFFD_SYNC */
	pid_t child;		 /* FORK */
} watch;

/* A fault of ours: let the store through. Any other goes to whoever handled SIGSEGV before us. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
	char *page = (char *)((uintptr_t)info->si_addr & -watch.page_size);
	(void)signal, (void)context;
	if (page < watch.base || page >= watch.base + watch.length ||
	    mprotect(page, watch.page_size, PROT_READ | PROT_WRITE))
		sigaction(SIGSEGV, &watch.before, NULL);
}

static int64_t begin_mprotect(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	if (sigaction(SIGSEGV, &action, &watch.before))
		return -errno;
	int64_t began = now();
	if (mprotect(watch.base, watch.length, PROT_READ)) {
		int failed = errno;
		sigaction(SIGSEGV, &watch.before, NULL);
		return -failed;
	}
	return now() - began;
}

static int write_protect(char *start, int64_t length, uint64_t mode)
{
	struct uffdio_writeprotect wp = { { (uintptr_t)start, length }, mode };
	return ioctl(watch.uffd, UFFDIO_WRITEPROTECT, &wp);
}

/* The other thread of synchronous write-protection: un-protecting a page also wakes who waits for it. */
static void *resolve_faults(void *nothing)
{
	struct pollfd fds[2] = { { watch.uffd, POLLIN, 0 }, { watch.stop[0], POLLIN, 0 } };
	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		struct uffd_msg msg;
		if (read(watch.uffd, &msg, sizeof msg) == sizeof msg)
			write_protect((char *)(uintptr_t)(msg.arg.pagefault.address & -watch.page_size),
				      watch.page_size, 0);
	}
	return nothing;
}

static int start_handler(void)
{
	if (pipe2(watch.stop, O_CLOEXEC))
		return -errno;
	int failed = pthread_create(&watch.handler, NULL, resolve_faults, NULL);
	if (failed) {
		close(watch.stop[0]);
		close(watch.stop[1]);
	}
	return -failed;
}

static int64_t begin_uffd(int async)
{
	struct uffdio_api api = { .api = UFFD_API, .features = async ? FEATURE_WP_ASYNC : 0 };
	struct uffdio_register reg = { .range = { (uintptr_t)watch.base, watch.length },
				       .mode = UFFDIO_REGISTER_MODE_WP };
	watch.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (watch.uffd < 0)
		return -errno;
	int64_t began = now();
	if (ioctl(watch.uffd, UFFDIO_API, &api) || ioctl(watch.uffd, UFFDIO_REGISTER, &reg) ||
	    write_protect(watch.base, watch.length, UFFDIO_WRITEPROTECT_MODE_WP)) {
		int failed = errno;
		close(watch.uffd);
		return -failed;
	}
	int64_t took = now() - began;
	int failed = async ? 0 : start_handler();
	if (failed)
		close(watch.uffd);
	return failed ? failed : took;
}

static int64_t begin_fork(void)
{
	int64_t began = now();
	pid_t parent = getpid();
	watch.child = fork();
	if (watch.child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	return watch.child < 0 ? -errno : now() - began;
}

/* Start to watch [base, base + length). Returns what the arming took. One at a time. */
int64_t watch_begin(enum mechanism how, char *base, int64_t length, int64_t page_size)
{
	watch.base = base;
	watch.length = length;
	watch.page_size = page_size;
	switch (how) {
	case MPROTECT:
		return begin_mprotect();
	case UFFD_SYNC:
		return begin_uffd(0);
	case UFFD_ASYNC:
		return begin_uffd(1);
	case FORK:
		return begin_fork();
	}
	return -EINVAL;
}

static void end_uffd(int async)
{
	if (!async) {
		(void)!write(watch.stop[1], "", 1);
		pthread_join(watch.handler, NULL);
		close(watch.stop[0]);
		close(watch.stop[1]);
	}
	/* Kernels before v6.9 leave entries protected at close. */
	write_protect(watch.base, watch.length, 0);
	close(watch.uffd);
}

/* Undo watch_begin(). */
void watch_end(enum mechanism how)
{
	if (how == MPROTECT) {
		mprotect(watch.base, watch.length, PROT_READ | PROT_WRITE);
		sigaction(SIGSEGV, &watch.before, NULL);
	} else if (how == FORK) {
		kill(watch.child, SIGKILL);
		waitpid(watch.child, NULL, 0);
	} else {
		end_uffd(how == UFFD_ASYNC);
	}
}
