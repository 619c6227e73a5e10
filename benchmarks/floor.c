/* The floor under every scheduler: start a check, read what it says, wait for its end; one after the other, paced. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double micros(struct rusage used)
{
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

int main(int count, char **words)
{
    if (count < 4)
        return 3;
    int runs = atoi(words[1]);
    struct timespec pause = {0, 1000000000L / atoi(words[2])};
    for (int run = 0; run < runs; run++) {
        int ends[2];
        pid_t child;
        char *arguments[] = {words[3], NULL}, said[4096];
        posix_spawn_file_actions_t actions;
        if (pipe(ends) || posix_spawn_file_actions_init(&actions))
            return 3;
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
        posix_spawn_file_actions_addclose(&actions, ends[0]);
        if (posix_spawn(&child, words[3], &actions, NULL, arguments, environ))
            return 3;
        posix_spawn_file_actions_destroy(&actions);
        close(ends[1]);
        while (read(ends[0], said, sizeof said) > 0)
            ;
        close(ends[0]);
        waitpid(child, NULL, 0);
        nanosleep(&pause, NULL);
    }
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    printf("%.3f %.3f\n", micros(own) / runs, micros(children) / runs);
    return 0;
}
