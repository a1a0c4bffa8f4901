#include <stdio.h>

int main(void)
{
	puts("built in a machine that is gone");
	return 0;
}
