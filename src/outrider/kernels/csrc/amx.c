/* Whether tiles are used. */
#include "amx.h"
int32_t amx_in_use = 0;
#if HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
int32_t outrider_amx_use(int32_t on) {
    if (on) syscall(SYS_arch_prctl, 0x1023, 18);
    return amx_in_use = on;
}
#endif
