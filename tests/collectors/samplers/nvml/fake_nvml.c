/* A library that answers as NVIDIA's libnvidia-ml.so.1 does, of devices that are named FAKE.
 *
 * What it answers is in the file that FAKE_NVML names, lines of "key = value", read again whenever
 * it was replaced; so a test changes the machine under a process that watches it. Keys are
 * "<device>.<key>", or "*.<key>" for all devices. What no line says, the device does not support.
 *
 *   devices = 8                     how many there are          driver = 580.1
 *   init = 9                        what nvmlInit fails with    gone = 1: and all calls
 *   order = 0 1 3                   the devices that are listed, where that is not all of them
 *   *.power = 350000                a value in NVML's own unit
 *   *.field.82 = 61                 a field of nvmlDeviceGetFieldValues, *.field.161.3: of link 3
 *   3.error = 15                    all calls of device 3 fail with this code
 *   3.error.nvmlDeviceGetName = 4   that call does
 *   *.error.field.82 = 4            that field does
 *   *.hang_ms.nvmlDeviceGetName = 9 that call takes so long
 *   *.processes = 100:4096 101:8192 pid:bytes
 *   xid.0 = 3 79                    the first event since the library was loaded: device, XID
 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, TIMEOUT = 10 };
enum { MOST = 4096, DEVICES = 64 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int index; } Device;

static Device devices[DEVICES];
static char text[1 << 18];
static char *keys[MOST], *values[MOST];
static int lines;
static struct stat seen;
static int initialised, next_event, listening[DEVICES];

static char *trimmed(char *from) {
    char *end = from + strlen(from);
    while (*from == ' ') from++;
    while (end > from && (end[-1] == ' ' || end[-1] == '\n')) *--end = 0;
    return from;
}

static void refresh(void) {
    const char *path = getenv("FAKE_NVML");
    struct stat now;
    if (!path || stat(path, &now)) { lines = 0; return; }
    if (now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec)
        return;
    seen = now;
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[size] = 0;
    lines = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line && lines < MOST;
         line = strtok_r(NULL, "\n", &save)) {
        char *equals = strchr(line, '=');
        if (!equals) continue;
        *equals = 0;
        keys[lines] = trimmed(line);
        values[lines++] = trimmed(equals + 1);
    }
}

static const char *found(const char *key) {
    for (int i = 0; i < lines; i++)
        if (keys[i][0] == key[0] && !strcmp(keys[i], key)) return values[i];
    return NULL;
}

static const char *of(int device, const char *format, ...) {
    char key[160], full[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    snprintf(full, sizeof full, "%d.%s", device, key);
    const char *own = found(full);
    if (own) return own;
    snprintf(full, sizeof full, "*.%s", key);
    return found(full);
}

/* What the call fails with, 0 for nothing. */
static int refused(Device *device, const char *call) {
    refresh();
    if (!initialised) return UNINITIALIZED;
    const char *gone = found("gone");
    if (gone && atoi(gone)) return atoi(gone);
    if (device < devices || device >= devices + DEVICES) return INVALID;
    const char *hang = of(device->index, "hang_ms.%s", call);
    if (hang) {
        struct timespec pause = {atoi(hang) / 1000, atoi(hang) % 1000 * 1000000L};
        while (nanosleep(&pause, &pause) && errno == EINTR) {}
    }
    const char *error = of(device->index, "error");
    if (!error) error = of(device->index, "error.%s", call);
    return error ? atoi(error) : OK;
}

static int number(Device *device, const char *call, const char *key, u64 *into) {
    int code = refused(device, call);
    if (code) return code;
    const char *value = of(device->index, "%s", key);
    if (!value) return NOT_SUPPORTED;
    *into = strtoull(value, NULL, 0);
    return OK;
}

static int text_of(Device *device, const char *call, const char *key, char *into, u32 size) {
    int code = refused(device, call);
    if (code) return code;
    const char *value = of(device->index, "%s", key);
    if (!value) return NOT_SUPPORTED;
    snprintf(into, size, value, device->index);
    return OK;
}

int nvmlInitWithFlags(u32 flags) {
    (void)flags;
    refresh();
    const char *code = found("init");
    if (code && atoi(code)) return atoi(code);
    initialised++;
    for (int i = 0; i < DEVICES; i++) devices[i].index = i;
    return OK;
}
int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return OK;
}
int nvmlSystemGetDriverVersion(char *into, u32 size) {
    refresh();
    snprintf(into, size, "%s", found("driver") ? found("driver") : "1.0");
    return OK;
}
int nvmlDeviceGetCount_v2(u32 *count) {
    refresh();
    *count = found("devices") ? (u32)atoi(found("devices")) : 0;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, Device **device) {
    int which = (int)index, taken = 0;
    refresh();
    const char *order = found("order");
    for (u32 i = 0; order && i <= index; i++, order += taken)
        if (sscanf(order, "%d%n", &which, &taken) != 1) return INVALID;
    *device = &devices[which];
    const char *error = of(which, "error.nvmlDeviceGetHandleByIndex_v2");
    return error ? atoi(error) : OK;
}
int nvmlDeviceGetName(Device *d, char *into, u32 size) {
    return text_of(d, __func__, "name", into, size);
}
int nvmlDeviceGetUUID(Device *d, char *into, u32 size) {
    return text_of(d, __func__, "uuid", into, size);
}
typedef struct {
    char legacy[16];
    u32 domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
int nvmlDeviceGetPciInfo_v3(Device *d, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    return text_of(d, __func__, "pci_bus", pci->bus_id, sizeof pci->bus_id);
}
typedef struct { u64 total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Device *d, Memory *memory) {
    int code = number(d, __func__, "memory_total", &memory->total);
    if (!code) code = number(d, __func__, "memory_used", &memory->used);
    memory->free = memory->total - memory->used;
    return code;
}
typedef struct { u32 gpu, memory; } Utilisation;
int nvmlDeviceGetUtilizationRates(Device *d, Utilisation *used) {
    u64 gpu = 0, memory = 0;
    int code = number(d, __func__, "util", &gpu);
    if (!code) code = number(d, __func__, "memory_util", &memory);
    used->gpu = (u32)gpu;
    used->memory = (u32)memory;
    return code;
}

#define PLAIN(function, key)                                  \
    int function(Device *d, u32 *into) {                      \
        u64 value = 0;                                        \
        int code = number(d, __func__, key, &value);          \
        *into = (u32)value;                                   \
        return code;                                          \
    }
PLAIN(nvmlDeviceGetPowerUsage, "power")
PLAIN(nvmlDeviceGetEnforcedPowerLimit, "power_limit")
PLAIN(nvmlDeviceGetPerformanceState, "performance_state")
PLAIN(nvmlDeviceGetFanSpeed, "fan")
PLAIN(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
PLAIN(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
PLAIN(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
PLAIN(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
PLAIN(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")

#define CHOSEN(function, name)                                \
    int function(Device *d, u32 which, u32 *into) {           \
        char key[64];                                         \
        u64 value = 0;                                        \
        snprintf(key, sizeof key, "%s.%u", name, which);      \
        int code = number(d, __func__, key, &value);          \
        *into = (u32)value;                                   \
        return code;                                          \
    }
CHOSEN(nvmlDeviceGetTemperature, "temperature")
CHOSEN(nvmlDeviceGetClockInfo, "clock")
CHOSEN(nvmlDeviceGetMaxClockInfo, "clock_max")
CHOSEN(nvmlDeviceGetPcieThroughput, "pcie_throughput")
CHOSEN(nvmlDeviceGetNvLinkState, "nvlink")

#ifndef BEFORE_535
int nvmlDeviceGetCurrentClocksEventReasons(Device *d, u64 *into) {
    return number(d, __func__, "throttle", into);
}
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, u64 *into) {
    return number(d, __func__, "throttle", into);
}
typedef struct { u64 reference, violation; } Violation;
int nvmlDeviceGetViolationStatus(Device *d, u32 policy, Violation *violation) {
    char key[32];
    snprintf(key, sizeof key, "violation.%u", policy);
    return number(d, __func__, key, &violation->violation);
}
int nvmlDeviceGetTotalEccErrors(Device *d, u32 kind, u32 since, u64 *into) {
    char key[32];
    snprintf(key, sizeof key, "ecc.%u.%u", kind, since);
    return number(d, __func__, key, into);
}
int nvmlDeviceGetRemappedRows(Device *d, u32 *corrected, u32 *uncorrected, u32 *pending,
                              u32 *failure) {
    int code = refused(d, __func__);
    if (code) return code;
    const char *value = of(d->index, "rows");
    if (!value) return NOT_SUPPORTED;
    return sscanf(value, "%u %u %u %u", corrected, uncorrected, pending, failure) == 4 ? OK : 999;
}
int nvmlDeviceGetNvLinkErrorCounter(Device *d, u32 link, u32 counter, u64 *into) {
    char key[48];
    snprintf(key, sizeof key, "nvlink_error.%u.%u", link, counter);
    return number(d, __func__, key, into);
}
int nvmlDeviceGetMigMode(Device *d, u32 *current, u32 *pending) {
    u64 value = 0;
    int code = number(d, __func__, "mig", &value);
    *current = *pending = (u32)value;
    return code;
}

typedef struct {
    u32 field, scope;
    int64_t timestamp, latency;
    u32 type, code;
    union { double d; u32 u; u64 ull; } value;
} FieldValue;
int nvmlDeviceGetFieldValues(Device *d, int count, FieldValue *fields) {
    int code = refused(d, __func__);
    for (int i = 0; !code && i < count; i++) {
        FieldValue *f = &fields[i];
        const char *error = of(d->index, "error.field.%u", f->field);
        const char *value = of(d->index, "field.%u.%u", f->field, f->scope);
        if (!value) value = of(d->index, "field.%u", f->field);
        const char *type = of(d->index, "type.%u", f->field);
        f->type = type ? (u32)atoi(type) : 3;
        f->code = error ? (u32)atoi(error) : value ? OK : NOT_SUPPORTED;
        f->value.ull = 0;
        if (!value) continue;
        if (f->type == 0) f->value.d = atof(value);
        else if (f->type == 1) f->value.u = (u32)strtoull(value, NULL, 0);
        else f->value.ull = strtoull(value, NULL, 0);
    }
    return code;
}

typedef struct { u32 pid; u64 used; u32 instance, compute; } Process;
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, u32 *count, Process *into) {
    int code = refused(d, __func__), taken = 0;
    if (code) return code;
    const char *value = of(d->index, "processes");
    if (!value) return NOT_SUPPORTED;
    u32 pid = 0, there = 0, room = *count;
    u64 used = 0;
    for (; sscanf(value, " %u:%llu%n", &pid, &used, &taken) == 2; value += taken, there++)
        if (into && there < room) into[there] = (Process){pid, used, ~0u, ~0u};
    *count = there;
    return there > room ? TOO_SMALL : OK;
}

typedef struct { Device *device; u64 type, data; u32 instance, compute; } Event;
int nvmlEventSetCreate(void **set) {
    refresh();
    const char *code = found("error.nvmlEventSetCreate");
    *set = &next_event;
    memset(listening, 0, sizeof listening);
    return code ? atoi(code) : OK;
}
int nvmlEventSetFree(void *set) { return set == &next_event ? OK : INVALID; }
int nvmlDeviceRegisterEvents(Device *d, u64 types, void *set) {
    int code = refused(d, __func__);
    if (code || set != &next_event) return code ? code : INVALID;
    listening[d->index] = types & 8 ? 1 : 0;
    return OK;
}
int nvmlEventSetWait_v2(void *set, Event *event, u32 timeout_ms) {
    char key[32];
    (void)timeout_ms;
    refresh();
    if (!initialised || set != &next_event) return UNINITIALIZED;
    for (;; next_event++) {
        int device = 0;
        u64 xid = 0;
        snprintf(key, sizeof key, "xid.%d", next_event);
        const char *value = found(key);
        if (!value || sscanf(value, "%d %llu", &device, &xid) != 2) return TIMEOUT;
        if (!listening[device]) continue;
        *event = (Event){&devices[device], 8, xid, ~0u, ~0u};
        next_event++;
        return OK;
    }
}
