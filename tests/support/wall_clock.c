/* LD_PRELOAD: a wall clock that jumps. What clock_gettime, gettimeofday and time say of CLOCK_REALTIME is the kernel's
 * plus the seconds that the file MCS_TEST_WALL_CLOCK names holds as text, read anew at each call. Other clocks are the
 * kernel's. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t jumped(void)
{
    char text[32] = "";
    const char *path = getenv("MCS_TEST_WALL_CLOCK"); /* banned-ok: getenv: no part of the project is linked here */
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return n > 0 ? (time_t)strtoll(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += jumped();
    }
    return (int)result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec real;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &real);
    *now = (struct timeval){real.tv_sec, real.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *now)
{
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    if (now != NULL) {
        *now = real.tv_sec;
    }
    return real.tv_sec;
}
