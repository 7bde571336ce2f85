/* A program that looks like one of Go: the note of its build in the first page. */
#include "target.h"

__asm__(".pushsection .note.go.buildid, \"a\", %note\n\t"
        ".long 4, 4, 4\n\t.ascii \"Go\\0\\0\"\n\t.long 0\n\t.popsection");

int main(int argc, char **argv)
{
    ready();
    if (argc > 1)
        while (!heard())
            ;
    hear();
    say("alive %ld\n", 0);
    return 0;
}
