/* The cheapest check: says OK, and (argument 1) notes its start in a file, 8 bytes of CLOCK_MONOTONIC in microseconds. */
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
    if (count > 1) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t micros = (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        int file = open(words[1], O_WRONLY | O_APPEND | O_CREAT, 0666);
        if (file < 0 || write(file, &micros, sizeof micros) != sizeof micros)
            return 3;
    }
    static const char said[] = "OK - fine | time=0.001s;;;0\n";
    return write(1, said, sizeof said - 1) == (ssize_t)(sizeof said - 1) ? 0 : 3;
}
